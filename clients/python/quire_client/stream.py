"""One request's stream across connections: pure bookkeeping, shared by both clients."""

import time
from collections.abc import Callable
from dataclasses import replace

import grpc

from quire.v1 import inference_pb2 as pb
from quire_client import events
from quire_client.errors import QuireError


# Streams of the other engines do not move: their tokens depend on more than the request.
_MOVABLE_ENGINES = (pb.ENGINE_UNSPECIFIED, pb.PAGED)


class StreamState:
    """Keeps what came of a request, so that a broken stream can be taken up after its last token.

    clock: seconds, never back. Not thread safe: its stream owns it.
    """

    def __init__(self, request: pb.GenerateRequest, clock: Callable[[], float] = time.monotonic) -> None:
        self._request = request
        self._clock = clock
        self._sent_at: float | None = None  # the first time
        self._numerics_id: str | None = None  # of the first Accepted, as the next
        self._max_new_tokens = request.resume.max_new_tokens
        self._num_new_tokens = 0
        self._emitted = [list(choice.emitted_token_ids) for choice in request.resume.choices]
        while len(self._emitted) < max(1, request.sampling.n):
            self._emitted.append([])
        self._num_prompt_logprobs = [0] * len(self._emitted)
        self._finished: set[int] = set()
        self._aborted: list[events.Finished] = []

    def next_request(self) -> pb.GenerateRequest:
        """What to send on a new connection: the request, the tokens that came already, and the time that is left."""
        self._aborted.clear()
        request = pb.GenerateRequest()
        request.CopyFrom(self._request)
        now = self._clock()
        if self._sent_at is None:
            self._sent_at = now
        elif request.HasField("timeout_ms"):  # counts from the first send, not from here
            request.timeout_ms = max(1, request.timeout_ms - int((now - self._sent_at) * 1000))
        request.ClearField("resume")
        if any(self._emitted):
            for ids in self._emitted:
                request.resume.choices.add(emitted_token_ids=ids)
        if numerics_id := self._numerics_id or self._request.resume.numerics_id:
            request.resume.numerics_id = numerics_id
        if self._max_new_tokens:
            request.resume.max_new_tokens = self._max_new_tokens
        return request

    def out_of_time(self, pause: float) -> QuireError | None:
        """DEADLINE_EXCEEDED if the request's timeout_ms will have passed after so many seconds."""
        if self._sent_at is None or not self._request.HasField("timeout_ms"):
            return None
        if self._clock() + pause < self._sent_at + self._request.timeout_ms / 1000:
            return None
        return QuireError(grpc.StatusCode.DEADLINE_EXCEEDED, "timeout_ms passed: no time is left to connect again")

    @property
    def all_finished(self) -> bool:
        return len(self._finished) == len(self._emitted)

    @property
    def num_new_tokens(self) -> int:
        """Tokens that came since the start, over all choices: it grows as long as the stream gets on."""
        return self._num_new_tokens

    @property
    def can_resume(self) -> bool:
        """Whether another connection would bring the same tokens."""
        return self._request.engine in _MOVABLE_ENGINES or self._num_new_tokens == 0

    def accept(self, message: pb.GenerateEvent) -> events.Event | None:
        """The event to hand on; None for one that the caller has, that this version does not know, or that is held
        back: the end of an aborted choice is one only if the status that follows leaves no other attempt.

        QuireError with DATA_LOSS: the server's tokens or prompt_logprobs do not go on where the last ones ended, or
        have other numerics.
        """
        event = events.from_proto(message)
        match event:
            case events.Accepted():
                return event if self._is_first(event) else None
            case events.Delta():
                self._extend(event)
                return self._without_repeats(event)
            case events.Finished():
                if event.reason is events.FinishReason.ABORTED:
                    self._aborted.append(event)
                    return None
                if event.choice in self._finished:
                    return None
                self._finished.add(event.choice)
        return event

    def aborted(self) -> list[events.Finished]:
        """The ends that were held back on this connection."""
        return list(self._aborted)

    def _is_first(self, accepted: events.Accepted) -> bool:
        if self._numerics_id is None:
            self._numerics_id = accepted.numerics_id
            self._max_new_tokens = accepted.parameters.max_new_tokens
            return True
        if accepted.numerics_id != self._numerics_id:  # only equal numerics promise the same tokens
            raise QuireError(grpc.StatusCode.DATA_LOSS,
                             f"the stream would go on with other numerics: {self._numerics_id} before, "
                             f"now {accepted.numerics_id}")
        return False

    def _extend(self, delta: events.Delta) -> None:
        if delta.choice >= len(self._emitted):
            raise QuireError(grpc.StatusCode.DATA_LOSS,
                             f"a token of choice {delta.choice} came; {len(self._emitted)} were asked for")
        ids = self._emitted[delta.choice]
        if delta.first_index != len(ids):
            raise QuireError(grpc.StatusCode.DATA_LOSS,
                             f"token {delta.first_index} of choice {delta.choice} came, not {len(ids)}")
        ids.extend(delta.token_ids)
        self._num_new_tokens += len(delta.token_ids)

    def _without_repeats(self, delta: events.Delta) -> events.Delta | None:
        """The delta less the prompt_logprobs that an earlier connection brought. None: nothing is left."""
        if delta.prompt_logprobs:
            first = max(1, delta.first_prompt_position)  # an older server names none and sends all at once
            due = self._num_prompt_logprobs[delta.choice] + 1  # the first token of a prompt has none
            if first > due:
                raise QuireError(grpc.StatusCode.DATA_LOSS,
                                 f"prompt_logprobs start at position {first} where {due} was due")
            num_repeated = min(due - first, len(delta.prompt_logprobs))
            delta = replace(delta, prompt_logprobs=delta.prompt_logprobs[num_repeated:],
                            first_prompt_position=first + num_repeated)
            self._num_prompt_logprobs[delta.choice] += len(delta.prompt_logprobs)
        return delta if delta.token_ids or delta.text or delta.prompt_logprobs else None
