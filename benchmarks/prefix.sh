#!/usr/bin/env bash
# What the prefix cache is worth and what it costs (W5, at a size for two cores): groups of requests with a
# shared prompt, and requests that share nothing, each with the cache and without, on quire-tiny.
set -euo pipefail
cd "$(dirname "$0")/.."
result=$(mktemp)
trap 'rm -f "$result"' EXIT
build/release/bin/kv_bench --model models/quire-tiny --work prefix "$@" >"$result"
python3 benchmarks/report.py prefix "$result"
