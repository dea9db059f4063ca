#!/usr/bin/env bash
# Time to the first token and between tokens at batch 1 and 8 (W2), as a share of the roofline, through the engine
# alone and through gRPC and coordinator.
#   benchmarks/latency.sh [--device cuda] [--model FOLDER] [--work 1x2/128,8x1024/128] [--repeats 3] [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/workloads.py latency "$@"
