"""What quire-tiny says through the whole service: text, chat, stops, choices, seeds, log-probabilities."""

import unittest

from grpc import StatusCode
from harness import TINY, Stage, main
from quire.v1 import inference_pb2 as pb
from service import Service, request

PROMPT = "In the beginning God created the heaven and the earth."


def user(content):
    return pb.ChatMessage(role="user", content=content)


def sampled(seed, **fields):
    return pb.Sampling(temperature=1, top_p=0.95, seed=seed, **fields)


class GenerationTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        stage = Stage.of_class(cls)
        coordinator = stage.coordinator()
        stage.worker(TINY, "--join", coordinator.address)
        cls.service = Service(stage, coordinator.address)
        cls.service.wait_ready()

    def detokenize(self, ids, **options):
        return self.service.call("Detokenize", pb.DetokenizeRequest(token_ids=ids, **options)).text

    def test_tokenize_and_detokenize(self):
        for text in (PROMPT, "na\u00efve caf\u00e9 \u2014 \u65e5\u672c\u8a9e \U0001f600\n\ttabs  and   spaces", " ",
                     ""):
            with self.subTest(text=text):
                plain = self.service.call("Tokenize", pb.TokenizeRequest(text=text, add_special_tokens=False))
                self.assertEqual(len(plain.tokens), len(plain.token_ids))
                self.assertEqual(self.detokenize(plain.token_ids), text)
                special = self.service.call("Tokenize", pb.TokenizeRequest(text=text))
                self.assertEqual(special.token_ids[0], 1)
                self.assertEqual(special.token_ids[1:], plain.token_ids)
                self.assertEqual(self.detokenize(special.token_ids), text)
                self.assertEqual(self.detokenize(special.token_ids, skip_special_tokens=False),
                                 special.tokens[0] + text)

    def test_text_and_its_ids_are_one_prompt(self):
        ids = self.service.call("Tokenize", pb.TokenizeRequest(text=PROMPT)).token_ids
        from_text, from_ids = self.service.run(request(PROMPT)), self.service.run(request(ids))
        self.assertEqual(from_text.accepted.prompt_token_count, len(ids))
        self.assertEqual(from_text.tokens, from_ids.tokens)
        self.assertEqual(from_text.texts, from_ids.texts)
        without = self.service.run(request(PROMPT, add_special_tokens=False))
        self.assertEqual(without.accepted.prompt_token_count, len(ids) - 1)

    def test_streamed_text_is_what_the_output_decodes_to(self):
        ids = list(self.service.call("Tokenize", pb.TokenizeRequest(text=PROMPT)).token_ids)
        stream = self.service.run(request(PROMPT, new=100))
        self.assertEqual(PROMPT + stream.texts[0], self.detokenize(ids + stream.tokens[0]))
        self.assertGreater(len(stream.deltas), 1)
        finished = stream.finished[0]
        self.assertEqual((finished.reason, finished.usage.output_tokens, finished.usage.prompt_tokens),
                         (pb.Finished.LENGTH, 100, len(ids)))
        self.assertGreater(finished.timings.first_token_ms, 0)

    def test_greedy_tokens_are_the_same_alone_and_beside_31_others(self):
        message = request(PROMPT, new=48)
        alone = self.service.run(message).tokens[0]
        others = [self.service.start(request(f"Number {i} of them: " + "word " * (7 * i), new=60,
                                             sampling=sampled(i))) for i in range(31)]
        others[0].wait_for_tokens()
        beside = self.service.run(message).tokens[0]
        self.assertEqual(beside, alone)
        for other in others:
            self.assertEqual(len(other.ok().tokens[0]), 60)

    def test_a_seed_decides_the_sampled_tokens_whatever_runs_beside_them(self):
        message = request(PROMPT, new=40, sampling=sampled(7))
        first = self.service.run(message)
        company = [self.service.start(request("Someone else", new=80, sampling=sampled(i))) for i in range(7)]
        company[0].wait_for_tokens()
        second = self.service.run(message)
        self.assertEqual(second.tokens, first.tokens)
        self.assertEqual(second.finished[0].seed, 7)
        self.assertNotEqual(self.service.run(request(PROMPT, new=40, sampling=sampled(8))).tokens, first.tokens)
        for stream in company:
            stream.ok()
        # The seed of a request without one is told, and gives the same tokens again.
        unset = self.service.run(request(PROMPT, new=40, sampling=pb.Sampling(temperature=1, top_p=0.95)))
        again = self.service.run(request(PROMPT, new=40, sampling=sampled(unset.finished[0].seed)))
        self.assertEqual(again.tokens, unset.tokens)

    def test_choices_differ_and_each_ends_once(self):
        stream = self.service.run(request(PROMPT, new=24, sampling=sampled(3, n=4)))
        self.assertEqual(sorted(stream.finished), [0, 1, 2, 3])
        self.assertEqual({len(tokens) for tokens in stream.tokens.values()}, {24})
        self.assertEqual(len({tuple(tokens) for tokens in stream.tokens.values()}), 4)
        self.assertEqual(stream.tokens[0], self.service.run(request(PROMPT, new=24, sampling=sampled(3))).tokens[0])
        greedy = self.service.run(request(PROMPT, new=24, sampling=pb.Sampling(temperature=0, n=3)))
        self.assertEqual(len({tuple(tokens) for tokens in greedy.tokens.values()}), 1)

    def test_a_stop_string_cuts_the_text(self):
        whole = self.service.run(request(PROMPT, new=60))
        stop = whole.texts[0][10:14]  # spans tokens, as it falls
        end = whole.texts[0].index(stop)
        for include in (False, True):
            with self.subTest(include=include):
                stopped = self.service.run(request(PROMPT, new=60, stop=pb.Stop(
                    strings=["never, never", stop], ignore_eos=True, include_stop_in_output=include)))
                finished = stopped.finished[0]
                self.assertEqual((finished.reason, finished.stop_string), (pb.Finished.STOP, stop))
                self.assertEqual(stopped.texts[0], whole.texts[0][:end + (len(stop) if include else 0)])
                tokens = stopped.tokens[0]
                self.assertEqual(tokens, whole.tokens[0][:len(tokens)])
                self.assertLess(len(tokens), 60)
                self.assertEqual(finished.usage.output_tokens, len(tokens))
        self.service.wait_idle()

    def test_a_stop_id_ends_the_output(self):
        whole = self.service.run(request(PROMPT, new=30)).tokens[0]
        stopped = self.service.run(request(PROMPT, new=30, stop=pb.Stop(token_ids=[whole[12]], ignore_eos=True)))
        finished = stopped.finished[0]
        self.assertEqual((finished.reason, finished.stop_token_id), (pb.Finished.STOP, whole[12]))
        self.assertEqual(stopped.tokens[0], whole[:whole.index(whole[12]) + 1])

    def test_logprobs(self):
        ids = self.service.call("Tokenize", pb.TokenizeRequest(text=PROMPT)).token_ids
        stream = self.service.run(request(PROMPT, new=12, logprobs=3, prompt_logprobs=1))
        logprobs = [entry for delta in stream.deltas for entry in delta.logprobs]
        self.assertEqual(len(logprobs), 12)
        for token, entry in zip(stream.tokens[0], logprobs, strict=True):
            self.assertEqual(len(entry.top), 3)
            self.assertEqual((entry.top[0].token_id, entry.top[0].logprob), (token, entry.logprob))  # greedy
            self.assertEqual(sorted((top.logprob for top in entry.top), reverse=True),
                             [top.logprob for top in entry.top])
            self.assertLessEqual(entry.logprob, 0)
        of_prompt = [entry for delta in stream.deltas for entry in delta.prompt_logprobs]
        self.assertEqual(len(of_prompt), len(ids) - 1)
        self.assertEqual(stream.tokens, self.service.run(request(PROMPT, new=12)).tokens)

    def test_chat(self):
        one = pb.Chat(messages=[user("What is a lamp?")])
        stream = self.service.run(request(None, chat=one, new=24))
        self.assertEqual(stream.tokens, self.service.run(request(None, chat=one, new=24)).tokens)
        longer = pb.Chat(messages=[user("What is a lamp?"), pb.ChatMessage(role="assistant", content="A light."),
                                   user("And a candle?")])
        self.assertGreater(self.service.run(request(None, chat=longer, new=4)).accepted.prompt_token_count,
                           stream.accepted.prompt_token_count)
        open_turn = pb.Chat(messages=[user("What is a lamp?")], add_generation_prompt=False)
        self.assertLess(self.service.run(request(None, chat=open_turn, new=4)).accepted.prompt_token_count,
                        stream.accepted.prompt_token_count)

    def test_wrong_chat_is_refused(self):
        for chat in (pb.Chat(messages=[user("x")], tools="{"), pb.Chat(messages=[user("x")], template_kwargs="[1]"),
                     pb.Chat(messages=[pb.ChatMessage(role="assistant", tool_calls="no JSON")])):
            with self.subTest(chat=chat):
                error = self.service.fail(request(None, chat=chat))
                self.assertEqual(error.code, StatusCode.INVALID_ARGUMENT, error)
                self.assertTrue(error.field.startswith("chat"), error.field)

    def test_penalties_and_bias_change_the_output(self):
        plain = self.service.run(request(PROMPT, new=24)).tokens[0]
        banned = self.service.run(request(PROMPT, new=24, logit_bias={plain[0]: -100})).tokens[0]
        self.assertNotIn(plain[0], banned[:1])
        forced = self.service.run(request(PROMPT, new=4, logit_bias={4321: 100})).tokens[0]
        self.assertEqual(forced, [4321] * 4)
        spread = self.service.run(request(PROMPT, new=24, logit_bias={4321: 20},
                                          penalties=pb.Penalties(frequency=2))).tokens[0]
        self.assertLess(spread.count(4321), 24)

    def test_the_models_own_end_and_min_new_tokens(self):
        eos = 2
        ended = self.service.run(request(PROMPT, new=20, stop=pb.Stop(), logit_bias={eos: 100}))
        self.assertEqual((ended.tokens[0], ended.finished[0].stop_token_id), ([eos], eos))
        later = self.service.run(request(PROMPT, new=20, stop=pb.Stop(), logit_bias={eos: 100}, min_new_tokens=5))
        self.assertEqual(later.tokens[0][5:], [eos])
        ignored = self.service.run(request(PROMPT, new=20, logit_bias={eos: 100}))
        self.assertEqual(ignored.tokens[0], [eos] * 20)

    def test_a_repeated_prompt_comes_from_the_prefix_cache(self):
        message = request("All of this was said before. " * 8, new=8)
        first, second = self.service.run(message), self.service.run(message)
        self.assertEqual(second.tokens, first.tokens)
        self.assertGreaterEqual(second.finished[0].usage.cached_tokens, 16)
        salted = request("All of this was said before. " * 8, new=8, cache_salt="mine")
        self.assertEqual(self.service.run(salted).finished[0].usage.cached_tokens, 0)


if __name__ == "__main__":
    main()
