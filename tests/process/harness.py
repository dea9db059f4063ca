"""Starts the real binaries for a test and ends them, whatever happens to the test.

Binaries come from the folder that QUIRE_BIN names and listen on free ports of loopback. Everything that could hang has
a bound, HANG_S; nothing waits by sleeping for a guessed time.
"""

import contextlib
import ctypes
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TINY = ROOT / "models" / "quire-tiny"
BIN = pathlib.Path(os.environ["QUIRE_BIN"])
HANG_S = 60.0
# How much of the full volume to run: sanitizers slow a process down several times.
VOLUME = float(os.environ.get("QUIRE_PROCESS_VOLUME", "1"))
# Seconds without a word after which a worker is SUSPECT, where that is not what a test looks at: machines of tests stand
# still for longer than those the default is for.
PATIENT_S = 15
DEFAULT_SUSPECT_S = 1.5  # what it is without the flag
# What workers compute on: cpu or cuda. On cuda a fake worker is a real one with random weights, so that the tests of
# cancelling, stopping and overload are the GPU's too.
DEVICE = os.environ.get("QUIRE_PROCESS_DEVICE", "cpu")
# All workers of a test share the GPU: none takes the memory that is left for its KV pool.
_CUDA_FLAGS = ["--device", "cuda", "--kv-cache-memory-bytes", 1 << 30]
# For streams that are to last: a GPU takes 0.15 ms a step of the tests' model in bf16, 1 to 3 in fp32.
SLOW_FLAGS = ["--dtype", "fp32"] if DEVICE == "cuda" else []
# ctest calls a test skipped that ends so.
_SKIPPED = 77

_SANITIZER_REPORT = re.compile(r"ERROR: \w+Sanitizer|runtime error:|WARNING: ThreadSanitizer")
_figures: list[str] = []


def scaled(count: int, least: int = 1) -> int:
    return max(least, int(count * VOLUME))


def lasting(num_tokens: int) -> int:
    """As many tokens as take a GPU about as long as so many take a fake worker at 2 ms a step, or a CPU."""
    return 16 * num_tokens if DEVICE == "cuda" else num_tokens


def has_gpu() -> bool:
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:  # no driver
        return False


def gpu_count() -> int:
    """GPUs that this process sees."""
    if not has_gpu():
        return 0
    count = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count))
    return count.value


def figure(what: str, value: float, unit: str, must: str = "") -> None:
    """Notes a measured figure for the summary that main prints."""
    _figures.append(f"{what}: {value:,.1f} {unit}" + (f" (must: {must})" if must else ""))


def main() -> None:
    """Runs the file's tests and prints its figures. Without a GPU that is asked for it says so and skips them."""
    if DEVICE == "cuda" and not has_gpu():
        print("skipped: no GPU")
        sys.exit(_SKIPPED)
    result = unittest.main(module="__main__", exit=False, verbosity=2).result
    print(f"1..{len(_figures)}")
    for number, line in enumerate(_figures, start=1):
        print(f"ok {number} - {line}")
    sys.exit(not result.wasSuccessful())


def wait_until(condition, what: str, within_s: float = HANG_S, pause_s: float = 0.005):
    """The first true value of `condition`. Fails the test, saying what it waited for, when none comes in time."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within_s} s for this: {what}")
        time.sleep(pause_s)


def clean_environment() -> dict[str, str]:
    """The environment without what would set the binaries' flags."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}


