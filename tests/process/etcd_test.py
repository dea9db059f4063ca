"""Workers and coordinators that find each other by etcd alone, and what becomes of them when etcd fails: nothing.

QUIRE_FULL pauses etcd's leader for 30 s.
"""

import os
import threading
import time
import unittest

from certificates import Authority
from etcd import Etcd, Proxy
from harness import HANG_S, Stage, figure, main, wait_until
from quire.v1 import inference_pb2 as pb
from service import Service, request

NUM_TOKENS = 200  # 0.4 s at 2 ms a step
NUM_ASKING = 6
LEASE_TTL_S = 4
PAUSE_S = 30.0 if "QUIRE_FULL" in os.environ else 3 * LEASE_TTL_S
WORKER_KEYS = "/quire/workers/"


class WatchedLoad:
    """Keeps asking every coordinator for streams, and looks all the while whether one of them has lost a worker."""

    def __init__(self, services: list[Service], workers: list[str], expected: list[list[int]]) -> None:
        self._services, self._workers, self._expected = services, set(workers), expected
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self.failures: list[str] = []
        self.num_streams = [0] * len(services)  # that ended well
        self.num_looks, self.num_not_ready, self.num_moved = 0, 0, 0
        self._threads = [threading.Thread(target=self._watch, args=(service,), daemon=True) for service in services]
        self._threads += [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(NUM_ASKING)]
        for thread in self._threads:
            thread.start()

    def wait_for_streams(self, count: int) -> None:
        """Until so many more have ended well at each coordinator."""
        with self._lock:
            goal = [done + count for done in self.num_streams]
        wait_until(lambda: self.failures or all(done >= least for done, least in zip(self.num_streams, goal)),
                   f"{count} more streams at each coordinator", pause_s=0.05)

    def leave_out(self, worker: str) -> None:
        """It is not expected to be there any more."""
        with self._lock:
            self._workers.discard(worker)

    def stop(self) -> None:
        """Begins nothing more; does not wait."""
        self._is_over.set()

    def end(self) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise AssertionError(f"{len(self.failures)} failures: {self.failures[:5]}")

    def _ask(self, number: int) -> None:
        place = number % len(self._services)
        while not self._is_over.is_set():
            try:
                stream = self._services[place].run(request([number + 1, 2], new=NUM_TOKENS))
            except AssertionError as error:
                self._fail(f"coordinator {place}: {error}")
                return
            if stream.tokens[0] != self._expected[number]:
                self._fail(f"tokens of stream {number} changed")
            with self._lock:
                self.num_streams[place] += 1
                self.num_moved += any(notice.kind == pb.Notice.MIGRATED for notice in stream.notices)

    def _watch(self, service: Service) -> None:
        while not self._is_over.wait(0.1):
            states = {load.name: load for load in service.load()}
            with self._lock:
                workers = set(self._workers)
                self.num_looks += 1
            for name in workers:
                load = states.get(name)
                if load is None or load.state in (pb.WorkerLoad.DEAD, pb.WorkerLoad.STARTING):
                    self._fail(f"healthy worker {name} ejected: {load}")
                elif load.state != pb.WorkerLoad.READY:
                    with self._lock:
                        self.num_not_ready += 1

    def _fail(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)


