#!/bin/bash
# Start a one-node Ceph object gateway (monitor, one storage daemon, gateway) on loopback.
#
# Idempotent: starts what is not running and prints `NAME=value` lines on stdout. The content
# survives a stop. No manager daemon, no authentication inside the cluster: it serves tests only.
# shellcheck source=scripts/servers/rgw-common.sh
. "$(dirname "${BASH_SOURCE[0]}")/rgw-common.sh"

conf=$home/ceph.conf
mkdir -p "$home"/{run,log,mon,osd,rgw}

# Test runs that start at the same moment share one gateway. Daemons must not inherit the lock.
exec 9>"$home/lock"
flock --timeout 120 9 || fail "another start holds $home/lock"

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Another checkout may have a gateway of its own.
choose_port() {
  local last=$((port + 900))
  while taken "$port" || taken "$tls_port" || taken "$mon_port"; do
    [ "$port" -lt "$last" ] || fail "no free port up to $last: set VFS_RGW_PORT"
    port=$((port + 100))
    tls_port=$((port + 10))
    mon_port=$((port + 1000))
  done
  echo "$port" >"$home/port"
}

write_conf() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \
    -keyout "$home/key.pem" -out "$home/ca.pem" 2>/dev/null
  cat "$home/key.pem" "$home/ca.pem" >"$home/tls.pem"
  local frontend="beast endpoint=127.0.0.1:$port tcp_nodelay=1"
  frontend+=" ssl_endpoint=127.0.0.1:$tls_port ssl_certificate=$home/tls.pem"
  cat >"$conf.new" <<CONF
[global]
  fsid = $(cat /proc/sys/kernel/random/uuid)
  mon host = [v2:127.0.0.1:$mon_port/0]
  public addr = 127.0.0.1
  cluster addr = 127.0.0.1
  ms bind ipv6 = false
  ms bind msgr1 = false
  auth cluster required = none
  auth service required = none
  auth client required = none
  run dir = $home/run
  admin socket = $home/run/\$name.asok
  log file = $home/log/\$name.log
  mon cluster log file = $home/log/cluster.log
  crash dir = $home/log
  log to stderr = false
  osd pool default size = 1
  osd pool default min size = 1
  osd pool default pg num = 8
  osd pool default pgp num = 8
  osd pool default pg autoscale mode = off
  osd crush chooseleaf type = 0
  mon allow pool size one = true
  mon max pg per osd = 2000
  mon data avail warn = 1
  mon data avail crit = 1
[mon]
  mon data = $home/mon/a
  mon initial members = a
[osd]
  osd data = $home/osd/0
  osd objectstore = bluestore
  # A sparse file: it takes the space of its content.
  bluestore block size = 21474836480
  bluestore block create = true
  bluestore fsck on mount = false
  osd memory target = 1073741824
  osd max scrubs = 0
  osd class load list = *
  osd class default list = *
[client]
  # Without it the gateway waits for ever for an authentication that nobody wants.
  ms mon client mode = crc
  rgw frontends = $frontend
  rgw data = $home/rgw
  rgw crypt require ssl = false
  rgw thread pool size = 64
  rgw gc obj min wait = 60
  rgw gc processor period = 30
  rgw override bucket index max shards = 1
  rgw dynamic resharding = false
CONF
  mv "$conf.new" "$conf"
}

ceph_() { timeout 60 ceph -c "$conf" "$@"; }
admin_() { timeout 120 radosgw-admin -c "$conf" --name client.rgw.a "$@"; }

# launch DAEMON ARGUMENT...: in the background, out of our process group, pid noted.
launch() {
  setsid "$@" -c "$conf" -f >>"$home/log/$1.out" 2>&1 </dev/null 9>&- &
  echo $! >"$home/run/$1.pid"
}

# await DAEMON COMMAND...: until the command succeeds; gives up when the daemon dies.
await() {
  local daemon=$1
  shift
  for _ in $(seq 200); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
    running "$daemon" || break
  done
  tail -n 5 "$home/log/$daemon.out" >&2
  fail "$daemon did not come up, see $home/log"
}

osd_is_up() { ceph_ osd stat | grep -q '1 up'; }

healthy() { curl --fail --silent --output /dev/null "http://127.0.0.1:$port/swift/healthcheck"; }

create_users() {
  admin_ user create --uid=vfs --display-name=vfs \
    --access-key="$access_key" --secret-key="$secret_key"
  admin_ key create --uid=vfs --key-type=s3 \
    --access-key="$second_access_key" --secret-key="$second_secret_key"
  admin_ user create --uid=other --display-name=other \
    --access-key="$other_access_key" --secret-key="$other_secret_key"
  local class
  for class in STANDARD_IA GLACIER; do
    admin_ zonegroup placement add --rgw-zonegroup default \
      --placement-id default-placement --storage-class "$class"
    admin_ zone placement add --rgw-zone default --placement-id default-placement \
      --storage-class "$class" --data-pool "default.rgw.buckets.data.${class,,}"
  done
}

command -v radosgw >/dev/null || fail "not installed: run $here/rgw-install.sh as root"
if [ ! -s "$conf" ]; then
  choose_port
  write_conf
fi
grep -q "127.0.0.1:$port " "$conf" || fail "$home uses another port: stop it with --wipe first"

if [ ! -d "$home/mon/a/store.db" ]; then
  fsid=$(sed -n 's/^ *fsid = //p' "$conf")
  monmaptool --create --clobber --fsid "$fsid" \
    --addv a "[v2:127.0.0.1:$mon_port/0]" "$home/run/monmap" >/dev/null
  ceph-mon -c "$conf" --mkfs -i a --monmap "$home/run/monmap" >/dev/null
fi
if ! running ceph-mon; then
  launch ceph-mon -i a
  await ceph-mon ceph_ mon stat
fi
if [ ! -s "$home/osd/0/fsid" ]; then
  mkdir -p "$home/osd/0"
  uuid=$(cat /proc/sys/kernel/random/uuid)
  ceph_ osd new "$uuid" 0 >/dev/null
  ceph-osd -c "$conf" -i 0 --mkfs --osd-uuid "$uuid" >>"$home/log/ceph-osd.out" 2>&1
fi
if ! running ceph-osd; then
  launch ceph-osd -i 0
  await ceph-osd osd_is_up
fi
if ! running radosgw; then
  # Before the gateway: the first call also makes the zone that it serves.
  if [ ! -e "$home/users.done" ]; then
    create_users >>"$home/log/admin.out" 2>&1 || fail "cannot create users, see $home/log/admin.out"
    touch "$home/users.done"
  fi
  if healthy; then fail "something else listens on port $port"; fi
  launch radosgw -n client.rgw.a
  await radosgw healthy
  running radosgw || fail "port $port is taken"
fi

cat <<ENV
RGW_ENDPOINT=http://127.0.0.1:$port
RGW_TLS_ENDPOINT=https://localhost:$tls_port
RGW_CA=$home/ca.pem
RGW_ACCESS_KEY=$access_key
RGW_SECRET_KEY=$secret_key
RGW_SECOND_ACCESS_KEY=$second_access_key
RGW_SECOND_SECRET_KEY=$second_secret_key
RGW_OTHER_ACCESS_KEY=$other_access_key
RGW_OTHER_SECRET_KEY=$other_secret_key
ENV
