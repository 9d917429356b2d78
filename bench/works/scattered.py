"""4 KiB random reads of an object far away, of which nothing is cached."""

import random

from typing_extensions import override

from bench import direct
from bench.fio import BYTES, fio
from bench.gateway import Line
from bench.work import (
    MIB,
    Bench,
    Contender,
    LargeObject,
    Rows,
    Sample,
    Verdict,
    at_least,
    at_most,
    busy_verdict,
    fastest,
    memory_verdict,
    watch,
    work,
)

FAR_MS = 20
DEPTH = 16
LEAST_OF_IDEAL = 0.8  # one read after the other at each of the depth's places
MOST_FETCHED = 40  # bytes per byte asked for
PIECE_BYTES = 128 << 10  # what the direct client fetches: the block size of vfs
SEED = 4
LEAST_READS = 256  # fewer are over before the connections are there


@work
class ColdRandom(LargeObject):
    """fio with O_DIRECT: one read per MiB of the file, so that few find a block already there."""

    name = "random-cold"
    title = f"4 KiB random reads, nothing cached, depth {DEPTH}, round trip {FAR_MS} ms"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._line = Line(bench.gateway)

    @property
    def _reads(self) -> int:
        return max(LEAST_READS, self.bench.size_bytes // MIB)

    @override
    def prepare(self) -> None:
        super().prepare()
        self._line = self.go_far(self.bench.near, FAR_MS)

    @override
    def contenders(self) -> list[Contender]:
        return [
            Contender("vfs", "vfs", self._vfs),
            Contender(f"sockets x{DEPTH}, {PIECE_BYTES >> 10} KiB", "direct", self._direct),
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        ours, plain = rows["vfs"].median, fastest(rows, "direct").median
        ideal = DEPTH / (FAR_MS / 1000)
        return [
            at_least("IOPS of depth / round trip", (ours.iops or 0) / ideal, LEAST_OF_IDEAL),
            Verdict("the same by plain sockets", (plain.iops or 0) / ideal),
            at_most("bytes fetched per byte", (ours.fetched_bytes or 0) / ours.bytes, MOST_FETCHED),
            *memory_verdict(rows),
            busy_verdict(self._line),
        ]

    def _vfs(self) -> Sample:
        with self.bench.vfs(options=self.bench.filling) as daemon:
            path = daemon.path / self.key
            options = (
                "--direct=1",
                "--ioengine=libaio",
                f"--iodepth={DEPTH}",
                f"--io_size={self._reads * BYTES}",
            )
            return watch(
                daemon,
                lambda: self._line.watch(
                    lambda: fio(path, "randread", self.bench.size_bytes, *options)
                ),
            )

    def _direct(self) -> Sample:
        blocks = range(0, self.bench.size_bytes, PIECE_BYTES)
        spots = random.Random(SEED).choices(blocks, k=self._reads)
        seconds = self._line.watch(
            lambda: direct.download_pieces(self.bench.gateway, self.key, spots, PIECE_BYTES, DEPTH)
        )
        return Sample(seconds, self._reads * BYTES, iops=self._reads / seconds)
