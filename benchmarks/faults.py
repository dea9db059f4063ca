"""Runs the process tests of faults some times over and gathers the figures that they print. See faults.sh."""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "out" / "bench" / "faults.json"
TESTS = ("migration", "resume", "drain", "rolling_restart", "network_fault", "client_network", "client_loss",
         "worker_loss", "slow_reader", "errors", "clock_jump", "many_streams")
FIGURE = re.compile(r"^ok \d+ - (?P<what>.*): (?P<value>[\d,.]+) (?P<unit>.*?)(?: \(must: .*\))?$")


def run(test: str) -> list[tuple[str, float, str]]:
    """Its figures, as (what, value, unit). Raises RuntimeError if it fails."""
    environment = {"QUIRE_BIN": str(ROOT / "build" / "release" / "bin")} | dict(os.environ) | {
        "PYTHONPATH": str(ROOT / "clients" / "python")}
    done = subprocess.run([sys.executable, ROOT / "tests" / "process" / f"{test}_test.py"], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise RuntimeError(f"{test}_test failed:\n{done.stdout}")
    found = [FIGURE.match(line) for line in done.stdout.splitlines()]
    return [(match["what"], float(match["value"].replace(",", "")), match["unit"]) for match in found if match]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", default=",".join(TESTS))
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    results = {}
    for test in flags.tests.split(","):
        # By place: the words may hold counts that differ from round to round.
        rounds = [run(test) for _ in range(flags.rounds)]
        print(test)
        for figures in zip(*rounds):
            what, _, unit = figures[0]
            values = sorted(value for _, value, _ in figures)
            spread = f"{values[0]:,.1f} to {values[-1]:,.1f}"
            print(f"  {what}: {statistics.median(values):,.1f} {unit} ({spread})", flush=True)
            results.setdefault(test, []).append({"what": what, "unit": unit, "values": values})
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
