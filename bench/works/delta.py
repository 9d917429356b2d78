"""Small changes of a large object: what is sent again, and how fast they are taken."""

import random
import time
from pathlib import Path

from typing_extensions import override

from bench import child
from bench.children import CHILD, VFS, BenchError, run, timed
from bench.fio import fio
from bench.work import (
    GIB,
    MIB,
    Bench,
    Contender,
    Rows,
    Sample,
    Verdict,
    Work,
    at_least,
    at_most,
    measure,
    memory_verdict,
    watch,
    work,
)

KEY = "delta/image"
WRITES = 100
WRITE_BYTES = 4096
MOST_BYTES_PER_PART = 5 * MIB
FIO_S = 60
FIO_BYTES = 256 * MIB
FIO_SYNC_EVERY = 32
LEAST_IOPS = 10_000


class _LargeImage(Work):
    """Works on an object twice as large as the large file, put together from it by the store."""

    @override
    def prepare(self) -> None:
        self.bench.near.put_twice(self.bench.source, KEY)

    @override
    def finish(self) -> None:
        self.bench.near.remove("delta/")

    @property
    def _size(self) -> int:
        return 2 * self.bench.size_bytes


@work
class Delta(_LargeImage):
    """100 random 4 KiB writes, then fsync: only the parts that they touch are sent."""

    name = "delta"
    title = f"{WRITES} random 4 KiB writes and one fsync in a large object"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._sent: list[float] = []  # bytes per part that was written to, of each round

    @override
    def contenders(self) -> list[Contender]:
        return [Contender("vfs", "vfs", self._change)]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        return [
            at_most(
                "MiB sent per part that was written to",
                max(self._sent) / MIB,
                MOST_BYTES_PER_PART / MIB,
            ),
            *memory_verdict(rows),
        ]

    def _change(self) -> Sample:
        seed = random.randrange(1 << 32)
        with self.bench.vfs() as daemon:
            image = daemon.path / KEY
            before = daemon.usage().sent_bytes or 0
            command = (*CHILD, "scatter", image, str(WRITES), str(WRITE_BYTES), str(seed))
            sample = measure(daemon, lambda: timed(*command), WRITES * WRITE_BYTES)
            spots = child.spots(seed, self._size, WRITES, WRITE_BYTES)
            touched = len({at // MOST_BYTES_PER_PART for at in spots})
            # One more for the end of the file, where no part may be left that is too small.
            sent = (daemon.usage().sent_bytes or 0) - before
            self._sent.append(sent / (touched + 1))
        with self.bench.vfs() as fresh:
            run(*CHILD, "scattered", fresh.path / KEY, str(WRITES), str(WRITE_BYTES), str(seed))
        return sample


@work
class LocalFsync(_LargeImage):
    """fio writes 4 KiB at random and syncs often; fsync=local, the upload comes afterwards."""

    name = "fsync-local"
    title = f"random 4 KiB writes, fsync every {FIO_SYNC_EVERY}, fsync=local"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._upload_s: list[float] = []

    @override
    def contenders(self) -> list[Contender]:
        return [Contender("vfs", "vfs", self._fio)]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        return [
            at_least("writes a second", rows["vfs"].median.iops or 0, LEAST_IOPS),
            Verdict("seconds until the store had it all", max(self._upload_s)),
            *memory_verdict(rows),
        ]

    def _fio(self) -> Sample:
        with self.bench.vfs(options="fsync=local") as daemon:
            sample = watch(daemon, lambda: self._run_fio(daemon.path / KEY))
            before = time.perf_counter()
            run(*VFS, "flush", daemon.path, env=daemon.environ)
            self._upload_s.append(time.perf_counter() - before)
            if daemon.status()["dirty_bytes"]:
                raise BenchError("vfs flush returned before the store had everything")
        return sample

    def _run_fio(self, image: Path) -> Sample:
        return fio(
            image,
            "randwrite",
            min(FIO_BYTES, self.bench.size_bytes),
            "--ioengine=psync",
            f"--fsync={FIO_SYNC_EVERY}",
            f"--offset={GIB if self._size > 2 * GIB else 0}",
            "--time_based",
            f"--runtime={self.bench.scaled(FIO_S, 2)}",
        )
