"""Every row of the error table in docs/api.md that one worker can show: status, field, words and retry delay."""

import json
import math
import re
import unittest

import numpy
from grpc import StatusCode
from harness import ROOT, TINY, Stage, main, wait_until
from quire.v1 import inference_pb2 as pb
from quire_client.errors import QuireError
from safetensors.numpy import save_file
from service import ENDLESS, Service, request

CONTEXT = 512
VOCABULARY = 8192

# By path in common/request_fields.cc: values that are refused, and the bounds that are not.
NUMBERS = {
    "sampling.temperature": ([-0.01, 2.01, math.nan, math.inf, -math.inf], [0, 2]),
    "sampling.top_k": ([VOCABULARY + 1, 2**32 - 1], [0, VOCABULARY]),
    "sampling.top_p": ([0, -0.01, 1.01, math.nan, math.inf], [1e-6, 1]),
    "sampling.min_p": ([-0.01, 1.01, math.nan], [0, 1]),
    "sampling.n": ([0, 9, 2**32 - 1], [1, 8]),
    "penalties.repetition": ([0, -1, 2.01, math.nan], [0.01, 2]),
    "penalties.presence": ([-2.01, 2.01, math.nan, math.inf], [-2, 2]),
    "penalties.frequency": ([-2.01, 2.01, math.nan, -math.inf], [-2, 2]),
    "max_new_tokens": ([0, CONTEXT, 2**32 - 1], [1, 64]),
    "min_new_tokens": ([5, 2**32 - 1], [0, 4]),
    "logprobs": ([21, 2**32 - 1], [0, 20]),
    "prompt_logprobs": ([21, 2**32 - 1], [0, 20]),
    "priority": ([-101, 101, -2**31, 2**31 - 1], [-100, 100]),
    "queue_timeout_ms": ([0], [2**32 - 1]),
    "timeout_ms": ([0], [2**32 - 1]),
}
# The same for what is not a number: requests that are refused, each with the field that the error names.
DEEP = 65 * "[" + 65 * "]"
OTHERS = {
    "request_id": [(request(request_id=value), "request_id") for value in ("x" * 129, "a\nb", "caf\u00e9")],
    "tenant": [(request(tenant=value), "tenant") for value in ("x" * 129, "\x7f")],
    "cache_salt": [(request(cache_salt=value), "cache_salt") for value in ("x" * 129, "\t")],
    "text": [(request(value), "text") for value in ("", "x" * (2**20 + 1), "a " * CONTEXT)],
    "token_ids": [
        (request([]), "token_ids.ids"),
        (request([1, 2, VOCABULARY]), "token_ids.ids[2]"),
        (request([2**32 - 1]), "token_ids.ids[0]"),
        (request([1] * CONTEXT), "token_ids.ids"),
        (request([1] * (2**20 + 1)), "token_ids.ids"),
    ],
    "chat.messages": [
        (request(None, chat=pb.Chat()), "chat.messages"),
        (request(None, chat=pb.Chat(messages=[pb.ChatMessage(content="hello")])), "chat.messages[0].role"),
        (request(None, chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="x" * (2**20 + 1))])),
         "chat.messages"),
        (request(None, chat=pb.Chat(messages=[pb.ChatMessage(role="user", tool_calls=DEEP)])),
         "chat.messages[0].tool_calls"),
        (request(None, chat=pb.Chat(messages=[pb.ChatMessage(role="user")], tools=DEEP)), "chat.tools"),
        (request(None, chat=pb.Chat(messages=[pb.ChatMessage(role="user")], template_kwargs=DEEP)),
         "chat.template_kwargs"),
    ],
    "logit_bias": [
        (request(logit_bias={3: 100.5}), "logit_bias[3]"),
        (request(logit_bias={3: math.nan}), "logit_bias[3]"),
        (request(logit_bias={VOCABULARY: 1}), "logit_bias"),
        (request(logit_bias=dict.fromkeys(range(1025), 1.0)), "logit_bias"),
    ],
    "stop.strings": [
        (request(stop=pb.Stop(strings=["x"] * 17)), "stop.strings"),
        (request(stop=pb.Stop(strings=["ok", ""])), "stop.strings[1]"),
        (request(stop=pb.Stop(strings=["x" * 257])), "stop.strings[0]"),
    ],
    "stop.token_ids": [
        (request(stop=pb.Stop(token_ids=range(65))), "stop.token_ids"),
        (request(stop=pb.Stop(token_ids=[0, VOCABULARY])), "stop.token_ids[1]"),
    ],
    "resume.choices": [
        (request(resume=pb.Resume(choices=[pb.Resume.Choice()] * 2)), "resume.choices"),
        (request(new=4, resume=pb.Resume(choices=[pb.Resume.Choice(emitted_token_ids=[1] * 5)])),
         "resume.choices[0].emitted_token_ids"),
        (request(resume=pb.Resume(choices=[pb.Resume.Choice(emitted_token_ids=[VOCABULARY])])),
         "resume.choices[0].emitted_token_ids[0]"),
        (request(resume=pb.Resume(choices=[pb.Resume.Choice(emitted_token_ids=[1] * (2**20 + 1))])),
         "resume.choices[0].emitted_token_ids"),
        (pb.GenerateRequest(text="a", resume=pb.Resume(choices=[pb.Resume.Choice(emitted_token_ids=[1] * (2**20 + 1))])),
         "resume.choices"),
    ],
}
# Names are NOT_FOUND; the others take every value that the type has.
NAMES = {"model", "engine", "worker"}
UNLIMITED = {"add_special_tokens", "sampling.seed", "stop.ignore_eos", "stop.include_stop_in_output"}


