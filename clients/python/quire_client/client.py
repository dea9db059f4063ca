"""The clients: Client blocks, AsyncClient belongs to an asyncio event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self, Unpack

import grpc
import grpc.aio
from google.protobuf.message import Message

from quire.v1 import inference_pb2_grpc as pb_grpc
from quire_client import calls
from quire_client.calls import Result, UnaryCall
from quire_client.errors import QuireError, of_call
from quire_client.events import Delta, Event, Finished
from quire_client.info import Model, ServerInfo, TokenizedText, WorkerLoad
from quire_client.request import GenerateOptions, Prompt, build_request
from quire_client.stream import StreamState
from quire_client.targets import CHANNEL_OPTIONS, Targets
from quire_client.tls import PathLike, tls_credentials

_DEFAULT_ATTEMPTS = 8


def _remaining(deadline: float | None) -> float | None:
    """Seconds until a time.monotonic() deadline; QuireError if it has passed."""
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise QuireError(grpc.StatusCode.DEADLINE_EXCEEDED, "the client's timeout passed")
    return remaining


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _text_of(event: Event) -> str:
    """The text of choice 0 that an event brings."""
    return event.text if isinstance(event, (Delta, Finished)) and event.choice == 0 else ""


def _closed() -> QuireError:
    return QuireError(grpc.StatusCode.CANCELLED, "the client is closed")


def _cut_short() -> QuireError:
    return QuireError(grpc.StatusCode.DATA_LOSS, "the stream ended before every choice had finished")


class Client:
    """Asks coordinators and waits for the answer. Thread safe.

    targets: one or more HOST:PORT, as a sequence or separated by commas. The first that answers is used, and kept
    until it fails. tls_cert, tls_key, tls_ca: PEM files of this client's certificate, of its key, and of the
    authorities whose coordinators are trusted; with all three, connections are by mutual TLS, and a target's
    certificate must name the host of its address. They are read once: ValueError or OSError, naming the argument or
    the file, where they cannot be used. credentials: gRPC's own, in their place. Without either: plain text.
    max_attempts: how many attempts at each target in a row, without a new token between them, may end UNAVAILABLE
    before the error is the caller's.
    """

    def __init__(self, targets: str | Sequence[str], *, tls_cert: PathLike | None = None,
                 tls_key: PathLike | None = None, tls_ca: PathLike | None = None,
                 credentials: grpc.ChannelCredentials | None = None, max_attempts: int = _DEFAULT_ATTEMPTS) -> None:
        credentials = tls_credentials(tls_cert, tls_key, tls_ca, credentials)
        self._targets = Targets(targets, max_attempts)
        self._channels = [
            grpc.insecure_channel(target, CHANNEL_OPTIONS) if credentials is None else
            grpc.secure_channel(target, credentials, CHANNEL_OPTIONS) for target in self._targets.names
        ]
        self._stubs = [pb_grpc.InferenceStub(channel) for channel in self._channels]
        self._is_closed = threading.Event()

    def close(self) -> None:
        """Ends running calls, and later ones, with CANCELLED."""
        self._is_closed.set()
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(self, prompt: Prompt, *, timeout: float | None = None,
                 **options: Unpack[GenerateOptions]) -> Iterator[Event]:
        """Events of one request: Accepted, then Delta and Notice, then Finished for each choice.

        timeout: seconds for all of it. The request is sent when the first event is asked for; leaving the loop
        early cancels it. A stream of the paged engine that breaks off is resumed, at the next target if there are
        several; one of another engine only as long as no token has come.
        """
        return self._events(StreamState(build_request(prompt, **options)), _deadline(timeout))

    def generate_text(self, prompt: Prompt, *, timeout: float | None = None,
                      **options: Unpack[GenerateOptions]) -> str:
        """The text of choice 0, as a whole."""
        return "".join(_text_of(event) for event in self.generate(prompt, timeout=timeout, **options))

    def cancel(self, request_id: str, *, tenant: str = "") -> bool:
        """Stops a request, whichever target runs it; tenant is the request's. Whether it lived.

        QuireError if no target answered.
        """
        call = calls.cancel(request_id, tenant)
        return calls.was_found([self._try(target, call) for target in range(len(self._stubs))])

    def tokenize(self, text: str, *, model: str = "", add_special_tokens: bool | None = None) -> TokenizedText:
        return self._call(calls.tokenize(text, model, add_special_tokens))

    def detokenize(self, token_ids: Sequence[int], *, model: str = "",
                   skip_special_tokens: bool | None = None) -> str:
        return self._call(calls.detokenize(token_ids, model, skip_special_tokens))

    def models(self) -> list[Model]:
        return self._call(calls.models())

    def model(self, model: str) -> Model:
        return self._call(calls.model(model))

    def load(self) -> list[WorkerLoad]:
        """What each worker is doing now."""
        return self._call(calls.load())

    def server_info(self) -> ServerInfo:
        return self._call(calls.server_info())

    def _events(self, state: StreamState, deadline: float | None) -> Iterator[Event]:
        attempts = self._targets.attempts()
        while True:
            call = self._invoke(attempts.target, "Generate", state.next_request(), _remaining(deadline))
            try:
                for message in call:
                    attempts.answered()
                    event = state.accept(message)
                    if event is not None:
                        yield event
                failure = _cut_short()
            except grpc.RpcError as error:
                failure = _closed() if self._is_closed.is_set() else of_call(error)
            finally:
                call.cancel()
            if state.all_finished:
                return
            pause = attempts.pause_after(failure, state.num_new_tokens) if state.can_resume else None
            if pause is not None and (late := state.out_of_time(pause)):
                pause, failure = None, late
            if pause is None:
                yield from state.aborted()
                raise failure
            self._wait(pause, deadline)

    def _call(self, call: UnaryCall[Result]) -> Result:
        attempts = self._targets.attempts()
        while True:
            answer = self._try(attempts.target, call)
            if not isinstance(answer, QuireError):
                attempts.answered()
                return answer
            pause = attempts.pause_after(answer)
            if pause is None:
                raise answer
            self._wait(pause, None)

    def _try(self, target: int, call: UnaryCall[Result]) -> Result | QuireError:
        try:
            return call.result_of(self._invoke(target, call.method, call.request))
        except grpc.RpcError as error:
            return _closed() if self._is_closed.is_set() else of_call(error)

    def _invoke(self, target: int, method: str, request: Message, timeout: float | None = None) -> Any:
        """Begins a stream, or waits for a unary call's answer. QuireError with CANCELLED if the client is closed."""
        if self._is_closed.is_set():
            raise _closed()
        try:
            return getattr(self._stubs[target], method)(request, timeout=timeout)
        except ValueError:  # gRPC's word for a channel that another thread has closed
            if self._is_closed.is_set():
                raise _closed() from None
            raise

    def _wait(self, pause: float, deadline: float | None) -> None:
        remaining = _remaining(deadline)
        if self._is_closed.wait(pause if remaining is None else min(pause, remaining)):
            raise _closed()


