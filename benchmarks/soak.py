"""Random load with random faults for minutes on real processes: equal tokens, memory, leaks. See soak.sh.

Two coordinators and three workers, all reached through fault proxies. One coordinator and one worker are never killed,
so that their memory can be watched; every other fault meets them too.
"""

import argparse
import collections
import json
import pathlib
import random
import sys
import threading
import time

from fault_proxy import FaultProxy
from harness import DEFAULT_SUSPECT_S, TINY, Process, Stage, quire
from load import KINDS, Load
from quire_client import Client, Delta
from service import Service

OUTPUT = pathlib.Path("out/bench/soak.json")
SAMPLE_S = 1.0
WARM_UP = 0.3  # of the time: allocators, caches and gRPC's pools grow first
LONG = ("On and on", {"max_new_tokens": 400, "temperature": 1, "seed": 5, "ignore_eos": True})


class Cluster:
    """Processes and the proxies in front of them."""

    def __init__(self, stage: Stage, fake: bool) -> None:
        self.stage = stage
        admin = ("--admin-address", "127.0.0.1:0")
        self.coordinators = [stage.coordinator("--quarantine-after", 0, *admin, suspect_s=DEFAULT_SUSPECT_S)
                             for _ in range(2)]
        joins = [flag for process in self.coordinators for flag in ("--join", process.address)]
        self.doors = [stage.enter_context(FaultProxy(process.address)) for process in self.coordinators]
        self.links = [stage.enter_context(FaultProxy()) for _ in range(3)]
        model = stage.model("ghost", tokenizer=True) if fake else TINY
        self.workers = []
        for link in self.links:
            flags = [*joins, *admin, "--advertise-address", link.address, "--orphan-grace", 2]
            self.workers.append(
                stage.fake_worker(model, *flags, "--num-gpu-blocks-override", 4096, step_us=2000) if fake else
                stage.worker(model, *flags, "--num-threads", 1, "--dtype", "fp32", "--kv-cache-memory-bytes", 1 << 28))
            link.target = self.workers[-1].address
        self.services = [Service(stage, process.address) for process in self.coordinators]
        self.wait_ready()

    @property
    def survivors(self) -> dict[str, Process]:
        """Those that are never killed."""
        return {"coordinator": self.coordinators[0], "worker": self.workers[0]}

    @property
    def targets(self) -> list[str]:
        return [door.address for door in self.doors]

    def wait_ready(self) -> None:
        for service in self.services:
            service.wait_ready(len(self.workers))

    def restart(self, processes: list[Process], number: int) -> None:
        processes[number] = self.stage.again(processes[number])


class Faults:
    """One fault after another, each over before the next. For the main thread: a process that another one started ends
    with that thread.

    stopping: ends pauses early.
    """

    def __init__(self, cluster: Cluster, seed: int, stopping: threading.Event) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self._cluster = cluster
        self._dice = random.Random(seed)
        self._stopping = stopping

    def make_one(self) -> None:
        fault = self._dice.choice((self.kill_worker, self.kill_coordinator, self.drain_worker, self.drain_coordinator,
                                   self.pause, self.cut, self.half_close, self.silence, self.slow, self.lossy))
        self._stopping.wait(self._dice.uniform(0.3, 2))
        fault()
        self.counts[fault.__name__] += 1
        self._cluster.wait_ready()

    def kill_worker(self) -> None:
        number = self._dice.choice((1, 2))
        self._cluster.workers[number].kill()
        self._cluster.restart(self._cluster.workers, number)

    def kill_coordinator(self) -> None:
        self._cluster.coordinators[1].kill()
        self._cluster.restart(self._cluster.coordinators, 1)

    def drain_worker(self) -> None:
        self._drain(self._cluster.workers, self._dice.choice((1, 2)))

    def drain_coordinator(self) -> None:
        self._drain(self._cluster.coordinators, 1)

    def _drain(self, processes: list[Process], number: int) -> None:
        result = quire("drain", "--target", processes[number].admin_address, "--timeout", 10)
        if result.returncode != 0 or processes[number].wait() != 0:
            raise AssertionError(f"a drain failed: {result.stderr}")
        self._cluster.restart(processes, number)

    def pause(self) -> None:
        process = self._dice.choice(self._cluster.workers + self._cluster.coordinators)
        process.pause()
        self._stopping.wait(self._dice.uniform(0.1, 3))
        process.go_on()

    def cut(self) -> None:
        self._any_proxy().cut()

    def half_close(self) -> None:
        proxy = self._any_proxy()
        proxy.half_close(self._dice.choice((proxy.up, proxy.down)))

    def silence(self) -> None:
        proxy = self._any_proxy()
        proxy.silence(*self._dice.choice(((proxy.up,), (proxy.down,), (proxy.up, proxy.down))))
        self._stopping.wait(self._dice.uniform(0.5, 3))
        proxy.resume()

    def slow(self) -> None:
        self._for_a_while(delay_s=0.2)

    def lossy(self) -> None:
        self._for_a_while(loss=0.05)

    def _for_a_while(self, **faults: float) -> None:
        proxy = self._any_proxy()
        for direction in (proxy.up, proxy.down):
            for name, value in faults.items():
                setattr(direction, name, value)
        self._stopping.wait(self._dice.uniform(1, 4))
        proxy.calm()

    def _any_proxy(self) -> FaultProxy:
        return self._dice.choice(self._cluster.links + self._cluster.doors)


