"""Progress of a long command: a bar on a terminal, plain lines elsewhere. Always on stderr."""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from typing_extensions import override

from vfs.cli.text import show_bytes

LINE_PAUSE_S = 10.0
"""Between two plain lines: a day's upload stays readable in a log."""


class Meter(ABC):
    """Shows how far something is."""

    @abstractmethod
    def update(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes."""


class LineMeter(Meter):
    """One line now and then."""

    def __init__(
        self, label: str, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._label = label
        self._stream = stream
        self._clock = clock
        self._last = clock()

    @override
    def update(self, done: int, total: int) -> None:
        now = self._clock()
        if now - self._last >= LINE_PAUSE_S:
            self._last = now
            percent = done * 100 // total if total else 100
            line = f"{self._label}: {show_bytes(done)} of {show_bytes(total)} ({percent} %)"
            self._stream.write(f"{line}\n")
            self._stream.flush()


class BarMeter(Meter):
    """A bar that is redrawn."""

    def __init__(self, label: str, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task(label, total=None)

    @override
    def update(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def open_meter(label: str, *, stream: TextIO | None = None) -> Generator[Meter]:
    """Show progress under a label until the block ends."""
    target = sys.stderr if stream is None else stream
    if not target.isatty():
        yield LineMeter(label, target)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=target), transient=True) as progress:
        yield BarMeter(label, progress)
