#!/usr/bin/env bash
# What the prefix cache is worth and what it costs (W5): groups of requests with a shared prompt, and requests that
# share nothing, each with the cache and without. On a GPU 64 groups of 16, 2,048 tokens shared and 128 own, 256 new;
# on the CPU a size for two cores.
#   benchmarks/prefix.sh [--device cuda] [--model FOLDER] [--groups 8] [--repeats 3] [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/workloads.py prefix "$@"
