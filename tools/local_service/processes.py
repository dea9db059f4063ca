"""Servers as child processes: each in a process group of its own, each stopped within a deadline."""

import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Sequence

_MARK = " listening on "


class ServerFailed(Exception):
    """A server that did not start, or that ended before it was told to."""


class Server:
    """A child that prints "NAME listening on HOST:PORT" when it is ready to be called.

    Its standard error goes to `log`. A new session keeps Ctrl-C at the terminal from it: its owner stops it.
    """

    def __init__(self, name: str, command: Sequence[str | os.PathLike[str]], log: pathlib.Path,
                 changed: threading.Condition) -> None:
        self.name = name
        self.log = log
        self.address: str | None = None
        self._changed = changed
        self._ended = False
        with log.open("wb") as stream:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stream,
                                             text=True, start_new_session=True)
        self._reader = threading.Thread(target=self._read, name=f"{name} stdout", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Its standard output is closed."""
        return self._ended

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> None:
        """Until it has ended; one that has not by then is killed, with all it started."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def last_words(self) -> str:
        """The end of its log, for an error message."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _read(self) -> None:
        with self._process.stdout as lines:
            for line in lines:
                if _MARK in line and self.address is None:
                    with self._changed:
                        self.address = line.rsplit(_MARK, 1)[1].strip()
                        self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Stack:
    """Servers that end with the `with` block: all are told at once, and those that take longer than the grace killed."""

    def __init__(self, log_folder: pathlib.Path, grace_s: float = 10.0) -> None:
        self._log_folder = log_folder
        self._grace_s = grace_s
        self._servers: list[Server] = []
        # Notified when a server becomes ready or ends.
        self.changed = threading.Condition()
        log_folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not leave servers behind.
        previous = [(number, signal.signal(number, signal.SIG_IGN)) for number in (signal.SIGINT, signal.SIGTERM)]
        for server in self._servers:
            server.terminate()
        deadline = time.monotonic() + self._grace_s
        for server in reversed(self._servers):
            server.wait(max(0.0, deadline - time.monotonic()))
        for number, handler in previous:
            signal.signal(number, handler)

    def start(self, name: str, command: Sequence[str | os.PathLike[str]]) -> Server:
        """Starts it and does not wait. OSError: the program cannot be run."""
        server = Server(name, command, self._log_folder / f"{name}.log", self.changed)
        self._servers.append(server)
        return server

    def address_of(self, server: Server, timeout_s: float) -> str:
        """Waits until it listens. ServerFailed: it ended, or the time passed."""
        with self.changed:
            self.changed.wait_for(lambda: server.address or server.has_ended, timeout_s)
        if server.address is None:
            raise ServerFailed(f"{server.name} does not listen; its log, {server.log}, ends with\n{server.last_words()}")
        return server.address

    def check(self) -> None:
        """ServerFailed if one has ended."""
        for server in self._servers:
            if server.has_ended:
                raise ServerFailed(f"{server.name} ended; its log, {server.log}, ends with\n{server.last_words()}")
