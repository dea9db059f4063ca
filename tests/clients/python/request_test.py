import unittest

from quire.v1 import inference_pb2 as pb
from quire_client.request import GenerateOptions, build_request


class BuildRequestTest(unittest.TestCase):
    def test_what_is_not_given_stays_unset(self):
        request = build_request("hello")
        self.assertEqual(request.text, "hello")
        self.assertFalse(request.HasField("max_new_tokens"))
        self.assertFalse(request.sampling.HasField("temperature"))
        self.assertFalse(request.HasField("add_special_tokens"))

    def test_zero_is_a_value(self):
        request = build_request("hello", temperature=0, seed=0, logprobs=0)
        self.assertTrue(request.sampling.HasField("temperature"))
        self.assertTrue(request.sampling.HasField("seed"))
        self.assertTrue(request.HasField("logprobs"))

    def test_request_ids_are_made_and_differ(self):
        first, second = build_request("a"), build_request("a")
        self.assertTrue(first.request_id)
        self.assertNotEqual(first.request_id, second.request_id)
        self.assertEqual(build_request("a", request_id="mine").request_id, "mine")

    def test_every_option_reaches_the_request(self):
        values = dict(
            request_id="r", model="m", engine="hf_reference", worker="w", add_special_tokens=False, tools="[1]",
            template_kwargs="{}", add_generation_prompt=False, temperature=0.5, top_k=3, top_p=0.25, min_p=0.125,
            seed=2**63, n=2, repetition_penalty=1.5, presence_penalty=-1.0, frequency_penalty=1.0,
            logit_bias={5: -100.0}, stop=["x"], stop_token_ids=[4], ignore_eos=True, include_stop_in_output=True,
            max_new_tokens=9, min_new_tokens=1, logprobs=2, prompt_logprobs=3, priority=-4, queue_timeout_ms=5,
            timeout_ms=6, cache_salt="s", tenant="t", resume=[[1], [2, 3]])
        self.assertEqual(set(values), set(GenerateOptions.__annotations__))
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")], tools="[1]", template_kwargs="{}",
                       add_generation_prompt=False)
        resume = pb.Resume(choices=[pb.Resume.Choice(emitted_token_ids=ids) for ids in ([1], [2, 3])])
        self.assertEqual(build_request([{"role": "user", "content": "hi"}], **values), pb.GenerateRequest(
            request_id="r", model="m", engine=pb.HF_REFERENCE, worker="w", chat=chat, add_special_tokens=False,
            sampling=pb.Sampling(temperature=0.5, top_k=3, top_p=0.25, min_p=0.125, seed=2**63, n=2),
            penalties=pb.Penalties(repetition=1.5, presence=-1.0, frequency=1.0), logit_bias={5: -100.0},
            stop=pb.Stop(strings=["x"], token_ids=[4], ignore_eos=True, include_stop_in_output=True),
            max_new_tokens=9, min_new_tokens=1, logprobs=2, prompt_logprobs=3, priority=-4, queue_timeout_ms=5,
            timeout_ms=6, cache_salt="s", tenant="t", resume=resume))

    def test_token_ids(self):
        self.assertEqual(list(build_request([1, 2, 3]).token_ids.ids), [1, 2, 3])
        self.assertEqual(build_request([]).WhichOneof("prompt"), "token_ids")

    def test_what_no_request_has_is_refused(self):
        with self.assertRaisesRegex(TypeError, "max_tokens"):
            build_request("hello", max_tokens=3)
        with self.assertRaisesRegex(TypeError, "tools belongs to a chat prompt"):
            build_request("hello", tools="[]")
        with self.assertRaises(ValueError):
            build_request("hello", engine="other")
        self.assertEqual(build_request("hello", engine="hf-reference").engine, pb.HF_REFERENCE)


if __name__ == "__main__":
    unittest.main()