class EtcdTest(unittest.TestCase):

    def setUp(self):
        self.stage = Stage.of_test(self)
        self.model = self.stage.model("ghost", context=65536)

    def start(self, size=1, workers=3, coordinators=2):
        self.etcd = Etcd(self.stage, size)
        self.coordinators = [self.start_coordinator() for _ in range(coordinators)]
        self.services = [Service(self.stage, coordinator.address) for coordinator in self.coordinators]
        self.workers = [self.start_worker() for _ in range(workers)]
        for service in self.services:
            service.wait_ready(workers)
        self.expected = [self.services[0].run(request([i + 1, 2], new=NUM_TOKENS)).tokens[0]
                         for i in range(NUM_ASKING)]

    def start_coordinator(self, endpoints=None):
        return self.stage.coordinator("--etcd-endpoints", endpoints or self.etcd.endpoints)

    def start_worker(self, endpoints=None):
        return self.stage.fake_worker(self.model, "--etcd-endpoints", endpoints or self.etcd.endpoints,
                                      "--etcd-lease-ttl", LEASE_TTL_S, "--num-gpu-blocks-override", 8192, step_us=2000)

    def start_load(self):
        load = WatchedLoad(self.services, [worker.address for worker in self.workers], self.expected)
        self.addCleanup(load.stop)
        load.wait_for_streams(1)
        return load

    def key(self, worker):
        return WORKER_KEYS + worker.address

    def wait_announced(self, *workers):
        wait_until(lambda: {self.key(worker) for worker in workers} <= set(self.etcd.keys(WORKER_KEYS)),
                   "the workers' announcements", pause_s=0.05)

    def wait_state(self, service, worker, state, what):
        wait_until(lambda: any(load.name == worker.address and load.state == state for load in service.load()), what)

    def report(self, what, load):
        figure(f"{what}: no worker ejected in {load.num_looks} looks, not READY at", load.num_not_ready, "")
        figure(f"{what}: streams that ended well, {load.num_moved} of them moved", sum(load.num_streams), "")

    def test_coordinators_find_every_worker_by_etcd_alone(self):
        self.start()
        wait_until(lambda: sorted(self.etcd.keys(WORKER_KEYS)) == sorted(map(self.key, self.workers)),
                   "every worker's announcement, and no other", pause_s=0.05)
        began = time.monotonic()
        self.workers.append(self.start_worker())
        listening = time.monotonic()
        for service in self.services:
            service.wait_ready(4)
        figure("worker started by etcd: READY at both coordinators after it listened by",
               1000 * (time.monotonic() - listening), "ms")
        self.assertGreater(listening, began)
        names = sorted(worker.address for worker in self.workers)
        for number, service in enumerate(self.services):
            self.assertEqual(sorted(load.name for load in service.load()), names)
            self.assertEqual(service.run(request([1, 2], new=NUM_TOKENS)).tokens[0], self.expected[0], number)
        # One that ends well takes its announcement along, and no request fails.
        load = self.start_load()
        leaving = self.workers.pop()
        load.leave_out(leaving.address)
        leaving.terminate()
        self.assertEqual(leaving.wait(), 0)
        self.assertNotIn(self.key(leaving), self.etcd.keys(WORKER_KEYS))
        load.wait_for_streams(4)
        load.end()
        for service in self.services:
            self.wait_state(service, leaving, pb.WorkerLoad.DEAD, "the worker that left is seen to be gone")

    def test_etcd_killed_and_restarted(self):
        self.start()
        load = self.start_load()
        opened = [service.start(request([77, 2], new=4000)).wait_for_tokens() for service in self.services]
        for loses_all in (False, True):
            self.etcd.kill()
            self.assertFalse(any(member.is_running for member in self.etcd.members))
            for process in self.coordinators + self.workers:
                wait_until(lambda: "does not answer" in process.log(), "etcd is missed")
            load.wait_for_streams(8)
            if loses_all:
                self.etcd.forget()
            self.etcd.restart()
            if loses_all:
                wait_until(lambda: all("the lease in etcd is lost" in worker.log() for worker in self.workers),
                           "leases lost with all that etcd had stored")
            self.wait_announced(*self.workers)
            load.wait_for_streams(4)
        # Who comes now finds all of them.
        late = Service(self.stage, self.start_coordinator().address)
        late.wait_ready(len(self.workers))
        self.assertEqual(late.run(request([1, 2], new=NUM_TOKENS)).tokens[0], self.expected[0])
        for stream in opened:
            self.assertEqual(len(stream.ok().tokens[0]), 4000)
        load.end()
        self.report("etcd killed, then killed and emptied", load)

    def test_a_worker_killed_while_etcd_is_away(self):
        self.start()
        load = self.start_load()
        self.etcd.kill()
        self.assertFalse(self.etcd.is_healthy())
        victim = self.workers.pop()
        load.leave_out(victim.address)
        killed = time.monotonic()
        victim.kill()
        for service in self.services:
            self.wait_state(service, victim, pb.WorkerLoad.DEAD, "the killed worker is noticed by its session")
        figure("etcd away: a killed worker is DEAD at both coordinators after", 1000 * (time.monotonic() - killed), "ms")
        load.wait_for_streams(4)
        self.etcd.restart()  # its announcement is back, for as long as the lease lasts
        wait_until(lambda: self.key(victim) not in self.etcd.keys(WORKER_KEYS), "its lease ran out", pause_s=0.05)
        self.wait_announced(*self.workers)
        load.end()
        self.report("worker killed while etcd was away", load)

    def test_etcds_leader_stands_still(self):
        self.start(size=3, workers=2)
        leader = wait_until(self.etcd.leader, "a leader")
        # One worker knows of no other member: its lease cannot be renewed, and runs out.
        cut_off = self.start_worker(leader.address)
        self.workers.append(cut_off)
        for service in self.services:
            service.wait_ready(3)
        load = self.start_load()
        opened = [service.start(request([77, 2], new=4000)).wait_for_tokens() for service in self.services]
        paused = time.monotonic()
        leader.pause()
        new_leader = wait_until(self.etcd.leader, "another leader", pause_s=0.1)
        self.assertIsNot(new_leader, leader)
        wait_until(lambda: self.key(cut_off) not in self.etcd.keys(WORKER_KEYS), "a lease that ran out", pause_s=0.1)
        figure("leader paused: the announcement of a healthy worker was gone after", time.monotonic() - paused, "s")
        self.wait_announced(*self.workers[:2])
        # Whoever starts now is found through the others.
        late = self.start_worker()
        for service in self.services:
            self.wait_state(service, late, pb.WorkerLoad.READY, "a worker that starts meanwhile")
        wait_until(lambda: time.monotonic() - paused > PAUSE_S or load.failures, "the pause is over", pause_s=0.1)
        load.wait_for_streams(2)
        leader.go_on()
        self.wait_announced(*self.workers, late)
        for stream in opened:
            self.assertEqual(len(stream.ok().tokens[0]), 4000)
        load.end()
        self.report(f"etcd's leader paused for {PAUSE_S:.0f} s", load)

    def test_keys_are_compacted_while_a_coordinator_is_cut_off(self):
        self.start(coordinators=1)
        proxy = Proxy(self.stage, self.etcd.members[0].address)
        cut_off = self.start_coordinator(proxy.address)
        self.services.append(Service(self.stage, cut_off.address))
        self.services[1].wait_ready(3)
        load = self.start_load()
        proxy.cut()
        wait_until(lambda: "does not answer" in cut_off.log(), "etcd is missed")
        before = self.etcd.put("/quire/other", b"")
        leaving = self.workers.pop()
        load.leave_out(leaving.address)
        leaving.terminate()
        self.assertEqual(leaving.wait(), 0)
        late = self.start_worker()
        self.wait_announced(late)
        for i in range(100):
            latest = self.etcd.put("/quire/other", str(i).encode())
        self.etcd.compact(latest)
        with self.assertRaisesRegex(OSError, "compacted"):
            self.etcd.call("kv/range", HANG_S, key="AA==", revision=before)
        load.wait_for_streams(4)
        self.assertNotIn(late.address, [worker.name for worker in self.services[1].load()])
        proxy.mend()
        for service in self.services:
            self.wait_state(service, late, pb.WorkerLoad.READY, "the worker that came meanwhile")
        load.wait_for_streams(2)
        load.end()
        self.report("keys compacted behind a coordinator's watch", load)

    def test_what_others_write_into_etcd_harms_nothing(self):
        self.start(workers=1, coordinators=1)
        for name, value in (("noise", b"\xff\xfe noise"), ("empty", b""), ("large", b"x" * (1 << 20)),
                            ("k" * 100_000, b"")):
            self.etcd.put(WORKER_KEYS + name, value)
        coordinator = self.start_coordinator()  # by reading; the first heard of them by watching
        for process in (*self.coordinators, coordinator):
            service = Service(self.stage, process.address)
            service.wait_ready(1)
            wait_until(lambda: all(process.log().count(f"{WORKER_KEYS}{name} is not used") == 1
                                   for name in ("noise", "empty", "large")), "each named in the log, once")
            self.assertEqual([load.name for load in service.load()], [self.workers[0].address])
            service.run(request())

    def test_with_tls_and_a_join_token(self):
        authority = Authority(self.stage.folder, "ours")
        identity = authority.issue("everyone")
        self.etcd = Etcd(self.stage, 1, identity)
        tokens = []
        for name in ("right", "wrong"):
            tokens.append(self.stage.folder / name)
            tokens[-1].write_text(f"a-token-that-is-the-{name}-one")
        flags = [*identity.flags, "--etcd-endpoints", self.etcd.endpoints, "--etcd-prefix", "/site/one"]
        coordinator = self.stage.coordinator(*flags, "--join-token-file", tokens[0])
        trusted, stranger = (self.stage.fake_worker(self.model, *flags, "--join-token-file", token) for token in tokens)
        service = Service(self.stage, coordinator.address, identity.credentials())
        (load,) = service.wait_ready(1)
        self.assertEqual(load.name, trusted.address)
        service.run(request())
        wait_until(lambda: f"/site/one/workers/{stranger.address} is not used: it is not signed" in coordinator.log(),
                   "the stranger's announcement is refused")
        self.assertEqual(len(service.load()), 1)


if __name__ == "__main__":
    main()
