"""transformers' own generate(), asked for one batch and heard token by token."""

import hashlib
import pathlib
from collections import Counter
from collections.abc import Sequence as Many
from dataclasses import dataclass

import torch
import transformers
from transformers.generation import (
    BaseStreamer,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    StoppingCriteria,
)

from hf_reference.sequence import KvState, OnStep, RowStep, Sequence, TokenLogprobs

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Apart in the 64 bits of a seed, so that the choices of one request differ.
_CHOICE_STRIDE = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class GeneratorOptions:
    folder: pathlib.Path
    device: str = "cpu"  # "auto" (a GPU where there is one), "cpu" or "cuda"
    dtype: str = "auto"  # "auto" (the checkpoint's; on a GPU bf16), "fp32" or "bf16"
    cache: str = "dynamic"  # "dynamic": grows by concatenation; "static": the whole context from the start
    context_length: int = 0  # 0: the model's
    num_threads: int = 0  # 0: one a core
    dummy_weights: bool = False  # random ones, from config.json alone


class Generator:
    """A loaded model. One thread at a time may call generate().

    ValueError at construction: a dtype, cache or context that the model does not have, or no GPU where one is asked
    for.
    """

    def __init__(self, options: GeneratorOptions) -> None:
        if options.dtype not in ("auto", *DTYPES):
            raise ValueError(f"--dtype {options.dtype}: auto, fp32 or bf16 is allowed")
        if options.cache not in ("dynamic", "static"):
            raise ValueError(f"--baseline-cache {options.cache}: dynamic or static is allowed")
        has_gpu = torch.cuda.is_available()
        if options.device == "cuda" and not has_gpu:
            raise ValueError("--device cuda: torch finds no GPU that it can use")
        self._device = torch.device("cuda" if has_gpu and options.device != "cpu" else "cpu")
        torch.set_float32_matmul_precision("highest")  # fp32, not TF32
        if options.num_threads > 0:
            torch.set_num_threads(options.num_threads)
        self._cache_kind = options.cache
        config = transformers.AutoConfig.from_pretrained(options.folder)
        by_default = torch.bfloat16 if self._device.type == "cuda" else config.dtype or torch.float32
        dtype = DTYPES.get(options.dtype, by_default)
        if options.dummy_weights:
            torch.manual_seed(0)
            self._model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
        else:
            self._model = transformers.AutoModelForCausalLM.from_pretrained(options.folder, dtype=dtype)
        self._model.to(self._device).eval()
        # Nothing of the folder's defaults: each request says everything.
        self._model.generation_config = transformers.GenerationConfig()
        limit = config.max_position_embeddings
        if options.context_length > limit:
            raise ValueError(f"--max-model-len {options.context_length}: the model's max_position_embeddings is {limit}")
        self.context_length = options.context_length or limit
        self.vocabulary_size = config.vocab_size
        self.dtype = next((name for name, value in DTYPES.items() if value == self._model.dtype), str(self._model.dtype))
        self.device_name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        self.num_threads = torch.get_num_threads()
        self._pad = config.pad_token_id or 0
        self.kv_bytes_per_token = self._warm_up()

    def generate(self, batch: Many[Sequence], on_step: OnStep) -> None:
        """Runs rows whose parameters differ in their lengths at most, until each has ended or is to end.

        Rows are padded on the left to one width, as generate() wants them. More than one row: greedy ones with
        nothing emitted. Whatever generate() raises comes through.
        """
        params = batch[0].params
        width = max(len(row.tokens) for row in batch)
        ids = torch.full((len(batch), width), self._pad)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(batch):
            ids[i, width - len(row.tokens):] = torch.tensor(row.tokens)
            mask[i, width - len(row.tokens):] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        cache = self._new_cache()
        logits = _RawLogits() if params.logprobs is not None else None
        run = _Run(batch, cache, logits, self._prompt_logprobs(batch[0]), on_step)
        processors = _processors(batch, width, logits, self._device)
        sampling = {"do_sample": False}
        if not params.is_greedy:
            torch.manual_seed((params.seed + batch[0].tag.choice * _CHOICE_STRIDE) % 2**64)
            sampling = {"do_sample": True, "temperature": params.temperature, "top_k": params.top_k,
                        "top_p": params.top_p, "min_p": params.min_p or None}
        self._model.generate(
            ids, attention_mask=mask, past_key_values=cache, max_new_tokens=max(row.num_remaining for row in batch),
            eos_token_id=list(params.stop_token_ids) or None, pad_token_id=self._pad, logits_processor=processors,
            stopping_criteria=[run], streamer=run, **sampling)

    def weights_digest(self) -> str:
        """SHA-256 over names, shapes and bits of all weights."""
        digest = hashlib.sha256()
        for name, weight in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(memoryview(weight.cpu().contiguous().view(torch.uint8).numpy()).cast("B"))
        return digest.hexdigest()

    def _new_cache(self) -> transformers.Cache:
        if self._cache_kind == "static":
            return transformers.StaticCache(config=self._model.config, max_cache_len=self.context_length)
        return transformers.DynamicCache(config=self._model.config)

    @torch.no_grad()
    def _prompt_logprobs(self, row: Sequence) -> tuple[TokenLogprobs, ...]:
        """For the prompt's tokens after the first, in a pass of their own: generate() does not give them."""
        count = row.params.prompt_logprobs
        if count is None or row.tag.choice != 0 or len(row.prompt) < 2:
            return ()
        logits = self._model(torch.tensor([row.prompt[:-1]], device=self._device)).logits[0].float()
        return tuple(_logprobs(logits[i], row.prompt[i + 1], count) for i in range(len(row.prompt) - 1))

    def _warm_up(self) -> int:
        """Makes the first request as fast as the others; gives the bytes that one token takes in the cache."""
        cache = transformers.DynamicCache(config=self._model.config)
        prompt = torch.zeros((1, 4), dtype=torch.long, device=self._device)
        self._model.generate(prompt, attention_mask=torch.ones_like(prompt), past_key_values=cache, max_new_tokens=8,
                             do_sample=False, pad_token_id=self._pad)
        return _cache_bytes(cache) // cache.get_seq_length()


