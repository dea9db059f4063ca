"""What a stream of Generate consists of, as dataclasses."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from quire.v1 import inference_pb2 as pb


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"
    ABORTED = "aborted"


class NoticeKind(enum.Enum):
    UNKNOWN = "unknown"  # of a newer server
    PREEMPTED = "preempted"
    MIGRATED = "migrated"
    RECOMPUTED = "recomputed"


@dataclass(frozen=True)
class Alternative:
    token_id: int
    logprob: float


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms: of the token, and of the most likely ones in its place, most likely first."""

    logprob: float
    top: tuple[Alternative, ...] = ()


@dataclass(frozen=True)
class KvUsage:
    reserved_bytes: int = 0
    used_bytes: int = 0
    max_unused_tokens: int = 0


@dataclass(frozen=True)
class Usage:
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    recomputed_tokens: int = 0
    kv: KvUsage = field(default_factory=KvUsage)


@dataclass(frozen=True)
class Timings:
    queued_ms: float = 0.0
    prefill_ms: float = 0.0
    first_token_ms: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True)
class Accepted:
    """The first event. `parameters` says what every value of the request became."""

    request_id: str
    parameters: pb.ResolvedParameters
    prompt_token_count: int
    worker: str
    numerics_id: str


@dataclass(frozen=True)
class Delta:
    """New tokens of one choice, never cumulative. `text` may lag behind `token_ids`.

    first_prompt_position: in the prompt, of the token that prompt_logprobs[0] is about; the first token has none.
    """

    choice: int
    first_index: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    first_prompt_position: int = 0


@dataclass(frozen=True)
class Notice:
    """Something that changed a request's timing but not its tokens."""

    kind: NoticeKind
    why: str


@dataclass(frozen=True)
class Finished:
    """The end of one choice. `text` is what was still held back."""

    choice: int
    reason: FinishReason
    stop_token_id: int | None
    stop_string: str | None
    text: str
    usage: Usage
    timings: Timings
    seed: int


Event = Accepted | Delta | Notice | Finished

_REASONS = {pb.Finished.STOP: FinishReason.STOP, pb.Finished.LENGTH: FinishReason.LENGTH}
_NOTICES = {
    pb.Notice.PREEMPTED: NoticeKind.PREEMPTED,
    pb.Notice.MIGRATED: NoticeKind.MIGRATED,
    pb.Notice.RECOMPUTED: NoticeKind.RECOMPUTED,
}


def from_proto(event: pb.GenerateEvent) -> Event | None:
    """None for an event of a newer server."""
    match event.WhichOneof("event"):
        case "accepted":
            return _accepted(event.accepted)
        case "delta":
            return _delta(event.delta)
        case "notice":
            return Notice(_NOTICES.get(event.notice.kind, NoticeKind.UNKNOWN), event.notice.why)
        case "finished":
            return _finished(event.finished)
    return None


def _accepted(accepted: pb.Accepted) -> Accepted:
    return Accepted(accepted.request_id, accepted.parameters, accepted.prompt_token_count, accepted.worker,
                    accepted.numerics_id)


def _logprobs(entries: Iterable[pb.TokenLogprobs]) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(e.logprob, tuple(Alternative(a.token_id, a.logprob) for a in e.top)) for e in entries)


def _delta(delta: pb.Delta) -> Delta:
    return Delta(delta.choice, delta.first_index, tuple(delta.token_ids), delta.text, _logprobs(delta.logprobs),
                 _logprobs(delta.prompt_logprobs), delta.first_prompt_position)


def _finished(finished: pb.Finished) -> Finished:
    matched = finished.WhichOneof("matched_stop")
    usage, timings = finished.usage, finished.timings
    return Finished(
        choice=finished.choice,
        reason=_REASONS.get(finished.reason, FinishReason.ABORTED),
        stop_token_id=finished.stop_token_id if matched == "stop_token_id" else None,
        stop_string=finished.stop_string if matched == "stop_string" else None,
        text=finished.text,
        usage=Usage(usage.prompt_tokens, usage.cached_tokens, usage.output_tokens, usage.recomputed_tokens,
                    KvUsage(usage.kv.reserved_bytes, usage.kv.used_bytes, usage.kv.max_unused_tokens)),
        timings=Timings(timings.queued_ms, timings.prefill_ms, timings.first_token_ms, timings.decode_ms),
        seed=finished.seed,
    )
