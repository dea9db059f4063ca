#!/usr/bin/env bash
# The CPU matrix products against torch.mm(x, W.t()) in one process, in turns, on two threads, with the
# weights walked out of cache: the linear layers of Qwen2.5-0.5B at 1 to 128 rows, bf16 and fp32.
#   benchmarks/gemm.sh [--m 1,8] [--dtypes bf16] [--shapes down] [--repeats 5]
set -euo pipefail
cd "$(dirname "$0")/.."
result=$(mktemp)
trap 'rm -f "$result"' EXIT
.venv/bin/python benchmarks/gemm_vs_torch.py --json "$result" "$@"
python3 benchmarks/bench_report.py gemm "$result"
