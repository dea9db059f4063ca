"""The wall clock jumps, by hours and days, either way: nothing happens, since only steady clocks decide.

The processes run with a wall clock of their own (clock_shim.cc), which jumps while the machine's goes on. The steady
clock is not touched, as by settimeofday.
"""

import datetime
import os
import pathlib
import re
import struct
import time
import unittest

from etcd import Etcd
from grpc import StatusCode
from harness import BIN, Stage, figure, main, wait_until
from quire.v1 import inference_pb2 as pb
from service import ENDLESS, Service, request

SHIM = pathlib.Path(os.environ.get("QUIRE_CLOCK_SHIM", BIN / "libquire_clock_shim.so"))
HOUR_S = 3600
JUMPS_S = (HOUR_S, -HOUR_S, 3 * 24 * HOUR_S, -3 * 24 * HOUR_S)
NUM_STREAMS = 6
NUM_TOKENS = 500  # one second at 2 ms a step
TICKS_S = 1.5  # some looks of the coordinator at its workers
SHORT_S = 3.0


class Clocks:
    """The wall clocks of some processes."""

    def __init__(self, stage):
        self._folder = stage.folder
        self.offsets_s = {}

    def environment(self, name):
        """Of a process whose clock `jump` can move."""
        file = self._folder / f"{name}.clock"
        file.write_bytes(bytes(8))
        self.offsets_s[name] = 0
        return {"LD_PRELOAD": str(SHIM), "CLOCK_REALTIME_SHIM": str(file)}

    def jump(self, seconds, *names):
        for name in names or self.offsets_s:
            self.offsets_s[name] += seconds
            with (self._folder / f"{name}.clock").open("r+b") as file:
                file.write(struct.pack("q", self.offsets_s[name] * 10**9))


