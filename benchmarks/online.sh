#!/usr/bin/env bash
# Goodput at rates of Poisson arrivals with lengths as those of ShareGPT (W4), through gRPC and coordinator.
#   benchmarks/online.sh [--device cuda] [--model FOLDER] [--rates 8,16,32] [--seconds 30] [--repeats 3] [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/workloads.py online "$@"
