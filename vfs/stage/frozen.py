"""The state of a staged file that one commit reads, while writing goes on.

Before a frozen byte is overwritten its old value is saved beside the file. Order matters, because
worker threads read without a lock: save, publish, overwrite on one side; read, then look what was
saved, on the other.
"""

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from typing_extensions import override

from vfs.spans import EMPTY, SpanSet
from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk, read_exactly, stage_error, write_exactly
from vfs.store.base import Body
from vfs.values import MIB, Span

if TYPE_CHECKING:
    from vfs.stage.file import StagedFile


class Frozen:
    """A staged file as it was when a commit began."""

    def __init__(self, file: "StagedFile", disk: Disk, budget: StageBudget) -> None:
        self.size = file.size
        self.base_size = file.base_size
        self.changed = file.dirty
        self.holes = file.holes
        self.at = file.changes
        self.written_since: SpanSet = EMPTY
        self.released = trio.Event()
        self.file = file
        self._disk = disk
        self._budget = budget
        self._saved: SpanSet = EMPTY
        self._saved_fd = -1
        self._savers = 0

    async def keep(self, span: Span) -> None:
        """Save what is frozen of a span that is about to be overwritten."""
        limit = Span(0, self.size)
        present = self.file.present
        # What was written since the freeze is not frozen any more, whether it was present or not.
        todo = [
            part
            for gap in self.written_since.missing(span.clip(limit))
            for part in present.within(gap)
        ]
        if todo:
            with self._saving():
                await self._copy(todo)
            for part in todo:
                self._take_note(part)
        self.written_since = self.written_since.add(span)

    @property
    def saved_bytes(self) -> int:
        """Bytes that take space beside the staged file."""
        return self._saved.size

    def _take_note(self, saved: Span) -> None:
        if self.released.is_set():  # the commit has ended meanwhile
            return
        before = self._saved.size
        self._saved = self._saved.add(saved)
        self._budget.settle(before - self._saved.size)

    @contextmanager
    def _saving(self) -> Generator[None]:
        """Keep the saved bytes' file open: a commit may end while a thread writes to it."""
        if self._saved_fd < 0:
            self._saved_fd = _unnamed_file(self.file.path.parent)
        self._savers += 1
        try:
            yield
        finally:
            self._savers -= 1
            if self.released.is_set():
                self.close()

    async def fill(self, span: Span, data: memoryview) -> None:
        """Keep clean bytes whose place in the staged file was overwritten before they came."""
        for gap in list(self.missing(span)):
            piece = data[gap.start - span.start : gap.stop - span.start]
            for lost in self.written_since.within(gap):
                part = piece[lost.start - gap.start : lost.stop - gap.start]
                with self._saving():
                    await trio.to_thread.run_sync(write_exactly, self._saved_fd, lost.start, part)
                self._take_note(lost)

    async def _copy(self, spans: list[Span]) -> None:
        for span in spans:
            for piece in span.pieces(MIB):
                buffer = memoryview(bytearray(piece.size))
                await self._disk.read(self.file.fd, piece.start, buffer)
                await self._disk.write(self._saved_fd, piece.start, buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with frozen bytes that are all present. Blocking; any thread."""
        read_exactly(self.file.fd, offset, buffer)
        span = Span(offset, offset + buffer.nbytes)
        for saved in self._saved.within(span):
            read_exactly(
                self._saved_fd, saved.start, buffer[saved.start - offset : saved.stop - offset]
            )

    def missing(self, span: Span) -> Iterator[Span]:
        """Yield the clean bytes of a span that must be fetched before `body` can be read."""
        present = self.file.present
        for unsaved in self._saved.missing(span):
            lost = (*present.missing(unsaved), *self.written_since.within(unsaved))
            yield from SpanSet(lost)

    def body(self, span: Span) -> Body:
        """Return a span, all present, as something to upload."""
        return _FrozenBody(self, span)

    def close(self) -> None:
        """Let the saved bytes go; bodies must not be read any more."""
        self.released.set()
        # The number of a closed descriptor is soon another file's: no thread may write to it.
        if self._saved_fd >= 0 and not self._savers:
            os.close(self._saved_fd)
            self._saved_fd = -1
            self._budget.free(self._saved.size)


class _FrozenBody(Body):
    def __init__(self, frozen: Frozen, span: Span) -> None:
        self.size = span.size
        self._frozen = frozen
        self._start = span.start

    @override
    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._frozen.read_into(self._start + offset, buffer)
        self._frozen.file.bytes_sent += buffer.nbytes

    @override
    def is_hole(self, span: Span) -> bool:
        return self._frozen.holes.covers(span.shift(self._start))


class LiveBody(Body):
    """Bytes of a staged file as they are when they are read, for a part sent ahead of a commit."""

    def __init__(self, file: "StagedFile", span: Span) -> None:
        self.size = span.size
        self._file = file
        self._start = span.start

    @override
    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            read_exactly(self._file.fd, self._start + offset, buffer)
            self._file.bytes_sent += buffer.nbytes
        except OSError as error:  # also when the file has lost its name, and so its stage
            raise stage_error(error, self._file.path) from error

    @override
    def is_hole(self, span: Span) -> bool:
        return self._file.holes.covers(span.shift(self._start))


def _unnamed_file(directory: Path) -> int:
    """Open a file that has no name and vanishes with its descriptor."""
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system has O_TMPFILE
        path = directory / f".saved-{os.getpid()}-{os.urandom(6).hex()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path.unlink()
        return fd
