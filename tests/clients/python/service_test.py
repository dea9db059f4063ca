"""The client library against the real thing: a coordinator, a paged worker and the Hugging Face worker."""

import asyncio
import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import threading
import time
import unittest

import grpc
import reflection_client
from local_service.processes import Stack
from local_service.readiness import wait_until_ready
from quire_client import Accepted, AsyncClient, Client, Delta, FinishReason, Finished, QuireError

ROOT = pathlib.Path(__file__).resolve().parents[3]
BINARIES = pathlib.Path(os.environ["QUIRE_BIN"])
MODEL = ROOT / "models" / "quire-tiny"
TIMEOUT_S = 240


def setUpModule():
    global client, target
    resources = contextlib.ExitStack()
    unittest.addModuleCleanup(resources.close)
    folder = resources.enter_context(tempfile.TemporaryDirectory())
    stack = resources.enter_context(Stack(pathlib.Path(folder)))
    coordinator = stack.start("coordinator", [BINARIES / "quire-coordinator", "--port", "0"])
    target = stack.address_of(coordinator, TIMEOUT_S)
    common = ["--model", MODEL, "--dtype", "fp32", "--port", "0", "--join", target]
    stack.start("paged", [BINARIES / "quire-worker", "--engine", "paged", "--worker-name", "paged", *common])
    stack.start("hf", [sys.executable, ROOT / "tools" / "hf_worker.py", "--worker-name", "hf", *common])
    client = resources.enter_context(Client(target))
    wait_until_ready(stack, client, ["paged", "hf"], TIMEOUT_S)


def collect(prompt, **options):
    """Tokens and text of choice 0, and its end."""
    token_ids, text, end = [], "", None
    for event in client.generate(prompt, **options):
        if isinstance(event, Delta) and event.choice == 0:
            token_ids += event.token_ids
            text += event.text
        elif isinstance(event, Finished) and event.choice == 0:
            text += event.text
            end = event
    return token_ids, text, end


