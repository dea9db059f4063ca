"""One choice of one request on its way through the engine."""

from collections.abc import Callable, Sequence as Many
from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True)
class SamplingParams:
    """ResolvedParameters without the limits: every value set, none out of range."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_new_tokens: int = 0
    eos_token_ids: tuple[int, ...] = ()  # what min_new_tokens holds back
    stop_token_ids: tuple[int, ...] = ()  # what ends the choice
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True)
class Tag:
    """Names a choice: the table's number of its session, its key there, the attempt."""

    session: int
    key: int
    attempt: int
    choice: int


@dataclass(frozen=True)
class Ending:
    """Why a choice is stopped from outside, and how many of its tokens count (None: all)."""

    code: grpc.StatusCode
    message: str
    stop_index: int | None = None


@dataclass(eq=False)
class Sequence:
    tag: Tag
    prompt: list[int]
    params: SamplingParams
    max_new_tokens: int  # emitted ones included
    arrived_at: float
    output: list[int] = field(default_factory=list)  # begins with what earlier attempts emitted
    num_emitted: int = 0
    # Set by any thread, acted on by the engine's.
    ending: Ending | None = None
    # The engine's alone.
    finished: bool = False
    started_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    kv_max_unused_tokens: int = 0

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.output

    @property
    def num_remaining(self) -> int:
        return self.max_new_tokens - len(self.output)


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural logarithms: the token's, and (token id, logprob) of the most likely ones."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class KvState:
    """The cache's memory for a batch, and how many token positions of it a row holds."""

    reserved_bytes: int
    reserved_tokens: int


@dataclass(frozen=True)
class RowStep:
    """What a step brought for one row of a batch."""

    token: int
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


# Takes a step: an entry a row (those of rows that have ended mean nothing) and the cache.
OnStep = Callable[[Many[RowStep], KvState], None]


@dataclass(frozen=True)
class StepToken:
    tag: Tag
    index: int  # in the choice's output
    token: int
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Finish:
    """The end of a choice. `ending` says why it was aborted, if it was."""

    tag: Tag
    stop_token: int | None
    ending: Ending | None
    prompt_tokens: int
    output_tokens: int
    kv_reserved_bytes: int = 0
    kv_used_bytes: int = 0
    kv_max_unused_tokens: int = 0
    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class Load:
    running: int = 0
    waiting: int = 0
    kv_reserved_bytes: int = 0
    kv_used_bytes: int = 0
    output_tokens: int = 0  # ever
