import threading
import unittest

import grpc
from fakes import FakeGenerator, Recorder, sequence
from hf_reference.engine import Engine, QueueFull
from hf_reference.sequence import Ending

CANCELLED = Ending(grpc.StatusCode.CANCELLED, "cancelled")


class EngineTest(unittest.TestCase):
    def start(self, generator, clock=lambda: 0.0, **options):
        self.generator = generator
        self.heard = Recorder()
        self.engine = Engine(generator, self.heard, **{"max_queue": 8, "clock": clock, **options})
        self.engine.start()
        self.addCleanup(self.engine.stop)
        return self.engine

    def test_runs_one_at_a_time_in_arrival_order(self):
        engine = self.start(FakeGenerator())
        for key in (3, 1, 2):
            engine.submit([sequence(key)])
        self.heard.wait_for(lambda heard: len(heard.finishes) == 3)
        self.assertEqual(self.generator.batches, [[3], [1], [2]])
        self.assertEqual(self.heard.tokens[3], [30, 31, 32])
        finish = self.heard.finishes[3]
        self.assertIsNone(finish.ending)
        self.assertEqual((finish.prompt_tokens, finish.output_tokens), (2, 3))
        # The last token is not in the cache: 2 + 2 positions of 2 bytes.
        self.assertEqual((finish.kv_reserved_bytes, finish.kv_used_bytes), (100, 8))

    def test_stops_at_a_stop_token(self):
        engine = self.start(FakeGenerator())
        engine.submit([sequence(1, stop_token_ids=(11,))])
        self.heard.wait_for(lambda heard: 1 in heard.finishes)
        self.assertEqual(self.heard.tokens[1], [10, 11])
        self.assertEqual(self.heard.finishes[1].stop_token, 11)

    def test_refuses_what_the_queue_cannot_hold(self):
        gate = threading.Semaphore(0)
        engine = self.start(FakeGenerator(gate), max_queue=1)
        engine.submit([sequence(1)])
        self.heard.wait_for(lambda heard: self.generator.batches)
        engine.submit([sequence(2)])
        with self.assertRaises(QueueFull):
            engine.submit([sequence(3)])
        self.assertEqual((engine.load().running, engine.load().waiting), (1, 1))
        gate.release(100)
        self.heard.wait_for(lambda heard: 2 in heard.finishes)

    def test_cancels_waiting_at_once_and_running_within_a_step(self):
        gate = threading.Semaphore(0)
        engine = self.start(FakeGenerator(gate))
        engine.submit([sequence(1, max_new_tokens=100)])
        self.heard.wait_for(lambda heard: self.generator.batches)
        engine.submit([sequence(2)])
        engine.end(lambda tag: tag.key == 2, CANCELLED)
        self.assertIs(self.heard.finishes[2].ending, CANCELLED)
        gate.release()
        self.heard.wait_for(lambda heard: heard.tokens.get(1))
        engine.end(lambda tag: tag.key == 1, Ending(grpc.StatusCode.CANCELLED, "", stop_index=0))
        gate.release()
        self.heard.wait_for(lambda heard: 1 in heard.finishes)
        self.assertEqual(self.heard.tokens[1], [10])
        self.assertEqual(self.heard.finishes[1].output_tokens, 0)

    def test_end_waiting_spares_what_runs(self):
        gate = threading.Semaphore(0)
        engine = self.start(FakeGenerator(gate))
        engine.submit([sequence(1, max_new_tokens=1)])
        self.heard.wait_for(lambda heard: self.generator.batches)
        engine.end_waiting(lambda tag: True, CANCELLED)
        gate.release()
        self.heard.wait_for(lambda heard: 1 in heard.finishes)
        self.assertIsNone(self.heard.finishes[1].ending)

    def test_an_error_ends_its_batch_alone(self):
        engine = self.start(FakeGenerator(error=RuntimeError("inf")))
        engine.submit([sequence(1)])
        self.heard.wait_for(lambda heard: 1 in heard.finishes)
        self.assertEqual(self.heard.finishes[1].ending.code, grpc.StatusCode.INTERNAL)
        self.assertEqual(self.heard.finishes[1].ending.message, "RuntimeError: inf")
        self.generator._error = None
        engine.submit([sequence(2)])
        self.heard.wait_for(lambda heard: 2 in heard.finishes)
        self.assertEqual(self.heard.tokens[2], [20, 21, 22])

    def test_batches_greedy_requests_of_equal_parameters(self):
        gate = threading.Semaphore(0)
        engine = self.start(FakeGenerator(gate), batch_size=3)
        engine.submit([sequence(1, max_new_tokens=1)])
        self.heard.wait_for(lambda heard: self.generator.batches)
        engine.submit([sequence(2, max_new_tokens=2)])
        engine.submit([sequence(3, temperature=1.0)])  # sampled: alone
        engine.submit([sequence(4, max_new_tokens=4, prompt=(1,))])
        engine.submit([sequence(5, output=(7,))])  # resumed: alone
        engine.submit([sequence(6, logprobs=1)])  # other parameters
        engine.submit([sequence(7, seed=5)])  # greedy: the seed does not matter
        engine.submit([sequence(8)])
        gate.release(100)
        self.heard.wait_for(lambda heard: len(heard.finishes) == 8)
        self.assertEqual(self.generator.batches, [[1], [2, 4, 7], [3], [5], [6], [8]])
        self.assertEqual(self.heard.tokens[2], [20, 21])
        self.assertEqual(self.heard.tokens[4], [40, 41, 42, 43])
        # Row 4 holds 1 + 3 positions of the padded width at its end, 2 + 4.
        self.assertEqual(self.heard.finishes[4].kv_used_bytes, 8)
        self.assertEqual(self.heard.finishes[4].kv_max_unused_tokens, 2)

    def test_a_full_batch_does_not_wait(self):
        engine = self.start(FakeGenerator(), batch_size=2, batch_wait_s=1e6)
        engine.submit([sequence(1)])
        engine.submit([sequence(2)])
        self.heard.wait_for(lambda heard: len(heard.finishes) == 2)
        self.assertEqual(self.generator.batches, [[1, 2]])

    def test_stop_ends_what_lives(self):
        gate = threading.Semaphore(0)
        engine = self.start(FakeGenerator(gate))
        engine.submit([sequence(1)])
        self.heard.wait_for(lambda heard: self.generator.batches)
        engine.submit([sequence(2)])
        gate.release(100)
        engine.stop()
        self.assertEqual(self.heard.finishes.keys(), {1, 2})
        self.assertEqual(self.heard.finishes[2].ending.code, grpc.StatusCode.UNAVAILABLE)


if __name__ == "__main__":
    unittest.main()
