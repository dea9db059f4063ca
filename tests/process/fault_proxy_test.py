"""The proxy's faults, each between two plain sockets."""

import contextlib
import socket
import threading
import time
import unittest

from fault_proxy import FaultProxy
from harness import HANG_S, main, wait_until


class Echo:
    """Sends back what it gets, a thread a connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.ends: list[str] = []  # how its connections ended
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(1 << 16):
                    connection.sendall(piece)
                self.ends.append("closed")
            except OSError:
                self.ends.append("reset")


class FaultProxyTest(unittest.TestCase):

    def setUp(self):
        self.echo = Echo()
        self.addCleanup(self.echo.close)
        self.proxy = FaultProxy(self.echo.address)
        self.addCleanup(self.proxy.close)
        self.client = self.connect()

    def connect(self):
        host, _, port = self.proxy.address.rpartition(":")
        client = socket.create_connection((host, int(port)), timeout=HANG_S)
        self.addCleanup(client.close)
        return client

    def receive(self, count, client=None):
        received = b""
        while len(received) < count:
            piece = (client or self.client).recv(1 << 16)
            if not piece:
                break
            received += piece
        return received

    def round_trip(self, data=b"hello"):
        """Seconds until it came back."""
        began = time.monotonic()
        self.client.sendall(data)
        self.assertEqual(self.receive(len(data)), data)
        return time.monotonic() - began

    def test_without_a_fault_everything_comes_through_in_order(self):
        data = bytes(i % 251 for i in range(3_000_000))
        threading.Thread(target=self.client.sendall, args=(data,)).start()
        self.assertEqual(self.receive(len(data)), data)
        self.client.shutdown(socket.SHUT_WR)
        self.assertEqual(self.receive(1), b"")
        wait_until(lambda: self.proxy.num_open() == 0, "the connection forgotten")
        self.assertEqual(self.proxy.up.num_bytes, len(data))
        self.assertEqual(self.proxy.down.num_bytes, len(data))
        self.assertEqual(self.echo.ends, ["closed"])

    def test_delay_of_each_direction_adds_up_and_ends(self):
        self.proxy.up.delay_s = 0.1
        self.proxy.down.delay_s = 0.05
        self.assertGreaterEqual(self.round_trip(), 0.15)
        self.assertGreater(self.proxy.up.num_delayed, 0)
        self.proxy.calm()
        self.round_trip()

    def test_a_delay_does_not_limit_the_rate(self):
        self.proxy.up.delay_s = 0.2
        began = time.monotonic()
        for _ in range(100):
            self.client.sendall(bytes(1000))
        self.receive(100_000)
        self.assertLess(time.monotonic() - began, 100 * 0.2)

    def test_throttle(self):
        self.proxy.down.bytes_per_s = 100_000
        self.assertGreaterEqual(self.round_trip(bytes(20_000)), 0.15)

    def test_loss_stalls_what_follows_and_loses_nothing(self):
        self.proxy.up.loss, self.proxy.up.stall_s = 0.5, 0.02
        for number in range(30):
            self.round_trip(bytes([number]) * 100)
        self.assertGreater(self.proxy.up.num_stalled, 0)
        self.assertLess(self.proxy.up.num_stalled, 30)

    def test_silence_holds_everything_back_until_it_ends(self):
        for direction in (self.proxy.up, self.proxy.down):
            self.proxy.silence(direction)
            self.client.sendall(b"later")
            wait_until(lambda: direction.num_held > 0, "a piece held back")
            self.client.settimeout(0.05)
            self.assertRaises(TimeoutError, self.client.recv, 1)
            self.client.settimeout(HANG_S)
            self.proxy.resume()
            self.assertEqual(self.receive(5), b"later")

    def test_a_direction_that_swallows(self):
        self.proxy.up.swallows = True
        self.client.sendall(bytes(1000))
        wait_until(lambda: self.proxy.up.num_swallowed == 1000, "all of it swallowed")
        self.proxy.calm()
        self.round_trip()

    def test_a_cut_resets_both_ends(self):
        self.round_trip()
        self.assertEqual(self.proxy.cut(), 1)
        self.assertRaises(ConnectionResetError, self.client.recv, 1)
        wait_until(lambda: self.echo.ends == ["reset"], "the other end reset")
        self.client = self.connect()
        self.round_trip()
        self.assertEqual(self.proxy.num_connections, 2)

    def test_a_half_closed_connection_goes_on_the_other_way(self):
        self.round_trip()
        self.assertEqual(self.proxy.half_close(self.proxy.up), 1)
        wait_until(lambda: self.echo.ends == ["closed"], "the echo's end")
        self.assertEqual(self.receive(1), b"")  # the echo has closed the other direction
        self.client = self.connect()
        self.round_trip()
        self.assertEqual(self.proxy.half_close(self.proxy.down), 1)
        self.assertEqual(self.receive(1), b"")
        sent = self.proxy.up.num_bytes
        self.client.sendall(b"still")
        wait_until(lambda: self.proxy.up.num_bytes == sent + 5, "the other direction goes on")

    def test_new_connections_refused(self):
        self.round_trip()
        self.proxy.refuses = True
        with self.assertRaises(ConnectionResetError):  # at once, or by then
            self.connect().recv(1)
        self.round_trip()  # the open one lives
        self.assertEqual(self.proxy.num_refused, 1)


if __name__ == "__main__":
    main()
