"""Reads of what is kept already: on the SSD tier, or in the kernel's cache."""

from pathlib import Path

from typing_extensions import override

from bench import machine
from bench.children import CHILD, run, timed
from bench.fio import fio
from bench.mounts import Daemon
from bench.work import (
    MIB,
    Bench,
    Contender,
    LargeObject,
    Row,
    Rows,
    Sample,
    Verdict,
    at_least,
    at_most,
    measure,
    memory_verdict,
    watch,
    work,
)

LEAST_BYTES_PER_S = 2.5e9
LEAST_OF_DD = 0.6
MOST_OF_CACHED_DD = 1.1
LEAST_IOPS = {1: 30_000, 16: 60_000}  # by depth
LEAST_OF_DISK = 0.4
RANDOM_S = 10


class _WarmFile(LargeObject):
    """One mount for all turns, with the whole file on its SSD tier."""

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._mounted: Daemon | None = None

    @override
    def prepare(self) -> None:
        super().prepare()
        mount = self.bench.vfs(options=self.bench.filling)
        self._mounted = self.stack.enter_context(mount)
        path = self.daemon.path / self.key
        if late := self.daemon.warm(path, self.bench.size_bytes):
            self.notes.append(
                f"the first read left out {late // MIB} MiB of the SSD tier; vfs warm fetched them"
            )
        run(*CHILD, "compare", self.bench.source, path)

    @property
    def daemon(self) -> Daemon:
        """The mount."""
        assert self._mounted is not None
        return self._mounted


class _WarmRead(_WarmFile):
    """`dd` of the file, and of a local one with the same content on the same disk."""

    @override
    def contenders(self) -> list[Contender]:
        return [
            Contender("vfs", "vfs", self._vfs),
            Contender("dd of a local file", "local", self._local),
        ]

    def make_ready(self, path: Path) -> None:
        """Bring the kernel's cache into the state that the work is about."""
        raise NotImplementedError

    def _vfs(self) -> Sample:
        path = self.daemon.path / self.key
        self.make_ready(path)
        return measure(self.daemon, lambda: _dd(path), self.bench.size_bytes)

    def _local(self) -> Sample:
        self.make_ready(self.bench.source)
        return Sample(_dd(self.bench.source), self.bench.size_bytes)


@work
class DiskRead(_WarmRead):
    """The kernel has forgotten the file; the SSD tier has it."""

    name = "read-warm"
    title = "sequential read from the SSD tier, kernel cache dropped"

    @override
    def make_ready(self, path: Path) -> None:
        machine.drop_caches()

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        ours, local = (_bytes_per_s(row) for row in rows.values())
        fetched = rows["vfs"].median.fetched_bytes or 0
        least = min(LEAST_BYTES_PER_S, LEAST_OF_DD * local)
        return [
            at_least(f"GB/s (dd of a local file: {local / 1e9:.2f})", ours / 1e9, least / 1e9),
            at_most("MiB fetched from the store", fetched / MIB, 0),
            *memory_verdict(rows),
        ]


@work
class CachedRead(_WarmRead):
    """The kernel has the whole file."""

    name = "read-cached"
    title = "second sequential read, from the kernel's cache"

    @override
    def make_ready(self, path: Path) -> None:
        _dd(path)

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        ours, local = (_bytes_per_s(row) for row in rows.values())
        return [
            at_most("times dd of a local file", local / ours, MOST_OF_CACHED_DD),
            *memory_verdict(rows),
        ]


@work
class WarmRandom(_WarmFile):
    """fio past the kernel's cache, and the same on a local file on the same disk."""

    name = "random-warm"
    title = "4 KiB random reads with O_DIRECT from the SSD tier"

    @override
    def contenders(self) -> list[Contender]:
        return [
            Contender(f"{name}, depth {depth}", kind, lambda w=way, d=depth: w(d))
            for depth in LEAST_IOPS
            for name, kind, way in (
                ("vfs", "vfs", self._vfs),
                ("local file", "local", self._local),
            )
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        verdicts = memory_verdict(rows)
        for depth, most in LEAST_IOPS.items():
            ours = rows[f"vfs, depth {depth}"].median.iops or 0
            local = rows[f"local file, depth {depth}"].median.iops or 0
            least = min(most, LEAST_OF_DISK * local)
            says = f"IOPS at depth {depth} (local file: {local:.0f})"
            verdicts.append(at_least(says, ours, round(least)))
        return verdicts

    def _vfs(self, depth: int) -> Sample:
        path = self.daemon.path / self.key
        machine.drop_caches()
        return watch(self.daemon, lambda: self._fio(path, depth))

    def _local(self, depth: int) -> Sample:
        machine.drop_caches()
        return self._fio(self.bench.source, depth)

    def _fio(self, path: Path, depth: int) -> Sample:
        seconds = self.bench.scaled(RANDOM_S, 1)
        return fio(
            path,
            "randread",
            self.bench.size_bytes,
            "--direct=1",
            "--ioengine=libaio",
            f"--iodepth={depth}",
            "--time_based",
            f"--runtime={seconds}",
        )


def _dd(path: Path) -> float:
    return timed("dd", f"if={path}", "of=/dev/null", "bs=1M")


def _bytes_per_s(row: Row) -> float:
    median = row.median
    return median.bytes / median.seconds