class AsyncClient:
    """Client for asyncio: the same arguments and methods. Belongs to the event loop that made it."""

    def __init__(self, targets: str | Sequence[str], *, tls_cert: PathLike | None = None,
                 tls_key: PathLike | None = None, tls_ca: PathLike | None = None,
                 credentials: grpc.ChannelCredentials | None = None, max_attempts: int = _DEFAULT_ATTEMPTS) -> None:
        credentials = tls_credentials(tls_cert, tls_key, tls_ca, credentials)
        self._targets = Targets(targets, max_attempts)
        self._channels = [
            grpc.aio.insecure_channel(target, CHANNEL_OPTIONS) if credentials is None else
            grpc.aio.secure_channel(target, credentials, CHANNEL_OPTIONS) for target in self._targets.names
        ]
        self._stubs = [pb_grpc.InferenceStub(channel) for channel in self._channels]
        self._is_closed = asyncio.Event()

    async def close(self) -> None:
        """Ends running calls, and later ones, with CANCELLED."""
        self._is_closed.set()
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def generate(self, prompt: Prompt, *, timeout: float | None = None,
                 **options: Unpack[GenerateOptions]) -> AsyncIterator[Event]:
        """As Client.generate. A loop that is left early cancels the request once the iterator is closed."""
        return self._events(StreamState(build_request(prompt, **options)), _deadline(timeout))

    async def generate_text(self, prompt: Prompt, *, timeout: float | None = None,
                            **options: Unpack[GenerateOptions]) -> str:
        """The text of choice 0, as a whole."""
        return "".join([_text_of(event) async for event in self.generate(prompt, timeout=timeout, **options)])

    async def cancel(self, request_id: str, *, tenant: str = "") -> bool:
        """Stops a request, whichever target runs it; tenant is the request's. Whether it lived.

        QuireError if no target answered.
        """
        call = calls.cancel(request_id, tenant)
        return calls.was_found([await self._try(target, call) for target in range(len(self._stubs))])

    async def tokenize(self, text: str, *, model: str = "", add_special_tokens: bool | None = None) -> TokenizedText:
        return await self._call(calls.tokenize(text, model, add_special_tokens))

    async def detokenize(self, token_ids: Sequence[int], *, model: str = "",
                         skip_special_tokens: bool | None = None) -> str:
        return await self._call(calls.detokenize(token_ids, model, skip_special_tokens))

    async def models(self) -> list[Model]:
        return await self._call(calls.models())

    async def model(self, model: str) -> Model:
        return await self._call(calls.model(model))

    async def load(self) -> list[WorkerLoad]:
        """What each worker is doing now."""
        return await self._call(calls.load())

    async def server_info(self) -> ServerInfo:
        return await self._call(calls.server_info())

    async def _events(self, state: StreamState, deadline: float | None) -> AsyncIterator[Event]:
        attempts = self._targets.attempts()
        while True:
            call = self._invoke(attempts.target, "Generate", state.next_request(), _remaining(deadline))
            try:
                async for message in call:
                    attempts.answered()
                    event = state.accept(message)
                    if event is not None:
                        yield event
                failure = _cut_short()
            except grpc.RpcError as error:
                failure = _closed() if self._is_closed.is_set() else of_call(error)
            except asyncio.CancelledError:
                self._check_cause()
                raise
            finally:
                call.cancel()
            if state.all_finished:
                return
            pause = attempts.pause_after(failure, state.num_new_tokens) if state.can_resume else None
            if pause is not None and (late := state.out_of_time(pause)):
                pause, failure = None, late
            if pause is None:
                for event in state.aborted():
                    yield event
                raise failure
            await self._wait(pause, deadline)

    async def _call(self, call: UnaryCall[Result]) -> Result:
        attempts = self._targets.attempts()
        while True:
            answer = await self._try(attempts.target, call)
            if not isinstance(answer, QuireError):
                attempts.answered()
                return answer
            pause = attempts.pause_after(answer)
            if pause is None:
                raise answer
            await self._wait(pause, None)

    async def _try(self, target: int, call: UnaryCall[Result]) -> Result | QuireError:
        try:
            return call.result_of(await self._invoke(target, call.method, call.request))
        except grpc.RpcError as error:
            return _closed() if self._is_closed.is_set() else of_call(error)
        except asyncio.CancelledError:
            self._check_cause()
            raise

    def _invoke(self, target: int, method: str, request: Message, timeout: float | None = None) -> Any:
        """A call that has begun. QuireError with CANCELLED if the client is closed."""
        if self._is_closed.is_set():
            raise _closed()
        return getattr(self._stubs[target], method)(request, timeout=timeout)

    def _check_cause(self) -> None:
        """For a call that was cancelled: QuireError if close() did it, and not the task that runs the call."""
        if self._is_closed.is_set() and not asyncio.current_task().cancelling():
            raise _closed() from None

    async def _wait(self, pause: float, deadline: float | None) -> None:
        remaining = _remaining(deadline)
        try:
            await asyncio.wait_for(self._is_closed.wait(), pause if remaining is None else min(pause, remaining))
        except TimeoutError:
            return
        raise _closed()
