"""Every process of a service is restarted under load, one after the other, and no request fails.

QUIRE_REQUESTS sets how many requests there are at least; 10,000 with QUIRE_FULL. Processes are restarted round after
round until then.
"""

import json
import os
import time
import unittest

from harness import Stage, figure, main, quire, scaled
from load import Load
from service import Service

REQUESTS = int(os.environ.get("QUIRE_REQUESTS", 10_000 if "QUIRE_FULL" in os.environ else scaled(200)))
NUM_CLIENTS = 12
KINDS = [
    ("Once upon a time", {"max_new_tokens": 48, "temperature": 0, "ignore_eos": True}),
    ([5, 6, 7], {"max_new_tokens": 24, "temperature": 1, "seed": 11}),
    ("A letter", {"max_new_tokens": 16, "temperature": 0.8, "seed": 12, "n": 3}),
    ("In the garden", {"max_new_tokens": 96, "seed": 13, "stop": ["e"]}),
]
# Two seconds: some of these run whenever a process drains.
NUM_LONG_CLIENTS = 3
LONG_KINDS = [("On and on", {"max_new_tokens": 1000, "temperature": 0, "ignore_eos": True})]


class RollingRestartTest(unittest.TestCase):

    def test_three_workers_and_two_coordinators_under_load(self):
        stage = Stage.of_test(self)
        own = ("--admin-address", "127.0.0.1:0")
        coordinators = [stage.coordinator(*own) for _ in range(2)]
        joins = [flag for process in coordinators for flag in ("--join", process.address)]
        model = stage.model("ghost", tokenizer=True)
        workers = [stage.fake_worker(model, *joins, *own, "--num-gpu-blocks-override", 4096, step_us=2000)
                   for _ in range(3)]
        services = [Service(stage, process.address) for process in coordinators]
        for service in services:
            service.wait_ready(3)

        reports, drained_s, rounds = [], [], 0
        targets = [process.address for process in coordinators]
        load, long_load = Load(targets, KINDS, NUM_CLIENTS), Load(targets, LONG_KINDS, NUM_LONG_CLIENTS)
        with load, long_load:
            load.wait_for_more(NUM_CLIENTS)
            while not load.failures and not long_load.failures and (rounds == 0 or load.count < REQUESTS):
                for processes in (workers, coordinators):
                    for number, process in enumerate(processes):
                        began = time.monotonic()
                        # By call and by signal in turn; another round changes who gets which.
                        if (number + rounds) % 2 == 0:
                            result = quire("drain", "--json", "--target", process.admin_address)
                            self.assertEqual(result.returncode, 0, result.stderr)
                            reports.append(json.loads(result.stdout))
                        else:
                            process.terminate()
                        self.assertEqual(process.wait(), 0, process.last_words())
                        drained_s.append(time.monotonic() - began)
                        processes[number] = stage.again(process)
                        # Every worker of every coordinator: the next one may go.
                        for service in services:
                            service.wait_ready(3)
                        load.wait_for_more(NUM_CLIENTS)
                rounds += 1
        self.assertEqual(load.failures + long_load.failures, [])
        self.assertGreaterEqual(load.count, REQUESTS)
        total = {name: sum(report[name] for report in reports) for name in ("running", "moved", "finished", "cut")}
        self.assertGreater(long_load.moved, 0)
        self.assertEqual(total["cut"], 0)
        figure(f"rolling restart, {rounds} rounds of 3 workers and 2 coordinators, {len(drained_s)} restarts: "
               "0 failed, 0 changed, of", load.count + long_load.count, "requests")
        figure("requests that ran on, as they moved to another worker", load.moved + long_load.moved, "requests")
        figure(f"drains by call, {len(reports)}: requests that ran {total['running']}, moved {total['moved']}, "
               "finished", total["finished"], "requests")
        figure("a process drained in at most", 1000 * max(drained_s), "ms")
        figure("longest pause of a request, p99", 1000 * load.gap_percentile(99), "ms")
        for service in services:
            service.wait_idle()


if __name__ == "__main__":
    main()
