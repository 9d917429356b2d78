#!/usr/bin/env bash
# All set-up there is, in one step that costs nothing when there is nothing to do:
#   scripts/setup.sh demo    what running vfs and the demo needs
#   scripts/setup.sh test    that, and what the linters and tests need
# System packages come from apt (Debian 12, Ubuntu 24.04 or later), Python ones into .venv, all of
# them pinned by the lock files. Only what is missing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
kind=${1:-test}

run_packages=(fuse3 libfuse3-dev pkg-config gcc libc6-dev qemu-utils e2fsprogs util-linux mount)
test_packages=(fio rsync sqlite3 git attr acl curl openssl procps ceph-mon ceph-osd radosgw ceph-common)
case $kind in
    demo) packages=("${run_packages[@]}") lock=requirements.lock ;;
    test) packages=("${run_packages[@]}" "${test_packages[@]}") lock=requirements-dev.lock ;;
    *) echo "usage: scripts/setup.sh demo|test" >&2; exit 2 ;;
esac

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

# Networks fail for a moment: try three times in all.
persist() {
    local attempt
    for attempt in 1 2 3; do
        "$@" && return
        say "attempt $attempt failed: $*"
        sleep $((attempt * 3))
    done
    return 1
}

# --- system packages --------------------------------------------------------------------------

usable_python() { # 3.11 or later, able to make an environment and to compile against
    "$1" - 2>/dev/null <<'PY'
import ensurepip, pathlib, sys, sysconfig, venv
sys.exit(sys.version_info < (3, 11) or not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())
PY
}

find_python() {
    local candidate
    for candidate in python3 /usr/bin/python3; do
        if usable_python "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

missing_packages() {
    # dpkg-query fails when it has never heard of one of them, after it has answered for the others.
    comm -23 <(printf '%s\n' "$@" | sort -u) \
        <({ dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' "$@" 2>/dev/null || true; } |
            sed -n 's/^ii *//p' | sort -u)
}

apt_get() {
    local as=()
    if [ "$(id -u)" -ne 0 ]; then
        as=(sudo)
    fi
    # RUNLEVEL=1 keeps Debian from starting the daemons of the gateway that tests start themselves.
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -y -qq -o Dpkg::Use-Pty=0 \
        -o DPkg::Lock::Timeout=600 -o Acquire::Retries=2 "$@"
}

install_or_refresh() {
    apt_get install --no-install-recommends "$@" >.cache/apt.log 2>&1 && return
    tail -n 20 .cache/apt.log >&2
    apt_get update # a stale package list names files that are gone from the mirror
    return 1
}

install_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian or Ubuntu machine; please see to these yourself: ${packages[*]}"
        return
    fi
    if ! find_python >/dev/null; then
        packages+=(python3 python3-venv python3-dev)
    fi
    local missing
    mapfile -t missing < <(missing_packages "${packages[@]}")
    if [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    if [ "$(id -u)" -ne 0 ] && ! sudo -n true 2>/dev/null && ! { [ -t 0 ] && command -v sudo >/dev/null; }; then
        fail "run as root: apt-get install ${missing[*]}"
    fi
    say "installing system packages: ${missing[*]}"
    if ! apt-cache show --no-all-versions "${missing[@]}" >/dev/null 2>&1; then
        persist apt_get update || fail "apt-get update does not work"
    fi
    persist install_or_refresh "${missing[@]}" || fail "apt-get could not install: ${missing[*]}"
}

# --- Python packages --------------------------------------------------------------------------

digest() { # of all that decides what stands in .venv
    { echo "$root" "$@"; cat "$@" pyproject.toml; } | sha256sum | cut -d ' ' -f 1
}

installed() { # kind, lock
    [ -x .venv/bin/vfs ] && .venv/bin/python -c '' 2>/dev/null &&
        [ "$(cat ".venv/setup-$1" 2>/dev/null)" = "$(digest requirements-build.lock "$2")" ]
}

pip_install() {
    persist .venv/bin/python -m pip --disable-pip-version-check --no-input install -q "$@" ||
        fail "pip could not install the Python packages (see above)"
}

install_python() {
    if installed "$kind" "$lock"; then
        return
    fi
    local python
    python=$(find_python) || fail "needs Python 3.11 or later with its venv module and headers"
    # An environment does not survive a move, nor the interpreter that it was made from.
    if ! .venv/bin/python -c '' 2>/dev/null || ! grep -qF " $root/.venv" .venv/pyvenv.cfg; then
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv
    fi
    rm -f .venv/setup-*
    say "installing Python packages of $lock"
    pip_install --require-hashes -r requirements-build.lock
    pip_install --no-build-isolation --require-hashes -r "$lock"
    pip_install --no-build-isolation --no-deps -e .
    digest requirements-build.lock "$lock" >".venv/setup-$kind"
    if [ "$kind" = test ]; then # which includes the other
        digest requirements-build.lock requirements.lock >.venv/setup-demo
    fi
}

mkdir -p .cache
exec 9>.cache/setup.lock
flock 9 # a demo and a test run may be started side by side
install_packages
install_python
if [ ! -c /dev/fuse ]; then
    say "there is no /dev/fuse here, so nothing can be mounted (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
fi
