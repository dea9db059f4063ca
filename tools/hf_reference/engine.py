"""The engine: one thread that runs sequences in arrival order and tells a listener what came of them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence as Many
from dataclasses import replace
from typing import Protocol

import grpc

from hf_reference.sequence import Ending, Finish, KvState, Load, OnStep, RowStep, Sequence, StepToken, Tag


class Listener(Protocol):
    """Called on the engine's thread, or on that of the caller; must return at once."""

    def on_step(self, step: int, tokens: Many[StepToken], finishes: Many[Finish]) -> None: ...

    def on_load(self) -> None:
        """load() has changed."""


class TokenGenerator(Protocol):
    """generation.Generator, as the engine sees it."""

    kv_bytes_per_token: int

    def generate(self, batch: Many[Sequence], on_step: OnStep) -> None: ...


class QueueFull(Exception):
    pass


def _share_a_batch(first: Sequence, other: Sequence) -> bool:
    """generate() takes one set of parameters a batch, and torch's random numbers are one stream for all rows."""

    def is_plain(sequence: Sequence) -> bool:
        return sequence.params.is_greedy and not sequence.output and sequence.params.prompt_logprobs is None

    def parameters(sequence: Sequence) -> object:
        return replace(sequence.params, seed=0)

    return is_plain(first) and is_plain(other) and parameters(first) == parameters(other)