def with_number(path, value):
    message = request(new=4, model="quire-tiny")
    *parents, name = path.split(".")
    part = message
    for parent in parents:
        part = getattr(part, parent)
    setattr(part, name, value)
    return message


class ErrorCase(unittest.TestCase):

    def assert_error(self, error: QuireError, code, *words, field=None, retry=False):
        """`words` are regular expressions that the message must match somewhere."""
        self.assertEqual(error.code, code, error)
        self.assertEqual(error.field, field, error)
        for word in words:
            self.assertRegex(error.message, word)
        if retry:
            self.assertGreater(error.retry_delay, 0)
        else:
            self.assertIsNone(error.retry_delay)


class RequestErrorsTest(ErrorCase):
    """One coordinator, two models: quire-tiny with its tokenizer, and one without tokenizer and with a small pool."""

    @classmethod
    def setUpClass(cls):
        stage = Stage.of_class(cls)
        cls.coordinator = coordinator = stage.coordinator()
        join = ["--join", coordinator.address]
        stage.worker(TINY, *join, "--worker-name", "tiny-0", "--max-model-len", CONTEXT)
        stage.fake_worker(stage.model("ghost", CONTEXT), *join, "--worker-name", "ghost-0",
                          "--num-gpu-blocks-override", 16)
        cls.service = Service(stage, coordinator.address)
        cls.service.wait_ready(2)

    def refuse(self, message, *args, **options):
        self.assert_error(self.service.fail(message), *args, **options)

    def test_the_tables_here_cover_every_field(self):
        source = (ROOT / "common" / "request_fields.cc").read_text()
        paths = set(re.findall(r'^    \{"([a-z_.]+)", "', source, re.MULTILINE))
        self.assertGreater(len(paths), 20)
        self.assertEqual(paths, set(NUMBERS) | set(OTHERS) | NAMES | UNLIMITED)

    def test_a_number_out_of_range_names_field_value_and_range(self):
        for path, (refused, allowed) in NUMBERS.items():
            for value in refused:
                with self.subTest(path=path, value=value):
                    self.refuse(with_number(path, value), StatusCode.INVALID_ARGUMENT, re.escape(path), "allowed: ",
                                field=path)
            for value in allowed:
                with self.subTest(path=path, value=value):
                    self.service.run(with_number(path, value))

    def test_other_fields_out_of_range_are_named(self):
        for refused in OTHERS.values():
            for message, field in refused:
                message.model = "quire-tiny"
                with self.subTest(field=field):
                    self.refuse(message, StatusCode.INVALID_ARGUMENT, re.escape(field), "allowed: ", field=field)

    def test_no_prompt_at_all(self):
        self.refuse(request(None), StatusCode.INVALID_ARGUMENT, "prompt is not set", field="prompt")

    def test_past_the_context_names_both_numbers_and_the_limit(self):
        self.refuse(request([1] * 100, new=413, model="quire-tiny"), StatusCode.INVALID_ARGUMENT, r"\b100\b",
                    r"\b413\b", r"\b512\b", field="max_new_tokens")
        self.assertEqual(self.service.run(request([1] * 508, new=4, model="quire-tiny")).finished[0].reason,
                         pb.Finished.LENGTH)

    def test_unknown_names_are_answered_with_those_that_exist(self):
        self.refuse(request(model="gpt"), StatusCode.NOT_FOUND, '"gpt"', "ghost", "quire-tiny", field="model")
        self.refuse(request(worker="w9"), StatusCode.NOT_FOUND, '"w9"', "ghost-0", "tiny-0", field="worker")
        self.refuse(request(model="ghost", engine=pb.BASELINE), StatusCode.NOT_FOUND, "BASELINE", "PAGED",
                    field="engine")
        self.refuse(request(model="ghost", engine=77), StatusCode.NOT_FOUND, "77", "PAGED", field="engine")
        with self.assertRaises(QuireError) as unknown:
            self.service.call("GetModel", pb.GetModelRequest(model="gpt"))
        self.assert_error(unknown.exception, StatusCode.NOT_FOUND, "ghost", "quire-tiny", field="model")

    def test_an_unset_model_among_several_names_them(self):
        self.refuse(request(), StatusCode.INVALID_ARGUMENT, "ghost", "quire-tiny", field="model")

    def test_a_named_worker_brings_its_model_along(self):
        self.assertEqual(self.service.run(request(worker="ghost-0")).accepted.worker, "ghost-0")

    def test_a_model_without_tokenizer_names_what_is_missing(self):
        chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
        for message, field in ((request("hello"), "text"), (request(None, chat=chat), "chat"),
                               (request(stop=pb.Stop(strings=["."])), "stop.strings")):
            message.model = "ghost"
            with self.subTest(field=field):
                error = self.service.fail(message)
                self.assertEqual(error.code, StatusCode.FAILED_PRECONDITION)
                self.assertTrue(error.field.startswith(field), error.field)
                self.assertRegex(error.message, "tokenizer|chat template")
        for method, message in (("Tokenize", pb.TokenizeRequest(model="ghost", text="hello")),
                                ("Detokenize", pb.DetokenizeRequest(model="ghost", token_ids=[5]))):
            with self.subTest(method=method), self.assertRaises(QuireError) as missing:
                self.service.call(method, message)
            self.assert_error(missing.exception, StatusCode.FAILED_PRECONDITION, "tokenizer", field="model")

    def test_what_an_error_quotes_is_cut_and_stays_out_of_the_log(self):
        role = "\nrequest id=victim status=OK " + "x" * 5000
        chat = pb.Chat(messages=[pb.ChatMessage(role=role, content="hello")])
        error = self.service.fail(request(None, chat=chat, model="quire-tiny", request_id="forger"))
        self.assertEqual((error.code, error.field), (StatusCode.INVALID_ARGUMENT, "chat"), error)
        self.assertIn("unknown role", error.message)
        self.assertLessEqual(len(error.message.encode()), 1024)
        line = wait_until(lambda: [line for line in self.coordinator.log().splitlines() if "id=forger" in line],
                          "the request's line in the log")
        self.assertRegex(line[0], "status=INVALID_ARGUMENT.* field=chat$")
        self.assertNotIn("victim", self.coordinator.log())

    def test_more_kv_than_the_pool_names_blocks_needed_and_had(self):
        self.refuse(request(model="ghost", new=400), StatusCode.FAILED_PRECONDITION, r"\b26\b.*blocks", r"\b16\b",
                    field="max_new_tokens")
        self.service.run(request(model="ghost", new=16 * 16 - 3))

    def test_other_calls_refuse_what_is_wrong(self):
        with self.assertRaises(QuireError) as empty:
            self.service.call("Cancel", pb.CancelRequest())
        self.assert_error(empty.exception, StatusCode.INVALID_ARGUMENT, field="request_id")
        with self.assertRaises(QuireError) as beyond:
            self.service.call("Detokenize", pb.DetokenizeRequest(model="quire-tiny", token_ids=[VOCABULARY]))
        self.assert_error(beyond.exception, StatusCode.INVALID_ARGUMENT, "8192", field="token_ids[0]")

    def test_a_message_beyond_the_limit_is_refused(self):
        error = self.service.fail(request("x" * (5 << 20)))
        self.assertEqual(error.code, StatusCode.RESOURCE_EXHAUSTED)
        self.service.run(request(model="ghost"))


