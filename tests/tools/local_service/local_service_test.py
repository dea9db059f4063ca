import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from fake_inference import FakeInference, Server as FakeCoordinator
from local_service.processes import ServerFailed, Stack
from local_service.readiness import wait_until_ready
from quire.v1 import inference_pb2 as pb
from quire_client import Client

READY = "print('thing listening on 127.0.0.1:7', flush=True);"
WAIT = "import signal; signal.pause()"
# Prints its child's id, then outlives SIGTERM.
STUBBORN = ("import subprocess, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            f"child = subprocess.Popen([sys.executable, '-c', '{WAIT}']);"
            "print(f'thing listening on {child.pid}', flush=True);" + WAIT)


def is_alive(pid):
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


class Joining(FakeInference):
    """GetLoad shows one worker more at each call, and then makes them ready one by one."""

    def __post_init__(self):
        super().__post_init__()
        self.calls = 0

    def GetLoad(self, request, context):
        self.calls += 1
        names = ["a", "b"][:self.calls]
        states = [pb.WorkerLoad.READY if self.calls > 2 + i else pb.WorkerLoad.STARTING for i in range(2)]
        return pb.GetLoadResponse(workers=[pb.WorkerLoad(name=n, state=s) for n, s in zip(names, states)])


class LocalServiceTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.logs = pathlib.Path(folder.name) / "logs"

    def python(self, *code):
        return [sys.executable, "-c", "".join(code)]

    def test_a_server_is_known_by_its_address_and_ends_with_the_block(self):
        with Stack(self.logs) as stack:
            server = stack.start("thing", self.python(READY, WAIT))
            self.assertEqual(stack.address_of(server, 60), "127.0.0.1:7")
            stack.check()
        self.assertTrue(server.has_ended)

    def test_a_server_that_does_not_start_is_shown_with_its_log(self):
        with Stack(self.logs) as stack:
            server = stack.start("thing", self.python("import sys; sys.exit('no such model')"))
            with self.assertRaisesRegex(ServerFailed, "(?s)thing does not listen.*no such model"):
                stack.address_of(server, 60)
            with self.assertRaisesRegex(ServerFailed, "thing ended"):
                stack.check()

    def test_an_error_in_the_block_stops_all(self):
        with self.assertRaises(ZeroDivisionError):
            with Stack(self.logs) as stack:
                servers = [stack.start(name, self.python(READY, WAIT)) for name in ("a", "b")]
                for server in servers:
                    stack.address_of(server, 60)
                raise ZeroDivisionError
        self.assertTrue(all(server.has_ended for server in servers))

    def test_what_does_not_end_is_killed_with_its_children(self):
        with Stack(self.logs, grace_s=0.2) as stack:
            child = int(stack.address_of(stack.start("thing", self.python(STUBBORN)), 60))
            self.assertTrue(is_alive(child))
        deadline = time.monotonic() + 20
        while is_alive(child) and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        self.assertFalse(is_alive(child))

    def test_ctrl_c_stops_all(self):
        script = (f"import sys, pathlib; sys.path[:0] = {sys.path!r}\n"
                  "from local_service.processes import Stack\n"
                  f"with Stack(pathlib.Path({str(self.logs)!r})) as stack:\n"
                  f"    server = stack.start('thing', [sys.executable, '-c', {READY + WAIT!r}])\n"
                  "    stack.address_of(server, 60)\n"
                  "    print(server._process.pid, flush=True)\n"
                  "    import signal; signal.pause()\n")
        owner = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 text=True)
        self.addCleanup(owner.stdout.close)
        child = int(owner.stdout.readline())
        self.assertTrue(is_alive(child))
        os.kill(owner.pid, signal.SIGINT)
        owner.wait(60)
        self.assertFalse(is_alive(child))

    def test_ready_is_when_every_worker_is(self):
        coordinator = FakeCoordinator(Joining())
        self.addCleanup(coordinator.stop)
        heard = []
        with Stack(self.logs) as stack, Client(coordinator.address) as client:
            wait_until_ready(stack, client, ["a", "b"], 60, lambda ready: heard.append([w.name for w in ready]))
            self.assertEqual(heard, [["a"], ["a", "b"]])
            with self.assertRaisesRegex(ServerFailed, "c has not joined"):
                wait_until_ready(stack, client, ["a", "c"], 0)

    def test_waiting_ends_when_a_server_does(self):
        coordinator = FakeCoordinator(FakeInference())
        self.addCleanup(coordinator.stop)
        with Stack(self.logs) as stack, Client(coordinator.address) as client:
            stack.start("thing", self.python("pass"))
            with self.assertRaisesRegex(ServerFailed, "thing ended"):
                wait_until_ready(stack, client, ["thing"], 60)


if __name__ == "__main__":
    unittest.main()
