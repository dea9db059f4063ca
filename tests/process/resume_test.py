"""Clients outlive coordinators: the client library goes on at another with every token once, whatever is killed.

QUIRE_KILLS sets how many random kills are made; 300 with QUIRE_FULL.
"""

import os
import random
import threading
import time
import unittest

from harness import TINY, Stage, figure, main, scaled, wait_until
from quire_client import Client, Delta, Finished
from service import Service

KILLS = int(os.environ.get("QUIRE_KILLS", 300 if "QUIRE_FULL" in os.environ else scaled(24)))
KINDS = [
    ("Once upon a time", {"max_new_tokens": 64, "temperature": 0}),
    ("The sea", {"max_new_tokens": 64, "temperature": 1, "top_p": 0.95, "seed": 11}),
    ("A letter", {"max_new_tokens": 48, "temperature": 0.8, "seed": 12, "n": 3}),
    ("In the garden", {"max_new_tokens": 96, "temperature": 1.2, "seed": 13, "stop": [" the"]}),
]


class Outcome:
    """What a client saw of a request, checked as it came."""

    def __init__(self, events):
        self.tokens, self.texts, self.reasons, self.times = {}, {}, {}, []
        for event in events:
            if isinstance(event, Delta):
                tokens = self.tokens.setdefault(event.choice, [])
                assert event.first_index == len(tokens), f"index {event.first_index} after {len(tokens)} tokens"
                tokens.extend(event.token_ids)
                self.texts[event.choice] = self.texts.get(event.choice, "") + event.text
                self.times.append(time.monotonic())
            elif isinstance(event, Finished):
                assert event.choice not in self.reasons, "finished twice"
                self.texts[event.choice] = self.texts.get(event.choice, "") + event.text
                self.reasons[event.choice] = event.reason

    def same(self, other):
        return (self.tokens, self.texts, self.reasons) == (other.tokens, other.texts, other.reasons)

    def longest_gap(self):
        return max((b - a for a, b in zip(self.times, self.times[1:])), default=0)


class ResumeTest(unittest.TestCase):

    def test_random_kills_of_coordinators_and_workers_change_no_token(self):
        stage = Stage.of_test(self)

        def coordinator(port=0):
            return stage.coordinator("--quarantine-after", 0, port=port)

        coordinators = [coordinator(), coordinator()]
        joins = [flag for process in coordinators for flag in ("--join", process.address)]

        def worker(port=0):
            return stage.worker(TINY, *joins, "--num-threads", 1, "--dtype", "fp32", "--orphan-grace", 1, port=port)

        workers = [worker(), worker()]
        services = [Service(stage, process.address) for process in coordinators]
        for service in services:
            service.wait_ready(2)
        targets = [process.address for process in coordinators]
        client = stage.enter_context(Client(targets, max_attempts=40))
        expected = [Outcome(client.generate(prompt, **options)) for prompt, options in KINDS]
        for seen in expected:
            self.assertTrue(all(seen.tokens.values()))

        counts, gaps, failures = [0], [], []
        lock, is_over = threading.Lock(), threading.Event()

        def keep_asking(number):
            # Half of them begin at the other coordinator.
            with Client(targets[number % 2:] + targets[:number % 2], max_attempts=40) as own:
                while not is_over.is_set():
                    kind = random.Random(number + counts[0]).randrange(len(KINDS))
                    prompt, options = KINDS[kind]
                    try:
                        seen = Outcome(own.generate(prompt, **options))
                    except Exception as error:  # pylint: disable=broad-except
                        failures.append(f"kind {kind}: {error!r}")
                        return
                    with lock:
                        counts[0] += 1
                        gaps.append(seen.longest_gap())
                    if not seen.same(expected[kind]):
                        failures.append(f"kind {kind} changed: {seen.tokens} {seen.texts} {seen.reasons}")

        threads = [threading.Thread(target=keep_asking, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        dice = random.Random(6)
        for kill in range(KILLS):
            is_over.wait(dice.uniform(0.05, 0.3))
            victim = dice.randrange(2)
            if kill % 2 == 0:
                coordinators[victim].kill()
                coordinators[victim] = coordinator(port=coordinators[victim].port)
            else:
                workers[victim].kill()
                workers[victim] = worker(port=workers[victim].port)
            if failures:
                break
        is_over.set()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        gaps.sort()
        figure(f"{KILLS} random kills of 2 coordinators and 2 workers: {counts[0]} requests, 0 lost, 0 changed; "
               "longest pause of a request, p50", 1000 * gaps[len(gaps) // 2], "ms")
        figure("longest pause of a request, p99", 1000 * gaps[int(len(gaps) * 0.99)], "ms")
        for service in services:
            service.wait_ready(2)
        wait_until(lambda: all(load.running + load.waiting == 0 for load in services[0].load()), "idle workers")


if __name__ == "__main__":
    main()
