#!/usr/bin/env bash
# Draws the plots of result files again, or where they were measured without matplotlib.
#   benchmarks/plots.sh out/bench/saturation-cuda.json ...
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/workloads.py plots "$@"
