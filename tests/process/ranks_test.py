"""Tensor parallelism: a worker of two ranks gives the tokens of a worker without, and one that loses a rank ends."""

import time
import unittest

from grpc import StatusCode
from harness import DEVICE, TINY, Stage, figure, gpu_count, main
from quire.v1 import inference_pb2 as pb
from service import Service, request

NUM_TOKENS = 120
MAX_SECONDS = 10  # from the last token to the end of a worker whose device is lost (must, on a quiet machine: 1)
EXIT_DEVICE_LOST = 3


def has_ranks(size):
    return DEVICE != "cuda" or gpu_count() >= size


class RanksTest(unittest.TestCase):

    def setUp(self):
        self.stage = Stage.of_test(self)
        self.coordinator = self.stage.coordinator("--migration-timeout", 0)

    def start(self, *flags):
        return self.stage.worker(TINY, "--join", self.coordinator.address, "--num-threads", 2, *flags)

    @unittest.skipUnless(has_ranks(2), "two GPUs are needed")
    def test_two_ranks_give_the_tokens_of_one_and_its_numerics_id(self):
        one = self.start()
        two = self.start("--tensor-parallel-size", 2)
        service = Service(self.stage, self.coordinator.address)
        loads = service.wait_ready(count=2)
        self.assertEqual(len({load.numerics_id for load in loads}), 1)
        two.wait_logged("2 ranks")
        for prompt in ([1, 2, 3], list(range(5, 300))):
            for sampling in (pb.Sampling(temperature=0), pb.Sampling(temperature=1, top_p=0.95, seed=7)):
                streams = [service.run(request(prompt, new=NUM_TOKENS, worker=worker.address, sampling=sampling))
                           for worker in (one, two)]
                self.assertEqual(streams[0].tokens[0], streams[1].tokens[0])
                self.assertEqual(len(streams[0].tokens[0]), NUM_TOKENS)

    def test_a_lost_device_ends_the_worker_with_its_reason(self):
        self.lose_device(ranks=1, reason="the device is lost: INTERNAL: step 40")

    @unittest.skipUnless(has_ranks(2), "two GPUs are needed")
    def test_a_lost_rank_ends_the_worker_with_its_reason(self):
        self.lose_device(ranks=2, reason="the device is lost: INTERNAL: rank 1: step 40")

    def lose_device(self, ranks, reason):
        worker = self.start("--tensor-parallel-size", ranks, "--lose-device-at-step", 40)
        service = Service(self.stage, self.coordinator.address)
        service.wait_ready()
        stream = service.start(request(new=1000, worker=worker.address))
        error = stream.end().error
        self.assertEqual(error.code, StatusCode.UNAVAILABLE, error)
        self.assertEqual(stream.finished[0].reason, pb.Finished.ABORTED)
        worker.expect_exit(EXIT_DEVICE_LOST)
        ended = time.monotonic()
        self.assertIn(reason, worker.log())
        self.assertLess(len(stream.tokens[0]), 40)
        seconds = ended - stream.token_times[-1]
        figure(f"a worker of {ranks} rank(s) that lost a device ended after", 1000 * seconds, "ms")
        self.assertLess(seconds, MAX_SECONDS)


if __name__ == "__main__":
    main()
