"""Clients that vanish, cancel or leave: what they held comes back."""

import pathlib
import subprocess
import sys
import time
import unittest

import grpc
from harness import HANG_S, Stage, figure, main, scaled, wait_until
from quire.v1 import inference_pb2 as pb
from service import ENDLESS, Service, is_idle, request

NUM_STREAMS = 32


class ClientLossTest(unittest.TestCase):

    def setUp(self):
        self.stage = Stage.of_test(self)
        coordinator = self.stage.coordinator()
        # Long streams: nothing here ends by itself.
        self.stage.fake_worker(self.stage.model("ghost", context=65536), "--join", coordinator.address,
                               "--num-gpu-blocks-override", 8192, "--max-num-seqs", 48, step_us=2000)
        self.address = coordinator.address
        self.service = Service(self.stage, coordinator.address)
        self.service.wait_ready()

    def assert_running(self, count):
        wait_until(lambda: self.service.load()[0].running == count, f"{count} running")

    def measure_until_idle(self, what, must):
        since = time.monotonic()
        self.service.wait_idle(pause_s=0.001)
        figure(what, 1000 * (time.monotonic() - since), "ms", must)

    def test_a_killed_client_gives_its_blocks_back(self):
        script = pathlib.Path(__file__).with_name("streaming_client.py")
        client = subprocess.Popen([sys.executable, script, self.address, str(NUM_STREAMS)], stdout=subprocess.PIPE,
                                  text=True)
        try:
            self.assertEqual(client.stdout.readline(), "streaming\n")
            self.assert_running(NUM_STREAMS)
            self.assertFalse(is_idle(self.service.load()[0]))
        finally:
            client.kill()
            killed = time.monotonic()
            client.stdout.close()
        self.service.wait_idle(pause_s=0.001)
        figure(f"client with {NUM_STREAMS} streams killed: 0 running, all blocks free or cached after",
               1000 * (time.monotonic() - killed), "ms", "<= 100 ms")
        client.wait(HANG_S)

    def test_a_cancelled_call_gives_its_blocks_back(self):
        streams = [self.service.start(request(new=ENDLESS, prompt=[i + 1, 2, 3])) for i in range(NUM_STREAMS)]
        for stream in streams:
            stream.wait_for_tokens()
        self.assert_running(NUM_STREAMS)
        for stream in streams:
            stream.cancel()
        self.measure_until_idle(f"{NUM_STREAMS} calls cancelled: blocks back after", "a step + 50 ms")
        for stream in streams:
            self.assertEqual(stream.end().error.code, grpc.StatusCode.CANCELLED)

    def test_cancel_stops_a_request_of_any_client_and_says_what_it_used(self):
        stream = self.service.start(request(new=ENDLESS, request_id="victim")).wait_for_tokens(5)
        other = Service(self.stage, self.address)
        self.assertTrue(other.call("Cancel", pb.CancelRequest(request_id="victim")).found)
        self.assertEqual(stream.end().error.code, grpc.StatusCode.CANCELLED)
        finished = stream.finished[0]
        self.assertEqual(finished.reason, pb.Finished.ABORTED)
        self.assertEqual(finished.usage.prompt_tokens, 3)
        self.assertGreaterEqual(finished.usage.output_tokens, 5)
        wait_until(lambda: not other.call("Cancel", pb.CancelRequest(request_id="victim")).found, "it is forgotten")
        self.service.wait_idle()

    def test_clients_that_leave_in_every_state_leave_nothing(self):
        """While queued, while the prompt is computed, at the first token, later: 48 run at once, others wait."""
        streams = [self.service.start(request(new=ENDLESS, prompt=range(1, 2 + 37 * (i % 13))))
                   for i in range(scaled(96, least=60))]
        wait_until(lambda: self.service.load()[0].waiting > 0, "a queue")
        for i, stream in enumerate(streams):
            if i % 3 == 0:
                stream.wait_accepted()
            stream.cancel()
        self.service.wait_idle()
        self.assertEqual(len(self.service.run(request()).tokens[0]), 16)


if __name__ == "__main__":
    main()
