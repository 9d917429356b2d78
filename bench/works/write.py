"""Sequential write of one large file, until the store has all of it."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from typing_extensions import override

from bench import direct
from bench.children import CHILD, BenchError, run, timed
from bench.work import (
    Contender,
    Rows,
    Sample,
    Verdict,
    Work,
    at_most,
    fastest,
    measure,
    memory_verdict,
    work,
)

PREFIX = "write/"
KEY = "write/large"
MOST_TIMES = 1.5
STORED_S = 600.0  # mounts that answer before they store have this long


@work
class DurableWrite(Work):
    """`dd conv=fsync`; where that returns too early, until the object has its size."""

    name = "write"
    title = "sequential write, durable"

    @override
    def contenders(self) -> list[Contender]:
        place = (self.bench.gateway, self.bench.source, KEY)
        plain = {f"sockets x{n}": partial(direct.upload, *place, n) for n in (8, 16)}
        hashed = {
            "sockets x8, hashed": partial(direct.upload, *place, 8, hashed=True),
            "boto3 x8": partial(direct.upload_by_sdk, *place, 8),
        }
        return [
            Contender("vfs", "vfs", self._vfs),
            *(Contender(name, "direct", partial(self._direct, f)) for name, f in plain.items()),
            *(Contender(name, "hashed", partial(self._direct, f)) for name, f in hashed.items()),
            *(Contender(name, "other", partial(self._other, name)) for name in self.bench.others),
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        best, hashing = fastest(rows, "direct"), fastest(rows, "hashed")
        if hashing.median.seconds < best.median.seconds:
            best = hashing
        ours = rows["vfs"].median.seconds
        return [
            at_most(
                f"times the fastest direct upload ({best.name})",
                ours / best.median.seconds,
                MOST_TIMES,
            ),
            at_most(
                f"times the fastest that signs what it sends, as vfs does ({hashing.name})",
                ours / hashing.median.seconds,
                MOST_TIMES,
            ),
            *memory_verdict(rows),
        ]

    def _vfs(self) -> Sample:
        size = self.bench.size_bytes
        with self.bench.vfs() as daemon:
            (daemon.path / PREFIX).mkdir()
            path = daemon.path / KEY
            sample = measure(daemon, lambda: _write(self.bench.source, path), size)
            if self.bench.near.size(KEY) != size or daemon.status()["dirty_bytes"]:
                raise BenchError("vfs: fsync returned before the store had the file")
        with self.bench.vfs() as fresh:
            run(*CHILD, "compare", self.bench.source, fresh.path / KEY)
        self.bench.near.remove(PREFIX)
        return sample

    def _direct(self, upload: Callable[[], float]) -> Sample:
        seconds = upload()
        if self.bench.near.size(KEY) != self.bench.size_bytes:
            raise BenchError("direct upload: the object has another size than the file")
        self.bench.near.remove(PREFIX)
        return Sample(seconds, self.bench.size_bytes)

    def _other(self, name: str) -> Sample:
        with self.bench.other(name) as daemon:
            (daemon.path / PREFIX).mkdir()
            path = daemon.path / KEY
            sample = measure(daemon, lambda: self._store(path), self.bench.size_bytes)
        self.bench.near.remove(PREFIX)
        return sample

    def _store(self, path: Path) -> float:
        """Write, then wait until the store has it all; return the seconds."""
        before = time.perf_counter()
        _write(self.bench.source, path)
        while self.bench.near.size(KEY) != self.bench.size_bytes:
            if time.perf_counter() - before > STORED_S:
                raise BenchError(f"{path} is not stored after {STORED_S:g} s")
            time.sleep(0.05)
        return time.perf_counter() - before


def _write(source: Path, path: Path) -> float:
    return timed("dd", f"if={source}", f"of={path}", "bs=1M", "conv=fsync")
