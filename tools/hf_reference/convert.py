"""Between the worker protocol and the engine's own types."""

import math
from collections.abc import Sequence as Many

import grpc
from quire.v1 import inference_pb2 as api
from quire.worker.v1 import worker_pb2 as pb

from hf_reference.sequence import Finish, SamplingParams, Sequence, Tag, TokenLogprobs

# (field, lowest, highest) as docs/api.md has them: the coordinator has checked them, but a worker outlives bad peers.
_RANGES = (
    ("temperature", 0, 2), ("top_p", 0, 1), ("min_p", 0, 1), ("n", 1, 8), ("repetition_penalty", 1e-6, 2),
    ("presence_penalty", -2, 2), ("frequency_penalty", -2, 2), ("logprobs", 0, 20), ("prompt_logprobs", 0, 20),
    ("max_new_tokens", 1, 1 << 30),
)


class Refused(Exception):
    """A request that the worker does not take."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _invalid(message: str) -> Refused:
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)


def sequences_of(submit: pb.Submit, session: int, context_length: int, vocabulary_size: int,
                 now: float) -> list[Sequence]:
    """One sequence a choice, those included that have ended already. Refused: it cannot be run."""
    parameters = submit.parameters
    _check(submit, context_length, vocabulary_size)
    params = _sampling_params(parameters)
    sequences = []
    for choice in range(parameters.n):
        emitted = list(submit.emitted[choice].emitted_token_ids) if choice < len(submit.emitted) else []
        if emitted and not params.is_greedy:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION,
                          "a sampled stream of generate() cannot be resumed: its random numbers depend on the run")
        sequences.append(Sequence(
            tag=Tag(session, submit.key, submit.attempt, choice), prompt=list(submit.prompt_token_ids), params=params,
            max_new_tokens=parameters.max_new_tokens, arrived_at=now, output=emitted, num_emitted=len(emitted)))
    return sequences


def end_of_emitted(sequence: Sequence) -> Finish | None:
    """The end of a choice whose emitted tokens are all of it."""
    if not sequence.output:
        return None
    last = sequence.output[-1]
    stop_token = last if last in sequence.params.stop_token_ids else None
    if stop_token is None and sequence.num_remaining > 0:
        return None
    return Finish(sequence.tag, stop_token, None, len(sequence.prompt), len(sequence.output))


def finish_to_proto(finish: Finish) -> pb.Finish:
    reason = api.Finished.LENGTH if finish.stop_token is None else api.Finished.STOP
    proto = pb.Finish(
        key=finish.tag.key, attempt=finish.tag.attempt, choice=finish.tag.choice, reason=reason,
        stop_token_id=finish.stop_token,
        usage=api.Usage(prompt_tokens=finish.prompt_tokens, output_tokens=finish.output_tokens,
                        kv=api.KvUsage(reserved_bytes=finish.kv_reserved_bytes, used_bytes=finish.kv_used_bytes,
                                       max_unused_tokens=finish.kv_max_unused_tokens)),
        timings=api.Timings(queued_ms=finish.queued_s * 1e3, prefill_ms=finish.prefill_s * 1e3,
                            decode_ms=finish.decode_s * 1e3))
    if finish.ending is not None:
        proto.reason = api.Finished.ABORTED
        proto.status_code = finish.ending.code.value[0]
        proto.status_message = finish.ending.message
    return proto


def logprobs_to_proto(logprobs: TokenLogprobs) -> api.TokenLogprobs:
    top = [api.TokenLogprobs.Alternative(token_id=token, logprob=value) for token, value in logprobs.top]
    return api.TokenLogprobs(logprob=logprobs.logprob, top=top)


def _check(submit: pb.Submit, context_length: int, vocabulary_size: int) -> None:
    parameters = submit.parameters
    for field, low, high in _RANGES:
        value = getattr(parameters, field)
        if not (math.isfinite(value) and low <= value <= high):
            raise _invalid(f"parameters.{field} is {value}; allowed: {low} to {high}")
    if len(parameters.logit_bias_token_ids) != len(parameters.logit_bias_values):
        raise _invalid("parameters.logit_bias_values: one a token id is needed")
    if not submit.prompt_token_ids:
        raise _invalid("the prompt is empty")
    if len(submit.prompt_token_ids) + parameters.max_new_tokens > context_length:
        raise _invalid(f"the prompt's {len(submit.prompt_token_ids)} tokens and max_new_tokens "
                       f"{parameters.max_new_tokens} exceed the context of {context_length}")
    if len(submit.emitted) > parameters.n:
        raise _invalid(f"emitted has {len(submit.emitted)} choices, more than n, {parameters.n}")
    _check_ids(submit.prompt_token_ids, "prompt", vocabulary_size)
    _check_ids(parameters.logit_bias_token_ids, "parameters.logit_bias_token_ids", vocabulary_size)
    for choice in submit.emitted:
        if len(choice.emitted_token_ids) > parameters.max_new_tokens:
            raise _invalid(f"emitted has {len(choice.emitted_token_ids)} tokens, more than max_new_tokens, "
                           f"{parameters.max_new_tokens}")
        _check_ids(choice.emitted_token_ids, "emitted", vocabulary_size)


def _check_ids(ids: Many[int], what: str, vocabulary_size: int) -> None:
    for i, token in enumerate(ids):
        if token >= vocabulary_size:
            raise _invalid(f"{what}[{i}] is {token}; the vocabulary has {vocabulary_size} tokens")


def _sampling_params(parameters: api.ResolvedParameters) -> SamplingParams:
    def optional(field: str) -> int | None:
        return getattr(parameters, field) if parameters.HasField(field) else None

    return SamplingParams(
        temperature=parameters.temperature, top_k=parameters.top_k, top_p=parameters.top_p, min_p=parameters.min_p,
        seed=parameters.seed, repetition_penalty=parameters.repetition_penalty,
        presence_penalty=parameters.presence_penalty, frequency_penalty=parameters.frequency_penalty,
        logit_bias=tuple(sorted(zip(parameters.logit_bias_token_ids, parameters.logit_bias_values))),
        min_new_tokens=parameters.min_new_tokens, eos_token_ids=tuple(sorted(set(parameters.eos_token_ids))),
        stop_token_ids=tuple(sorted(set(parameters.stop_token_ids))), logprobs=optional("logprobs"),
        prompt_logprobs=optional("prompt_logprobs"))
