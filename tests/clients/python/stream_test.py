import unittest

import grpc
from quire.v1 import inference_pb2 as pb
from quire_client.errors import QuireError
from quire_client.events import Accepted, Delta, Finished
from quire_client.request import build_request
from quire_client.stream import StreamState
from quire_client.targets import Attempts, parse_targets


def delta(first_index, ids, choice=0):
    return pb.GenerateEvent(delta=pb.Delta(choice=choice, first_index=first_index, token_ids=ids))


def finished(choice=0, reason=pb.Finished.LENGTH):
    return pb.GenerateEvent(finished=pb.Finished(choice=choice, reason=reason))


class StreamStateTest(unittest.TestCase):
    def test_the_next_request_carries_what_came(self):
        state = StreamState(build_request("p", n=2, request_id="r"))
        self.assertEqual(len(state.next_request().resume.choices), 0)
        state.accept(delta(0, [5, 6]))
        request = state.next_request()
        self.assertEqual([list(c.emitted_token_ids) for c in request.resume.choices], [[5, 6], []])
        self.assertEqual(request.request_id, "r")

    def test_goes_on_from_what_the_caller_had(self):
        state = StreamState(build_request("p", resume=[[5, 6]]))
        self.assertEqual(list(state.next_request().resume.choices[0].emitted_token_ids), [5, 6])
        self.assertIsInstance(state.accept(delta(2, [7])), Delta)

    def test_a_gap_a_repeat_and_a_strange_choice_are_errors(self):
        for message in (delta(2, [7]), delta(0, [7]), delta(0, [7], choice=1)):
            state = StreamState(build_request("p"))
            state.accept(delta(0, [5]))
            with self.assertRaises(QuireError) as caught:
                state.accept(message)
            self.assertIs(caught.exception.code, grpc.StatusCode.DATA_LOSS)

    def test_accepted_and_finished_come_once(self):
        state = StreamState(build_request("p", n=2))
        accepted = pb.GenerateEvent(accepted=pb.Accepted(request_id="r"))
        self.assertIsInstance(state.accept(accepted), Accepted)
        self.assertIsInstance(state.accept(finished(0)), Finished)
        state.next_request()
        self.assertIsNone(state.accept(accepted))
        self.assertIsNone(state.accept(finished(0)))
        self.assertFalse(state.all_finished)
        state.accept(finished(1))
        self.assertTrue(state.all_finished)

    def test_an_aborted_end_counts_only_on_its_own_connection(self):
        state = StreamState(build_request("p"))
        self.assertIsNone(state.accept(finished(0, pb.Finished.ABORTED)))
        self.assertEqual(len(state.aborted()), 1)
        self.assertFalse(state.all_finished)
        state.next_request()
        self.assertEqual(state.aborted(), [])

    def test_an_event_of_a_newer_server_is_passed_over(self):
        self.assertIsNone(StreamState(build_request("p")).accept(pb.GenerateEvent()))


class AttemptsTest(unittest.TestCase):
    def test_tries_each_target_before_it_pauses(self):
        attempts = Attempts(num_targets=3, first=1, limit=10)
        error = QuireError(grpc.StatusCode.UNAVAILABLE, "gone")
        pauses, targets = [], []
        for _ in range(7):
            pauses.append(attempts.pause_after(error))
            targets.append(attempts.target)
        self.assertEqual(targets, [2, 0, 1, 2, 0, 1, 2])
        self.assertEqual(pauses, [0, 0, 0.1, 0, 0, 0.2, 0])

    def test_gives_up_after_the_limit_unless_there_was_progress(self):
        attempts = Attempts(num_targets=1, first=0, limit=2)
        error = QuireError(grpc.StatusCode.UNAVAILABLE, "gone")
        self.assertIsNotNone(attempts.pause_after(error))
        attempts.progress()
        self.assertIsNotNone(attempts.pause_after(error))
        self.assertIsNone(attempts.pause_after(error))

    def test_waits_as_long_as_the_server_asks(self):
        attempts = Attempts(num_targets=1, first=0, limit=9)
        self.assertEqual(attempts.pause_after(QuireError(grpc.StatusCode.UNAVAILABLE, "", retry_delay=1.5)), 1.5)

    def test_other_errors_are_final(self):
        attempts = Attempts(num_targets=2, first=0, limit=9)
        self.assertIsNone(attempts.pause_after(QuireError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")))

    def test_targets(self):
        self.assertEqual(parse_targets("a:1, b:2"), ("a:1", "b:2"))
        self.assertEqual(parse_targets(["a:1"]), ("a:1",))
        with self.assertRaises(ValueError):
            parse_targets(" ")


if __name__ == "__main__":
    unittest.main()
