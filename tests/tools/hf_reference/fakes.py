"""A generator without a model, and a listener that keeps what it hears."""

import threading

from hf_reference.sequence import KvState, RowStep, SamplingParams, Sequence, Tag


class FakeGenerator:
    """Row i of a batch gets the token 10 * (its key) + index. Runs as generate() does, to the end of the longest row.

    A gate, if given, is waited for before each step. prompt_logprobs: those that come with the first step.
    """

    kv_bytes_per_token = 2

    def __init__(self, gate=None, error=None, prompt_logprobs=()):
        self.batches = []
        self._gate = gate
        self._error = error
        self._prompt_logprobs = tuple(prompt_logprobs)

    def generate(self, batch, on_step):
        self.batches.append([row.tag.key for row in batch])
        if self._error is not None:
            raise self._error
        prompt_logprobs = self._prompt_logprobs
        width = max(len(row.tokens) for row in batch)
        while not all(row.finished for row in batch):
            if self._gate is not None:
                self._gate.acquire()
            width += 1
            rows = [RowStep(10 * row.tag.key + len(row.output), prompt_logprobs=prompt_logprobs) for row in batch]
            on_step(rows, KvState(100, width))
            prompt_logprobs = ()


class Recorder:
    """An engine's listener. wait_for() blocks until a condition over what came holds."""

    def __init__(self):
        self._changed = threading.Condition()
        self.tokens = {}
        self.finishes = {}
        self.loads = 0

    def on_step(self, step, tokens, finishes):
        with self._changed:
            for token in tokens:
                self.tokens.setdefault(token.tag.key, []).append(token.token)
            for finish in finishes:
                self.finishes[finish.tag.key] = finish
            self._changed.notify_all()

    def on_load(self):
        with self._changed:
            self.loads += 1
            self._changed.notify_all()

    def wait_for(self, condition):
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), 20):
                raise TimeoutError("what the test waits for did not come")


def sequence(key, max_new_tokens=3, prompt=(1, 2), output=(), **params):
    return Sequence(tag=Tag(0, key, 1, 0), prompt=list(prompt), params=SamplingParams(**params),
                    max_new_tokens=max_new_tokens, arrived_at=0.0, output=list(output), num_emitted=len(output))
