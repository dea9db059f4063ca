#!/usr/bin/env bash
# What 16-bit casts and static quantization do to quire-tiny (docs/numerics.md).
set -euo pipefail
cd "$(dirname "$0")/.."
exec .venv/bin/python benchmarks/numerics.py "$@"
