#!/usr/bin/env python3
"""Joins the JSON documents of one benchmark, adds the machine and the versions, writes out/bench/NAME.json and prints
a table with each figure's target beside it.

    benchmarks/bench_report.py NAME FILE...

A document has "settings", "load_average" (when it began) and "figures": name, unit, median, min, max, samples,
at_least or at_most where there is a target (bench_support.h writes this form), and "references": what others reached.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from local_service.machine import describe_gpu  # noqa: E402


def processor():
    """Its name and the instruction sets that the kernels ask for."""
    fields = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return {"name": fields.get("model name", platform.machine()), "family": fields.get("cpu family"),
            "model": fields.get("model"), "instruction_sets": known}


def first_line(*command):
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def gpu():
    """What nvidia-smi says of it, or "unknown": a result is not lost for want of a name."""
    try:
        return describe_gpu()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine(device="cpu"):
    described = {"processor": processor(), "cores": len(os.sched_getaffinity(0)),
                 "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
                 "kernel": platform.release()}
    return described | ({"gpu": gpu()} if device == "cuda" else {})


def versions():
    # A copy without its history is told its revision.
    revision = os.environ.get("QUIRE_REVISION") or first_line("git", "describe", "--always", "--dirty")
    return {"quire": revision, "compiler": first_line("c++", "--version")}


def load_average():
    """Of the last minute."""
    return os.getloadavg()[0]


def figure(name, unit, samples, at_least=None, at_most=None):
    """As BenchReport::Add makes it. `samples` is not empty."""
    made = {"name": name, "unit": unit, "median": statistics.median(samples), "min": min(samples), "max": max(samples),
            "samples": len(samples)}
    targets = {"at_least": at_least, "at_most": at_most}
    return made | {key: value for key, value in targets.items() if value is not None}


def target_of(figure):
    """The target as text, and whether the figure meets it; both empty without a target."""
    if "at_least" in figure:
        return f">= {number(figure['at_least'])}", figure["median"] >= figure["at_least"]
    if "at_most" in figure:
        return f"<= {number(figure['at_most'])}", figure["median"] <= figure["at_most"]
    return "", None


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def print_run(run):
    settings = ", ".join(f"{key} {value}" for key, value in run["settings"].items())
    print(f"\n{settings}; load at the start {run['load_average']:.2f}")
    for figure in run["figures"]:
        target, met = target_of(figure)
        verdict = "" if met is None else "met" if met else "MISSED"
        spread = f"({number(figure['min'])} to {number(figure['max'])})" if figure["samples"] > 1 else ""
        print(f"  {figure['name']:46} {number(figure['median']):>10} {figure['unit']:9} {spread:22} "
              f"{target:>12} {verdict}".rstrip())


def publish(name, runs, device="cpu"):
    """Writes out/bench/NAME.json, prints the table and returns the file's path."""
    result = {"benchmark": name, "machine": machine(device), "versions": versions(), "runs": runs}
    out = ROOT / "out" / "bench" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")

    cpu = result["machine"]["processor"]
    gpu = f"{result['machine']['gpu']}; " if "gpu" in result["machine"] else ""
    print(f"{name}: {gpu}{cpu['name']} (family {cpu['family']}, model {cpu['model']}; "
          f"{', '.join(cpu['instruction_sets'])}), {result['machine']['cores']} cores; "
          f"quire {result['versions']['quire']}; {result['versions']['compiler']}")
    for run in runs:
        print_run(run)
    print(f"\nwrote {out.relative_to(ROOT)}")
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    publish(args.name, [json.loads(file.read_text()) for file in args.files])
    return 0


if __name__ == "__main__":
    sys.exit(main())
