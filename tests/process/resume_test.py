"""Clients outlive coordinators: the client library goes on at another with every token once, whatever is killed.

QUIRE_KILLS sets how many random kills are made; 300 with QUIRE_FULL.
"""

import os
import random
import unittest

from harness import TINY, Stage, figure, main, scaled
from load import Load
from service import Service

KILLS = int(os.environ.get("QUIRE_KILLS", 300 if "QUIRE_FULL" in os.environ else scaled(24)))


class ResumeTest(unittest.TestCase):

    def test_random_kills_of_coordinators_and_workers_change_no_token(self):
        stage = Stage.of_test(self)
        coordinators = [stage.coordinator("--quarantine-after", 0) for _ in range(2)]
        joins = [flag for process in coordinators for flag in ("--join", process.address)]
        workers = [stage.worker(TINY, *joins, "--num-threads", 1, "--dtype", "fp32", "--orphan-grace", 1)
                   for _ in range(2)]
        services = [Service(stage, process.address) for process in coordinators]
        for service in services:
            service.wait_ready(2)
        dice = random.Random(6)
        with Load([process.address for process in coordinators], max_attempts=40) as load:
            for kill in range(KILLS):
                load.stopping.wait(dice.uniform(0.05, 0.3))
                processes = coordinators if kill % 2 == 0 else workers
                victim = dice.randrange(2)
                processes[victim].kill()
                processes[victim] = stage.again(processes[victim])
                if load.failures:
                    break
        self.assertEqual(load.failures, [])
        figure(f"{KILLS} random kills of 2 coordinators and 2 workers: {load.count} requests, 0 lost, 0 changed; "
               "longest pause of a request, p50", 1000 * load.gap_percentile(50), "ms")
        figure("longest pause of a request, p99", 1000 * load.gap_percentile(99), "ms")
        for service in services:
            service.wait_ready(2)
            service.wait_idle()


if __name__ == "__main__":
    main()