class LimitErrorsTest(ErrorCase):
    """One worker that runs one request at a time and lets one wait."""

    def setUp(self):
        self.stage = Stage.of_test(self)
        coordinator = self.stage.coordinator()
        self.stage.fake_worker(self.stage.model("ghost", context=65536), "--join", coordinator.address,
                               "--max-num-seqs", 1, "--max-queue", 1, "--num-gpu-blocks-override", 8192, step_us=2000)
        self.service = Service(self.stage, coordinator.address)
        self.service.wait_ready()

    def hold_the_worker(self):
        return self.service.start(request(new=ENDLESS)).wait_for_tokens()

    def wait_for_load(self, running, waiting):
        wait_until(lambda: [(w.running, w.waiting) for w in self.service.load()] == [(running, waiting)],
                   f"{running} running, {waiting} waiting")

    def test_full_queues_say_when_to_try_again(self):
        self.hold_the_worker()
        self.service.start(request(new=ENDLESS)).wait_accepted()
        self.wait_for_load(1, 1)
        self.assert_error(self.service.fail(request()), StatusCode.RESOURCE_EXHAUSTED, "full", retry=True)

    def test_more_choices_than_the_queue_holds_are_refused(self):
        error = self.service.fail(request(sampling=pb.Sampling(n=3)))
        self.assertEqual(error.code, StatusCode.RESOURCE_EXHAUSTED)

    def test_queue_timeout(self):
        self.hold_the_worker()
        self.assert_error(self.service.fail(request(queue_timeout_ms=50)), StatusCode.DEADLINE_EXCEEDED,
                          "queue_timeout_ms", "queue", r"\b0 tokens")
        self.wait_for_load(1, 0)

    def test_queue_timeout_does_not_end_what_runs(self):
        stream = self.service.run(request(new=2500, queue_timeout_ms=4000))  # runs for five seconds at least
        self.assertEqual(len(stream.tokens[0]), 2500)

    def test_timeout_while_queued(self):
        self.hold_the_worker()
        self.assert_error(self.service.fail(request(timeout_ms=100)), StatusCode.DEADLINE_EXCEEDED, "timeout_ms",
                          "queued", r"\b0 tokens")
        self.wait_for_load(1, 0)

    def test_timeout_while_running_says_how_many_tokens_came(self):
        stream = self.service.start(request(new=ENDLESS, timeout_ms=3000)).end()
        self.assertGreater(len(stream.tokens[0]), 0)
        self.assert_error(stream.error, StatusCode.DEADLINE_EXCEEDED, "timeout_ms", "running",
                          rf"\b{len(stream.tokens[0])} tokens")
        self.assertEqual(stream.finished[0].reason, pb.Finished.ABORTED)
        self.assertEqual(stream.finished[0].usage.output_tokens, len(stream.tokens[0]))
        self.service.wait_idle()

    def test_the_calls_deadline_arrives_with_details(self):
        """The server ends a call 20 ms early. On a busy machine the client's own timer can still be first, or the end
        come before the request runs."""
        for _ in range(20):
            error = self.service.fail(request(new=ENDLESS), timeout=0.5)
            self.assertEqual(error.code, StatusCode.DEADLINE_EXCEEDED)
            if "running" in error.message:
                self.assertRegex(error.message, "deadline.*running.*tokens out")
                break
        else:
            self.fail("no answer of the server came before the client's own deadline")
        self.service.wait_idle()


