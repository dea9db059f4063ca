"""A request's identity: retries take over, resumed streams go on where they broke, finished ones answer again."""

import unittest

from grpc import StatusCode
from harness import Stage, lasting, main
from quire.v1 import inference_pb2 as pb
from service import ENDLESS, Service, request

NUM_TOKENS = lasting(600)  # 1.2 s at 2 ms a step


def resume(*tokens):
    return pb.Resume(choices=[pb.Resume.Choice(emitted_token_ids=tokens)])


class IdentityTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        stage = Stage.of_class(cls)
        coordinator = stage.coordinator()
        cls.worker = stage.fake_worker(stage.model("ghost", context=65536), "--join", coordinator.address,
                                       "--num-gpu-blocks-override", 8192, step_us=2000)
        cls.service = Service(stage, coordinator.address)
        cls.service.wait_ready()
        cls.expected = cls.service.run(request(new=NUM_TOKENS)).tokens[0]

    def assert_taken_over(self, first, second, resumed=0):
        """The first stream of a request without end was ended by the second, which has the request's tokens after
        those that it was resumed with."""
        self.assertEqual(first.end().error.code, StatusCode.ABORTED)
        self.assertIn("superseded", first.error.message)
        second.wait_for_tokens(NUM_TOKENS - resumed)
        self.assertEqual(second.deltas[0].first_index, resumed)
        self.assertEqual(second.tokens[0][:NUM_TOKENS - resumed], self.expected[resumed:])
        second.cancel()
        self.service.wait_idle()

    def test_a_second_stream_of_the_same_body_takes_over_from_the_start(self):
        message = request(new=ENDLESS, request_id="twice")
        first = self.service.start(message).wait_for_tokens(20)
        self.assert_taken_over(first, self.service.start(message))

    def test_the_stream_that_takes_over_has_the_end(self):
        message = request(new=NUM_TOKENS, request_id="ends")
        self.service.start(message).wait_for_tokens(20)
        second = self.service.run(message)
        self.assertEqual(second.tokens[0], self.expected)
        self.assertEqual(second.finished[0].usage.output_tokens, NUM_TOKENS)

    def test_time_limits_are_no_part_of_the_body(self):
        first = self.service.start(request(new=ENDLESS, request_id="limits")).wait_for_tokens(5)
        self.assert_taken_over(first, self.service.start(
            request(new=ENDLESS, request_id="limits", timeout_ms=50000, queue_timeout_ms=50000)))

    def test_another_body_is_refused_and_disturbs_nothing(self):
        first = self.service.start(request(new=NUM_TOKENS, request_id="taken")).wait_for_tokens(5)
        for other in (request(new=NUM_TOKENS - 1, request_id="taken"), request([5, 6, 8], new=NUM_TOKENS, request_id="taken")):
            error = self.service.fail(other)
            self.assertEqual((error.code, error.field), (StatusCode.ALREADY_EXISTS, "request_id"))
        self.assertEqual(first.ok().tokens[0], self.expected)
        error = self.service.fail(request(new=NUM_TOKENS - 1, request_id="taken"))  # also when it is finished
        self.assertEqual(error.code, StatusCode.ALREADY_EXISTS)

    def test_another_tenant_neither_takes_over_nor_cancels(self):
        mine = {"new": ENDLESS, "request_id": "owned", "tenant": "owner"}
        first = self.service.start(request(**mine)).wait_for_tokens(20)
        for tenant in ("", "other"):
            for tokens in ([], self.expected[:10]):
                error = self.service.fail(request(**mine | {"tenant": tenant, "resume": resume(*tokens)}))
                self.assertEqual((error.code, error.field), (StatusCode.ALREADY_EXISTS, "request_id"))
            self.assertFalse(self.service.call("Cancel", pb.CancelRequest(request_id="owned", tenant=tenant)).found)
        second = self.service.start(request(**mine, resume=resume(*self.expected[:10])))
        self.assert_taken_over(first, second, resumed=10)

    def test_a_living_request_resumes_after_the_last_emitted_id(self):
        first = self.service.start(request(new=ENDLESS, request_id="alive")).wait_for_tokens(40)
        second = self.service.start(request(new=ENDLESS, request_id="alive", resume=resume(*self.expected[:40])))
        self.assert_taken_over(first, second, resumed=40)

    def test_a_lost_request_resumes_with_its_emitted_ids(self):
        """As at another coordinator, which knows nothing of the request."""
        stream = self.service.run(request(new=NUM_TOKENS, request_id="fresh", resume=resume(*self.expected[:100])))
        self.assertEqual(stream.tokens[0], self.expected[100:])
        self.assertEqual(stream.finished[0].usage.output_tokens, NUM_TOKENS)
        complete = self.service.run(request(new=NUM_TOKENS, request_id="complete", resume=resume(*self.expected)))
        self.assertEqual(complete.tokens[0], [])
        self.assertEqual(complete.finished[0].reason, pb.Finished.LENGTH)

    def test_other_emitted_ids_than_the_requests_are_refused_and_disturb_nothing(self):
        first = self.service.start(request(new=NUM_TOKENS, request_id="forked")).wait_for_tokens(5)
        wrong = self.expected[:3] + [(self.expected[3] + 1) % 8192]
        error = self.service.fail(request(new=NUM_TOKENS, request_id="forked", resume=resume(*wrong)))
        self.assertEqual(error.code, StatusCode.INVALID_ARGUMENT)
        self.assertEqual(error.field, "resume.choices[0].emitted_token_ids")
        self.assertEqual(first.ok().tokens[0], self.expected)

    def test_a_finished_request_answers_again_without_running(self):
        message = request(new=NUM_TOKENS, request_id="done")
        first = self.service.run(message)
        self.service.wait_idle()
        again = self.service.run(message)
        self.assertEqual(again.tokens, first.tokens)
        self.assertEqual(again.finished, first.finished)
        self.worker.wait_logged("request id=done ")
        self.assertEqual(self.worker.log().count("request id=done "), 1)
        rest = self.service.run(request(new=NUM_TOKENS, request_id="done", resume=resume(*self.expected[:-10])))
        self.assertEqual(rest.tokens[0], self.expected[-10:])

    def test_a_cancelled_request_leaves_its_id_free(self):
        self.service.start(request(new=ENDLESS, request_id="reused")).wait_for_tokens().cancel()
        self.service.wait_idle()
        self.assertEqual(self.service.run(request(new=NUM_TOKENS, request_id="reused")).tokens[0], self.expected)

    def test_the_seed_is_a_function_of_the_request_id(self):
        seeds = [self.service.run(request(new=1, request_id=name)).finished[0].seed for name in ("s1", "s2")]
        self.assertNotEqual(*seeds)
        other = self.service.run(request(new=2, request_id="s3", sampling=pb.Sampling(seed=2**64 - 1)))
        self.assertEqual(other.finished[0].seed, 2**64 - 1)


if __name__ == "__main__":
    main()
