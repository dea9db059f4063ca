#!/usr/bin/env python3
"""A service that is asked for five times what it can do (docs/benchmarks.md, overload).

    benchmarks/overload.sh [--engine fake|paged] [--seconds 20] [--repeats 3] [--quick]

Real processes on loopback: a coordinator, a worker, and this one with all clients, on the same cores. The fake engine
takes a fixed time a step, so that it is the service around it that is measured; paged is quire-tiny on the CPU. Writes
out/bench/overload-ENGINE.json and prints a table.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import re
import statistics
import sys
import tempfile
import time

import bench_report
import grpc.aio
from goodput import Limits
from overload_client import Call, closed_loop, generate, open_loop
from quire.v1 import inference_pb2 as pb
from quire.v1 import inference_pb2_grpc as pb_grpc
from service import ROOT, service

TINY = ROOT / "models" / "quire-tiny"
# A worker of 8 sequences at once and 32 that wait: 40 requests a second of 20 tokens each on the fake engine.
SLOTS, QUEUE, NEW_TOKENS, STEP_US = 8, 32, 20, 10_000
OVERLOAD = 5
# What a request must keep to count as good.
LIMITS = Limits(2.0, 0.100)
# The greedy tenant keeps so many requests in flight, and comes back after so long whatever it is told.
GREEDY_STREAMS, GREEDY_RETRY_S = 100, 0.5
# How long a request that is refused is tried again where clients do so.
PATIENCE_S = 10.0
PROMPT = "Once upon a time there was a service that was asked for more than it could do. " * 4
REFUSED = re.compile(r"request id=\S* .*status=RESOURCE_EXHAUSTED .*total_ms=([0-9.]+)")


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Bench:

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self.figures: dict[str, tuple[str, list[float], dict]] = {}

    def add(self, name: str, unit: str, value: float, **target: float) -> None:
        self.figures.setdefault(name, (unit, [], target))[1].append(value)

    def request(self, number: int, tenant: str = "", **fields) -> pb.GenerateRequest:
        # Prompts differ from their first token on: the prefix cache has no part in this.
        return pb.GenerateRequest(text=f"{number} {tenant} {PROMPT}", max_new_tokens=NEW_TOKENS, tenant=tenant,
                                  sampling=pb.Sampling(temperature=0), stop=pb.Stop(ignore_eos=True), **fields)

    @contextlib.asynccontextmanager
    async def service(self, *worker_flags: object):
        """Gives the stub of a service of its own, and the coordinator's log."""
        flags = ["--max-num-seqs", SLOTS, "--max-queue", QUEUE, "--max-model-len", 512, *worker_flags]
        with tempfile.TemporaryDirectory() as folder:
            model = TINY
            if self.flags.engine == "fake":
                model = fake_model(pathlib.Path(folder))
                flags += ["--engine", "fake", "--fake-step-us", STEP_US]
            logs = pathlib.Path(folder) / "logs"
            logs.mkdir()
            with service(self.flags.bin, logs, "--model", model, *flags) as running:
                # Connections enough that none of them holds calls back.
                async with grpc.aio.insecure_channel(running.address) as channel:
                    stub = pb_grpc.InferenceStub(channel)
                    await asyncio.gather(*(generate(stub, self.request(-i)) for i in range(SLOTS)))
                    yield stub, logs / "coordinator.log"

    async def run(self) -> None:
        for repeat in range(self.flags.repeats):
            await self.overload(repeat)
            await self.tenants(repeat)
            await self.priorities()

    async def overload(self, repeat: int) -> None:
        async with self.service() as (stub, log):
            peak_rate, peak = await self.peak(stub)
            self.add("peak: requests", "a second", peak_rate)
            self.add("peak: goodput", "tokens/s", peak)
            for name, patience in (("5x", 0.0), ("5x, clients come back when told", PATIENCE_S)):
                lines = len(log.read_text().splitlines())
                began = time.monotonic()
                requests = await open_loop(stub, self.request, OVERLOAD * peak_rate, self.flags.seconds, repeat,
                                           patience)
                self.overload_figures(name, requests, peak, (began, began + self.flags.seconds))
                took = [float(match.group(1)) for line in log.read_text().splitlines()[lines:]
                        if (match := REFUSED.search(line))]
                self.add(f"{name}: refusal at the coordinator, p99", "ms", percentile(took, 0.99), at_most=50)

    async def peak(self, stub: pb_grpc.InferenceStub) -> tuple[float, float]:
        """Good requests and their tokens a second with as many at once as keep the batch full."""
        began = time.monotonic()
        calls = await closed_loop(stub, self.request, 2 * SLOTS, began + self.flags.seconds)
        tokens = good_tokens(calls, (began, began + self.flags.seconds))
        return tokens / NEW_TOKENS / self.flags.seconds, tokens / self.flags.seconds

    def overload_figures(self, name: str, requests: list[list[Call]], peak: float, span: tuple[float, float]) -> None:
        calls = [call for request in requests for call in request]
        refused = [call for call in calls if call.is_refused]
        if unexpected := [call for call in calls if not call.is_ok and not call.is_refused]:
            raise RuntimeError(f"{len(unexpected)} calls failed, the first with {unexpected[0].message}")
        self.add(f"{name}: refused, of calls", "%", 100 * len(refused) / len(calls))
        self.add(f"{name}: served, of requests", "%", 100 * sum(r[-1].is_ok for r in requests) / len(requests))
        self.add(f"{name}: calls a request", "", len(calls) / len(requests))
        self.add(f"{name}: refusal at the client, p50", "ms", 1e3 * statistics.median(c.seconds for c in refused))
        self.add(f"{name}: refusal at the client, p99", "ms", 1e3 * percentile([c.seconds for c in refused], 0.99),
                 at_most=50)
        self.add(f"{name}: retry delay told, p50", "s", statistics.median(call.retry_s for call in refused))
        self.add(f"{name}: goodput, of the peak", "%",
                 100 * good_tokens(calls, span) / self.flags.seconds / peak, at_least=90)

    async def tenants(self, repeat: int) -> None:
        """A greedy tenant, which wants more than twice the places there are, and a modest one."""
        for label, flags, share in (("1:1", (), 50), ("1:3", ("--tenant-weight", "modest=3"), 75)):
            async with self.service(*flags) as (stub, _):
                span = await self.beside_greedy(stub, f"weights {label}", streams=3 * SLOTS)
                self.add(f"weights {label}: modest tenant's tokens, of all (entitled to {share})", "%", span)
        async with self.service() as (stub, _):
            until = time.monotonic() + self.flags.seconds / 2
            alone = await closed_loop(stub, lambda i: self.request(i, "modest"), 1, until)
            self.add("one stream of the modest tenant alone: TTFT p50", "ms", ttft_ms(alone))
            await self.beside_greedy(stub, "one stream beside the greedy tenant", streams=1)

    async def beside_greedy(self, stub: pb_grpc.InferenceStub, name: str, streams: int) -> float:
        """The modest tenant's share of the tokens that came while both asked."""
        began = time.monotonic()
        until = began + self.flags.seconds
        greedy, modest = await asyncio.gather(
            closed_loop(stub, lambda i: self.request(i, "greedy"), GREEDY_STREAMS, until, retry_s=GREEDY_RETRY_S),
            closed_loop(stub, lambda i: self.request(i, "modest"), streams, until))
        # Without the time in which queues fill.
        span = (began + self.flags.seconds / 5, until)
        own, other = tokens_in(modest, span), tokens_in(greedy, span)
        self.add(f"{name}: modest tenant's TTFT p50", "ms", ttft_ms(modest))
        self.add(f"{name}: modest tenant refused, of calls", "%",
                 100 * sum(call.is_refused for call in modest) / len(modest))
        return 100 * own / (own + other)

    async def priorities(self) -> None:
        """Requests of priority 0 while enough of priority 10 to fill the worker twice always want to run."""
        for label, aging_ms in (("100 ms a point", 100), ("strict", 0)):
            async with self.service("--priority-aging-ms", aging_ms) as (stub, _):
                until = time.monotonic() + self.flags.seconds
                high, low = await asyncio.gather(
                    closed_loop(stub, lambda i: self.request(i, priority=10), 2 * SLOTS, until),
                    closed_loop(stub, lambda i: self.request(i, priority=0), 1, until))
                self.add(f"priorities, {label}: TTFT p50 of the higher", "ms", ttft_ms(high))
                served = [call for call in low if call.is_ok and call.began_at < until - 0.1 * self.flags.seconds
                          and call.first_token_at < until]
                self.add(f"priorities, {label}: requests of the lower served", "", len(served))
                if served:
                    self.add(f"priorities, {label}: TTFT p50 of the lower, 10 points below", "ms", ttft_ms(served))

    def publish(self) -> None:
        run = {"settings": {"through": "gRPC and coordinator", "engine": self.flags.engine, "max_num_seqs": SLOTS,
                            "max_queue": QUEUE, "new_tokens": NEW_TOKENS, "overload": OVERLOAD, "good": LIMITS.label,
                            "seconds": self.flags.seconds, "repeats": self.flags.repeats}
               | ({"step_us": STEP_US} if self.flags.engine == "fake" else {}),
               "load_average": bench_report.load_average(),
               "figures": [bench_report.figure(name, unit, samples, **target)
                           for name, (unit, samples, target) in self.figures.items()]}
        bench_report.publish(f"overload-{self.flags.engine}", [run])