class AbsenceErrorsTest(ErrorCase):

    def test_no_worker(self):
        stage = Stage.of_test(self)
        service = Service(stage, stage.coordinator().address)
        self.assertEqual(service.load(), [])
        self.assert_error(service.fail(request()), StatusCode.UNAVAILABLE, "no worker", retry=True)
        with self.assertRaises(QuireError) as nothing:
            service.call("Tokenize", pb.TokenizeRequest(text="hello"))
        self.assert_error(nothing.exception, StatusCode.UNAVAILABLE, retry=True)

    def test_more_open_requests_than_the_coordinator_takes(self):
        stage = Stage.of_test(self)
        coordinator = stage.coordinator("--max-streams", 1)
        stage.fake_worker(stage.model("ghost", context=65536), "--join", coordinator.address,
                          "--num-gpu-blocks-override", 8192, step_us=2000)
        service = Service(stage, coordinator.address)
        service.wait_ready()
        first = service.start(request(new=ENDLESS)).wait_for_tokens()
        self.assert_error(service.fail(request()), StatusCode.RESOURCE_EXHAUSTED, retry=True)
        first.cancel()
        wait_until(lambda: service.start(request()).end().error is None, "a request taken again")

    def test_numbers_that_are_not_finite_fail_one_request_alone(self):
        stage = Stage.of_test(self)
        coordinator = stage.coordinator()
        stage.worker(make_checkpoint(stage.folder / "broken", poisoned_token=7), "--join", coordinator.address)
        service = Service(stage, coordinator.address)
        service.wait_ready()
        healthy = request([1, 2, 3], new=200, logit_bias={7: -100})
        expected = service.run(healthy).tokens[0]
        self.assertNotIn(7, expected)
        company = [service.start(healthy) for _ in range(4)]
        company[0].wait_for_tokens()
        self.assert_error(service.fail(request([1, 7, 3], new=200)), StatusCode.INTERNAL, "finite")
        for stream in company:
            self.assertEqual(stream.ok().tokens[0], expected)
        service.wait_idle()


