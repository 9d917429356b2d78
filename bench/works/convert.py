"""A disk image from the store becomes a local one."""

import os
from functools import partial
from pathlib import Path

from typing_extensions import override

from bench import direct
from bench.children import run, timed
from bench.work import (
    MIB,
    Contender,
    LargeObject,
    Rows,
    Sample,
    Verdict,
    at_most,
    fastest,
    measure,
    memory_verdict,
    work,
)

MOST_TIMES = 1.3
PIECES = 512  # of data and of holes in turn: 4 MiB each in 2 GiB


@work
class Convert(LargeObject):
    """`qemu-img convert` on a fresh mount, and the same after a download."""

    name = "convert"
    title = "qemu-img convert of an image, half of it holes, to a local qcow2"

    @property
    def _image(self) -> Path:
        return self.bench.base / "image"

    @override
    def prepare(self) -> None:
        size = self.bench.size_bytes
        piece = max(size // PIECES, MIB // 4)
        with self.bench.source.open("rb") as source, self._image.open("wb", buffering=0) as image:
            os.ftruncate(image.fileno(), size)
            for at in range(0, size, 2 * piece):
                os.pwrite(image.fileno(), os.pread(source.fileno(), piece, at), at)
        direct.upload(self.bench.near, self._image, self.key, 8)

    @override
    def finish(self) -> None:
        self._image.unlink(missing_ok=True)
        super().finish()

    @override
    def contenders(self) -> list[Contender]:
        return [
            Contender("vfs", "vfs", self._vfs),
            *(
                Contender(f"download x{n}, convert", "direct", partial(self._direct, n))
                for n in (8, 16)
            ),
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        best = fastest(rows, "direct")
        times = rows["vfs"].median.seconds / best.median.seconds
        return [
            at_most(f"times the fastest ({best.name})", times, MOST_TIMES),
            *memory_verdict(rows),
        ]

    def _vfs(self) -> Sample:
        with self.bench.directory() as base, self.bench.vfs(options=self.bench.filling) as daemon:
            image, target = daemon.path / self.key, base / "qcow2"
            sample = measure(daemon, lambda: _convert(image, target), self.bench.size_bytes)
            run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", self._image, target)
            return sample

    def _direct(self, connections: int) -> Sample:
        size = self.bench.size_bytes
        with self.bench.directory() as base:
            image = base / "image"
            seconds = direct.download(self.bench.gateway, self.key, size, connections, image)
            return Sample(seconds + _convert(image, base / "qcow2"), size)


def _convert(image: Path, target: Path) -> float:
    return timed("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, target)