class _RawLogits(LogitsProcessor):
    """First of the processors: keeps the model's own logits of the step."""

    logits: torch.Tensor

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits = scores
        return scores


class _OutputPenalties(LogitsProcessor):
    """presence_penalty and frequency_penalty, which transformers does not have: they count output tokens."""

    def __init__(self, batch: Many[Sequence]) -> None:
        self._batch = batch

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for i, row in enumerate(self._batch):
            counts = Counter(row.output)
            if not counts:
                continue
            seen = torch.tensor(list(counts.keys()), device=scores.device)
            times = torch.tensor(list(counts.values()), dtype=scores.dtype, device=scores.device)
            scores[i, seen] -= row.params.presence_penalty + row.params.frequency_penalty * times
        return scores


def _processors(batch: Many[Sequence], width: int, logits: _RawLogits | None,
                device: torch.device) -> LogitsProcessorList:
    """In the order of docs/numerics.md: bias, repetition, min_new_tokens; generate() adds the sampling filters."""
    params = batch[0].params
    processors = LogitsProcessorList()
    if logits is not None:
        processors.append(logits)
    if params.logit_bias:
        processors.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in params.logit_bias]))
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.presence_penalty != 0 or params.frequency_penalty != 0:
        processors.append(_OutputPenalties(batch))
    if params.min_new_tokens > 0 and params.eos_token_ids:
        prompt_length = width - len(batch[0].output)
        processors.append(MinNewTokensLengthLogitsProcessor(prompt_length, params.min_new_tokens,
                                                            list(params.eos_token_ids), device=device))
    return processors


class _Run(BaseStreamer, StoppingCriteria):
    """What generate() calls in each step: first as criteria, whether a row ends; then as streamer, with its tokens."""

    def __init__(self, batch: Many[Sequence], cache: transformers.Cache, logits: _RawLogits | None,
                 prompt_logprobs: tuple[TokenLogprobs, ...], on_step: OnStep) -> None:
        self._batch = batch
        self._cache = cache
        self._logits = logits
        self._prompt_logprobs = prompt_logprobs
        self._on_step = on_step
        self._prompt_came = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        ends = [row.finished or row.ending is not None or row.num_remaining <= 1 for row in self._batch]
        return torch.tensor(ends, device=input_ids.device)

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt_came:  # generate() hands the prompt over first
            self._prompt_came = True
            return
        steps = []
        for i, token in enumerate(value.tolist()):
            logprobs = None
            if self._logits is not None and not self._batch[i].finished:
                logprobs = _logprobs(self._logits.logits[i], token, self._batch[i].params.logprobs)
            steps.append(RowStep(token, logprobs, self._prompt_logprobs))
        self._prompt_logprobs = ()
        layer = self._cache.layers[0]
        self._on_step(steps, KvState(_cache_bytes(self._cache), layer.keys.shape[-2]))

    def end(self) -> None:
        pass


def _cache_bytes(cache: transformers.Cache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def _logprobs(logits: torch.Tensor, token: int, count: int) -> TokenLogprobs:
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(count)
    return TokenLogprobs(float(logprobs[token]), tuple(zip(ids.tolist(), values.tolist())))