def make_checkpoint(folder, poisoned_token):
    """A small random Llama, one of whose embeddings is not a number."""
    hidden, heads, kv_heads, ffn, vocabulary = 64, 4, 2, 96, 128
    random = numpy.random.default_rng(1)

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns)) / math.sqrt(columns)).astype(numpy.float32)

    embeddings = matrix(vocabulary, hidden)
    embeddings[poisoned_token] = math.nan
    ones = numpy.ones(hidden, numpy.float32)
    layer = "model.layers.0."
    kv_size = hidden // heads * kv_heads
    folder.mkdir()
    save_file(
        {
            "model.embed_tokens.weight": embeddings,
            layer + "input_layernorm.weight": ones,
            layer + "self_attn.q_proj.weight": matrix(hidden, hidden),
            layer + "self_attn.k_proj.weight": matrix(kv_size, hidden),
            layer + "self_attn.v_proj.weight": matrix(kv_size, hidden),
            layer + "self_attn.o_proj.weight": matrix(hidden, hidden),
            layer + "post_attention_layernorm.weight": ones,
            layer + "mlp.gate_proj.weight": matrix(ffn, hidden),
            layer + "mlp.up_proj.weight": matrix(ffn, hidden),
            layer + "mlp.down_proj.weight": matrix(hidden, ffn),
            "model.norm.weight": ones,
            "lm_head.weight": matrix(vocabulary, hidden),
        }, folder / "model.safetensors")
    config = json.loads((TINY / "config.json").read_text())
    config.update(hidden_size=hidden, head_dim=hidden // heads, num_attention_heads=heads,
                  num_key_value_heads=kv_heads, intermediate_size=ffn, vocab_size=vocabulary, num_hidden_layers=1,
                  tie_word_embeddings=False, dtype="float32", eos_token_id=0, bos_token_id=1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


if __name__ == "__main__":
    main()
