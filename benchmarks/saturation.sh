#!/usr/bin/env bash
# Output tokens a second with everything submitted at once (W3), against the roofline.
#   benchmarks/saturation.sh [--device cuda] [--model FOLDER] [--work 256x1024/1024] [--grid-requests 256] [--quick]
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${QUIRE_PYTHON:-.venv/bin/python}" benchmarks/workloads.py saturation "$@"