class ServiceTest(unittest.TestCase):
    def test_both_engines_give_the_same_tokens_and_text(self):
        options = dict(max_new_tokens=48, temperature=0, ignore_eos=True)
        paged = collect("hello", **options)
        reference = collect("hello", engine="hf_reference", **options)
        self.assertEqual(len(paged[0]), 48)
        self.assertEqual(paged[:2], reference[:2])
        self.assertEqual(reference[2].reason, FinishReason.LENGTH)
        self.assertGreater(reference[2].usage.kv.used_bytes, 0)
        self.assertEqual(client.generate_text("hello", **options), paged[1])

    def test_what_is_served(self):
        model = client.model("quire-tiny")
        self.assertEqual((model.id, model.context_length, model.vocabulary_size), ("quire-tiny", 2048, 8192))
        self.assertEqual(set(model.engines), {"paged", "hf_reference"})
        self.assertEqual([m.id for m in client.models()], ["quire-tiny"])
        loads = {worker.name: worker for worker in client.load()}
        self.assertEqual((loads["hf"].engine, loads["hf"].dtype, loads["hf"].kv_cache),
                         ("hf_reference", "fp32", "dynamic"))
        self.assertGreater(loads["paged"].blocks_total, 0)
        self.assertTrue(client.server_info().version)

    def test_tokens_and_back(self):
        tokenized = client.tokenize("hello world", add_special_tokens=False)
        self.assertEqual(client.detokenize(tokenized.token_ids), "hello world")
        self.assertEqual(len(tokenized.tokens), len(tokenized.token_ids))

    def test_a_resumed_stream_brings_the_rest(self):
        options = dict(max_new_tokens=24, temperature=0, ignore_eos=True)
        for engine in ("paged", "hf_reference"):
            with self.subTest(engine):
                whole, text, _ = collect("hello", engine=engine, **options)
                first, first_text, _ = collect("hello", engine=engine, **{**options, "max_new_tokens": 9})
                rest, rest_text, end = collect("hello", engine=engine, resume=[first], **options)
                self.assertEqual(first + rest, whole)
                self.assertTrue(text.endswith(rest_text))
                self.assertEqual(end.usage.output_tokens, 24)

    def test_stops_choices_and_seeds(self):
        options = dict(max_new_tokens=16, temperature=0.9, seed=7, n=2, ignore_eos=True)
        for engine in ("paged", "hf_reference"):
            with self.subTest(engine):
                runs = [[e for e in client.generate("hello", engine=engine, **options) if isinstance(e, Delta)]
                        for _ in range(2)]
                tokens = [[[t for e in run if e.choice == c for t in e.token_ids] for c in range(2)] for run in runs]
                self.assertEqual(tokens[0], tokens[1])
                self.assertNotEqual(tokens[0][0], tokens[0][1])
                greedy, _, _ = collect("hello", engine=engine, max_new_tokens=16, temperature=0, ignore_eos=True)
                stopped, _, end = collect("hello", engine=engine, max_new_tokens=16, temperature=0, ignore_eos=True,
                                          stop_token_ids=[greedy[5]])
                self.assertEqual(stopped, greedy[:greedy.index(greedy[5]) + 1])
                self.assertEqual((end.reason, end.stop_token_id), (FinishReason.STOP, greedy[5]))

    def test_logprobs_of_both_engines_agree(self):
        found = []
        for engine in ("paged", "hf_reference"):
            deltas = [e for e in client.generate("hello", engine=engine, max_new_tokens=8, temperature=0, logprobs=3,
                                                 prompt_logprobs=1) if isinstance(e, Delta)]
            found.append([[entry for e in deltas for entry in e.logprobs],
                          [entry for e in deltas for entry in e.prompt_logprobs]])
        for ours, reference in zip(*found):
            self.assertEqual(len(ours), len(reference))
            for one, other in zip(ours, reference):
                self.assertAlmostEqual(one.logprob, other.logprob, places=3)
                self.assertEqual([a.token_id for a in one.top], [a.token_id for a in other.top])

    def test_errors_name_the_field(self):
        with self.assertRaises(QuireError) as caught:
            list(client.generate("hello", temperature=9.0))
        self.assertIs(caught.exception.code, grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(caught.exception.field, "sampling.temperature")
        with self.assertRaises(QuireError) as caught:
            list(client.generate("hello", worker="nobody"))
        self.assertIs(caught.exception.code, grpc.StatusCode.NOT_FOUND)

    def test_leaving_a_stream_gives_its_worker_back(self):
        for worker in ("paged", "hf"):
            with self.subTest(worker):
                stream = client.generate("hello", worker=worker, max_new_tokens=2000, temperature=0, ignore_eos=True)
                self.assertIsInstance(next(stream), Accepted)
                self.assertIsInstance(next(stream), Delta)
                stream.close()
                deadline = time.monotonic() + TIMEOUT_S
                while any(load.running + load.waiting for load in client.load()):
                    self.assertLess(time.monotonic(), deadline)
                    threading.Event().wait(0.02)

    def test_many_at_once_with_asyncio(self):
        async def run():
            async with AsyncClient(target) as clients:
                return await asyncio.gather(*(clients.generate_text("hello", max_new_tokens=8 + i, temperature=0)
                                              for i in range(8)))

        texts = asyncio.run(run())
        for shorter, longer in zip(texts, texts[1:]):
            self.assertTrue(longer.startswith(shorter))

    def test_a_client_from_reflection_alone_streams_tokens(self):
        def call(*arguments):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                self.assertEqual(reflection_client.main([target, *arguments]), 0)
            return out.getvalue().splitlines()

        self.assertLessEqual({"quire.v1.Inference", "grpc.health.v1.Health"}, set(call()))
        events = [json.loads(line) for line in call("quire.v1.Inference/Generate", json.dumps(
            {"text": "hello", "max_new_tokens": 8, "sampling": {"temperature": 0}, "stop": {"ignore_eos": True}}))]
        self.assertEqual([t for e in events if "delta" in e for t in e["delta"]["token_ids"]],
                         collect("hello", max_new_tokens=8, temperature=0, ignore_eos=True)[0])


if __name__ == "__main__":
    unittest.main()
