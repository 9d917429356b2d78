"""What the figures were measured on, and whether the machine was quiet enough to measure."""

import hashlib
import importlib.metadata
import mmap
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from bench.children import ROOT, BenchError, tell

MIB = 1 << 20
QUIET_LOAD = 1.0
QUIET_WAIT_S = 300.0
NEW_PAGES_MIB = 1024
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def describe() -> dict[str, object]:
    """Return the machine and the versions.

    Also two speeds that bound every upload: of SHA-256, and of the page cache where its pages are
    new to the kernel, which on some virtual machines the host has to supply first.
    """
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpu)
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "sha_ni": " sha_ni" in cpu,
        "sha256_mib_per_s": round(_sha256_speed()),
        "new_pages_mib_per_s": round(_new_pages_speed(Path("/var/tmp"))),
        "memory_mib": int(memory[1]) >> 10 if memory else None,
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("pyfuse3", "trio", "boto3")},
        "gateway": _first_line("radosgw", "--version"),
        "curl": _first_line("curl", "--version"),
        "load": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """Return the commit of this tree, marked when vfs itself differs from it."""
    name = _first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD") or "unknown"
    changed = _first_line("git", "-C", str(ROOT), "status", "--porcelain", "--", "vfs")
    return f"{name}-modified" if changed else name


def cpu_s(pid: int) -> float:
    """Return the processor time of a process, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S  # utime and stime


def drop_caches() -> None:
    """Let the kernel forget the content of all files, of those behind mounts as well."""
    os.sync()
    try:
        DROP_CACHES.write_text("3")
    except OSError as error:
        raise BenchError(
            f"the kernel's cache cannot be dropped, which needs root: {error}"
        ) from error


def wait_until_quiet(limit_s: float = QUIET_WAIT_S) -> bool:
    """Wait for a load below 1; False when it never came."""
    deadline = time.monotonic() + limit_s
    told = False
    while (load := os.getloadavg()[0]) >= QUIET_LOAD:
        if time.monotonic() >= deadline:
            tell(f"warning: the load is {load:.1f}: trust ratios, not single figures")
            return False
        if not told:
            tell(f"load {load:.1f}: waiting up to {limit_s:g} s for it to fall below {QUIET_LOAD}")
            told = True
        time.sleep(2)
    return True


def _sha256_speed() -> float:
    data = bytes(32 * MIB)
    best = min(_timed_sha256(data) for _ in range(3))
    return len(data) / MIB / best


def _timed_sha256(data: bytes) -> float:
    before = time.perf_counter()
    hashlib.sha256(data).digest()
    return time.perf_counter() - before


def supply_pages(size_bytes: int) -> None:
    """Make the host of a virtual machine supply so many bytes of memory, and leave them free.

    Such a host takes back pages that were idle and supplies them on their first use, at a tenth of
    the speed of memory. A turn that caches what it moves would measure that, a turn that does not
    would not.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    size = min(size_bytes, free * 3 // 4)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, size, flags=flags).close()


def _new_pages_speed(directory: Path) -> float:
    piece = bytes(MIB)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        before = time.perf_counter()
        for _ in range(NEW_PAGES_MIB):
            file.write(piece)
        return NEW_PAGES_MIB / (time.perf_counter() - before)


def _first_line(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return (done.stdout.splitlines() or [""])[0]
