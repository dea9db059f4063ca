"""A TCP proxy in user space that makes the faults of a network: delay, loss, silence, cuts.

Each direction has faults of its own: `up` from whoever connects to the target, `down` back. They may be changed at any
time and hold for all connections, those that are open too.

Loss: TCP sends again what is lost, so that a program sees no missing bytes but a pause, of one retransmission timeout
(200 ms at least on Linux) for that segment and all that follow it. That is what `loss` makes: the share of pieces, as
they arrive, that come `stall_s` later, with everything behind them.
"""

import asyncio
import random
import socket
import struct
import threading
from dataclasses import dataclass

_PIECE_BYTES = 16 << 10
_MAX_PIECES = 256  # on their way in one direction of a connection; beyond them nothing is read
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with a reset


@dataclass
class Direction:
    """Faults of one direction, and what has been seen of them."""

    delay_s: float = 0.0
    bytes_per_s: float = 0.0  # 0: no limit
    loss: float = 0.0
    stall_s: float = 0.25
    swallows: bool = False  # takes everything and hands nothing on: the connection is of no use afterwards
    num_bytes: int = 0  # that came through
    num_delayed: int = 0  # pieces
    num_stalled: int = 0
    num_swallowed: int = 0  # bytes
    num_held: int = 0  # pieces that waited while the direction was silent

    def calm(self) -> None:
        """No fault from now on. What is on its way still comes late."""
        self.delay_s = self.bytes_per_s = self.loss = 0.0
        self.swallows = False


class _Connection:
    """Two sockets and what runs between them. Belongs to the proxy's loop."""

    def __init__(self, client: socket.socket, target: socket.socket) -> None:
        self.client, self.target = client, target
        self.tasks: list[asyncio.Task] = []

    async def reset(self) -> None:
        for task in self.tasks:
            task.cancel()
        # The loop has to let go of the sockets before their numbers may be given to others.
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for end in (self.client, self.target):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


class FaultProxy:
    """Forwards each connection to `address` on to `target`, both HOST:PORT. The target may be set later.

    Methods are for the thread of a test, and have taken effect when they return.
    """

    def __init__(self, target: str = "", seed: int = 1) -> None:
        self.target = target
        self.up, self.down = Direction(), Direction()
        self.refuses = False  # new connections are reset
        self.num_connections = 0
        self.num_refused = 0
        self.num_cut = 0
        self.num_half_closed = 0
        self._dice = random.Random(seed)
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._listener.setblocking(False)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._open = {id(direction): asyncio.Event() for direction in (self.up, self.down)}
        for event in self._open.values():
            event.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {self.address}")
        self._thread.start()
        self._run(self._begin())

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()

    def cut(self) -> int:
        """Resets every connection, at both ends. How many there were."""
        return self._run(self._cut())

    def half_close(self, direction: Direction) -> int:
        """Ends one direction of every connection as if the sender had closed it; the other goes on."""
        return self._run(self._half_close(direction))

    def silence(self, *directions: Direction) -> None:
        """Nothing more comes through, and nothing is lost: it comes with `resume`."""
        self._run(self._set_open(directions, False))

    def resume(self, *directions: Direction) -> None:
        self._run(self._set_open(directions or (self.up, self.down), True))

    def calm(self) -> None:
        """Ends every fault but those that have broken a connection."""
        self.refuses = False
        self.up.calm()
        self.down.calm()
        self.resume()

    def num_open(self) -> int:
        return self._run(self._count())

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _spawn(self, coroutine) -> asyncio.Task:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _begin(self) -> None:
        self._spawn(self._accept())

    async def _end(self) -> None:
        self.refuses = True
        await self._cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> int:
        cut = list(self._connections)
        self._connections.clear()
        for connection in cut:
            await connection.reset()
        self.num_cut += len(cut)
        return len(cut)

    async def _half_close(self, direction: Direction) -> int:
        count = 0
        for connection in self._connections:
            pump = connection.tasks[0 if direction is self.up else 1]
            if pump.done():
                continue
            pump.cancel()
            receiver = connection.target if direction is self.up else connection.client
            receiver.shutdown(socket.SHUT_WR)
            count += 1
        self.num_half_closed += count
        return count

    async def _set_open(self, directions, is_open: bool) -> None:
        for direction in directions:
            event = self._open[id(direction)]
            event.set() if is_open else event.clear()

    async def _count(self) -> int:
        return len(self._connections)

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self._spawn(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        target = socket.socket()
        target.setblocking(False)
        try:
            if self.refuses:
                raise ConnectionRefusedError
            host, _, port = self.target.rpartition(":")
            await self._loop.sock_connect(target, (host, int(port)))
        except (OSError, ValueError, asyncio.CancelledError) as error:
            self.num_refused += 1
            await _Connection(client, target).reset()
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        for end in (client, target):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(client, target)
        connection.tasks = [self._spawn(self._pump(self.up, client, target)),
                            self._spawn(self._pump(self.down, target, client))]
        self._connections.add(connection)
        self.num_connections += 1
        await asyncio.gather(*connection.tasks, return_exceptions=True)
        if connection in self._connections:  # else it was cut
            self._connections.discard(connection)
            client.close()
            target.close()

    async def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        """Forwards until the source's end, and hands that on; a reset ends the other side in order."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_PIECES)
        sender = self._spawn(self._send(direction, pieces, sink))
        try:
            due = 0.0
            while True:
                try:
                    piece = await self._loop.sock_recv(source, _PIECE_BYTES)
                except OSError:
                    piece = b""
                due = max(due, self._loop.time() + direction.delay_s)
                if piece and direction.delay_s > 0:
                    direction.num_delayed += 1
                if piece and direction.loss > 0 and self._dice.random() < direction.loss:
                    direction.num_stalled += 1
                    due += direction.stall_s
                if direction.bytes_per_s > 0:
                    due += len(piece) / direction.bytes_per_s
                put = self._loop.create_task(pieces.put((due, piece)))
                try:
                    await asyncio.wait((put, sender), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    put.cancel()  # where it is not done: nobody takes it any more
                if not piece or sender.done():
                    break
            await sender
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    async def _send(self, direction: Direction, pieces: asyncio.Queue, sink: socket.socket) -> None:
        is_open = self._open[id(direction)]
        try:
            while True:
                due, piece = await pieces.get()
                if due > self._loop.time():
                    await asyncio.sleep(due - self._loop.time())
                if not is_open.is_set():
                    direction.num_held += 1
                    await is_open.wait()
                if direction.swallows:
                    direction.num_swallowed += len(piece)
                    continue
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await self._loop.sock_sendall(sink, piece)
                direction.num_bytes += len(piece)
        except OSError:
            return  # the receiver is gone: the pump that reads from it hears of that
