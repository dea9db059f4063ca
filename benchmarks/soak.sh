#!/usr/bin/env bash
# Minutes of random load with faults: kills, drains, pauses, faults of the network, cancelled and slow clients. Says
# whether tokens stayed the same, how memory grew, and what leaked. JSON in out/bench/soak.json.
#   benchmarks/soak.sh [--minutes 10] [--seed 1] [--clients 6] [--fake]
set -euo pipefail
cd "$(dirname "$0")/.."
export QUIRE_BIN=${QUIRE_BIN:-$PWD/build/release/bin} PYTHONPATH=clients/python:tests/process
# -P: the processes' harness is that of the tests, not benchmarks/service.py.
exec "${QUIRE_PYTHON:-.venv/bin/python}" -P benchmarks/soak.py "$@"
