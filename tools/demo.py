#!/usr/bin/env python3
"""Compares Hugging Face, the baseline and the paged engine on this machine: workload W1, through gRPC.

    ./dev demo [--full] [--device cuda] [--out FOLDER]

Starts a coordinator and one worker an engine, dtype and cache on free loopback ports, sends them the same requests,
one engine active at a time, and writes compare.json, report.html and PNG plots. Everything it started ends with it.
The exit code is 0 if every fp32 engine gave the tokens of Hugging Face in fp32, 1 if one did not, 2 if it could not
be measured.
"""

import argparse
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "clients" / "python"))

from local_service.machine import describe_machine, describe_versions  # noqa: E402
from local_service.processes import ServerFailed, Stack  # noqa: E402
from local_service.readiness import wait_until_ready  # noqa: E402
from quire_client import Client, WorkerLoad  # noqa: E402
from report import page, plots, style, table  # noqa: E402
from report.results import Results  # noqa: E402

LISTEN_TIMEOUT_S = 60
READY_TIMEOUT_S = 300
PROMPT = "hello"
NEW_TOKENS = (16, 32, 64, 128, 256, 512, 1024)
PLOTS = {"latency.png": plots.latency_against_new_tokens, "throughput.png": plots.throughput_against_concurrency,
         "kv_memory.png": plots.kv_reserved_against_used}


@dataclass(frozen=True)
class Comparison:
    """One run of `quire compare`: all lengths one at a time, and `wide` ones at `concurrencies` too."""

    new_tokens: Sequence[int]
    wide: int
    flags: Sequence[str] = ()


# Slow engines get as many requests a row as fit into the budget, and at least as many as run at once.
REDUCED = (Comparison(NEW_TOKENS, 64, ("--requests", "3", "--rounds", "2", "--row-budget-s", "1.5")),)
FULL = tuple(Comparison((n,), n, ("--requests", "5", "--rounds", "2", "--row-budget-s", "10")) for n in NEW_TOKENS)
CONCURRENCIES = (8, 32)
BATCH_SIZE = 32

# One worker each: name and the flags that set it apart.
QUIRE_WORKERS = {
    "paged-fp32": ("--engine", "paged", "--dtype", "fp32"),
    "paged-bf16": ("--engine", "paged", "--dtype", "bf16"),
    "baseline-dynamic-fp32": ("--engine", "baseline", "--dtype", "fp32", "--baseline-cache", "dynamic"),
    "baseline-static-fp32": ("--engine", "baseline", "--dtype", "fp32", "--baseline-cache", "static"),
}
# On a GPU, where bf16 is what everyone computes in, the baseline runs in it too.
CUDA_WORKERS = {
    "baseline-dynamic-bf16": ("--engine", "baseline", "--dtype", "bf16", "--baseline-cache", "dynamic"),
    "baseline-static-bf16": ("--engine", "baseline", "--dtype", "bf16", "--baseline-cache", "static"),
}
# All workers share the one GPU: none takes the memory that is left for its KV pool.
CUDA_KV_FLAGS = ("--kv-cache-memory-bytes", str(2 << 30))
HF_WORKERS = {
    "hf-fp32": ("--dtype", "fp32"),
    "hf-bf16": ("--dtype", "bf16"),
}
# By dtype. `quire compare` takes the first name of an engine and dtype: these must not be it.
BATCH_WORKERS = {dtype: f"hf-{dtype}-batch{BATCH_SIZE}" for dtype in ("fp32", "bf16")}
HF_WORKERS |= {name: ("--dtype", dtype, "--batch-size", str(BATCH_SIZE)) for dtype, name in BATCH_WORKERS.items()}


def say(text: str) -> None:
    print(f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text, flush=True)


@contextlib.contextmanager
def service(binaries: pathlib.Path, model: pathlib.Path, device: str, logs: pathlib.Path) -> Iterator[str]:
    """A coordinator with all workers READY; gives its address. ServerFailed or OSError: it could not be started."""
    started = time.monotonic()
    quire_workers = QUIRE_WORKERS | (CUDA_WORKERS if device == "cuda" else {})
    with Stack(logs) as stack:
        coordinator = stack.start("coordinator", [binaries / "quire-coordinator", "--port", "0"])
        address = stack.address_of(coordinator, LISTEN_TIMEOUT_S)
        say(f"coordinator at {address}; starting {len(quire_workers) + len(HF_WORKERS)} workers, logs in {logs}")
        common = ("--model", model, "--device", device, "--port", "0", "--join", address)
        kv_flags = CUDA_KV_FLAGS if device == "cuda" else ()
        for name, flags in quire_workers.items():
            stack.start(name, [binaries / "quire-worker", *common, "--worker-name", name, *flags, *kv_flags])
        for name, flags in HF_WORKERS.items():
            stack.start(name, [sys.executable, ROOT / "tools" / "hf_worker.py", *common, "--worker-name", name, *flags])

        def on_progress(ready: list[WorkerLoad]) -> None:
            print(f"  {time.monotonic() - started:5.1f} s  ready: {', '.join(sorted(w.name for w in ready))}", flush=True)

        with Client(address) as client:
            wait_until_ready(stack, client, [*quire_workers, *HF_WORKERS], READY_TIMEOUT_S, on_progress)
        yield address
        stack.check()


