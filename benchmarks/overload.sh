#!/usr/bin/env bash
# A service that is asked for five times what it can do: refusals, goodput, fairness between tenants, low priorities.
#   benchmarks/overload.sh [--engine fake|paged] [--seconds 20] [--repeats 3] [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=clients/python exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/overload.py "$@"