class Process:
    """A running quire-coordinator or quire-worker, which listens at `address`."""

    def __init__(self, program: str, flags: list[str], log: pathlib.Path, environment: dict[str, str]) -> None:
        self.program = program
        self.flags = flags
        self.environment = environment
        self._log = log
        self._killed = False
        self._terminated = False
        self._expected_code = 0
        with log.open("wb") as stderr:
            # A test that dies takes its processes along.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(BIN / program), *flags], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=stderr, env=clean_environment() | environment)
        try:
            self.address = self._read_address()
        except BaseException:
            self.kill()
            raise

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def admin_address(self) -> str:
        """Where it takes `quire drain`. It has --admin-address."""
        said = re.compile(r"admin calls are taken on (\S+:\d+)")
        return wait_until(lambda: said.search(self.log()), "the admin address").group(1)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_logged(self, text: str) -> None:
        """A thread of its own writes the log: what was said may not be there yet."""
        wait_until(lambda: text in self.log(), f"the log saying: {text}")

    def last_words(self) -> str:
        """The end of the log, for an error message; all of a sanitizer's report."""
        log = self.log()
        report = _SANITIZER_REPORT.search(log)
        return log[report.start():] if report else "\n".join(log.splitlines()[-10:])

    def memory_bytes(self, peak: bool = True) -> int:
        """Resident memory: the most so far, or now."""
        status = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)" if peak else r"VmRSS:\s+(\d+)", status).group(1))

    def num_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def num_threads(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/task"))

    def terminate(self) -> None:
        """Sends SIGTERM, once: a second one means that the process is to end without draining."""
        if not self._terminated:
            self._terminated = True
            self._process.send_signal(signal.SIGTERM)

    def pause(self) -> None:
        """It stands still from now on; its connections stay."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._killed = True
        self._process.kill()
        self.wait()

    def expect_exit(self, code: int) -> None:
        """Waits for its end by itself, with this exit code."""
        self._expected_code = code
        if (ended := self.wait()) != code:
            raise AssertionError(f"{self.program} ended with {ended}, not {code}:\n{self.last_words()}")

    def wait(self) -> int:
        """The exit code."""
        try:
            code = self._process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"{self.program} does not end:\n{self.last_words()}") from None
        self._process.stdout.close()
        return code

    def close(self) -> None:
        """Ends it if it runs, and checks that it ended well: by SIGTERM with code 0, by the test's own kill, or as expected."""
        self.terminate()
        self.go_on()  # one that a failed test left standing could not end
        code = self.wait()
        if _SANITIZER_REPORT.search(self.log()) or (code != self._expected_code and not self._killed):
            raise AssertionError(f"{self.program} ended with exit code {code}:\n{self.last_words()}")

    def _read_address(self) -> str:
        line, stdout = b"", self._process.stdout
        deadline = time.monotonic() + HANG_S
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([stdout], [], [], max(0, deadline - time.monotonic()))
            chunk = os.read(stdout.fileno(), 4096) if readable else b""
            if not chunk:
                raise AssertionError(f"{self.program} does not say where it listens: {line!r}\n{self.last_words()}")
            line += chunk
        match = re.fullmatch(rf"{self.program} listening on (\S+:\d+)\n", line.decode())
        if match is None:
            raise AssertionError(f"{self.program} printed {line!r}")
        return match.group(1)


def quire(*arguments: object) -> subprocess.CompletedProcess:
    """Runs the command line of Quire to its end."""
    return subprocess.run([BIN / "quire", *map(str, arguments)], env=clean_environment(), capture_output=True,
                          text=True, timeout=HANG_S)


class Stage(contextlib.ExitStack):
    """What a test has started: processes, channels, a folder. All of it ends with the stage."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory(prefix="quire-process-")))
        self._num_processes = 0

    @classmethod
    def of_test(cls, test: unittest.TestCase) -> "Stage":
        stage = cls()
        test.addCleanup(stage.close)
        return stage

    @classmethod
    def of_class(cls, test_class: type[unittest.TestCase]) -> "Stage":
        stage = cls()
        test_class.addClassCleanup(stage.close)
        return stage

    def coordinator(self, *flags: object, port: int = 0, suspect_s: float = PATIENT_S,
                    environment: dict[str, str] | None = None) -> Process:
        return self._start("quire-coordinator", ["--port", port, "--suspect-timeout", suspect_s, *flags], environment)

    def worker(self, model: pathlib.Path, *flags: object, port: int = 0,
               environment: dict[str, str] | None = None) -> Process:
        device = _CUDA_FLAGS if DEVICE == "cuda" else ["--device", DEVICE]
        return self._start("quire-worker", ["--model", model, "--port", port, *device, *flags], environment)

    def fake_worker(self, model: pathlib.Path, *flags: object, step_us: int = 0, port: int = 0,
                    environment: dict[str, str] | None = None) -> Process:
        """A worker that computes no model: each token is a hash of those before it, a step takes step_us."""
        if DEVICE == "cuda":
            return self.worker(model, "--load-format", "dummy", *flags, port=port, environment=environment)
        return self.worker(model, "--engine", "fake", "--fake-step-us", step_us, *flags, port=port,
                           environment=environment)

    def again(self, process: Process) -> Process:
        """Starts what has ended anew, with its flags and on its port, which a connection that another process makes
        may have for a while."""
        flags = list(process.flags)
        flags[flags.index("--port") + 1] = str(process.port)

        def started():
            try:
                return self._start(process.program, flags, process.environment)
            except AssertionError as problem:
                if process.address not in str(problem):
                    raise
                return None

        return wait_until(started, f"{process.address} to be free")

    def model(self, name: str, context: int = 2048, tokenizer: bool = False) -> pathlib.Path:
        """A model folder for the fake engine: configuration without weights. No token ends its output."""
        folder = self.folder / name
        folder.mkdir()
        config = json.loads((TINY / "config.json").read_text())
        config["max_position_embeddings"] = context
        del config["eos_token_id"]
        (folder / "config.json").write_text(json.dumps(config))
        if tokenizer:
            for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                (folder / file).symlink_to(TINY / file)
        return folder

    def _start(self, program: str, flags: list[object], environment: dict[str, str] | None = None) -> Process:
        self._num_processes += 1
        log = self.folder / f"{self._num_processes}-{program}.log"
        process = Process(program, [str(flag) for flag in flags], log, environment or {})
        self.callback(process.close)
        return process
