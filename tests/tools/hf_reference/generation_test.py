"""The generator against transformers used plainly, on a small random model."""

import os
import pathlib
import tempfile
import unittest
from unittest import mock

os.environ["TQDM_DISABLE"] = "1"

import torch
import transformers
from fakes import sequence
from hf_reference.generation import Generator, GeneratorOptions
from hf_reference.sequence import Ending, Tag

PROMPT = [5, 17, 3, 60]
NEW_TOKENS = 24
# Of the random model's one layer: keys and values of 2 heads of 16 numbers of 4 bytes.
BYTES_PER_TOKEN = 2 * 2 * 16 * 4


def setUpModule():
    global folder, plain, _temporary
    _temporary = tempfile.TemporaryDirectory()
    folder = pathlib.Path(_temporary.name)
    torch.manual_seed(1)
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=128, initializer_range=0.3, eos_token_id=2)
    plain = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    plain.generation_config = transformers.GenerationConfig(do_sample=True, temperature=0.3, top_k=2, eos_token_id=2)
    plain.save_pretrained(folder)


def tearDownModule():
    _temporary.cleanup()


def run(generator, *rows, until=lambda row: False):
    """Plays the engine: output, ends and, for the first row, logprobs; also the states of the cache."""
    logprobs, states = [], []

    def on_step(steps, kv):
        states.append(kv)
        logprobs.append((steps[0].logprobs, steps[0].prompt_logprobs))
        for row, step in zip(rows, steps):
            if row.finished:
                continue
            row.output.append(step.token)
            row.finished = step.token in row.params.stop_token_ids or row.num_remaining == 0
            if until(row):
                row.ending = Ending(None, "")

    generator.generate(rows, on_step)
    return logprobs, states


def generated(*rows_and_generator, **options):
    generator, *rows = rows_and_generator
    run(generator, *rows, **options)
    return [row.output for row in rows]


def plain_generate(prompt=PROMPT, **options):
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None, "temperature": None,
               "top_k": 0, "pad_token_id": 0, **options}
    return plain.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt):].tolist()


