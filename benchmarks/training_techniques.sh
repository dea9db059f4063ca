#!/usr/bin/env bash
# Memory and time of four training techniques, in training and in serving (docs/training-techniques.md).
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/python benchmarks/training_techniques.py "$@"
