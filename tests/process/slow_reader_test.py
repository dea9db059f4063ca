"""A client that does not read slows nobody, costs little, and misses nothing.

QUIRE_ROUNDS sets how often its effect on others is measured; 9 times with QUIRE_FULL.
"""

import os
import statistics
import time
import unittest

import grpc
from harness import HANG_S, Stage, figure, main, scaled, wait_until
from service import Service, request

NUM_TOKENS = scaled(10000, least=5000)
ROUNDS = int(os.environ.get("QUIRE_ROUNDS", 9 if "QUIRE_FULL" in os.environ else 1))
# Flow-control windows as small as gRPC allows, so that the server notices soon.
SMALL_WINDOW = {"grpc__http2__lookahead_bytes": 1024, "grpc__http2__bdp_probe": 0}


class SlowReaderTest(unittest.TestCase):

    def test_slow_reader(self):
        stage = Stage.of_test(self)
        coordinator = stage.coordinator()
        stage.fake_worker(stage.model("ghost", context=65536), "--join", coordinator.address,
                          "--num-gpu-blocks-override", 16384, "--no-enable-prefix-caching", step_us=100)
        service = Service(stage, coordinator.address)
        service.wait_ready()
        message = request(new=NUM_TOKENS)
        ratios = []
        for number in range(ROUNDS):
            company = Service(stage, coordinator.address).start(message)
            first, first_s = self.timed_run(service, message)
            company.ok()
            if number == 0:
                memory_before = coordinator.memory_bytes(peak=False)
            reader = Service(stage, coordinator.address, **SMALL_WINDOW)
            call = reader.stub.Generate(request(new=NUM_TOKENS, request_id=f"slow {number}"), timeout=HANG_S)
            self.assertTrue(next(call).HasField("accepted"))
            second, second_s = self.timed_run(service, message)
            self.assertEqual(second.tokens[0], first.tokens[0])
            ratios.append(second_s / first_s)
            if number < ROUNDS - 1:
                call.cancel()
        figure(f"inter-token time of a stream beside one whose client does not read, median of {ROUNDS}",
               100 * statistics.median(ratios), "% of that beside one whose client reads")
        # The worker is done with it; all that is left waits in the coordinator and in the connection.
        service.wait_idle()
        figure(f"memory of quire-coordinator for {NUM_TOKENS:,} tokens that are not read",
               max(0, coordinator.memory_bytes(peak=False) - memory_before) / 2**20, "MiB")
        self.assertLess(coordinator.memory_bytes() - memory_before, 64 << 20)

        tokens, num_deltas = [], 0
        for event in call:
            if event.HasField("delta"):
                self.assertEqual(event.delta.first_index, len(tokens))
                tokens += event.delta.token_ids
                num_deltas += 1
        self.assertEqual(tokens, first.tokens[0])
        figure(f"messages that brought the slow reader its {NUM_TOKENS:,} tokens", num_deltas, "messages")
        self.assertLess(num_deltas, NUM_TOKENS / 2)

    def test_who_never_reads_is_cut_off_once_the_request_has_ended(self):
        stage = Stage.of_test(self)
        coordinator = stage.coordinator("--max-streams", 1, "--delivery-timeout", 1)
        stage.fake_worker(stage.model("ghost", context=65536), "--join", coordinator.address,
                          "--num-gpu-blocks-override", 16384)
        service = Service(stage, coordinator.address)
        service.wait_ready()
        reader = Service(stage, coordinator.address, **SMALL_WINDOW)
        # More than the windows and buffers of a connection take.
        call = reader.stub.Generate(request(new=20000, logprobs=20))
        self.assertTrue(next(call).HasField("accepted"))
        service.wait_idle()
        ended = time.monotonic()
        wait_until(lambda: service.start(request(new=1)).end().error is None, "the slot to be free")
        figure("the slot of a client that reads nothing was free after the request's end by",
               1000 * (time.monotonic() - ended), "ms")
        with self.assertRaises(grpc.RpcError) as cut:
            for _ in call:
                pass
        self.assertEqual(cut.exception.code(), grpc.StatusCode.CANCELLED)

    def timed_run(self, service, message):
        stream = service.start(message).wait_for_tokens()
        since = time.monotonic()
        stream.ok()
        return stream, stream.ended_at - since


if __name__ == "__main__":
    main()
