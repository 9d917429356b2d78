"""Options of the cache, and how much memory there is to share.

A container sees the RAM of the whole machine in `/proc/meminfo`; what it may really use is the
smallest limit of its control group and of every group above it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from vfs.options import Section, Size
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


class CacheConfig(Section):
    """What is kept of what was read."""

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
