#!/bin/bash
# Stop the gateway that rgw-start.sh started; `--wipe` also removes its data.
# shellcheck source=scripts/servers/rgw-common.sh
. "$(dirname "${BASH_SOURCE[0]}")/rgw-common.sh"

for daemon in radosgw ceph-osd ceph-mon; do # the reverse of the order of starting
  if running "$daemon"; then
    pid=$(cat "$home/run/$daemon.pid")
    kill "$pid"
    for _ in $(seq 100); do
      running "$daemon" || break
      sleep 0.1
    done
    if running "$daemon"; then kill -KILL "$pid"; fi
  fi
  rm -f "$home/run/$daemon.pid"
done
if [ "${1:-}" = --wipe ] && [ -s "$home/ceph.conf" ]; then rm -rf "$home"; fi
