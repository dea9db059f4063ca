#!/usr/bin/env bash
# How full the KV pool is kept (W7): requests of mixed lengths, 1 to 2,048 tokens, until some have to wait for
# room; KV bytes used / reserved and the requests held at once, on quire-tiny. The pool is small, so that the
# run is short; what counts is the share.
set -euo pipefail
cd "$(dirname "$0")/.."
result=$(mktemp)
trap 'rm -f "$result"' EXIT
build/release/bin/kv_bench --model models/quire-tiny --work memory "$@" >"$result"
python3 benchmarks/report.py memory "$result"
