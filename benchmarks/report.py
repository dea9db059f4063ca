#!/usr/bin/env python3
"""Joins the JSON documents of one benchmark, adds the machine and the versions, writes out/bench/NAME.json and prints
a table with each figure's target beside it.

    benchmarks/report.py NAME FILE...

A document has "settings", "load_average" (when it began) and "figures": name, unit, median, min, max, samples, and
at_least or at_most where there is a target (bench_support.h writes this form).
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


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


def machine():
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "kernel": platform.release()}


def versions():
    return {"quire": first_line("git", "describe", "--always", "--dirty"), "compiler": first_line("c++", "--version")}


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
        print(f"  {figure['name']:36} {number(figure['median']):>10} {figure['unit']:9} {spread:22} "
              f"{target:>12} {verdict}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    args = parser.parse_args()
    runs = [json.loads(file.read_text()) for file in args.files]
    result = {"benchmark": args.name, "machine": machine(), "versions": versions(), "runs": runs}
    out = ROOT / "out" / "bench" / f"{args.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")

    cpu = result["machine"]["processor"]
    print(f"{args.name}: {cpu['name']} (family {cpu['family']}, model {cpu['model']}; "
          f"{', '.join(cpu['instruction_sets'])}), {result['machine']['cores']} cores; "
          f"quire {result['versions']['quire']}; {result['versions']['compiler']}")
    for run in runs:
        print_run(run)
    print(f"\nwrote {out.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
