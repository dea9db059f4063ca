"""Faults of the network between clients and coordinators: the client library goes on at the other coordinator.

Each of two coordinators is reached through a proxy; clients begin at the first one's, which makes the faults.
"""

import threading
import time
import unittest

from fault_proxy import FaultProxy
from harness import Stage, figure, main, wait_until
from load import Outcome
from quire_client import Client
from service import Service

NUM_TOKENS = 1500  # three seconds at 2 ms a step
# The client library pings after 20 s of silence and waits 10 s for the answer. gRPC would wait a minute for that of a
# ping of its own.
SILENCE_BOUND_S = 50.0
RESUMED_BOUND_S = 20.0
KINDS = [
    ([2, 3, 4], {"max_new_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}),
    ("The sea", {"max_new_tokens": NUM_TOKENS, "temperature": 1, "seed": 11, "ignore_eos": True}),
    ("A letter", {"max_new_tokens": NUM_TOKENS, "temperature": 0.8, "seed": 12, "n": 3, "ignore_eos": True}),
    ("In the garden", {"max_new_tokens": NUM_TOKENS, "seed": 13, "stop": ["never there"], "ignore_eos": True}),
]


class Run(threading.Thread):
    """One request, whose events are looked at as they come."""

    def __init__(self, client: Client, kind) -> None:
        super().__init__()
        self._client, self._kind = client, kind
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.num_events = 0
        self.times: list[float] = []
        self.start()

    def run(self) -> None:
        prompt, options = self._kind
        try:
            self.outcome = Outcome(self._counted(self._client.generate(prompt, **options)))
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def _counted(self, events):
        for event in events:
            self.num_events += 1
            self.times.append(time.monotonic())
            yield event


class ClientNetworkTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        stage = cls.stage = Stage.of_class(cls)
        cls.coordinators = [stage.coordinator() for _ in range(2)]
        joins = [flag for process in cls.coordinators for flag in ("--join", process.address)]
        stage.fake_worker(stage.model("ghost", context=65536, tokenizer=True), *joins, "--orphan-grace", 1,
                          "--num-gpu-blocks-override", 8192, step_us=2000)
        cls.services = [Service(stage, process.address) for process in cls.coordinators]
        for service in cls.services:
            service.wait_ready()
        cls.proxies = [stage.enter_context(FaultProxy(process.address)) for process in cls.coordinators]
        with Client([process.address for process in cls.coordinators]) as client:
            cls.expected = [Outcome(client.generate(prompt, **options)) for prompt, options in KINDS]

    def setUp(self):
        self.first, self.second = self.proxies
        self.client = self.connect()

    def connect(self):
        """A client whose connection to the first coordinator is there: channels of one process share them, and the
        pauses after a connection that failed."""
        client = Client([proxy.address for proxy in self.proxies])
        self.addCleanup(client.close)
        with Client([self.first.address], max_attempts=100) as one:
            one.generate_text([1], max_new_tokens=1)
        wait_until(lambda: self.first.num_open() <= 1, "what earlier clients had is closed")
        return client

    def tearDown(self):
        for proxy in self.proxies:
            proxy.calm()
        for service in self.services:
            service.wait_idle()

    def start(self):
        runs = [Run(self.client, kind) for kind in KINDS]
        wait_until(lambda: all(run.num_events >= 5 or run.error for run in runs), "events of each stream")
        return runs

    def assert_unchanged(self, runs):
        for run, expected in zip(runs, self.expected):
            run.join()
            if run.error is not None:
                raise run.error
            self.assertTrue(run.outcome.same(expected))

    def assert_resumed(self, what, runs, since, within_s):
        """All of them went on at the second coordinator."""
        self.assert_unchanged(runs)
        self.assertGreater(self.second.down.num_bytes, 0)
        gap = max(min(at for at in run.times if at > since) - since for run in runs)
        figure(f"{what}: {len(runs)} streams went on at another coordinator after", 1000 * gap, "ms")
        self.assertLess(gap, within_s)

    def test_connection_reset(self):
        runs = self.start()
        since = time.monotonic()
        self.assertEqual(self.first.cut(), 1)
        self.assert_resumed("client's connection reset", runs, since, RESUMED_BOUND_S)

    def test_connection_closed_one_way(self):
        for direction, name in ((self.first.up, "to the coordinator"), (self.first.down, "to the client")):
            with self.subTest(name):
                self.client = self.connect()
                runs = self.start()
                since = time.monotonic()
                self.assertEqual(self.first.half_close(direction), 1)
                self.assert_resumed(f"client's connection closed {name}", runs, since, RESUMED_BOUND_S)

    def test_a_coordinator_that_cannot_be_reached(self):
        self.first.refuses = True
        self.first.cut()
        runs = self.start()
        self.assert_unchanged(runs)
        self.assertGreater(self.first.num_refused, 0)

    def test_slow_connections(self):
        for name, faults in (("200 ms delay each way", {"delay_s": 0.2}), ("5% loss", {"loss": 0.05}),
                             ("100 kB/s", {"bytes_per_s": 100_000})):
            with self.subTest(name):
                self.client = self.connect()
                for direction in (self.first.up, self.first.down):
                    for fault, value in faults.items():
                        setattr(direction, fault, value)
                stalled = self.first.down.num_stalled
                began = time.monotonic()
                runs = self.start()
                self.assert_unchanged(runs)
                if "delay_s" in faults:
                    self.assertGreaterEqual(min(run.times[0] for run in runs) - began, 0.4)
                if "loss" in faults:
                    self.assertGreater(self.first.down.num_stalled, stalled)
                longest = max(run.outcome.longest_gap() for run in runs)
                figure(f"client's connection with {name}: longest pause", 1000 * longest, "ms")
                self.first.calm()

    def test_silence(self):
        """Nothing comes and nothing ends: keepalive notices."""
        runs = self.start()
        since = time.monotonic()
        self.first.silence(self.first.up, self.first.down)
        self.assert_resumed("client's connection silent", runs, since + 1, SILENCE_BOUND_S)
        self.assertGreater(self.first.down.num_held, 0)


if __name__ == "__main__":
    main()
