"""Options of the cache, and how much memory there is to share.

A container sees the RAM of the whole machine in `/proc/meminfo`; what it may really use is the
smallest limit of its control group and of every group above it.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from vfs.options import LocalPath, Section, Size
from vfs.values import GIB, KIB, MIB

MIN_MEMORY_BYTES = 64 * MIB
"""Below this a handle's floor and one part in flight do not fit beside each other."""


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that this process may use: RAM, or the tightest control group limit."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([ram, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # Inside a container the path may be that of the host: then only the base itself is there.
        directory = base / group.lstrip("/")
        while True:
            limit = _text(directory / name).strip()
            if limit.isdecimal():  # version 2 says "max" for none
                yield int(limit)
            if directory == base or base not in directory.parents:
                break
            directory = directory.parent


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def default_memory(root: Path = Path("/")) -> int:
    """Return an eighth of what this process may use, at most 1 GiB."""
    return min(GIB, memory_limit(root) // 8)


def default_cache_directory(
    environ: Mapping[str, str] | None = None, uid: int | None = None
) -> Path:
    """Return where this user's caches stand."""
    environ = os.environ if environ is None else environ
    if (os.getuid() if uid is None else uid) == 0:
        return Path("/var/cache/vfs")
    base = environ.get("XDG_CACHE_HOME", "")
    # Relative values are invalid and to be ignored (XDG Base Directory Specification).
    return Path(base, "vfs") if base.startswith("/") else Path.home() / ".cache/vfs"


def default_cache_size(path: Path) -> int:
    """Return 10 % of what is free where the cache lies, leaving 5 % of the disk free. Blocking."""
    while not path.exists():
        path = path.parent
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    floor = disk.f_blocks * disk.f_frsize // 20
    return max(min(free // 10, free - floor), 0)


class CacheConfig(Section):
    """What is kept of what was read."""

    cache_dir: LocalPath = Field(
        default_factory=default_cache_directory,
        description=(
            "Local directory for blocks that are kept across restarts; without it `/var/cache/vfs`"
            " for root, `$XDG_CACHE_HOME/vfs` for others."
        ),
        examples=["/var/cache/vfs"],
    )
    cache_size: Size | None = Field(
        None,
        description=(
            "Most that this mount keeps there, 0 for nothing; without it 10 % of the disk's free"
            " space when mounting, and nothing of a store that is local itself. 5 % of the disk"
            " always stay free."
        ),
        examples=["200G"],
    )

    memory: Size = Field(
        default_factory=default_memory,
        ge=MIN_MEMORY_BYTES,
        description=(
            "Memory for cached blocks, read-ahead and uploads together; without it an eighth of the"
            " memory that this process may use (RAM or its control group's limit), at most 1G."
        ),
        examples=["2G"],
    )
    block_size: Size = Field(
        128 * KIB,
        ge=4 * KIB,
        le=16 * MIB,
        description="Unit of caching, a power of two: the least that a small read fetches.",
        examples=["256K"],
    )
    read_ahead: Size | None = Field(
        None,
        le=16 * GIB,
        description=(
            "Most that one sequential reader fetches ahead of itself, 0 for nothing; without it as"
            " much as `memory` has room for."
        ),
        examples=["64M"],
    )

    @model_validator(mode="after")
    def _check_block_size(self) -> Self:
        if self.block_size & (self.block_size - 1):
            raise ValueError("option block_size: must be a power of two; for example 256K")
        return self
