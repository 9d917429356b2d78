#!/bin/bash
# Install Ceph's object gateway from the distribution, without starting any daemon.
set -euo pipefail

have() { command -v ceph-mon && command -v ceph-osd && command -v radosgw && command -v ceph; }

if have >/dev/null; then exit 0; fi
# RUNLEVEL=1 makes invoke-rc.d decline to start what the packages bring.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update --quiet --quiet
apt-get install --yes --quiet --quiet --no-install-recommends \
  ceph-mon ceph-osd radosgw ceph-common
have >/dev/null
