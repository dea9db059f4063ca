#!/usr/bin/env bash
# Workload W1 in full: every number of new tokens at every concurrency, on every engine; results in out/bench/w1/.
#   benchmarks/w1.sh [--device cuda]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" tools/demo.py --full --out out/bench/w1 "$@"