class ClockJumpTest(unittest.TestCase):

    def setUp(self):
        stage = self.stage = Stage.of_test(self)
        self.clocks = Clocks(stage)
        self.coordinator = stage.coordinator(environment=self.clocks.environment("coordinator"))
        model = stage.model("ghost", context=65536)
        self.workers = [
            stage.fake_worker(model, "--join", self.coordinator.address, "--num-gpu-blocks-override", 8192,
                              step_us=2000, environment=self.clocks.environment(f"worker {i}")) for i in range(2)]
        self.service = Service(stage, self.coordinator.address)
        self.service.wait_ready(2)
        undisturbed = [self.service.start(self.message(i)) for i in range(NUM_STREAMS)]
        self.expected = [stream.ok().tokens[0] for stream in undisturbed]

    def message(self, number):
        return request([number + 1, 2], new=NUM_TOKENS, timeout_ms=50_000)

    def assert_clock_is_off(self, process, seconds):
        """As the time of its last line in the log says, once a thread has written it."""
        delta = 60 + 3600 * (abs(seconds) > 24 * HOUR_S)

        def is_off():
            *_, last = re.findall(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", process.log())
            off = datetime.datetime.fromisoformat(last) - datetime.datetime.now()
            return abs(off.total_seconds() - seconds) < delta

        wait_until(is_off, f"the clock of the log off by {seconds} s")

    def test_nothing_happens_under_load(self):
        jumps = [(seconds, names) for seconds in JUMPS_S for names in ((), ("coordinator",), ("worker 0",))]
        gaps = []
        for seconds, names in jumps:
            with self.subTest(seconds=seconds, of=names or "all"):
                streams = [self.service.start(self.message(i)) for i in range(NUM_STREAMS)]
                for stream in streams:
                    stream.wait_for_tokens(5)
                self.clocks.jump(seconds, *names)
                for stream, expected in zip(streams, self.expected):
                    self.assertEqual(stream.ok().tokens[0], expected)
                    self.assertEqual(len(stream.notices), 0)
                    gaps.append(max(b - a for a, b in zip(stream.token_times, stream.token_times[1:])))
                self.assertEqual([load.state for load in self.service.load()], 2 * [pb.WorkerLoad.READY])
                if not names or "coordinator" in names:
                    self.assert_clock_is_off(self.coordinator, self.clocks.offsets_s["coordinator"])
        # By now every worker would have been found silent: a jump is longer than any silence that is allowed.
        since = time.monotonic()
        wait_until(lambda: self.states_are_ready() and time.monotonic() - since > TICKS_S, "workers READY all along")
        figure(f"{len(jumps)} jumps of the wall clock under load: 0 of {len(jumps) * NUM_STREAMS} streams moved or "
               "ended; longest pause", 1000 * max(gaps), "ms")

    def states_are_ready(self):
        states = [load.state for load in self.service.load()]
        self.assertEqual(states, 2 * [pb.WorkerLoad.READY])
        return True

    def test_deadlines_hold_and_no_others(self):
        for seconds in JUMPS_S:
            with self.subTest(seconds=seconds):
                # timeout_ms, the call's deadline, and none.
                short = [self.service.start(request(new=ENDLESS, timeout_ms=int(1000 * SHORT_S))),
                         self.service.start(request(new=ENDLESS), SHORT_S)]
                long = self.service.start(request(new=NUM_TOKENS), 50)
                for stream in (*short, long):
                    stream.wait_for_tokens(5)
                began = time.monotonic()
                self.clocks.jump(seconds)
                for stream in short:
                    self.assertEqual(stream.end().error.code, StatusCode.DEADLINE_EXCEEDED)
                    self.assertLess(stream.ended_at - began, 20)
                long.ok()

    def test_a_worker_that_restarts_is_found_again(self):
        for number, seconds in enumerate(JUMPS_S):
            with self.subTest(seconds=seconds):
                self.clocks.jump(seconds)
                self.workers[0].kill()
                wait_until(lambda: pb.WorkerLoad.DEAD in [load.state for load in self.service.load()], "a worker DEAD")
                self.clocks.jump(seconds if number % 2 else -seconds)
                self.workers[0] = self.stage.again(self.workers[0])
                began = time.monotonic()
                self.service.wait_ready(2)
                figure(f"worker restarted after a jump of {seconds:,} s: READY after",
                       1000 * (time.monotonic() - began), "ms")

    def test_a_drain_ends_in_time(self):
        streams = [self.service.start(self.message(i)) for i in range(NUM_STREAMS)]
        for stream in streams:
            stream.wait_for_tokens(5)
        self.workers[0].terminate()
        self.clocks.jump(-HOUR_S)
        self.assertEqual(self.workers[0].wait(), 0)
        for stream, expected in zip(streams, self.expected):
            self.assertEqual(stream.ok().tokens[0], expected)
        self.coordinator.terminate()
        self.clocks.jump(HOUR_S)
        self.assertEqual(self.coordinator.wait(), 0)


class EtcdClockJumpTest(unittest.TestCase):
    """As above, where coordinator and workers find each other by etcd."""

    def setUp(self):
        self.stage = Stage.of_test(self)
        self.clocks = Clocks(self.stage)
        self.etcd = Etcd(self.stage)
        self.coordinator = self.stage.coordinator("--etcd-endpoints", self.etcd.endpoints,
                                                  environment=self.clocks.environment("coordinator"))
        self.model = self.stage.model("ghost")
        self.service = Service(self.stage, self.coordinator.address)

    def start_worker(self, name):
        return self.stage.fake_worker(self.model, "--etcd-endpoints", self.etcd.endpoints, "--etcd-lease-ttl", 2,
                                      environment=self.clocks.environment(name))

    def test_etcd_that_comes_back_is_found_again(self):
        keys = set()
        for number, seconds in enumerate(JUMPS_S):
            with self.subTest(seconds=seconds):
                keys.add("/quire/workers/" + self.start_worker(f"worker {number}").address)
                self.service.wait_ready(number + 1)
                wait_until(lambda: keys <= set(self.etcd.keys("/quire/workers/")), "every announcement", pause_s=0.05)
                self.etcd.kill()
                wait_until(lambda: self.coordinator.log().count("does not answer") > number, "etcd is missed")
                self.clocks.jump(seconds)
                self.etcd.restart()
                began = time.monotonic()
                wait_until(lambda: self.coordinator.log().count(f"etcd at {self.etcd.endpoints} answers") > number, "etcd is found again")
                figure(f"etcd restarted, the clock off by {seconds:,} s: found again after",
                       1000 * (time.monotonic() - began), "ms")


if __name__ == "__main__":
    main()
