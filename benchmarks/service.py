"""A coordinator with one worker on this machine's loopback, and load from the command line's C++ client.

Needs Python's standard library alone: it runs where there is no environment of ours.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from local_service.processes import ServerFailed, Stack  # noqa: E402

LISTEN_TIMEOUT_S = 60
READY_TIMEOUT_S = 300


class Service:
    def __init__(self, quire, address, stack):
        self.address = address
        self._quire = quire
        self._stack = stack

    def bench(self, *flags, may_fail=False):
        """The JSON object of `quire bench`. ServerFailed: it or a server ended with an error; with `may_fail` requests
        may, and count in the object."""
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "bench.json"
            done = subprocess.run([self._quire, "bench", "--target", self.address, "--output", output,
                                   *map(str, flags)], stdout=subprocess.DEVNULL)
            self._stack.check()
            if done.returncode != 0 and not (may_fail and output.exists()):
                raise ServerFailed(f"quire bench ended with status {done.returncode}")
            return json.loads(output.read_text())


@contextlib.contextmanager
def service(binaries, logs, *worker_flags):
    """Gives a Service whose worker is READY. ServerFailed or OSError: it could not be started."""
    with Stack(logs) as stack:
        coordinator = stack.start("coordinator", [binaries / "quire-coordinator", "--port", "0"])
        address = stack.address_of(coordinator, LISTEN_TIMEOUT_S)
        stack.start("worker", [binaries / "quire-worker", "--port", "0", "--join", address, *map(str, worker_flags)])
        ready = subprocess.run([binaries / "quire", "load", "--target", address, "--wait-ready", str(READY_TIMEOUT_S)],
                               stdout=subprocess.DEVNULL)
        stack.check()
        if ready.returncode != 0:
            raise ServerFailed(f"the worker is not ready; its log is {logs / 'worker.log'}")
        yield Service(binaries / "quire", address, stack)
