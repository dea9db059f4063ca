"""Faults of the network between a coordinator and its workers: slower perhaps, never a wrong token.

Each worker is announced under the address of a proxy, which makes the faults while streams run. Two workers; what the
first one's link suffers, the second one's does not.
"""

import time
import unittest

from fault_proxy import FaultProxy
from harness import DEFAULT_SUSPECT_S, PATIENT_S, SLOW_FLAGS, Stage, figure, main, wait_until
from quire.v1 import inference_pb2 as pb
from service import Crowd, Service, undisturbed_service

NUM_STREAMS = 8
NUM_TOKENS = 500
BOUND_S = 20.0  # the figures are measured; a test fails only beyond this


class NetworkFaultCase(unittest.TestCase):
    SUSPECT_S: float

    @classmethod
    def setUpClass(cls):
        stage = cls.stage = Stage.of_class(cls)
        cls.coordinator = stage.coordinator(suspect_s=cls.SUSPECT_S)
        model = stage.model("ghost", context=65536)
        cls.links = [stage.enter_context(FaultProxy()) for _ in range(2)]
        # The workers' announcements go their own way.
        cls.joins = [stage.enter_context(FaultProxy(cls.coordinator.address)) for _ in range(2)]
        cls.workers = []
        for link, join in zip(cls.links, cls.joins):
            worker = stage.fake_worker(model, "--join", join.address, "--advertise-address", link.address,
                                       "--num-gpu-blocks-override", 8192, *SLOW_FLAGS, step_us=2000)
            link.target = worker.address
            cls.workers.append(worker)
        cls.service = Service(stage, cls.coordinator.address)
        cls.service.wait_ready(2)
        cls.undisturbed = undisturbed_service(stage, model, *SLOW_FLAGS)

    def setUp(self):
        self.link = self.links[0]
        self.addCleanup(self.calm)

    def calm(self):
        """The next test begins with two workers that are READY and idle."""
        for proxy in self.links + self.joins:
            proxy.calm()
        self.service.wait_ready(2)
        self.service.wait_idle()

    def start_crowd(self, *counts):
        return Crowd(self.service, self.undisturbed, *counts)

    def start_streams(self, finite=0):
        """With what runs at the link's worker, and does not end by itself, as self.own."""
        self.crowd = self.start_crowd(NUM_STREAMS - finite, finite, NUM_TOKENS).wait_for_tokens(5)
        self.own = [stream for stream in self.crowd.endless if stream.accepted.worker == self.link.address]
        self.assertTrue(self.own)

    def moves(self, stream):
        return [notice for notice in stream.notices if notice.kind == pb.Notice.MIGRATED]

    def state(self):
        return next(load.state for load in self.service.load() if load.name == self.link.address)

    def wait_for_state(self, state):
        wait_until(lambda: self.state() == state, f"the worker {pb.WorkerLoad.State.Name(state)}")

    def assert_moved_and_unchanged(self, what, since):
        """Every stream of the worker had to go on at the other one."""
        wait_until(lambda: all(self.moves(stream) for stream in self.own), "the streams moved")
        self.crowd.wait_for_more(50)
        self.crowd.check()
        for stream in self.own:
            self.assertIn(f"runs on {self.links[1].address}", self.moves(stream)[0].why)
        gap = max(min(at for at in stream.token_times if at > since) - since for stream in self.own)
        figure(f"{what}: {len(self.own)} streams went on after", 1000 * gap, "ms", "<= 2000")
        self.assertLess(gap, BOUND_S)


class LostConnectionTest(NetworkFaultCase):
    SUSPECT_S = PATIENT_S

    def assert_moved_and_unchanged(self, what, since):
        super().assert_moved_and_unchanged(what, since)
        for stream in self.own:
            self.assertEqual(len(self.moves(stream)), 1)

    def test_connection_reset(self):
        self.start_streams()
        since = time.monotonic()
        self.assertGreaterEqual(self.link.cut(), 1)
        self.assert_moved_and_unchanged("link reset", since)

    def test_connection_closed_one_way(self):
        for direction, name in ((self.link.up, "to the worker"), (self.link.down, "to the coordinator")):
            with self.subTest(name):
                self.start_streams(finite=2)
                since = time.monotonic()
                self.assertGreaterEqual(self.link.half_close(direction), 1)
                self.assert_moved_and_unchanged(f"link closed {name}", since)
                self.calm()

    def test_the_announcement_is_not_needed_by_what_runs(self):
        self.start_streams()
        join = self.joins[0]
        self.assertGreaterEqual(join.cut(), 1)
        join.refuses = True
        wait_until(lambda: join.num_refused > 0, "an announcement refused")
        self.crowd.wait_for_more(50)
        self.crowd.check()
        for stream in self.crowd.streams:
            self.assertFalse(self.moves(stream))
        self.assertEqual(self.state(), pb.WorkerLoad.READY)
        self.start_streams()  # and it is given new requests
        self.crowd.check()


