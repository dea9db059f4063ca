#!/usr/bin/env bash
# What the engine costs besides the device: steps a second of the engine loop over the fake executor with
# one sequence, and the time that planning and settling take a step with 256.
set -euo pipefail
cd "$(dirname "$0")/.."
result=$(mktemp)
trap 'rm -f "$result"' EXIT
build/release/bin/engine_loop_bench --min-steps-per-second 200000 --max-planning-us 15 "$@" >"$result"
python3 benchmarks/bench_report.py engine_loop "$result"
