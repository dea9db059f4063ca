#!/usr/bin/env bash
# What the coordinator adds to a token's way, and what a message, a token and a stream cost it (W6).
#   benchmarks/coordinator.sh [--cases latency,lockstep,streams,coalesced,memory,slow,kill] [--rounds 3] [--seconds 4]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/coordinator.py "$@"