def fake_model(folder: pathlib.Path) -> pathlib.Path:
    """quire-tiny's configuration and tokenizer without its weights; no token ends its output."""
    model = folder / "ghost"
    model.mkdir()
    config = json.loads((TINY / "config.json").read_text())
    del config["eos_token_id"]
    (model / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (model / file).symlink_to(TINY / file)
    return model


def tokens_in(calls: list[Call], span: tuple[float, float]) -> int:
    return sum(span[0] <= at < span[1] for call in calls for at in call.token_times)


def good_tokens(calls: list[Call], span: tuple[float, float]) -> int:
    """Tokens that came within the span, of requests that ended well and kept their limits."""
    good = [call for call in calls if call.is_ok and call.ttft_s <= LIMITS.ttft_s and call.tpot_s <= LIMITS.tpot_s]
    return tokens_in(good, span)


def ttft_ms(calls: list[Call]) -> float:
    return 1e3 * statistics.median(call.ttft_s for call in calls if call.first_token_at is not None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build" / "release" / "bin")
    parser.add_argument("--engine", choices=("fake", "paged"), default="fake")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="6 seconds a part, once")
    flags = parser.parse_args()
    if flags.quick:
        flags.seconds, flags.repeats = 6.0, 1
    bench = Bench(flags)
    asyncio.run(bench.run())
    bench.publish()


if __name__ == "__main__":
    sys.exit(main())
