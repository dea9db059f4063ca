import unittest

import grpc
from quire.v1 import inference_pb2 as pb
from quire_client.errors import QuireError
from quire_client.events import Accepted, Delta, Finished
from quire_client.request import build_request
from quire_client.stream import StreamState
from quire_client.targets import Targets, parse_targets


def delta(first_index, ids, choice=0):
    return pb.GenerateEvent(delta=pb.Delta(choice=choice, first_index=first_index, token_ids=ids))


def prompt_delta(position, *logprobs, ids=()):
    return pb.GenerateEvent(delta=pb.Delta(token_ids=ids, first_prompt_position=position, prompt_logprobs=[
        pb.TokenLogprobs(logprob=logprob) for logprob in logprobs]))


def accepted(numerics_id):
    return pb.GenerateEvent(accepted=pb.Accepted(request_id="r", numerics_id=numerics_id,
                                                 parameters=pb.ResolvedParameters(max_new_tokens=77)))


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
        self.assertEqual(state.next_request().resume.numerics_id, "")
        state.accept(accepted("a"))
        self.assertEqual(state.next_request().resume.numerics_id, "a")
        self.assertEqual(state.next_request().resume.max_new_tokens, 77)
        self.assertEqual(list(state.next_request().resume.choices[0].emitted_token_ids), [5, 6])
        self.assertIsInstance(state.accept(delta(2, [7])), Delta)

    def test_timeout_ms_holds_over_all_attempts(self):
        now = 0.0
        state = StreamState(build_request("p", timeout_ms=1000), clock=lambda: now)
        self.assertIsNone(state.out_of_time(5))  # nothing was sent
        self.assertEqual(state.next_request().timeout_ms, 1000)
        now = 0.4
        self.assertEqual(state.next_request().timeout_ms, 600)
        self.assertIsNone(state.out_of_time(0.5))
        self.assertIs(state.out_of_time(0.7).code, grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_a_gap_a_repeat_and_a_strange_choice_are_errors(self):
        for message in (delta(2, [7]), delta(0, [7]), delta(0, [7], choice=1)):
            state = StreamState(build_request("p"))
            state.accept(delta(0, [5]))
            with self.assertRaises(QuireError) as caught:
                state.accept(message)
            self.assertIs(caught.exception.code, grpc.StatusCode.DATA_LOSS)

    def test_accepted_and_finished_come_once(self):
        state = StreamState(build_request("p", n=2))
        self.assertIsInstance(state.accept(accepted("a")), Accepted)
        self.assertIsInstance(state.accept(finished(0)), Finished)
        state.next_request()
        self.assertIsNone(state.accept(accepted("a")))
        self.assertIsNone(state.accept(finished(0)))
        self.assertFalse(state.all_finished)
        state.accept(finished(1))
        self.assertTrue(state.all_finished)

    def test_other_numerics_are_an_error(self):
        state = StreamState(build_request("p"))
        state.accept(accepted("a"))
        state.next_request()
        with self.assertRaises(QuireError) as caught:
            state.accept(accepted("b"))
        self.assertIs(caught.exception.code, grpc.StatusCode.DATA_LOSS)
        self.assertEqual(caught.exception.message, "the stream would go on with other numerics: a before, now b")

    def test_only_streams_of_the_paged_engine_move(self):
        for engine, moves in ((None, True), ("paged", True), ("baseline", False), ("hf_reference", False)):
            with self.subTest(engine):
                state = StreamState(build_request("p", engine=engine, resume=[[5]]))
                state.accept(accepted("a"))
                self.assertTrue(state.can_resume)  # nothing new came: it may begin elsewhere
                state.accept(delta(1, [6]))
                self.assertEqual(state.can_resume, moves)

    def test_prompt_logprobs_come_in_several_deltas(self):
        state = StreamState(build_request("p", prompt_logprobs=0))
        found = [state.accept(prompt_delta(1, -1, -2)), state.accept(prompt_delta(3, -3))]
        self.assertEqual([(e.first_prompt_position, [p.logprob for p in e.prompt_logprobs]) for e in found],
                         [(1, [-1, -2]), (3, [-3])])

    def test_prompt_logprobs_that_come_again_are_dropped(self):
        state = StreamState(build_request("p", prompt_logprobs=0))
        state.accept(prompt_delta(1, -1, -2))
        state.next_request()
        self.assertIsNone(state.accept(prompt_delta(1, -1)))
        event = state.accept(prompt_delta(2, -2, -3, -4))
        self.assertEqual((event.first_prompt_position, [p.logprob for p in event.prompt_logprobs]), (3, [-3, -4]))
        self.assertIsInstance(state.accept(prompt_delta(5, -5)), Delta)
        event = state.accept(prompt_delta(1, -1, ids=[7]))
        self.assertEqual((event.token_ids, event.prompt_logprobs), ((7,), ()))

    def test_a_gap_in_prompt_logprobs_is_an_error(self):
        state = StreamState(build_request("p", prompt_logprobs=0))
        state.accept(prompt_delta(1, -1))
        with self.assertRaises(QuireError) as caught:
            state.accept(prompt_delta(3, -2))
        self.assertIs(caught.exception.code, grpc.StatusCode.DATA_LOSS)
        self.assertEqual(caught.exception.message, "prompt_logprobs start at position 3 where 2 was due")

    def test_an_older_server_sends_prompt_logprobs_at_once_and_names_no_position(self):
        state = StreamState(build_request("p", prompt_logprobs=0))
        self.assertEqual(len(state.accept(prompt_delta(0, -1, -2)).prompt_logprobs), 2)
        state.next_request()
        self.assertIsNone(state.accept(prompt_delta(0, -1, -2)))

    def test_timeout_ms_counts_from_the_first_send(self):
        now = 100.0
        state = StreamState(build_request("p", timeout_ms=500, queue_timeout_ms=300), lambda: now)
        now += 5
        self.assertEqual(state.next_request().timeout_ms, 500)
        now += 0.2
        self.assertEqual(state.next_request().timeout_ms, 300)
        now += 0.2
        request = state.next_request()
        self.assertEqual((request.timeout_ms, request.queue_timeout_ms), (100, 300))
        now += 1
        self.assertEqual(state.next_request().timeout_ms, 1)

    def test_no_timeout_stays_none(self):
        state = StreamState(build_request("p"))
        self.assertFalse(state.next_request().HasField("timeout_ms"))
        self.assertFalse(state.next_request().HasField("timeout_ms"))

    def test_an_aborted_end_counts_only_on_its_own_connection(self):
        state = StreamState(build_request("p"))
        self.assertIsNone(state.accept(finished(0, pb.Finished.ABORTED)))
        self.assertEqual(len(state.aborted()), 1)
        self.assertFalse(state.all_finished)
        state.next_request()
        self.assertEqual(state.aborted(), [])

    def test_an_event_of_a_newer_server_is_passed_over(self):
        self.assertIsNone(StreamState(build_request("p")).accept(pb.GenerateEvent()))


GONE = QuireError(grpc.StatusCode.UNAVAILABLE, "gone")


class AttemptsTest(unittest.TestCase):
    def test_tries_each_target_before_it_pauses(self):
        targets = Targets("a:1,b:2,c:3", max_attempts=10)
        targets.preferred = 1
        attempts = targets.attempts()
        pauses, asked = [], []
        for _ in range(7):
            pauses.append(attempts.pause_after(GONE))
            asked.append(attempts.target)
        self.assertEqual(asked, [2, 0, 1, 2, 0, 1, 2])
        self.assertEqual(pauses, [0, 0, 0.1, 0, 0, 0.2, 0])

    def test_a_call_begins_at_the_target_that_answered_last(self):
        targets = Targets("a:1,b:2", max_attempts=10)
        attempts = targets.attempts()
        attempts.pause_after(GONE)
        self.assertEqual(targets.attempts().target, 0)
        attempts.answered()
        self.assertEqual(targets.attempts().target, 1)

    def test_only_a_new_token_begins_the_count_anew(self):
        attempts = Targets("a:1", max_attempts=2).attempts()
        self.assertIsNotNone(attempts.pause_after(GONE, num_tokens=0))
        self.assertIsNotNone(attempts.pause_after(GONE, num_tokens=1))
        attempts.answered()
        self.assertIsNone(attempts.pause_after(GONE, num_tokens=1))

    def test_waits_as_long_as_the_server_asks(self):
        attempts = Targets("a:1", max_attempts=9).attempts()
        self.assertEqual(attempts.pause_after(QuireError(grpc.StatusCode.UNAVAILABLE, "", retry_delay=1.5)), 1.5)

    def test_other_errors_are_final(self):
        attempts = Targets("a:1,b:2", max_attempts=9).attempts()
        self.assertIsNone(attempts.pause_after(QuireError(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")))

    def test_targets(self):
        self.assertEqual(parse_targets("a:1, b:2"), ("a:1", "b:2"))
        self.assertEqual(parse_targets(["a:1"]), ("a:1",))
        with self.assertRaises(ValueError):
            parse_targets(" ")


if __name__ == "__main__":
    unittest.main()
