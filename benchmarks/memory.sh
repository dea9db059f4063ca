#!/usr/bin/env bash
# How full the KV pool is kept (W7): requests of mixed lengths, 1 to 2,048 tokens, until some have to wait for
# room; KV bytes used / reserved and the requests held at once. The pool is small, so that the run is short; what counts
# is the share.
#   benchmarks/memory.sh [--device cuda] [--model FOLDER] [--mixed-requests 64] [--mixed-blocks 1536] [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/workloads.py memory "$@"
