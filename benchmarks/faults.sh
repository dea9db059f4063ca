#!/usr/bin/env bash
# The figures of the fault table in docs/testing.md, measured by the process tests that make the faults. JSON in
# out/bench/faults.json.
#   benchmarks/faults.sh [--tests drain,migration,...] [--rounds 3]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/faults.py "$@"
