"""One request's stream across connections: pure bookkeeping, shared by both clients."""

import grpc

from quire.v1 import inference_pb2 as pb
from quire_client import events
from quire_client.errors import QuireError


class StreamState:
    """Keeps what came of a request, so that a broken stream can be taken up after its last token.

    Not thread safe: its stream owns it.
    """

    def __init__(self, request: pb.GenerateRequest) -> None:
        self._request = request
        self._accepted = False
        self._emitted = [list(choice.emitted_token_ids) for choice in request.resume.choices]
        while len(self._emitted) < max(1, request.sampling.n):
            self._emitted.append([])
        self._finished: set[int] = set()
        self._aborted: list[events.Finished] = []

    def next_request(self) -> pb.GenerateRequest:
        """What to send on a new connection: the request, and the tokens that came already."""
        self._aborted.clear()
        request = pb.GenerateRequest()
        request.CopyFrom(self._request)
        request.ClearField("resume")
        if any(self._emitted):
            for ids in self._emitted:
                request.resume.choices.add(emitted_token_ids=ids)
        return request

    @property
    def all_finished(self) -> bool:
        return len(self._finished) == len(self._emitted)

    def accept(self, message: pb.GenerateEvent) -> events.Event | None:
        """The event to hand on; None for one that the caller has, that this version does not know, or that is held
        back: the end of an aborted choice is one only if the status that follows leaves no other attempt.

        QuireError with DATA_LOSS: the server's tokens do not go on where the last ones ended.
        """
        event = events.from_proto(message)
        match event:
            case events.Accepted():
                first, self._accepted = not self._accepted, True
                return event if first else None
            case events.Delta():
                self._extend(event)
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

    def _extend(self, delta: events.Delta) -> None:
        if delta.choice >= len(self._emitted):
            raise QuireError(grpc.StatusCode.DATA_LOSS,
                             f"a token of choice {delta.choice} came; {len(self._emitted)} were asked for")
        ids = self._emitted[delta.choice]
        if delta.first_index != len(ids):
            raise QuireError(grpc.StatusCode.DATA_LOSS,
                             f"token {delta.first_index} of choice {delta.choice} came, not {len(ids)}")
        ids.extend(delta.token_ids)
