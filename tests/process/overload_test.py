"""More requests than a worker takes: who is refused and how, who is served, and that nobody is forgotten."""

import re
import threading
import time
import unittest

from grpc import StatusCode
from harness import Stage, figure, lasting, main, scaled, wait_until
from service import ENDLESS, Service, request

# The worker's sequences at once and its queue, of which the last fifth is kept for tenants with less than their share.
SLOTS, QUEUE, RESERVE = 4, 10, 2
PROMPTS = [[1 + i, 2, 3] for i in range(7)]


class OverloadTest(unittest.TestCase):

    def setUp(self):
        self.stage = Stage.of_test(self)

    def start(self, *worker_flags, slots=SLOTS, queue=QUEUE):
        coordinator = self.coordinator = self.stage.coordinator()
        self.stage.fake_worker(self.stage.model("ghost", context=65536), "--join", coordinator.address,
                               "--max-num-seqs", slots, "--max-queue", queue, "--num-gpu-blocks-override", 1 << 15,
                               *worker_flags, step_us=2000)
        self.service = Service(self.stage, coordinator.address)
        self.service.wait_ready()

    def wait_for_load(self, running, waiting):
        wait_until(lambda: [(w.running, w.waiting) for w in self.service.load()] == [(running, waiting)],
                   f"{running} running, {waiting} waiting")

    def fill(self, tenant="", slots=SLOTS, queue=QUEUE - RESERVE, new=20):
        """Requests that run until they are cancelled, and others that wait behind them."""
        holders = [self.service.start(request(new=ENDLESS, tenant=tenant)).wait_for_tokens() for _ in range(slots)]
        waiting = [self.service.start(request(PROMPTS[i % 7], new=new, tenant=tenant)).wait_accepted()
                   for i in range(queue)]
        self.wait_for_load(slots, queue)
        return holders, waiting

    def assert_refused(self, stream):
        self.assertIsNotNone(stream.end().error)
        self.assertEqual(stream.error.code, StatusCode.RESOURCE_EXHAUSTED, stream.error)
        self.assertGreaterEqual(stream.error.retry_delay, 0.05)
        self.assertLessEqual(stream.error.retry_delay, 30)

    def test_the_excess_is_refused_at_once_and_the_others_are_served(self):
        self.start()
        expected = [self.service.run(request(prompt, new=20)).tokens[0] for prompt in PROMPTS]
        holders, waiting = self.fill()
        seconds = []
        for count in (1, scaled(4 * (SLOTS + QUEUE), least=8)):  # the first is refused by the worker, maybe
            began = time.monotonic()
            excess = [self.service.start(request(PROMPTS[i % 7], new=20)) for i in range(count)]
            for stream in excess:
                self.assert_refused(stream)
                seconds.append(stream.ended_at - began)
            self.wait_for_load(SLOTS, len(waiting))
        seconds.sort()
        figure(f"refusal of {len(seconds)} at once, the slowest", 1e3 * seconds[-1], "ms")
        for stream in holders:
            stream.cancel()
        for i, stream in enumerate(waiting):
            self.assertEqual(stream.ok().tokens[0], expected[i % 7])
        self.service.wait_idle()
        self.assertEqual(self.service.run(request(PROMPTS[0], new=20)).tokens[0], expected[0])

    def test_clients_that_come_back_when_told_are_all_served(self):
        self.start()
        expected = [self.service.run(request(prompt, new=lasting(20))).tokens[0] for prompt in PROMPTS]
        problems, counts = [], []
        has_failed = threading.Event()

        def client(number):
            prompt = number % 7
            for _ in range(3):
                for calls in range(1, 1000):
                    stream = self.service.start(request(PROMPTS[prompt], new=lasting(20))).end()
                    if stream.error is None:
                        break
                    if stream.error.code != StatusCode.RESOURCE_EXHAUSTED:
                        problems.append(stream.error)
                        has_failed.set()
                        return
                    # It comes back when the server said, unless that is in vain.
                    if has_failed.wait(stream.error.retry_delay):
                        return
                counts.append(calls)
                if stream.tokens[0] != expected[prompt]:
                    problems.append(f"client {number}: other tokens")

        threads = [threading.Thread(target=client, args=(i,)) for i in range(scaled(40, least=16))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(problems, [])
        self.assertEqual(len(counts), 3 * len(threads))
        figure("clients that come back when told: calls a request", sum(counts) / len(counts), "")
        self.service.wait_idle()

    def test_a_greedy_tenant_leaves_room_for_a_modest_one(self):
        self.start(slots=1)
        (holder,), greedy = self.fill("greedy", slots=1)
        for _ in range(3):
            self.assert_refused(self.service.start(request(tenant="greedy")))
        modest = self.service.start(request(new=20, tenant="modest")).wait_accepted()
        self.wait_for_load(1, len(greedy) + 1)
        holder.cancel()
        modest.ok()
        for stream in greedy:
            stream.ok()
        served = re.compile(r"tenant=(greedy|modest) status=OK")  # the log is in the order in which they ended
        tenants = wait_until(lambda: len(found := served.findall(self.coordinator.log())) > len(greedy) and found,
                             "all in the log")
        ahead = tenants.index("modest")
        figure("greedy requests served before the modest tenant's, which came last", ahead, f"of {len(greedy)}")
        self.assertLess(ahead, len(greedy) / 2)
        self.service.wait_idle()

    def test_low_priorities_wait_no_longer_than_their_points(self):
        self.start("--priority-aging-ms", 10, slots=1)
        done = threading.Event()
        high = [0]

        def client():
            while not done.is_set():
                self.service.run(request(new=lasting(20), priority=10))
                high[0] += 1

        threads = [threading.Thread(target=client) for _ in range(4)]
        try:
            for thread in threads:
                thread.start()
            wait_until(lambda: high[0] > 2, "requests of high priority")
            before = high[0]
            stream = self.service.start(request(new=5, queue_timeout_ms=50_000))
            stream.ok()
        finally:
            done.set()
            for thread in threads:
                thread.join()
        figure("requests of 10 points more served before one of low priority", high[0] - before, "")
        self.service.wait_idle()

    def test_queue_timeout_among_many(self):
        self.start()
        holders, waiting = self.fill(queue=4, new=5)
        late = [self.service.start(request(new=5, queue_timeout_ms=30)) for _ in range(4)]
        for stream in late:
            self.assertEqual(stream.end().error.code, StatusCode.DEADLINE_EXCEEDED)
            self.assertIn("queue_timeout_ms", stream.error.message)
        self.wait_for_load(SLOTS, len(waiting))
        for stream in holders:
            stream.cancel()
        for stream in waiting:
            stream.ok()
        self.service.wait_idle()


if __name__ == "__main__":
    main()
