#!/usr/bin/env python3
"""W6: what the coordinator adds to a token's way, and what a message, a token and a stream cost it.

    benchmarks/coordinator.py [--cases latency,streams,...] [--rounds N] [--seconds S] [--coordinator PROGRAM]

Workers without an engine (relay_mock) send tokens at a fixed rate, a client (relay_client) reads the streams, and the
coordinator stands between them. Each measurement has processes of its own. Programs are built already.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

import bench_report
from service import LISTEN_TIMEOUT_S, ROOT, ServerFailed, Stack

MODEL = ROOT / "models" / "quire-tiny"  # for its tokenizer: tokens become text as they do in service
CLIENT_TIMEOUT_S = 300
STEPS_PER_S = 50  # of a worker: what a stream gets
MANY = 8192
MAX_A_CONNECTION = 1024
WAYS = ("session", "bare", "coordinator")


class Bench:
    def __init__(self, args, folder):
        self._args = args
        self._bin = ROOT / args.binaries
        self._folder = folder
        self._number = 0

    def measure(self, streams, *, workers=1, way="coordinator", connections=None, steps_per_s=STEPS_PER_S, kill=False,
                seconds=None, **client_flags):
        """relay_client's JSON object. `way`: through the coordinator; as calls of Generate to the mock workers
        themselves, which is one hop with the same messages (bare); or reading the workers' sessions (session)."""
        self._number += 1
        board = self._folder / f"board-{self._number}"
        with Stack(self._folder / f"logs-{self._number}") as stack:
            coordinator = stack.start("coordinator", [self._args.coordinator or self._bin / "quire-coordinator",
                                                      "--port", "0"])
            address = stack.address_of(coordinator, LISTEN_TIMEOUT_S)

            def start_mock(name, *flags):
                return stack.start(name, [self._bin / "relay_mock", "--join", address, "--board", board, "--model",
                                          MODEL, "--name", name, "--workers", str(workers), *flags])

            mock = start_mock("mock")
            target = address if way == "coordinator" else stack.address_of(mock, LISTEN_TIMEOUT_S)
            if connections is None:
                connections = max(min(streams, 8), -(-streams // MAX_A_CONNECTION))
            command = [self._bin / "relay_client", "--target", target, "--board", board, "--streams", streams,
                       "--connections", max(connections, workers if way == "bare" else 1),
                       "--steps-per-s", steps_per_s, "--seconds", seconds or self._args.seconds,
                       "--pid", f"coordinator={coordinator.pid}", "--pid", f"worker={mock.pid}",
                       *(["--session"] if way == "session" else []),
                       *(["--ready-workers", workers] if way == "coordinator" else []),
                       *(part for name, value in client_flags.items()
                         for part in (f"--{name.replace('_', '-')}", value))]
            if kill:
                # It joins when the streams run, so that all of them are at the first.
                start_mock("heir", "--join-late")
                command += ["--kill", mock.pid, "--settle", 3]
            done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, timeout=CLIENT_TIMEOUT_S)
            if done.returncode != 0:
                raise ServerFailed(f"relay_client ended with status {done.returncode}")
            result = json.loads(done.stdout)
            if result["failed"]:
                raise ServerFailed(f"{result['failed']} streams failed")
            return result


def per_core(result, what, process="coordinator"):
    """Of messages or tokens, by the processor time that the process used."""
    return result[what] / max(result["cpu_s"][process], 1e-9)


def latency(bench, args, workers=20, streams=400):
    """20,000 tokens a second, the three ways in turns."""
    by_way = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way in WAYS:
            by_way[way].append(bench.measure(streams, workers=workers, way=way))
    figures = []
    for percentile, target in (("p50", 50), ("p99", 300)):
        for way in WAYS:
            figures.append(bench_report.figure(f"{way}: {percentile}", "us",
                                               [run["latency_us"][percentile] for run in by_way[way]]))
        for base, name in (("bare", "one hop of the same messages"), ("session", "the worker's session")):
            added = [through["latency_us"][percentile] - direct["latency_us"][percentile]
                     for through, direct in zip(by_way["coordinator"], by_way[base])]
            figures.append(bench_report.figure(f"added to {name}: {percentile}", "us", added,
                                               at_most=target if base == "bare" else None))
    through = by_way["coordinator"]
    figures += [
        bench_report.figure("messages a second a core", "/s", [per_core(run, "messages") for run in through],
                            at_least=40_000),
        bench_report.figure("the same, bare gRPC", "/s", [per_core(run, "messages", "worker") for run in by_way["bare"]]),
        *shares(through)]
    return figures


def lockstep(bench, args):
    """The same rate from one worker: all streams' tokens at once, 50 times a second."""
    return latency(bench, args, workers=1)


def shares(runs):
    """What a run was made of: the figures above say little without them."""
    figures = [bench_report.figure("tokens a message", "", [run["tokens"] / max(run["messages"], 1) for run in runs]),
               bench_report.figure("tokens a second", "/s", [run["tokens"] / run["seconds"] for run in runs])]
    figures += [bench_report.figure(f"{name}'s processor time", "cores", [run["cpu_s"][name] / run["seconds"] for run in runs])
                for name in ("coordinator", "worker", "client")]
    return figures


def streams(bench, args):
    """1 to 8,192 streams of 50 tokens a second each, from one worker. What is not carried the worker does not send."""
    figures = []
    for number in args.streams:
        runs = [bench.measure(number) for _ in range(args.rounds)]
        named = [bench_report.figure("latency p50", "ms", [run["latency_us"]["p50"] / 1e3 for run in runs]),
                 bench_report.figure("latency p99", "ms", [run["latency_us"]["p99"] / 1e3 for run in runs]),
                 bench_report.figure("tokens a second a core", "/s", [per_core(run, "tokens") for run in runs]),
                 *shares(runs)]
        figures += [figure | {"name": f"{number} streams: {figure['name']}"} for figure in named]
    return figures


def coalesced(bench, args):
    """64 streams of as many tokens as are taken: messages hold several."""
    runs = [bench.measure(64, steps_per_s=20_000) for _ in range(args.rounds)]
    return [bench_report.figure("tokens a second a core", "/s", [per_core(run, "tokens") for run in runs],
                                at_least=200_000),
            *shares(runs)]


def memory(bench, args):
    """8,192 streams that are open and get nothing; then all are cancelled by their clients."""
    runs = [bench.measure(MANY, steps_per_s=0, seconds=1) for _ in range(args.rounds)]
    grown = [(run["rss_kib"]["opened"]["coordinator"] - run["rss_kib"]["before"]["coordinator"]) / MANY for run in runs]
    return [bench_report.figure("memory a stream", "KiB", grown),
            bench_report.figure("all opened after", "ms", [run["opened_ms"] for run in runs]),
            bench_report.figure("cancelled: the clients told after", "ms", [run["closed_ms"] for run in runs]),
            bench_report.figure("cancelled: at the worker after", "ms", [run["cancelled_at_workers_ms"] for run in runs])]


def slow(bench, args):
    """64 streams of 200 tokens a second: of half of them a message is read every half second."""
    figures = []
    for share in (0, 0.5):
        runs = [bench.measure(64, steps_per_s=200, slow_share=share) for _ in range(args.rounds)]
        name = f"{share:.0%} slow"
        figures += [
            bench_report.figure(f"{name}: the others' latency p50", "us", [run["latency_us"]["p50"] for run in runs]),
            bench_report.figure(f"{name}: the others' latency p99", "us", [run["latency_us"]["p99"] for run in runs]),
            bench_report.figure(f"{name}: coordinator's growth", "KiB", [
                run["rss_kib"]["end"]["coordinator"] - run["rss_kib"]["opened"]["coordinator"] for run in runs])]
    return figures


def kill(bench, args):
    """A worker with 8,192 streams is killed; another of the same numerics takes them all. Two tokens a second each."""
    runs = [bench.measure(MANY, steps_per_s=2, seconds=12, kill=True) for _ in range(args.rounds)]
    figures = [bench_report.figure(f"until a stream goes on: {name}", "ms", [run["recovery_ms"][key] for run in runs])
               for name, key in (("first", "p0"), ("p50", "p50"), ("p99", "p99"), ("last", "p100"))]
    return figures + [bench_report.figure("streams that did not", "", [run["not_recovered"] for run in runs], at_most=0)]


CASES = {case.__name__: case for case in (latency, lockstep, streams, coalesced, memory, slow, kill)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of a measurement")
    parser.add_argument("--streams", default="1,64,512,2048,8192", help="for the case of that name")
    parser.add_argument("--binaries", default="build/release/bin")
    parser.add_argument("--coordinator", help="a program to compare with")
    parser.add_argument("--tag", help="the file is coordinator-TAG.json")
    args = parser.parse_args()
    args.streams = [int(number) for number in args.streams.split(",")]
    names = args.cases.split(",")
    if unknown := set(names) - CASES.keys():
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    runs = []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in names:
            load = bench_report.load_average()
            try:
                figures = CASES[name](Bench(args, folder), args)
            except ServerFailed as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
            settings = {"case": name, "about": CASES[name].__doc__, "rounds": args.rounds, "seconds": args.seconds}
            runs.append({"settings": settings, "load_average": load, "figures": figures})
    bench_report.publish(f"coordinator-{args.tag}" if args.tag else "coordinator", runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
