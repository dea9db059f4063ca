"""A real etcd for a test: members on free ports of loopback, with folders of their own, and what they hold."""

import base64
import json
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.request

from certificates import Identity
from harness import HANG_S, Stage, wait_until

# A member that stands still is not worth waiting for.
CALL_S = 2.0
# Elections take this long at least: members of a loaded machine are slow, not gone.
HEARTBEAT_MS, ELECTION_MS = 200, 2000


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, each once."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


class Member:
    """One etcd process, which can be killed and started again."""

    def __init__(self, name: str, folder: pathlib.Path, port: int, peer_port: int, identity: Identity | None) -> None:
        self.name, self.port, self.address = name, port, f"127.0.0.1:{port}"
        self.peer_url = f"http://127.0.0.1:{peer_port}"
        self._folder, self._identity = folder / name, identity
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, cluster: str) -> None:
        scheme = "http" if self._identity is None else "https"
        client_url = f"{scheme}://{self.address}"
        flags = ["--name", self.name, "--data-dir", self._folder, "--listen-client-urls", client_url,
                 "--advertise-client-urls", client_url, "--listen-peer-urls", self.peer_url,
                 "--initial-advertise-peer-urls", self.peer_url, "--initial-cluster", cluster,
                 "--heartbeat-interval", HEARTBEAT_MS, "--election-timeout", ELECTION_MS,
                 "--logger", "zap", "--log-level", "error"]
        if self._identity is not None:
            flags += ["--cert-file", self._identity.cert, "--key-file", self._identity.key,
                      "--trusted-ca-file", self._identity.ca, "--client-cert-auth"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "etcd", *map(str, flags)],
                                             stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """All that it has stored is gone. It must not run."""
        shutil.rmtree(self._folder)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def call(self, method: str, timeout_s: float = CALL_S, **fields: object) -> dict:
        """A call by the JSON gateway of the API. Raises OSError."""
        scheme, context = "http", None
        if self._identity is not None:
            scheme, context = "https", ssl.create_default_context(cafile=self._identity.ca)
            context.load_cert_chain(self._identity.cert, self._identity.key)
        request = urllib.request.Request(f"{scheme}://{self.address}/v3/{method}", json.dumps(fields).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s, context=context) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise OSError(error.read().decode()) from None


class Etcd:
    """A cluster of members."""

    def __init__(self, stage: Stage, size: int = 1, identity: Identity | None = None) -> None:
        if shutil.which("etcd") is None:
            raise AssertionError("etcd is not installed: apt-get install etcd-server")
        self._size, self._identity = size, identity
        self.members: list[Member] = []
        # Another process may take a port that was free: then with others.
        for attempt in range(5):
            ports = free_ports(2 * size)
            self.members = [
                Member(f"etcd{attempt}-{i}", stage.folder, ports[2 * i], ports[2 * i + 1], identity)
                for i in range(size)]
            for member in self.members:
                stage.callback(member.kill)
            self.start()
            wait_until(lambda: self.is_healthy() or not all(member.is_running for member in self.members),
                       "an etcd that answers or ends", pause_s=0.05)
            if self.is_healthy():
                return
            self.kill()
        raise AssertionError("etcd does not start")

    @property
    def endpoints(self) -> str:
        return ",".join(member.address for member in self.members)

    def start(self) -> None:
        for member in self.members:
            member.start(self._cluster())

    def _cluster(self) -> str:
        return ",".join(f"{member.name}={member.peer_url}" for member in self.members)

    def restart(self) -> None:
        """On their ports, which a connection that another process makes may have for a while."""
        self.start()

        def is_back():
            for member in self.members:
                if not member.is_running:
                    member.start(self._cluster())
            return self.is_healthy()

        wait_until(is_back, "a healthy etcd", pause_s=0.05)

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def forget(self) -> None:
        for member in self.members:
            member.forget()

    def is_healthy(self) -> bool:
        """Whether a majority answers: such a read takes one."""
        return self._read("/health") is not None

    def call(self, method: str, timeout_s: float = CALL_S, **fields: object) -> dict:
        """By the first member that answers, each within `timeout_s`: what writes waits for a disk that others use."""
        for member in self.members:
            try:
                return member.call(method, timeout_s, **fields)
            except OSError as error:
                failure = error
        raise failure

    def keys(self, prefix: str) -> list[str]:
        """By a healthy etcd, which may yet take its time: a read waits for what is being written."""
        found = wait_until(lambda: self._read(prefix), "an answer of etcd", pause_s=0.05)
        return [base64.b64decode(kv["key"]).decode() for kv in found.get("kvs", [])]

    def _read(self, prefix: str) -> dict | None:
        try:
            return self.call("kv/range", key=_base64(prefix), keys_only=True,
                             range_end=_base64(prefix[:-1] + chr(ord(prefix[-1]) + 1)))
        except OSError:
            return None

    def put(self, key: str, value: bytes) -> int:
        """The revision that it made."""
        return int(self.call("kv/put", HANG_S, key=_base64(key), value=_base64(value))["header"]["revision"])

    def compact(self, revision: int) -> None:
        self.call("kv/compaction", HANG_S, revision=revision, physical=True)

    def leader(self) -> Member | None:
        """The member that leads as a majority sees it."""
        votes: dict[str, int] = {}
        ids: dict[str, Member] = {}
        for member in self.members:
            try:
                status = member.call("maintenance/status")
            except OSError:
                continue
            ids[status["header"]["member_id"]] = member
            leader = status.get("leader", "0")
            votes[leader] = votes.get(leader, 0) + 1
        for leader, count in votes.items():
            if leader != "0" and 2 * count > self._size:
                return ids.get(leader)
        return None


class Proxy:
    """Forwards connections to one address, until it is cut."""

    def __init__(self, stage: Stage, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._lock = threading.Lock()
        self._is_cut = False
        self._open: set[socket.socket] = set()
        self._listener = stage.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        stage.callback(self.cut)

    def cut(self) -> None:
        """Ends every connection, and those that are made from now on."""
        with self._lock:
            self._is_cut = True
            for sock in self._open:
                _end(sock)

    def mend(self) -> None:
        with self._lock:
            self._is_cut = False

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the test is over
                return
            try:
                server = socket.create_connection(self._target, timeout=HANG_S)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
                if self._is_cut:
                    _end(client)
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        _end(sink)
        with self._lock:
            self._open.discard(source)
        source.close()


def _end(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # it has ended
        pass


def _base64(value: str | bytes) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