class Nuisances:
    """Clients that leave early, and clients that read slowly; what they read is compared as well."""

    def __init__(self, targets: list[str], expected: list[int]) -> None:
        self.num_cancelled = self.num_read_slowly = 0
        self.failures: list[str] = []
        self._targets, self._expected = targets, expected
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._cancel), threading.Thread(target=self._read_slowly)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _cancel(self) -> None:
        dice = random.Random(1)
        with Client(self._targets, max_attempts=100) as client:
            while not self._stopping.wait(0.05):
                self._run(client, dice.randrange(1, 60), pause_s=0)
                self.num_cancelled += 1

    def _read_slowly(self) -> None:
        with Client(self._targets, max_attempts=100) as client:
            while not self._stopping.is_set():
                self._run(client, len(self._expected), pause_s=0.02)
                self.num_read_slowly += 1

    def _run(self, client: Client, num_tokens: int, pause_s: float) -> None:
        tokens: list[int] = []
        try:
            for event in client.generate(LONG[0], **LONG[1]):
                if isinstance(event, Delta):
                    tokens += event.token_ids
                if len(tokens) >= num_tokens or self._stopping.wait(pause_s):
                    break
        except Exception as error:  # pylint: disable=broad-except
            self.failures.append(repr(error))
        if tokens != self._expected[:len(tokens)]:
            self.failures.append(f"changed: {tokens}")


class Sampler(threading.Thread):
    """Resident memory of the survivors over time."""

    def __init__(self, processes: dict[str, Process]) -> None:
        super().__init__(daemon=True)
        self.samples: dict[str, list[tuple[float, int]]] = {name: [] for name in processes}
        self.stopping = threading.Event()
        self._processes = processes

    def run(self) -> None:
        began = time.monotonic()
        while not self.stopping.wait(SAMPLE_S):
            for name, process in self._processes.items():
                self.samples[name].append((time.monotonic() - began, process.memory_bytes(peak=False)))


def slope_mb_per_hour(samples: list[tuple[float, int]]) -> float:
    """Least squares, after the warm-up."""
    warm = samples[int(len(samples) * WARM_UP):]
    mean_t = sum(t for t, _ in warm) / len(warm)
    mean_m = sum(m for _, m in warm) / len(warm)
    spread = sum((t - mean_t)**2 for t, _ in warm)
    return sum((t - mean_t) * (m - mean_m) for t, m in warm) / spread * 3600 / 1e6 if spread else 0.0


def tenths_mb(samples: list[tuple[float, int]]) -> list[float]:
    """The mean of each tenth of the time: whether growth comes to an end."""
    size = max(1, len(samples) // 10)
    tenths = [samples[i:i + size] for i in range(0, size * 10, size)]
    return [round(sum(m for _, m in tenth) / len(tenth) / 1e6, 1) for tenth in tenths if tenth]


def holdings(cluster: Cluster) -> dict[str, dict[str, int]]:
    """What the survivors hold while nothing runs."""
    return {name: {"descriptors": process.num_descriptors(), "threads": process.num_threads(),
                   "memory_mb": process.memory_bytes(peak=False) // 10**6}
            for name, process in cluster.survivors.items()}


def wait_idle(cluster: Cluster) -> None:
    for service in cluster.services:
        service.wait_ready(len(cluster.workers))
        service.wait_idle(pause_s=0.05)


def soak(flags: argparse.Namespace) -> dict:
    with Stage() as stage:
        cluster = Cluster(stage, flags.fake)
        load = Load(cluster.targets, [*KINDS, LONG], flags.clients, max_attempts=100)
        wait_idle(cluster)
        before = holdings(cluster)
        sampler, faults = Sampler(cluster.survivors), Faults(cluster, flags.seed, load.stopping)
        began = time.monotonic()
        sampler.start()
        nuisances = Nuisances(cluster.targets, load.expected[-1].tokens[0])
        try:
            with load:
                while not load.failures and not nuisances.failures and time.monotonic() - began < 60 * flags.minutes:
                    faults.make_one()
        finally:
            sampler.stopping.set()
            nuisances.stop()
        seconds = time.monotonic() - began
        wait_idle(cluster)
        after = holdings(cluster)
        # A drain counts what a coordinator still has open.
        still_open = sum(json.loads(quire("drain", "--json", "--target", process.admin_address).stdout)["running"]
                         for process in (*cluster.coordinators, *cluster.workers))
        return {
            "seconds": round(seconds, 1), "seed": flags.seed, "engine": "fake" if flags.fake else "paged, quire-tiny",
            "requests": load.count, "moved": load.moved, "cancelled": nuisances.num_cancelled,
            "read_slowly": nuisances.num_read_slowly, "faults": dict(faults.counts),
            "num_faults": faults.counts.total(),
            "failures": load.failures + nuisances.failures,
            "longest_pause_ms": {f"p{p}": round(1000 * load.gap_percentile(p), 1) for p in (50, 99) if load.gaps},
            "memory_slope_mb_per_hour": {name: round(slope_mb_per_hour(samples), 1)
                                         for name, samples in sampler.samples.items()},
            "memory_mb_by_tenths": {name: tenths_mb(samples) for name, samples in sampler.samples.items()},
            "open_when_idle": still_open, "held_before": before, "held_after": after,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--fake", action="store_true", help="workers that compute no model: more requests a second")
    result = soak(parser.parse_args())
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    sys.exit(bool(result["failures"] or result["open_when_idle"]))


if __name__ == "__main__":
    main()
