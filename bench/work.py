"""What a piece of work is: contenders that take turns, and limits that their medians must keep.

A new one is a class in `bench/works/` with `@work`; nothing else need know of it.
"""

import contextlib
import shutil
import statistics
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from bench import mounts
from bench.gateway import Gateway
from bench.mounts import Daemon

MIB = 1 << 20
GIB = 1 << 30

MEMORY_LIMIT_BYTES = 406_000_000
"""What a daemon with memory=256M may ever have."""

VFS_OPTIONS = "memory=256M"


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn of one contender."""

    seconds: float
    bytes: int = 0  # moved for the user; 0 where that says nothing
    cpu_s: float | None = None  # of the daemon; of vfs and others, not of the kernel's side
    peak_bytes: int | None = None  # memory of the daemon, from its start
    requests: int | None = None  # to the store, during the work

    @property
    def mib_per_s(self) -> float | None:
        """How fast."""
        return self.bytes / MIB / self.seconds if self.bytes else None

    @property
    def cpu_s_per_gib(self) -> float | None:
        """How dear."""
        return self.cpu_s / self.bytes * GIB if self.bytes and self.cpu_s is not None else None


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of doing the work."""

    name: str
    kind: str  # vfs, direct (no file system) or other (another mount)
    turn: Callable[[], Sample]


@dataclass(slots=True)
class Row:
    """All turns of one contender."""

    name: str
    kind: str
    samples: list[Sample] = field(default_factory=list)

    @property
    def median(self) -> Sample:
        """The median of each figure by itself, and the highest peak of memory."""
        found: dict[str, float | None] = {}
        for figure in fields(Sample):
            values = [value for s in self.samples if (value := getattr(s, figure.name)) is not None]
            best = max if figure.name == "peak_bytes" else statistics.median
            found[figure.name] = best(values) if values else None
        return Sample(**found)  # type: ignore[arg-type]


Rows = Mapping[str, Row]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One limit, and whether it was kept."""

    says: str
    value: float
    limit: float | None = None  # None: only told
    passed: bool = True


def at_least(says: str, value: float, limit: float) -> Verdict:
    """Return the verdict on a figure that must be high."""
    return Verdict(says, value, limit, value >= limit)


def at_most(says: str, value: float, limit: float) -> Verdict:
    """Return the verdict on a figure that must be low."""
    return Verdict(says, value, limit, value <= limit)


def fastest(rows: Rows, kind: str) -> Row:
    """Return the contender of a kind with the shortest median."""
    return min((r for r in rows.values() if r.kind == kind), key=lambda r: r.median.seconds)


@dataclass(frozen=True, slots=True)
class Bench:
    """What all works share."""

    gateway: Gateway  # behind the delay, if there is one
    near: Gateway  # always without: for preparing and checking
    base: Path  # a directory on disk that goes away at the end
    size_bytes: int  # of the one large file
    others: Sequence[str]  # mounts to compare with
    options: str  # of vfs

    @contextlib.contextmanager
    def vfs(self, prefix: str = "", *, options: str = "") -> Iterator[Daemon]:
        """Mount with vfs; nothing is cached, nothing staged."""
        given = ",".join(filter(None, (self.options, options)))
        with (
            self.directory() as base,
            mounts.vfs(self.gateway, base, given, prefix) as daemon,
        ):
            yield daemon

    @contextlib.contextmanager
    def other(self, name: str) -> Iterator[Daemon]:
        """Mount with another program; nothing is cached."""
        with self.directory() as base, mounts.OTHERS[name](self.gateway, base) as daemon:
            yield daemon

    @contextlib.contextmanager
    def directory(self) -> Iterator[Path]:
        """Make a directory that goes away, unless something is still mounted in it."""
        path = Path(tempfile.mkdtemp(prefix="turn-", dir=self.base))
        try:
            yield path
        finally:
            if not mounts.is_mounted(path / "mnt"):
                shutil.rmtree(path, ignore_errors=True)

    @property
    def source(self) -> Path:
        """The large file, of bytes that do not compress."""
        return self.base / "source"


class Work(ABC):
    """One piece of work."""

    name = ""
    title = ""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def prepare(self) -> None:  # noqa: B027 - not every work needs it
        """Make what the turns need; not measured."""

    @abstractmethod
    def contenders(self) -> list[Contender]:
        """Return who takes turns."""

    @abstractmethod
    def judge(self, rows: Rows) -> list[Verdict]:
        """Compare with what must be reached."""

    def finish(self) -> None:  # noqa: B027 - likewise
        """Remove what `prepare` made."""


WORKS: dict[str, type[Work]] = {}

W = TypeVar("W", bound=type[Work])


def work(kind: W) -> W:
    """Enter a piece of work in the register."""
    WORKS[kind.name] = kind
    return kind


def memory_verdict(rows: Rows) -> list[Verdict]:
    """Return the verdict on the memory of vfs, where it was measured."""
    peaks = [r.median.peak_bytes for r in rows.values() if r.kind == "vfs"]
    return [
        at_most("peak memory of the daemon, MB", (peak or 0) / 1e6, MEMORY_LIMIT_BYTES / 1e6)
        for peak in peaks
    ]


def measure(daemon: Daemon, action: Callable[[], float], size: int = 0) -> Sample:
    """Do something that returns its seconds; return them with what the daemon used for it."""
    before = daemon.usage()
    seconds = action()
    after = daemon.usage()
    requests = None
    if after.requests is not None and before.requests is not None:
        requests = after.requests - before.requests
    return Sample(seconds, size, after.cpu_s - before.cpu_s, daemon.peak_bytes(), requests)
