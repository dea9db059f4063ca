"""A client that does not read slows nobody, costs little, and misses nothing."""

import time
import unittest

from harness import HANG_S, Stage, figure, main, scaled
from service import Service, request

NUM_TOKENS = scaled(10000, least=5000)
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
        company = Service(stage, coordinator.address).start(message)
        first, first_s = self.timed_run(service, message)
        company.ok()
        memory_before = coordinator.memory_bytes(peak=False)

        reader = Service(stage, coordinator.address, **SMALL_WINDOW)
        call = reader.stub.Generate(request(new=NUM_TOKENS, request_id="slow"), timeout=HANG_S)
        self.assertTrue(next(call).HasField("accepted"))
        second, second_s = self.timed_run(service, message)
        self.assertEqual(second.tokens[0], first.tokens[0])
        figure("inter-token time of a stream beside one whose client does not read", 100 * second_s / first_s,
               "% of that beside one whose client reads")
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

    def timed_run(self, service, message):
        stream = service.start(message).wait_for_tokens()
        since = time.monotonic()
        stream.ok()
        return stream, stream.ended_at - since


if __name__ == "__main__":
    main()
