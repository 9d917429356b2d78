# Sourced by the rgw-*.sh scripts: where the gateway lives and how to see whether it runs.
#
#   VFS_SERVERS    directory of all test servers   (default: .cache/servers of the checkout)
#   VFS_RGW_PORT   plain HTTP port; TLS is +10, the monitor +1000
#                  (default: the port used before, else the first free one of 18480, 18580, ...)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=$(realpath -m "${VFS_SERVERS:-$here/../../.cache/servers}/rgw")
port=${VFS_RGW_PORT:-$(cat "$home/port" 2>/dev/null || echo 18480)}
tls_port=$((port + 10))
mon_port=$((port + 1000))

# Keys of a server that only loopback reaches.
access_key=vfs-test-access
secret_key=vfs-test-secret-0000000000000000000000
second_access_key=vfs-second-access # of the same user
second_secret_key=vfs-second-secret-0123456789
other_access_key=vfs-other-access
other_secret_key=vfs-other-secret-000000000000000000000

say() { printf 'rgw: %s\n' "$*" >&2; }

fail() {
  say "$*"
  exit 1
}

# running DAEMON: succeeds when the pid file names a live process of that name.
running() {
  local file=$home/run/$1.pid
  [ -s "$file" ] && [ "$(cat "/proc/$(cat "$file")/comm" 2>/dev/null)" = "$1" ]
}