def compare(quire: pathlib.Path, address: str, comparisons: Sequence[Comparison],
            folder: pathlib.Path) -> dict[str, object]:
    """compare.json with the rows of all comparisons. ServerFailed: `quire` ended with an error, and said why."""
    merged: dict[str, object] = {"rows": []}
    for comparison in comparisons:
        document = run_quire(quire, folder, "compare", "--target", address, "--new-tokens",
                             ",".join(map(str, comparison.new_tokens)), "--concurrent-new-tokens", str(comparison.wide),
                             "--prompt", PROMPT,
                             "--concurrency", ",".join(map(str, CONCURRENCIES)), *comparison.flags)
        merged = {**document, "rows": [*merged["rows"], *document["rows"]]}
        for dtype, worker in BATCH_WORKERS.items():
            if worker in HF_WORKERS:
                merged["rows"].append(static_batch(quire, address, dtype, worker, comparison.wide, folder))
    return merged


def static_batch(quire: pathlib.Path, address: str, dtype: str, worker: str, new_tokens: int,
                 folder: pathlib.Path) -> dict[str, object]:
    """A row of compare.json for Hugging Face with padded batches, which `quire compare` does not know."""
    requests = 2 * BATCH_SIZE
    print(f"Hugging Face {dtype}, static batches of {BATCH_SIZE}, {new_tokens} new tokens", file=sys.stderr, flush=True)
    bench = run_quire(quire, folder, "bench", "--target", address, "--worker", worker, "--engine", "hf_reference",
                      "--prompt", PROMPT, "--max-new-tokens", str(new_tokens), "--temperature", "0", "--ignore-eos",
                      "--num-prompts", str(requests), "--concurrency", str(BATCH_SIZE))
    return {
        "dtype": dtype, "engine": "hf-batch", "worker": worker, "new_tokens": new_tokens, "concurrency": BATCH_SIZE,
        "requests": requests, "duration_s": bench["duration"],
        "latency_s": {"p50": bench["median_e2el_ms"] / 1e3, "p99": bench["p99_e2el_ms"] / 1e3},
        "ttft_ms": bench["median_ttft_ms"], "tpot_ms": bench["median_tpot_ms"],
        "output_tokens_per_s": bench["output_throughput"], "kv_reserved_bytes": 0, "kv_used_bytes": 0,
        "tokens_equal": None, "tie": False, "first_difference": None,
    }


def run_quire(quire: pathlib.Path, folder: pathlib.Path, verb: str, *flags: str) -> dict[str, object]:
    """What a verb of the command line writes with --output; its progress shows on standard error."""
    output = folder / f"{verb}.part.json"
    done = subprocess.run([quire, verb, *flags, "--output", output], stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ServerFailed(f"quire {verb} ended with status {done.returncode}")
    document = json.loads(output.read_text())
    output.unlink()
    return document


def write_report(document: dict[str, object], folder: pathlib.Path) -> Results:
    results = Results.from_json(document)
    (folder / "compare.json").write_text(json.dumps(document, indent=1) + "\n")
    for name, draw in PLOTS.items():
        style.write_png(draw(results), folder / name)
    (folder / "report.html").write_text(page.render(results))
    return results


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--full", action="store_true", help="the whole grid: every length at every concurrency (an hour)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what every engine computes on")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out" / "demo", help="where results go")
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "quire-tiny", help="model folder")
    parser.add_argument("--bin", type=pathlib.Path, help="Quire's binaries; default: those of the preset for the device")
    flags = parser.parse_args(arguments)
    flags.bin = flags.bin or ROOT / "build" / ("cuda" if flags.device == "cuda" else "release") / "bin"
    return flags


def main(arguments: Sequence[str]) -> int:
    flags = parse_flags(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    started = time.monotonic()
    flags.out.mkdir(parents=True, exist_ok=True)
    quire = flags.bin / "quire"
    try:
        machine, versions = describe_machine(flags.device), describe_versions(quire)
        if machine["load_average_before"] > 0.5:
            say(f"others are at work here (load average {machine['load_average_before']}): speeds will be worth little")
        with service(flags.bin, flags.model, flags.device, flags.out / "logs") as address:
            say("comparing")
            document = compare(quire, address, FULL if flags.full else REDUCED, flags.out)
    except KeyboardInterrupt:
        print("interrupted; everything is stopped", file=sys.stderr)
        return 130
    except (ServerFailed, OSError, subprocess.SubprocessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    document["machine"] = {**document.get("machine", {}), **machine}
    document["versions"] = {**document.get("versions", {}), **versions}
    results = write_report(document, flags.out)
    print(f"\n{table.render(results)}\n")
    say(f"results in {flags.out}: compare.json, report.html, {', '.join(PLOTS)} ({time.monotonic() - started:.0f} s)")
    if results.different:
        say(f"{len(results.different)} fp32 rows gave other tokens than Hugging Face")
        return 1
    say(f"all {len(results.compared)} fp32 rows gave the tokens of Hugging Face")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