class DeafWorkerTest(NetworkFaultCase):
    SUSPECT_S = 4  # without a word; without an answer it takes ten thirds of that

    def test_silence_to_the_worker(self):
        """Its tokens still come, but a request would never get there."""
        self.start_streams()
        since = time.monotonic()
        self.link.silence(self.link.up)
        late = self.start_crowd(NUM_STREAMS)
        self.crowd.wait_for_more(50)  # those that run need nothing from the coordinator
        for stream in self.own:
            self.assertFalse(self.moves(stream))
        self.wait_for_state(pb.WorkerLoad.SUSPECT)
        figure("link silent to the worker: SUSPECT after", 1000 * (time.monotonic() - since), "ms", "13333")
        late.wait_for_tokens(50)
        lost = [stream for stream in late.streams if stream.accepted.worker == self.link.address]
        self.assertTrue(lost)
        for stream in lost + self.own:
            wait_until(lambda: self.moves(stream), "the stream moved")
            self.assertIn("has answered no ping", self.moves(stream)[0].why)
        late.check()
        self.crowd.check()


class SilenceTest(NetworkFaultCase):
    SUSPECT_S = DEFAULT_SUSPECT_S

    def test_silence_from_the_worker_and_both_ways(self):
        link = self.link
        for directions, name in (([link.down], "to the coordinator"), ([link.up, link.down], "both ways")):
            with self.subTest(name):
                self.start_streams(finite=2)
                held = sum(direction.num_held for direction in directions)
                since = time.monotonic()
                link.silence(*directions)
                self.wait_for_state(pb.WorkerLoad.SUSPECT)
                self.assert_moved_and_unchanged(f"link silent {name}", since + 0.1)
                self.assertGreater(sum(direction.num_held for direction in directions), held)
                # What was held back comes now, in one go: all of it is void.
                link.resume()
                self.calm()

    def test_a_link_that_swallows_what_is_sent(self):
        """As a firewall does that has forgotten the connection."""
        self.start_streams()
        since = time.monotonic()
        self.link.up.swallows = self.link.down.swallows = True
        self.wait_for_state(pb.WorkerLoad.SUSPECT)
        self.assert_moved_and_unchanged("link swallows all", since + 0.1)
        self.assertGreater(self.link.down.num_swallowed, 0)
        self.link.calm()
        self.link.cut()  # keepalive would, half a minute later

    def test_slow_links(self):
        for name, faults in (("200 ms delay each way", {"delay_s": 0.2}), ("5% loss", {"loss": 0.05}),
                             ("5% loss and 200 ms delay", {"delay_s": 0.2, "loss": 0.05}),
                             ("100 kB/s", {"bytes_per_s": 100_000})):
            with self.subTest(name):
                link = self.link
                before = [(direction.num_delayed, direction.num_stalled) for direction in (link.up, link.down)]
                for direction in (link.up, link.down):
                    for fault, value in faults.items():
                        setattr(direction, fault, value)
                began = time.monotonic()
                self.start_streams()
                self.crowd.wait_for_more(NUM_TOKENS)
                self.crowd.check()
                for direction, (num_delayed, num_stalled) in zip((link.up, link.down), before):
                    if "delay_s" in faults:
                        self.assertGreater(direction.num_delayed, num_delayed)
                if "loss" in faults:
                    self.assertGreater(link.up.num_stalled + link.down.num_stalled, before[0][1] + before[1][1])
                if "delay_s" in faults:
                    first = min(stream.token_times[0] for stream in self.own) - began
                    self.assertGreaterEqual(first, 0.4)
                worst = max(max(stream.gaps_over(0), default=0) for stream in self.own)
                moved = sum(bool(self.moves(stream)) for stream in self.own)
                figure(f"link with {name}: {moved} of {len(self.own)} streams moved; longest pause", 1000 * worst, "ms")
                self.calm()


if __name__ == "__main__":
    main()
