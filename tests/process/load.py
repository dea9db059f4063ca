"""Requests without end through the client library, each answer compared with that of an undisturbed run."""

import random
import threading
import time
from collections.abc import Callable, Sequence

from harness import wait_until
from quire_client import Client, Delta, Finished, Notice, NoticeKind

# Prompt and options of a request: greedy and sampled, several choices, stop strings.
Kind = tuple[str | list[int], dict]
KINDS: list[Kind] = [
    ("Once upon a time", {"max_new_tokens": 64, "temperature": 0}),
    ("The sea", {"max_new_tokens": 64, "temperature": 1, "top_p": 0.95, "seed": 11}),
    ("A letter", {"max_new_tokens": 48, "temperature": 0.8, "seed": 12, "n": 3}),
    ("In the garden", {"max_new_tokens": 96, "temperature": 1.2, "seed": 13, "stop": [" the"]}),
]


class Outcome:
    """What a client saw of a request, checked as it came."""

    def __init__(self, events) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.texts: dict[int, str] = {}
        self.reasons: dict[int, object] = {}
        self.num_moves = 0
        self.times: list[float] = []  # time.monotonic() of each message with tokens
        for event in events:
            if isinstance(event, Delta):
                tokens = self.tokens.setdefault(event.choice, [])
                if event.first_index != len(tokens):
                    raise AssertionError(f"index {event.first_index} came after {len(tokens)} tokens")
                tokens.extend(event.token_ids)
                self.texts[event.choice] = self.texts.get(event.choice, "") + event.text
                self.times.append(time.monotonic())
            elif isinstance(event, Finished):
                if event.choice in self.reasons:
                    raise AssertionError(f"choice {event.choice} finished twice")
                self.texts[event.choice] = self.texts.get(event.choice, "") + event.text
                self.reasons[event.choice] = event.reason
            elif isinstance(event, Notice):
                self.num_moves += event.kind is NoticeKind.MIGRATED

    def same(self, other: "Outcome") -> bool:
        return (self.tokens, self.texts, self.reasons) == (other.tokens, other.texts, other.reasons)

    def longest_gap(self) -> float:
        return max((b - a for a, b in zip(self.times, self.times[1:])), default=0)


class Load:
    """Threads that ask for one kind after another until they are stopped.

    The constructor runs every kind once, undisturbed. A request that fails, or whose answer differs, ends its thread
    and is a failure; all of them are told by `failures`.
    """

    def __init__(self, targets: Sequence[str], kinds: Sequence[Kind] = KINDS, num_threads: int = 8,
                 **client_options: object) -> None:
        self.count = 0
        self.moved = 0
        self.gaps: list[float] = []  # the longest of each request
        self.failures: list[str] = []
        self.stopping = threading.Event()
        self._targets, self._kinds, self._client_options = list(targets), kinds, client_options
        self._lock = threading.Lock()
        with Client(self._targets, **client_options) as client:
            self.expected = [Outcome(client.generate(prompt, **options)) for prompt, options in kinds]
        for outcome in self.expected:
            if not outcome.tokens or not all(outcome.tokens.values()):
                raise AssertionError("a choice has no token: there is nothing to compare")
        self._threads = [threading.Thread(target=self._keep_asking, args=(number,)) for number in range(num_threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Requests that run come to their end first."""
        self.stopping.set()
        for thread in self._threads:
            thread.join()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Returns when it holds, or when something has failed."""
        wait_until(lambda: self.failures or condition(), what)

    def wait_for_more(self, count: int) -> None:
        """Until so many more have been answered."""
        aim = self.count + count
        self.wait(lambda: self.count >= aim, f"{aim} requests")

    def gap_percentile(self, percent: float) -> float:
        """Of each request's longest pause between tokens, in seconds."""
        gaps = sorted(self.gaps)
        return gaps[min(len(gaps) - 1, int(len(gaps) * percent / 100))]

    def _keep_asking(self, number: int) -> None:
        dice = random.Random(number)
        first = number % len(self._targets)  # each target is the first of some
        with Client(self._targets[first:] + self._targets[:first], **self._client_options) as client:
            while not self.stopping.is_set() and not self.failures:
                kind = dice.randrange(len(self._kinds))
                prompt, options = self._kinds[kind]
                try:
                    seen = Outcome(client.generate(prompt, **options))
                except Exception as error:  # pylint: disable=broad-except
                    self.failures.append(f"kind {kind}: {error!r}")
                    return
                with self._lock:
                    self.count += 1
                    self.moved += seen.num_moves > 0
                    self.gaps.append(seen.longest_gap())
                if not seen.same(self.expected[kind]):
                    self.failures.append(f"kind {kind} changed: {seen.tokens} {seen.texts} {seen.reasons}")
