#!/bin/sh
# Restarts units of this machine one after the other, each once every worker is READY again: no request fails.
#
#     rolling-restart.sh COORDINATORS NUM_WORKERS UNIT=ADMIN_ADDRESS...
#
# COORDINATORS: HOST:PORT[,HOST:PORT...], all of the service. NUM_WORKERS: how many are READY when all is well.
# ADMIN_ADDRESS: the unit's QUIRE_ADMIN_ADDRESS. TLS_FLAGS are given to quire, where connections are by TLS; RESTART is
# the command that restarts a unit, systemctl's if unset:
#
#     rolling-restart.sh 127.0.0.1:8000 2 quire-worker@a=127.0.0.1:9081 quire-worker@b=127.0.0.1:9082
set -eu
[ $# -ge 3 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
coordinators=$1
num_workers=$2
shift 2

wait_ready() {
  for coordinator in $(echo "$coordinators" | tr , ' '); do
    # shellcheck disable=SC2086  # flags are words
    quire load --target "$coordinator" --wait-ready 300 --min-ready "$num_workers" ${TLS_FLAGS:-} >/dev/null
  done
}

wait_ready  # a worker that is missing already would be missed
for pair in "$@"; do
  # shellcheck disable=SC2086
  quire drain --target "${pair#*=}" ${TLS_FLAGS:-}
  ${RESTART:-systemctl restart} "${pair%%=*}"
  wait_ready
done