class Engine:
    """Runs up to `batch_size` sequences at once as one padded batch (static batching); 1 is one at a time.

    A batch begins when it is full, or `batch_wait_s` after its first sequence came, and runs to the end of its
    longest sequence. At most `max_queue` sequences wait. Thread safe.
    """

    def __init__(self, generator: TokenGenerator, listener: Listener, *, max_queue: int, batch_size: int = 1,
                 batch_wait_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._generator = generator
        self._listener = listener
        self._max_queue = max_queue
        self._batch_size = batch_size
        self._batch_wait_s = batch_wait_s
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._is_stopping = False
        self._load = Load()
        self._steps = 0
        self._progress_at = clock()
        self._thread = threading.Thread(target=self._run, name="engine")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends what lives, within a step, and returns when the thread has ended."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self.end(lambda tag: True, Ending(grpc.StatusCode.UNAVAILABLE, "the worker shut down"))
        self._thread.join()

    def submit(self, sequences: Many[Sequence]) -> None:
        """Queues the choices of one request; QueueFull if none may wait any more."""
        with self._changed:
            if len(self._waiting) >= self._max_queue:
                raise QueueFull(f"the worker's queue is full: {len(self._waiting)} sequences wait")
            self._waiting.extend(sequences)
            self._changed.notify_all()
            self._update_load()
        self._listener.on_load()

    def end(self, is_meant: Callable[[Tag], bool], ending: Ending) -> None:
        """Ends the sequences that are meant: waiting ones now, running ones after their step."""
        with self._changed:
            gone = [s for s in self._waiting if is_meant(s.tag)]
            for sequence in gone:
                self._waiting.remove(sequence)
                sequence.ending = ending
            for sequence in self._running:
                if is_meant(sequence.tag) and sequence.ending is None:
                    sequence.ending = ending
            self._update_load()
        if gone:
            now = self._clock()
            self._listener.on_step(self._steps, [], [_finish(s, now, None, 0, 0) for s in gone])
            self._listener.on_load()

    def end_waiting(self, is_meant: Callable[[Tag], bool], ending: Ending) -> None:
        """The same, of the waiting ones alone."""
        with self._changed:
            waiting = {s.tag for s in self._waiting if is_meant(s.tag)}
        self.end(waiting.__contains__, ending)

    def load(self) -> Load:
        with self._changed:
            return self._load

    @property
    def steps(self) -> int:
        return self._steps

    def since_progress_s(self) -> float:
        """Since the last step, or since work came to an idle engine; 0 while it is idle."""
        load = self.load()
        return self._clock() - self._progress_at if load.running + load.waiting > 0 else 0.0

    def _update_load(self, **changes: int) -> None:
        self._load = replace(self._load, waiting=len(self._waiting),
                             running=sum(not s.finished for s in self._running), **changes)

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._listener.on_load()
            try:
                self._generator.generate(batch, lambda rows, kv: self._settle(batch, rows, kv))
                failure = "generate() ended before its rows had"
            except Exception as error:  # whatever transformers and torch raise ends this batch alone
                failure = f"{type(error).__name__}: {error}"
            now = self._clock()
            finishes = []
            for row in batch:
                if not row.finished:
                    row.ending = row.ending or Ending(grpc.StatusCode.INTERNAL, failure)
                    finishes.append(_finish(row, now, None, 0, 0))
                    row.finished = True
            with self._changed:
                self._running = []
                self._progress_at = now
                self._update_load(kv_reserved_bytes=0, kv_used_bytes=0)
            if finishes:
                self._listener.on_step(self._steps, [], finishes)
            self._listener.on_load()

    def _next_batch(self) -> list[Sequence] | None:
        """Waits for work; None when the engine stops. The batch counts as running from then on."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._is_stopping)
                if self._is_stopping:
                    return None
                if self._batch_size == 1:
                    break
                until = self._waiting[0].arrived_at + self._batch_wait_s
                self._changed.wait_for(lambda: len(self._waiting) >= self._batch_size or self._is_stopping,
                                       max(0.0, until - self._clock()))
                if self._waiting:
                    break
            first = self._waiting.popleft()
            batch = [first]
            for other in list(self._waiting):
                if len(batch) < self._batch_size and _share_a_batch(first, other):
                    self._waiting.remove(other)
                    batch.append(other)
            now = self._clock()
            for sequence in batch:
                sequence.started_at = now
            self._running = batch
            self._progress_at = now
            self._update_load()
            return batch

    def _settle(self, batch: Many[Sequence], rows: Many[RowStep], kv: KvState) -> None:
        now = self._clock()
        tokens, finishes = [], []
        used_tokens = 0
        for sequence, row in zip(batch, rows):
            if sequence.finished:
                continue
            held = len(sequence.prompt) + len(sequence.output)  # positions whose keys and values are there
            used_tokens += held
            sequence.kv_max_unused_tokens = max(sequence.kv_max_unused_tokens, kv.reserved_tokens - held)
            stop_token = None
            if sequence.ending is None:
                tokens.append(StepToken(sequence.tag, len(sequence.output), row.token, row.logprobs,
                                        row.prompt_logprobs))
                sequence.output.append(row.token)
                if sequence.first_token_at is None:
                    sequence.first_token_at = now
                sequence.last_token_at = now
                if row.token in sequence.params.stop_token_ids:
                    stop_token = row.token
                elif sequence.num_remaining > 0:
                    continue
            used = held * self._generator.kv_bytes_per_token
            finishes.append(_finish(sequence, now, stop_token, kv.reserved_bytes // len(batch), used))
            sequence.finished = True
        with self._changed:
            self._steps += 1
            self._progress_at = now
            self._update_load(kv_reserved_bytes=kv.reserved_bytes,
                              kv_used_bytes=used_tokens * self._generator.kv_bytes_per_token,
                              output_tokens=self._load.output_tokens + len(tokens))
        self._listener.on_step(self._steps, tokens, finishes)
        if finishes:
            self._listener.on_load()


def _finish(sequence: Sequence, now: float, stop_token: int | None, reserved: int, used: int) -> Finish:
    output_tokens = len(sequence.output)
    if sequence.ending is not None and sequence.ending.stop_index is not None:
        output_tokens = min(output_tokens, sequence.ending.stop_index)
    started, first = sequence.started_at, sequence.first_token_at
    return Finish(
        tag=sequence.tag, stop_token=stop_token, ending=sequence.ending, prompt_tokens=len(sequence.prompt),
        output_tokens=output_tokens, kv_reserved_bytes=reserved, kv_used_bytes=used,
        kv_max_unused_tokens=sequence.kv_max_unused_tokens,
        queued_s=(now if started is None else started) - sequence.arrived_at,
        prefill_s=first - started if first is not None and started is not None else 0.0,
        decode_s=sequence.last_token_at - first if first is not None and sequence.last_token_at is not None else 0.0)
