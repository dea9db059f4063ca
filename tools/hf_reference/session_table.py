"""The sessions of a worker, one for each coordinator_id, and the requests that came over them."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence as Many
from dataclasses import dataclass, field

import grpc
from quire.worker.v1 import worker_pb2 as pb

from hf_reference.convert import Refused, end_of_emitted, finish_to_proto, logprobs_to_proto, sequences_of
from hf_reference.engine import Engine, QueueFull
from hf_reference.sequence import Ending, Finish, StepToken, Tag

# Messages that may wait for a coordinator that does not read; beyond that its connection counts as lost.
_MAX_OUTBOX = 4096
_RETRY_AFTER_MS = 500
# Log-probabilities that one message carries at most: about 1 MiB where each has 20 alternatives, of the 16 that a
# message may have.
_MAX_LOGPROBS_PER_MESSAGE = 4096


class Connection:
    """What is to be sent over one connection. Belongs to the event loop."""

    def __init__(self) -> None:
        self._outbox: asyncio.Queue[pb.SessionEvent | None] = asyncio.Queue(_MAX_OUTBOX + 1)
        self.session: "Session | None" = None
        self.error: tuple[grpc.StatusCode, str] | None = None
        self.overflowed = asyncio.Event()  # what was not sent yet is not worth sending
        self._is_closed = False

    def send(self, event: pb.SessionEvent) -> None:
        if self._is_closed:
            return
        if self._outbox.qsize() >= _MAX_OUTBOX:
            self.overflowed.set()
            self.close(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_OUTBOX} messages wait for the coordinator to read")
        else:
            self._outbox.put_nowait(event)

    def close(self, code: grpc.StatusCode, message: str) -> None:
        """Ends the connection with an error, after what was sent before."""
        if not self._is_closed:
            self.error = (code, message)
            self.finish()

    def finish(self) -> None:
        """Ends the connection, after what was sent before."""
        if not self._is_closed:
            self._is_closed = True
            self._outbox.put_nowait(None)

    async def next_event(self) -> pb.SessionEvent | None:
        """None: the connection is to end."""
        return await self._outbox.get()


@dataclass(eq=False)
class Choice:
    first_index: int  # of tokens[0], in the choice's output
    tokens: list[int] = field(default_factory=list)
    finish: pb.Finish | None = None
    finished: bool = False


@dataclass(eq=False)
class Request:
    key: int
    attempt: int
    request_id: str
    choices: list[Choice]
    has_logprobs: bool
    arrived_at: float
    orphaned_at: float | None = None  # its session's connection was lost then
    first_token_at: float | None = None
    queue_timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class Session:
    number: int
    coordinator_id: str
    connection: Connection | None = None
    requests: dict[int, Request] = field(default_factory=dict)


class SessionTable:
    """Hands requests to the engine and sorts each step into one message a session.

    A session whose connection is lost keeps its requests for `orphan_grace_s`; then they are ended unless the
    coordinator has come back and reclaimed them. Belongs to the event loop; the engine's calls are passed on to it.
    """

    def __init__(self, worker: pb.WorkerInfo, incarnation: str, *, orphan_grace_s: float = 10.0,
                 on_request_end: Callable[[Session, Request], None] = lambda session, request: None) -> None:
        self.worker = worker
        self.incarnation = incarnation
        self._orphan_grace_s = orphan_grace_s
        self._on_request_end = on_request_end
        self._loop = asyncio.get_running_loop()
        self._engine: Engine | None = None
        # By number; a number is never used again. Gone when nothing carries it and no request lives in it.
        self._sessions: dict[int, Session] = {}
        self._next_session = 0
        self._by_coordinator: dict[str, Session] = {}
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._num_requests = 0
        self._rate = 0.0
        self._rate_at, self._rate_tokens = time.monotonic(), 0

    def set_engine(self, engine: Engine) -> None:
        """Once, before any connection."""
        self._engine = engine

    # --- The engine's listener: any thread. ---

    def on_step(self, step: int, tokens: Many[StepToken], finishes: Many[Finish]) -> None:
        self._loop.call_soon_threadsafe(self._deliver, step, tokens, finishes)

    def on_load(self) -> None:
        self._loop.call_soon_threadsafe(self._send_load)

    # --- Connections. ---

    def handle(self, connection: Connection, message: pb.SessionRequest) -> None:
        session = connection.session
        kind = message.WhichOneof("request")
        if session is None:
            if kind != "open":
                connection.close(grpc.StatusCode.FAILED_PRECONDITION, "the first message of a session must be Open")
            else:
                self._open(connection, message.open)
        elif session.connection is not connection:
            return
        elif kind == "submit":
            self._submit(session, message.submit)
        elif kind == "cancel":
            self._cancel(session, message.cancel)
        elif kind == "reclaim":
            self._reclaim(session, message.reclaim)
        elif kind == "ping":
            since_ms = int(self._engine.since_progress_s() * 1000)
            self._send(session, pb.SessionEvent(pong=pb.Pong(nonce=message.ping.nonce, last_step=self._engine.steps,
                                                             since_progress_ms=since_ms)))

    def lost(self, connection: Connection) -> None:
        session = connection.session
        if session is None or session.connection is not connection:
            return
        session.connection = None
        self._orphan(session)

    def tick(self) -> None:
        """To be called some times a second: loads go out, orphans end whose grace is over, and with its last one a
        session that nothing carries.
        """
        now = time.monotonic()
        tokens = self._engine.load().output_tokens
        if now - self._rate_at >= 1:
            self._rate = (tokens - self._rate_tokens) / (now - self._rate_at)
            self._rate_at, self._rate_tokens = now, tokens
        self._send_load()
        for session in list(self._sessions.values()):
            for request in list(session.requests.values()):
                if request.orphaned_at is not None and now - request.orphaned_at >= self._orphan_grace_s:
                    self._drop(session, request)
            if session.connection is None and not session.requests:
                del self._by_coordinator[session.coordinator_id], self._sessions[session.number]

    def load(self) -> pb.Load:
        load = self._engine.load()
        return pb.Load(running=load.running, waiting=load.waiting, output_tokens_per_s=self._rate,
                       kv_reserved_bytes=load.kv_reserved_bytes, kv_used_bytes=load.kv_used_bytes,
                       draining=self._draining)

    # --- The end. ---

    def start_draining(self) -> None:
        """From now on requests are refused; those that live go on."""
        self._draining = True
        self._send_load()

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """Whether no request lives any more."""
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def end_all(self) -> None:
        """Ends what still lives, with UNAVAILABLE."""
        self._engine.end(lambda tag: True, Ending(grpc.StatusCode.UNAVAILABLE, "the worker shut down"))

    def close(self) -> None:
        """Ends every connection, after what was sent before."""
        for session in self._sessions.values():
            if session.connection is not None:
                session.connection.finish()

    # --- Requests. ---

    def _open(self, connection: Connection, opening: pb.Open) -> None:
        if not opening.coordinator_id or opening.protocol != 1:
            connection.close(grpc.StatusCode.FAILED_PRECONDITION,
                             f"Open needs a coordinator_id and protocol 1; it has protocol {opening.protocol}")
            return
        session = self._by_coordinator.get(opening.coordinator_id)
        if session is None:
            session = Session(self._next_session, opening.coordinator_id)
            self._next_session += 1
            self._sessions[session.number] = session
            self._by_coordinator[opening.coordinator_id] = session
        if session.connection is not None:
            session.connection.close(grpc.StatusCode.ABORTED, "superseded by a newer connection")
        session.connection, connection.session = connection, session
        self._orphan(session)  # what lives belongs to no connection until it is reclaimed
        self._send(session, pb.SessionEvent(opened=pb.Opened(incarnation=self.incarnation, worker=self.worker)))
        self._send(session, pb.SessionEvent(load=self._load_for(session)))

    def _submit(self, session: Session, submit: pb.Submit) -> None:
        try:
            if self._draining:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "the worker is draining")
            now = time.monotonic()
            sequences = sequences_of(submit, session.number, self.worker.context_length, self.worker.vocabulary_size,
                                     now)
            earlier = session.requests.get(submit.key)
            if earlier is not None:
                if earlier.attempt >= submit.attempt:
                    return  # sent again
                self._drop(session, earlier)
            self._drop_orphans(submit.request_id, session)
            parameters = submit.parameters
            request = Request(submit.key, submit.attempt, submit.request_id, [Choice(s.num_emitted) for s in sequences],
                              parameters.HasField("logprobs") or parameters.HasField("prompt_logprobs"), now)
            ended = [finish for s in sequences if (finish := end_of_emitted(s)) is not None]
            done = {finish.tag.choice for finish in ended}
            for choice, flag in enumerate(submit.choice_finished[:len(request.choices)]):
                if flag:
                    request.choices[choice].finished = True
                    done.add(choice)
            to_run = [s for s in sequences if s.tag.choice not in done]
            if to_run:
                self._engine.submit(to_run)
        except Refused as refused:
            self._reject(session, submit.key, submit.attempt, refused.code, refused.message)
            return
        except QueueFull as full:
            self._reject(session, submit.key, submit.attempt, grpc.StatusCode.RESOURCE_EXHAUSTED, str(full))
            return
        session.requests[request.key] = request
        self._num_requests += 1
        self._idle.clear()
        if to_run and submit.queue_timeout_ms > 0:
            request.queue_timer = self._loop.call_later(submit.queue_timeout_ms / 1000, self._queue_timeout, session,
                                                        request)
        if ended or not to_run:
            self._deliver(self._engine.steps, [], [f for f in ended if not request.choices[f.tag.choice].finished])
            self._forget_if_done(session, request)

    def _cancel(self, session: Session, cancel: pb.Cancel) -> None:
        request = session.requests.get(cancel.key)
        if request is None:
            return
        choice = cancel.choice if cancel.HasField("choice") else None
        stop_index = cancel.stop_index if choice is not None and cancel.HasField("stop_index") else None
        self._engine.end(self._is_of(session, request, choice),
                         Ending(grpc.StatusCode.CANCELLED, "cancelled", stop_index))

    def _queue_timeout(self, session: Session, request: Request) -> None:
        waited_ms = int((time.monotonic() - request.arrived_at) * 1000)
        self._engine.end_waiting(
            self._is_of(session, request),
            Ending(grpc.StatusCode.DEADLINE_EXCEEDED,
                   f"queue_timeout_ms passed after {waited_ms} ms in the worker's queue, 0 tokens out"))

    def _reclaim(self, session: Session, reclaim: pb.Reclaim) -> None:
        request = session.requests.get(reclaim.key)
        if request is None or request.attempt != reclaim.attempt:
            self._reject(session, reclaim.key, reclaim.attempt, grpc.StatusCode.NOT_FOUND,
                         "no such request is alive here")
            return
        if request.has_logprobs:
            self._reject(session, reclaim.key, reclaim.attempt, grpc.StatusCode.FAILED_PRECONDITION,
                         "log-probabilities cannot be replayed: submit it again")
            self._drop(session, request)
            return
        request.orphaned_at = None
        output = pb.StepOutput(step=self._engine.steps)
        for number, choice in enumerate(request.choices):
            next_index = reclaim.next_index[number] if number < len(reclaim.next_index) else 0
            missed = choice.tokens[max(0, next_index - choice.first_index):]
            if missed:
                output.key.append(request.key)
                output.attempt.append(request.attempt)
                output.choice.append(number)
                output.first_index.append(max(next_index, choice.first_index))
                output.num_tokens.append(len(missed))
                output.token_ids.extend(missed)
            if choice.finish is not None:
                output.finishes.append(choice.finish)
        self._send(session, pb.SessionEvent(step_output=output))
        self._forget_if_done(session, request)

    def _deliver(self, step: int, tokens: Many[StepToken], finishes: Many[Finish]) -> None:
        outputs: dict[int, pb.StepOutput] = defaultdict(lambda: pb.StepOutput(step=step))
        for token in tokens:
            request = self._find(token.tag)
            if request is None:
                continue
            if request.first_token_at is None:
                request.first_token_at = time.monotonic()
            request.choices[token.tag.choice].tokens.append(token.token)
            if request.orphaned_at is None:
                self._send_prompt_logprobs(step, token)
                _append(outputs[token.tag.session], token)
        for finish in finishes:
            request = self._find(finish.tag)
            if request is None:
                continue
            choice = request.choices[finish.tag.choice]
            choice.finished, choice.finish = True, finish_to_proto(finish)
            if request.orphaned_at is None:
                outputs[finish.tag.session].finishes.append(choice.finish)
        for number, output in outputs.items():
            if not any(output.choice):
                output.ClearField("choice")
            self._send(self._sessions[number], pb.SessionEvent(step_output=output))
        for finish in finishes:
            request = self._find(finish.tag)
            if request is not None:
                self._forget_if_done(self._sessions[finish.tag.session], request)

    def _send_prompt_logprobs(self, step: int, token: StepToken) -> None:
        """Ahead of the step's message, in messages of their own: those of a long prompt fit into none."""
        for begin in range(0, len(token.prompt_logprobs), _MAX_LOGPROBS_PER_MESSAGE):
            part = token.prompt_logprobs[begin:begin + _MAX_LOGPROBS_PER_MESSAGE]
            entry = pb.EntryLogprobs(key=token.tag.key, choice=token.tag.choice, first_prompt_position=begin + 1,
                                     prompt=[logprobs_to_proto(logprobs) for logprobs in part])
            self._send(self._sessions[token.tag.session],
                       pb.SessionEvent(step_output=pb.StepOutput(step=step, logprobs=[entry])))

    def _find(self, tag: Tag) -> Request | None:
        session = self._sessions.get(tag.session)
        request = session.requests.get(tag.key) if session is not None else None
        return request if request is not None and request.attempt == tag.attempt else None

    def _drop(self, session: Session, request: Request) -> None:
        """Ends and forgets a request that no one waits for."""
        self._engine.end(self._is_of(session, request), Ending(grpc.StatusCode.CANCELLED, "its coordinator is gone"))
        self._forget(session, request)

    def _drop_orphans(self, request_id: str, keeper: Session) -> None:
        """The same request, placed here by another coordinator after its own was lost, replaces the orphan."""
        for session in self._sessions.values() if request_id else ():
            for request in list(session.requests.values()):
                if session is not keeper and request.request_id == request_id and request.orphaned_at is not None:
                    self._drop(session, request)

    def _forget_if_done(self, session: Session, request: Request) -> None:
        # The end of an orphan waits for the coordinator that may reclaim it.
        if request.orphaned_at is None and all(choice.finished for choice in request.choices):
            self._forget(session, request)

    def _forget(self, session: Session, request: Request) -> None:
        if session.requests.get(request.key) is not request:
            return
        del session.requests[request.key]
        if request.queue_timer is not None:
            request.queue_timer.cancel()
        self._num_requests -= 1
        if self._num_requests == 0:
            self._idle.set()
        self._on_request_end(session, request)

    @staticmethod
    def _is_of(session: Session, request: Request, choice: int | None = None) -> Callable[[Tag], bool]:
        return lambda tag: (tag.session == session.number and tag.key == request.key
                            and tag.attempt == request.attempt and choice in (None, tag.choice))

    def _orphan(self, session: Session) -> None:
        now = time.monotonic()
        for request in session.requests.values():
            if request.orphaned_at is None:
                request.orphaned_at = now

    def _reject(self, session: Session, key: int, attempt: int, code: grpc.StatusCode, message: str) -> None:
        retry_after_ms = _RETRY_AFTER_MS if code is grpc.StatusCode.RESOURCE_EXHAUSTED else 0
        self._send(session, pb.SessionEvent(rejected=pb.Rejected(
            key=key, attempt=attempt, status_code=code.value[0], status_message=message,
            retry_after_ms=retry_after_ms)))

    def _load_for(self, session: Session) -> pb.Load:
        load = self.load()
        own = sum(not choice.finished for request in session.requests.values() for choice in request.choices)
        load.own_sequences = min(own, load.running + load.waiting)
        return load

    def _send_load(self) -> None:
        for session in self._sessions.values():
            self._send(session, pb.SessionEvent(load=self._load_for(session)))

    @staticmethod
    def _send(session: Session, event: pb.SessionEvent) -> None:
        if session.connection is not None:
            session.connection.send(event)


def _append(output: pb.StepOutput, token: StepToken) -> None:
    """One token of one choice; num_tokens stays empty, since every entry has one."""
    output.key.append(token.tag.key)
    output.attempt.append(token.tag.attempt)
    output.choice.append(token.tag.choice)
    output.first_index.append(token.index)
    output.token_ids.append(token.token)
    if token.logprobs is not None:
        output.logprobs.append(pb.EntryLogprobs(key=token.tag.key, choice=token.tag.choice, first_index=token.index,
                                                output=[logprobs_to_proto(token.logprobs)]))