class GenerationTest(unittest.TestCase):
    def generator(self, **options):
        return Generator(GeneratorOptions(folder=folder, **options))

    def test_greedy_is_what_transformers_gives_with_either_cache(self):
        expected = plain_generate()
        for cache in ("dynamic", "static"):
            row = sequence(1, NEW_TOKENS, PROMPT)
            self.assertEqual(generated(self.generator(cache=cache), row), [expected])

    def test_goes_on_from_what_was_emitted(self):
        expected = plain_generate()
        row = sequence(1, NEW_TOKENS, PROMPT, output=expected[:10])
        self.assertEqual(generated(self.generator(), row), [expected])

    def test_stop_tokens_end_a_row(self):
        expected = plain_generate()
        stop = expected[5]
        row = sequence(1, NEW_TOKENS, PROMPT, stop_token_ids=(stop,))
        _, states = run(self.generator(), row)
        self.assertEqual(row.output, expected[:expected.index(stop) + 1])
        self.assertEqual(len(states), len(row.output))

    def test_min_new_tokens_holds_the_stop_back(self):
        stop = plain_generate()[5]
        expected = plain_generate(min_new_tokens=12, eos_token_id=stop)
        self.assertGreaterEqual(len(expected), 12)
        row = sequence(1, NEW_TOKENS, PROMPT, min_new_tokens=12, eos_token_ids=(stop,), stop_token_ids=(stop,))
        self.assertEqual(generated(self.generator(), row), [expected])

    def test_bias_and_repetition(self):
        expected = plain_generate(repetition_penalty=1.3, sequence_bias={(7,): 4.0, (9,): -4.0})
        self.assertNotEqual(expected, plain_generate())
        row = sequence(1, NEW_TOKENS, PROMPT, repetition_penalty=1.3, logit_bias=((7, 4.0), (9, -4.0)))
        self.assertEqual(generated(self.generator(), row), [expected])

    def test_presence_and_frequency_count_output_tokens(self):
        row = sequence(1, 3, [7, 7, 7], logit_bias=((7, 100.0), (8, 99.0), (9, 98.5)), presence_penalty=0.5,
                       frequency_penalty=0.75)
        logits = plain(torch.tensor([[7, 7, 7]])).logits[0, -1]
        self.assertLess(logits.max() - logits.min(), 60)  # so that the bias rules
        fixed = sequence(1, 1, [7, 7, 7], logit_bias=((7, 100.0),), presence_penalty=2.0)
        self.assertEqual(generated(self.generator(), fixed), [[7]])
        run(self.generator(), row)
        again = self.replay_penalties(row)
        self.assertEqual(row.output, again)

    def replay_penalties(self, row):
        """The same, token by token, from the logits of plain forward passes."""
        output = []
        for _ in range(row.max_new_tokens):
            logits = plain(torch.tensor([row.prompt + output])).logits[0, -1].detach()
            for token, bias in row.params.logit_bias:
                logits[token] += bias
            for token in set(output):
                logits[token] -= row.params.presence_penalty + row.params.frequency_penalty * output.count(token)
            output.append(int(logits.argmax()))
        return output

    def test_sampling_repeats_with_its_seed_and_differs_by_choice(self):
        generator = self.generator()

        def sample(seed, choice=0):
            row = sequence(1, NEW_TOKENS, PROMPT, temperature=1.0, top_p=0.9, top_k=20, seed=seed)
            row.tag = Tag(0, 1, 1, choice)
            return generated(generator, row)[0]

        self.assertEqual(sample(2**64 - 1), sample(2**64 - 1))
        self.assertNotEqual(sample(1), sample(2))
        self.assertNotEqual(sample(1), sample(1, choice=1))
        torch.manual_seed(3)
        expected = plain_generate(do_sample=True, temperature=0.7, top_k=9, top_p=0.8, min_p=0.02)
        row = sequence(1, NEW_TOKENS, PROMPT, temperature=0.7, top_k=9, top_p=0.8, min_p=0.02, seed=3)
        self.assertEqual(generated(generator, row), [expected])

    def test_logprobs_are_of_the_raw_logits(self):
        row = sequence(1, 4, PROMPT, logprobs=3, prompt_logprobs=2, logit_bias=((7, 50.0),))
        logprobs, _ = run(self.generator(), row)
        tokens = row.prompt + row.output
        expected = torch.log_softmax(plain(torch.tensor([tokens])).logits[0].detach(), dim=-1)
        for i, (entry, prompt) in enumerate(logprobs):
            at = expected[len(PROMPT) + i - 1]
            self.assertAlmostEqual(entry.logprob, float(at[row.output[i]]), places=4)
            self.assertEqual([token for token, _ in entry.top], at.topk(3).indices.tolist())
            self.assertEqual(len(prompt), len(PROMPT) - 1 if i == 0 else 0)
        for i, entry in enumerate(logprobs[0][1]):
            self.assertAlmostEqual(entry.logprob, float(expected[i][PROMPT[i + 1]]), places=4)
            self.assertEqual(len(entry.top), 2)

    def test_rows_of_a_padded_batch_are_as_alone(self):
        prompts = [PROMPT, [8], [1, 2, 3, 4, 5, 6, 7]]
        lengths = [NEW_TOKENS, 5, 11]
        rows = [sequence(i, length, prompt) for i, (prompt, length) in enumerate(zip(prompts, lengths))]
        _, states = run(self.generator(), *rows)
        for row, prompt, length in zip(rows, prompts, lengths):
            self.assertEqual(row.output, plain_generate(prompt, max_new_tokens=length))
        self.assertEqual(len(states), NEW_TOKENS)

    def test_ends_within_a_step_when_told(self):
        row = sequence(1, NEW_TOKENS, PROMPT)
        _, states = run(self.generator(), row, until=lambda row: len(row.output) == 5)
        self.assertEqual(len(states), 6)

    def test_cache_memory_is_that_of_the_cache_object(self):
        generator = self.generator()
        self.assertEqual(generator.kv_bytes_per_token, BYTES_PER_TOKEN)
        _, states = run(generator, sequence(1, 3, PROMPT))
        held = [len(PROMPT) + i for i in range(3)]
        self.assertEqual([s.reserved_tokens for s in states], held)
        self.assertEqual([s.reserved_bytes for s in states], [h * BYTES_PER_TOKEN for h in held])
        _, states = run(self.generator(cache="static", context_length=100), sequence(1, 3, PROMPT))
        self.assertEqual({(s.reserved_tokens, s.reserved_bytes) for s in states}, {(100, 100 * BYTES_PER_TOKEN)})

    def test_dtypes_and_limits(self):
        self.assertEqual(self.generator().dtype, "fp32")
        self.assertEqual(self.generator(dtype="bf16").dtype, "bf16")
        self.assertNotEqual(self.generator(dtype="bf16").weights_digest(), self.generator().weights_digest())
        self.assertEqual(self.generator().weights_digest(), self.generator(dummy_weights=False).weights_digest())
        for options in ({"dtype": "fp8"}, {"cache": "paged"}, {"context_length": 129}):
            with self.assertRaises(ValueError):
                self.generator(**options)

    def test_a_gpu_that_is_not_there_is_refused(self):
        with mock.patch.object(torch.cuda, "is_available", return_value=False):
            self.assertEqual(self.generator(device="auto").device_name, "CPU")
            with self.assertRaisesRegex(ValueError, "--device cuda"):
                self.generator(device="cuda")


if __name__ == "__main__":
    unittest.main()
