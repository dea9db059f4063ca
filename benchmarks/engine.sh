#!/usr/bin/env bash
# The paged engine alone, without gRPC, on two threads: decoding at batch 1 (also as a share of the
# memory's read bandwidth, measured in the same run) and at 32 sequences, a prompt of 512, and sampling
# against greedy. Once on the shape of Qwen2.5-0.5B with dummy weights in bf16, which the targets are for,
# and on quire-tiny in bf16 and fp32, beside what llama.cpp reached on its shape.
#   benchmarks/engine.sh [0.5b] [tiny]
set -euo pipefail
cd "$(dirname "$0")/.."
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
bench=build/release/bin/engine_bench
[ $# -gt 0 ] || set -- 0.5b tiny
for model in "$@"; do
  case $model in
    0.5b)
      "$bench" --model models/shapes/qwen2.5-0.5b --dummy --dtype bf16 --min-bandwidth-share 80 \
        --min-batch32-rate 220 --min-prompt-rate 400 --min-sampled-ratio 90 >"$results/1.json"
      ;;
    tiny)
      "$bench" --model models/quire-tiny --dtype bf16 --new-tokens 512 --sampling-steps 64 \
        --min-batch1-rate 1260 --min-batch32-rate 4400 --min-sampled-ratio 90 >"$results/2.json"
      "$bench" --model models/quire-tiny --dtype fp32 --new-tokens 512 --sampling-steps 64 \
        --min-sampled-ratio 90 >"$results/3.json"
      ;;
    *) echo "engine.sh: no model $model; 0.5b and tiny are there" >&2; exit 1 ;;
  esac
done
python3 benchmarks/bench_report.py engine "$results"/*.json
