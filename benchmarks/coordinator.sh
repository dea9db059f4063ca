#!/usr/bin/env bash
# What the coordinator adds to a token's way from a worker's send to a client's receive, on one host:
# median of 5 rounds, direct and through the coordinator in turns. JSON in out/bench/coordinator.json.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=build/release/bin
mkdir -p out/bench
log=$(mktemp)
coproc coordinator { exec "$bin/quire-coordinator" --port 0 2>"$log"; }
trap 'kill "$coordinator_PID" 2>/dev/null; wait "$coordinator_PID" 2>/dev/null; rm -f "$log"' EXIT
read -r line <&"${coordinator[0]}" || { cat "$log" >&2; exit 1; }
"$bin/coordinator_bench" --target "${line##* }" "$@" | tee out/bench/coordinator.json
