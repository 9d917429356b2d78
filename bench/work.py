"""What a piece of work is: contenders that take turns, and limits that their medians must keep.

A new one is a class in `bench/works/` with `@work`; nothing else need know of it.
"""

import contextlib
import shutil
import statistics
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from typing_extensions import override

from bench import direct, mounts
from bench.gateway import Gateway, Line, delayed
from bench.mounts import Daemon

MIB = 1 << 20
GIB = 1 << 30

MEMORY_LIMIT_BYTES = 406_000_000
"""What a daemon with memory=256M may ever have."""

VFS_OPTIONS = "memory=256M"

FULL_BYTES = 2 * GIB
"""Size of the large file for which numbers of files, seconds and the like are given."""

BUSY = 0.9
"""Share of a processor from which on the delay itself may be what limits a figure."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn of one contender."""

    seconds: float
    bytes: int = 0  # moved for the user; 0 where that says nothing
    cpu_s: float | None = None  # of the daemon; of vfs and others, not of the kernel's side
    peak_bytes: int | None = None  # memory of the daemon, from its start
    requests: int | None = None  # to the store, during the work
    fetched_bytes: int | None = None  # from the store, during the work
    iops: float | None = None  # where single operations count

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
    kind: str  # vfs, direct (no file system), other (another mount) or local (a file on the disk)
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
    return min(done(rows, kind), key=lambda r: r.median.seconds)


def done(rows: Rows, kind: str) -> list[Row]:
    """Return the contenders of a kind that could do the work."""
    return [row for row in rows.values() if row.kind == kind and row.samples]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all works share."""

    gateway: Gateway  # behind the delay, if there is one
    near: Gateway  # always without: for preparing and checking
    base: Path  # a directory on disk that goes away at the end
    size_bytes: int  # of the one large file
    others: Sequence[str]  # mounts to compare with
    options: str  # of vfs
    round_trip_ms: float = 0

    def scaled(self, number: int, least: int) -> int:
        """Return what becomes of a number that is meant for the full size."""
        return max(least, min(number, number * self.size_bytes // FULL_BYTES))

    @property
    def filling(self) -> str:
        """The option that gives the SSD tier room for the large file."""
        return f"cache_size={2 * self.size_bytes}"

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
        self.stack = contextlib.ExitStack()  # what `prepare` opens; closed before `finish`
        self.notes: list[str] = []  # for the report

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


class LargeObject(Work):
    """Work on one object with the content of the large file."""

    @property
    def key(self) -> str:
        """Its name in the bucket, and its path in a mount."""
        return f"{self.name}/large"

    @override
    def prepare(self) -> None:
        direct.upload(self.bench.near, self.bench.source, self.key, 8)

    @override
    def finish(self) -> None:
        self.bench.near.remove(f"{self.name}/")

    def go_far(self, gateway: Gateway, round_trip_ms: float) -> Line:
        """Put a delay of its own into the line of this work."""
        line = self.stack.enter_context(delayed(gateway, round_trip_ms))
        self.bench = replace(self.bench, gateway=line.gateway)
        return line


def busy_verdict(line: Line) -> Verdict:
    """Tell how busy the process was that delays; a full processor is a limit of the benchmark."""
    warning = " (it may be the limit!)" if line.busiest >= BUSY else ""
    return Verdict(f"processors taken by the delay, at most{warning}", line.busiest)


def memory_verdict(rows: Rows) -> list[Verdict]:
    """Return the verdict on the memory of vfs."""
    peak = max(row.median.peak_bytes or 0 for row in done(rows, "vfs"))
    return [at_most("peak memory of the daemon, MB", peak / 1e6, MEMORY_LIMIT_BYTES / 1e6)]


def measure(daemon: Daemon, action: Callable[[], float], size: int = 0) -> Sample:
    """Do something that returns its seconds; return them with what the daemon used for it."""
    return watch(daemon, lambda: Sample(action(), size))


def watch(daemon: Daemon, action: Callable[[], Sample]) -> Sample:
    """Do something that was measured; add what the daemon used for it."""
    before = daemon.usage()
    sample = action()
    after = daemon.usage()
    return replace(
        sample,
        cpu_s=after.cpu_s - before.cpu_s,
        peak_bytes=daemon.peak_bytes(),
        requests=_grown(before.requests, after.requests),
        fetched_bytes=_grown(before.fetched_bytes, after.fetched_bytes),
    )


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before
