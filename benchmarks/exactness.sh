#!/usr/bin/env bash
# What exactness costs the whole engine on a GPU, against its own fastest setting without: every algorithm of the
# library for the products, split-K among them, and attention cut by occupancy.
#   benchmarks/exactness.sh --device cuda [--model FOLDER] [--work 1x2/512,8x1024/128,...] [--rounds 2] [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/workloads.py exactness "$@"
