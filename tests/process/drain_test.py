"""A drain under load, by SIGTERM or by call, loses no running request, refuses new ones and ends with exit code 0."""

import json
import threading
import time
import unittest

from grpc import StatusCode
from grpc_health.v1 import health_pb2
from harness import SLOW_FLAGS, Stage, figure, main, quire, wait_until
from quire.v1 import inference_pb2 as pb
from service import ENDLESS, Service, request

NUM_STREAMS = 8
NUM_TOKENS = 2500  # five seconds at 2 ms a step
DRAIN_S = 55
LAG_S = 1.5  # more than a worker waits for calls that do not end


class DrainTest(unittest.TestCase):

    def setUp(self):
        self.stage = Stage.of_test(self)

    def start(self, coordinator_flags=("--drain-timeout", DRAIN_S), worker_flags=("--drain-timeout", DRAIN_S)):
        self.coordinator = self.stage.coordinator(*coordinator_flags)
        self.worker = self.stage.fake_worker(self.stage.model("ghost", context=65536), "--join",
                                             self.coordinator.address, "--num-gpu-blocks-override", 8192, *SLOW_FLAGS,
                                             *worker_flags, step_us=2000)
        self.service = Service(self.stage, self.coordinator.address)
        self.service.wait_ready()

    def start_streams(self, new=NUM_TOKENS):
        streams = [self.service.start(request([i + 1, 2], new=new, worker=self.worker.address))
                   for i in range(NUM_STREAMS)]
        for stream in streams:
            stream.wait_for_tokens()
        return streams

    def assert_refused(self, word):
        error = self.service.fail(request())
        self.assertEqual(error.code, StatusCode.UNAVAILABLE, error)
        self.assertRegex(error.message, word)
        self.assertGreater(error.retry_delay, 0)

    def assert_drained(self, process, streams):
        at_signal = [len(stream.tokens[0]) for stream in streams]
        self.assertLess(max(at_signal), NUM_TOKENS, "the signal came too late to show anything")
        for stream in streams:
            self.assertEqual(len(stream.ok().tokens[0]), NUM_TOKENS)
        ended = time.monotonic()
        self.assertEqual(process.wait(), 0)
        figure(f"{process.program} ended after its last stream by", 1000 * (time.monotonic() - ended), "ms")
        self.assertIn("drained: no request is left", process.log())

    def test_the_worker(self):
        self.start()
        streams = self.start_streams()
        self.worker.terminate()
        wait_until(lambda: self.service.load()[0].state == pb.WorkerLoad.DRAINING, "the worker DRAINING")
        self.assert_refused("draining|DRAINING")
        self.assert_drained(self.worker, streams)
        self.assert_refused("no worker")

    def test_a_coordinator_that_lags_behind_gets_every_token(self):
        self.start()
        streams = self.start_streams()
        self.worker.terminate()
        self.worker.wait_logged(f"draining {NUM_STREAMS} requests")
        self.coordinator.pause()
        wait_until(lambda: self.worker.log().count("status=OK") == NUM_STREAMS, "all generated")
        since = time.monotonic()
        wait_until(lambda: not self.worker.is_running or time.monotonic() - since > LAG_S, "a while")
        self.coordinator.go_on()
        for stream in streams:
            self.assertEqual(len(stream.ok().tokens[0]), NUM_TOKENS)
        self.assertEqual(self.worker.wait(), 0)

    def test_the_coordinator(self):
        self.start()
        streams = self.start_streams()
        self.coordinator.terminate()
        wait_until(lambda: "draining" in self.coordinator.log(), "the coordinator draining")
        wait_until(lambda: self.refuses_new_requests(), "new requests refused")
        self.assert_refused("draining")
        self.assert_drained(self.coordinator, streams)
        self.assertTrue(self.worker.is_running)

    def test_a_health_watch_does_not_hold_up_the_end(self):
        self.start(coordinator_flags=("--drain-timeout", 3600))
        watch = self.service.channel.unary_stream(
            "/grpc.health.v1.Health/Watch", request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString)(health_pb2.HealthCheckRequest())
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
        self.service.run(request())
        began = time.monotonic()
        self.coordinator.terminate()
        self.assertEqual(self.coordinator.wait(), 0)
        figure("an idle coordinator ended beside a health Watch after", 1000 * (time.monotonic() - began), "ms")
        self.assertIn("drained: no request is left", self.coordinator.log())

    def refuses_new_requests(self):
        return self.service.start(request(new=1)).end().error is not None

    def test_another_worker_takes_over_while_one_drains(self):
        """As in a rolling restart."""
        self.start()
        second = self.stage.fake_worker(self.stage.folder / "ghost", "--join", self.coordinator.address,
                                        "--num-gpu-blocks-override", 8192, *SLOW_FLAGS, step_us=2000)
        self.service.wait_ready(2)
        streams = self.start_streams()
        self.worker.terminate()
        wait_until(lambda: any(w.state == pb.WorkerLoad.DRAINING for w in self.service.load()), "a worker DRAINING")
        self.assertEqual(self.service.run(request()).accepted.worker, second.address)
        self.assert_drained(self.worker, streams)

    def test_what_outlives_the_drain_timeout_ends_unavailable(self):
        for drains in ("worker", "coordinator"):
            with self.subTest(drains=drains):
                self.stage = Stage.of_test(self)
                flags = [("--migration-timeout", 0), ("--drain-timeout", 0.3)]
                self.start(*(flags if drains == "worker" else [("--drain-timeout", 0.3), ()]))
                stream = self.service.start(request(new=ENDLESS)).wait_for_tokens()
                process = getattr(self, drains)
                process.terminate()
                self.assertEqual(stream.end().error.code, StatusCode.UNAVAILABLE)
                self.assertGreater(stream.error.retry_delay, 0)
                self.assertEqual(process.wait(), 0)
                self.assertIn("drain timeout", process.log())

    def start_with_calls(self, *flags):
        own = ("--admin-address", "127.0.0.1:0", "--drain-timeout", DRAIN_S, *flags)
        self.start(own, own)

    def drain(self, process, *flags):
        """What `quire drain` reports."""
        result = quire("drain", "--json", "--target", process.admin_address, *flags)
        self.assertEqual(result.returncode, 0, result.stderr)
        return json.loads(result.stdout)

    def assert_report(self, report, process, **counts):
        """All that ran there met that end."""
        running = sum(counts.values())
        self.assertEqual(report.pop("target"), process.admin_address)
        figure(f"{process.program} drained by call: {running} requests, {counts}, after", report.pop("duration_ms"),
               "ms")
        self.assertEqual(report, {"running": running, "moved": 0, "finished": 0, "cut": 0} | counts)
        self.assertEqual(process.wait(), 0)

    def test_a_call_moves_a_workers_requests(self):
        self.start_with_calls()
        second = self.stage.fake_worker(self.stage.folder / "ghost", "--join", self.coordinator.address,
                                        "--num-gpu-blocks-override", 8192, *SLOW_FLAGS, step_us=2000)
        self.service.wait_ready(2)
        # A request that names its worker may not move.
        streams = [self.service.start(request([i + 1, 2], new=ENDLESS)) for i in range(2 * NUM_STREAMS)]
        for stream in streams:
            stream.wait_for_tokens()
        # About half: requests that come at once do not see each other's placement.
        own = [stream for stream in streams if stream.accepted.worker == self.worker.address]
        self.assertNotIn(len(own), (0, len(streams)))
        self.assert_report(self.drain(self.worker), self.worker, moved=len(own))
        for stream in streams:
            stream.wait_for_tokens(len(stream.tokens[0]) + 50).cancel()
            stream.end()
            moved = [notice.why for notice in stream.notices if notice.kind == pb.Notice.MIGRATED]
            self.assertEqual(len(moved), stream in own)
        self.assertIn(f"{self.worker.address} drains; the request runs on {second.address}",
                      next(notice.why for notice in own[0].notices))

    def start_anew(self, drains, **settings):
        """The server of that kind among new ones that take calls, and their streams."""
        self.stage = Stage.of_test(self)
        self.start_with_calls()
        return getattr(self, drains), self.start_streams(**settings)

    def test_a_call_lets_requests_finish(self):
        for drains in ("worker", "coordinator"):
            with self.subTest(drains=drains):
                process, streams = self.start_anew(drains)
                self.assert_report(self.drain(process), process, finished=NUM_STREAMS)
                for stream in streams:
                    self.assertEqual(len(stream.ok().tokens[0]), NUM_TOKENS)

    def test_a_call_cuts_what_outlives_its_time(self):
        for drains in ("worker", "coordinator"):
            with self.subTest(drains=drains):
                process, streams = self.start_anew(drains, new=ENDLESS)
                self.assert_report(self.drain(process, "--timeout", 0), process, cut=NUM_STREAMS)
                for stream in streams:
                    if drains == "coordinator":
                        self.assertEqual(stream.end().error.code, StatusCode.UNAVAILABLE)
                    else:
                        stream.cancel()

    def test_calls_and_a_signal_during_a_drain_join_it(self):
        self.start_with_calls()
        streams = self.start_streams()
        reports = []
        callers = [threading.Thread(target=lambda: reports.append(self.drain(self.worker))) for _ in range(3)]
        for caller in callers:
            caller.start()
        wait_until(lambda: "draining 8 requests" in self.worker.log(), "the worker draining")
        self.worker.terminate()
        for stream in streams:
            self.assertEqual(len(stream.ok().tokens[0]), NUM_TOKENS)
        for caller in callers:
            caller.join()
        self.assertEqual(len(reports), 3)
        self.assertEqual(len({report["duration_ms"] for report in reports}), 1)
        self.assert_report(reports[0], self.worker, finished=NUM_STREAMS)

    def test_no_call_drains_a_server_that_was_not_told_so(self):
        self.start()
        for process in (self.worker, self.coordinator):
            result = quire("drain", "--target", process.address)
            self.assertEqual(result.returncode, 1)
            self.assertIn("UNIMPLEMENTED", result.stderr.upper())
        self.service.run(request())


if __name__ == "__main__":
    main()
