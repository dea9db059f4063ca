"""Where streams may not move, a worker that dies ends them at once; it serves again when it comes back."""

import time
import unittest

from grpc import StatusCode
from harness import Stage, figure, main
from quire.v1 import inference_pb2 as pb
from service import ENDLESS, Service, request

NUM_STREAMS = 16


class WorkerLossTest(unittest.TestCase):

    def setUp(self):
        self.stage = Stage.of_test(self)
        self.model = self.stage.model("ghost", context=65536)

    def start_worker(self, *flags):
        return self.stage.fake_worker(self.model, "--num-gpu-blocks-override", 8192, *flags, step_us=2000)

    def test_a_worker_that_joins(self):
        coordinator = self.stage.coordinator("--migration-timeout", 0)
        self.kill_and_restart(coordinator, self.start_worker("--join", coordinator.address), "joined")

    def test_a_worker_of_a_static_list(self):
        worker = self.start_worker()
        coordinator = self.stage.coordinator("--worker", worker.address, "--migration-timeout", 0)
        self.kill_and_restart(coordinator, worker, "static")

    def kill_and_restart(self, coordinator, worker, kind):
        service = Service(self.stage, coordinator.address)
        service.wait_ready()
        expected = service.run(request(new=50)).tokens[0]
        streams = [service.start(request([i + 1, 2], new=ENDLESS)) for i in range(NUM_STREAMS)]
        for stream in streams:
            stream.wait_for_tokens()

        killed = time.monotonic()
        worker.kill()
        for stream in streams:
            error = stream.end().error
            self.assertEqual(error.code, StatusCode.UNAVAILABLE, error)
            self.assertGreater(error.retry_delay, 0)
            self.assertEqual(stream.finished[0].reason, pb.Finished.ABORTED)
        figure(f"{kind} worker killed: its {NUM_STREAMS} streams had ended after",
               1000 * (max(stream.ended_at for stream in streams) - killed), "ms")
        # A Generate now is answered at once, and GetLoad says why.
        error = service.fail(request())
        self.assertEqual(error.code, StatusCode.UNAVAILABLE)
        self.assertGreater(error.retry_delay, 0)
        (load,) = service.load()
        self.assertEqual((load.state, load.running, load.waiting), (pb.WorkerLoad.DEAD, 0, 0))
        self.assertTrue(load.why)

        again = self.stage.again(worker)
        listening = time.monotonic()
        (load,) = service.wait_ready()
        figure(f"{kind} worker restarted: READY after it listened by", 1000 * (time.monotonic() - listening), "ms")
        self.assertEqual(load.name, again.address)
        self.assertEqual(service.run(request(new=50)).tokens[0], expected)
        service.wait_idle()

    def test_a_worker_outlives_its_coordinator(self):
        """A worker serves on while a coordinator is gone, and joins the one that comes up in its place."""
        coordinator, other = self.stage.coordinator(), self.stage.coordinator()
        self.start_worker("--join", coordinator.address, "--join", other.address, "--orphan-grace", 0.2)
        services = [Service(self.stage, process.address) for process in (coordinator, other)]
        for service in services:
            service.wait_ready()
        lost = services[0].start(request(new=ENDLESS)).wait_for_tokens()
        kept = services[1].start(request(new=1000)).wait_for_tokens()
        coordinator.kill()
        self.assertEqual(lost.end().error.code, StatusCode.UNAVAILABLE)
        self.assertEqual(len(kept.ok().tokens[0]), 1000)
        services[1].wait_idle()  # the orphan has gone, too
        third = self.stage.again(coordinator)
        service = Service(self.stage, third.address)
        service.wait_ready()
        service.run(request())


if __name__ == "__main__":
    main()
