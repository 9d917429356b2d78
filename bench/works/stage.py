"""An image that is larger than the stage."""

import threading
from pathlib import Path
from typing import Self

from typing_extensions import override

from bench.children import CHILD, run, timed
from bench.work import (
    MIB,
    Bench,
    Contender,
    Rows,
    Sample,
    Verdict,
    Work,
    at_most,
    measure,
    memory_verdict,
    work,
)

KEY = "stage/image"
LOOK_S = 0.02
LEAST_BYTES = 256 * MIB  # vfs takes no smaller stage


@work
class SmallStage(Work):
    """Half as much again as the large file goes through a stage of half of it."""

    name = "small-stage"
    title = "sequential write of an image three times as large as the stage"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._most_bytes = 0

    @property
    def _stage_bytes(self) -> int:
        return max(LEAST_BYTES, self.bench.size_bytes // 2)

    @override
    def contenders(self) -> list[Contender]:
        return [Contender("vfs", "vfs", self._write)]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        return [
            at_most("MiB in the stage, at most", self._most_bytes / MIB, self._stage_bytes / MIB),
            *memory_verdict(rows),
        ]

    def _write(self) -> Sample:
        size = 3 * self._stage_bytes
        with self.bench.vfs(options=f"stage_size={self._stage_bytes}") as daemon:
            (daemon.path / "stage").mkdir()
            path = daemon.path / KEY
            with _Watch(daemon.path.parent / "stage") as watch:
                command = (*CHILD, "repeat", self.bench.source, path, str(size))
                sample = measure(daemon, lambda: timed(*command), size)
            self._most_bytes = max(self._most_bytes, watch.most_bytes)
        with self.bench.vfs() as fresh:
            run(*CHILD, "repeated", self.bench.source, fresh.path / KEY, str(size))
        self.bench.near.remove("stage/")
        return sample


class _Watch:
    """Looks again and again how much space files take, those without a name left out."""

    def __init__(self, directory: Path) -> None:
        self.most_bytes = 0
        self._directory = directory
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            taken = 0
            for path in self._directory.rglob("*"):
                try:
                    taken += path.lstat().st_blocks * 512
                except FileNotFoundError:
                    continue
            self.most_bytes = max(self.most_bytes, taken)
