"""The local copy of one file's bytes that the store does not have yet.

A sparse file holds bytes at their own offsets. Three sets say what they mean: `present`, what may
be read from here (written bytes, zeros of an extension, clean bytes fetched to complete a part);
`dirty`, what differs from the base version; `holes`, what of it is zeros that were never written
and take no space.

A commit reads a `Frozen` state while writing goes on: before a frozen byte is overwritten its old
value is saved beside the file, so that what is uploaded is what the file held at one moment, never
a mixture of two. Order matters because worker threads read without a lock: save, publish, overwrite
on one side; read, then look what was saved, on the other.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from typing_extensions import override

from vfs.errors import FullError, VfsError
from vfs.spans import EMPTY, SpanSet
from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk, read_exactly, write_exactly
from vfs.stage.holes import punch_hole
from vfs.store.base import Body
from vfs.values import MIB, Span


class StagedFile:
    """Staged bytes of one file. One writer at a time; reads from any task."""

    def __init__(self, path: Path, budget: StageBudget, base_size: int, disk: Disk) -> None:
        self.path = path
        self.base_size = base_size  # bytes of the version that clean bytes come from
        self.size = base_size
        self.present: SpanSet = EMPTY
        self.dirty: SpanSet = EMPTY
        self.holes: SpanSet = EMPTY
        self.changes = 0  # counts every change: tells whether a commit is still the latest
        self._budget = budget
        self._disk = disk
        self._readers = 0
        self._in_flight = Span(0, 0)  # what is being written: not clean any more, nor dirty yet
        self.preserved = False  # holds the only copy of something: never removed by us
        self._frozen: Frozen | None = None
        self.on_change: Callable[[Span], None] = lambda _span: None  # called between two awaits
        self._lock = trio.Lock()  # guards the file's bytes against a second writer
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @property
    def fd(self) -> int:
        """Descriptor of the sparse file, for reading."""
        return self._fd

    @property
    def _charged(self) -> int:
        """Bytes that take space here, and in the budget."""
        return self.present.size - self.holes.size

    def _cost(self, new: Span) -> int:
        """Return how many bytes of a span are not paid for yet."""
        gaps = sum(gap.size for gap in self.present.missing(new))
        return gaps + sum(hole.size for hole in self.holes.within(new))

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes. Errors: FullError (nothing is changed), VfsError when the disk fails."""
        span = Span(offset, offset + len(data))
        # Reserved outside the lock: the commit that drains the stage needs the lock to complete
        # parts.
        reserved = self._cost(span)
        await self._budget.reserve(reserved)
        try:
            async with self._lock:
                await self._write(span, data)
                # No await from here on: the sets and the size change together.
                before = self._charged
                if offset > self.size:
                    self._extend(offset)
                self.present = self.present.add(span)
                self.dirty = self.dirty.add(span)
                self.holes = self.holes.remove(span)
                self.size = max(self.size, span.stop)
                self.changes += 1
                reserved -= self._charged - before
                self.on_change(span)
        finally:
            self._budget.settle(reserved)

    async def _write(self, span: Span, data: bytes | memoryview) -> None:
        self._in_flight = span
        try:
            if self._frozen is not None:
                await self._frozen.keep(span)
            await self._disk.write(self._fd, span.start, data)
        except OSError as error:
            raise stage_error(error, self.path) from error
        finally:
            self._in_flight = Span(0, 0)

    def _extend(self, size: int) -> None:
        grown = Span(self.size, size)
        self.present = self.present.add(grown)
        self.dirty = self.dirty.add(grown)
        self.holes = self.holes.add(grown)
        self.size = size

    async def truncate(self, size: int) -> None:
        """Set the size; an extension reads as zeros and takes no space."""
        while True:
            if self._frozen is not None and size < self._frozen.size:
                await self._frozen.released.wait()
            async with self._lock:
                if self._frozen is not None and size < self._frozen.size:
                    continue
                before = self.size
                if size < before:
                    await self._shrink(size)
                elif size > before:
                    self._extend(size)
                self.changes += 1
                self.on_change(Span(min(size, before), max(size, before)))
                return

    async def _shrink(self, size: int) -> None:
        try:
            await trio.to_thread.run_sync(os.ftruncate, self._fd, size)
        except OSError as error:
            raise stage_error(error, self.path) from error
        gone = Span(size, self.size)
        before = self._charged
        self.present = self.present.remove(gone)
        self.dirty = self.dirty.remove(gone)
        self.holes = self.holes.remove(gone)
        self.base_size = min(self.base_size, size)
        self.size = size
        self._budget.free(before - self._charged)

    async def fill(self, span: Span, data: memoryview) -> None:
        """Keep clean bytes of the base version, where nothing newer is present."""
        async with self._lock:
            gaps = list(self.present.missing(span))
            try:
                for gap in gaps:
                    piece = data[gap.start - span.start : gap.stop - span.start]
                    await trio.to_thread.run_sync(write_exactly, self._fd, gap.start, piece)
                if self._frozen is not None:
                    await self._frozen.fill(span, data)
            except OSError as error:
                raise stage_error(error, self.path) from error
            before = self._charged
            self.present = self.present.add(span)
            # A commit that drains the stage must be able to finish, so this may pass the limit by
            # the few parts that are in flight.
            self._budget.settle(before - self._charged)

    @contextmanager
    def reading(self) -> Generator[None]:
        """Keep present bytes present while they are read across an await."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @property
    def is_frozen(self) -> bool:
        """Whether a commit is reading."""
        return self._frozen is not None

    async def read_into(self, span: Span, buffer: memoryview) -> None:
        """Fill the buffer with bytes that are all present."""
        try:
            await self._disk.read(self._fd, span.start, buffer)
        except OSError as error:
            raise stage_error(error, self.path) from error

    async def freeze(self) -> "Frozen":
        """Return the file as it is now, for one commit at a time; `thaw` ends it."""
        async with self._lock:  # no write is half done
            if self._frozen is not None:
                raise ValueError("already frozen")
            self._frozen = Frozen(self, self._disk)
            return self._frozen

    def thaw(self, *, base_size: int | None) -> None:
        """End the frozen state; with `base_size` its content is the new base version."""
        frozen = self._frozen
        if frozen is None:
            return
        self._frozen = None
        if base_size is not None:
            self.base_size = min(base_size, self.size)
            self.dirty = frozen.written_since.cut(self.size).add(Span(self.base_size, self.size))
        frozen.close()

    def drop_clean(self) -> None:
        """Give back the space of bytes that the store has."""
        if self._frozen is not None or self._readers or self._fd < 0:
            return
        clean = self.present.minus(self.dirty).minus(self.holes).remove(self._in_flight)
        for span in clean:
            punch_hole(self._fd, span)
        self.present = self.present.minus(clean)
        self._budget.free(clean.size)

    async def sync(self) -> None:
        """Make the staged bytes durable on this machine."""
        try:
            await trio.to_thread.run_sync(os.fdatasync, self._fd)
        except OSError as error:
            raise stage_error(error, self.path) from error

    def close(self) -> None:
        """Remove the file and give its space back."""
        if self._fd < 0:
            return
        self.thaw(base_size=None)
        self._budget.free(self._charged)
        os.close(self._fd)
        self._fd = -1
        if not self.preserved:
            self.path.unlink(missing_ok=True)


class Frozen:
    """A staged file as it was when a commit began."""

    def __init__(self, file: StagedFile, disk: Disk) -> None:
        self.size = file.size
        self.base_size = file.base_size
        self.changed = file.dirty
        self.holes = file.holes
        self.at = file.changes
        self.written_since: SpanSet = EMPTY
        self.released = trio.Event()
        self._file = file
        self._disk = disk
        self._saved: SpanSet = EMPTY
        self._saved_fd = -1
        self._savers = 0

    async def keep(self, span: Span) -> None:
        """Save what is frozen of a span that is about to be overwritten."""
        limit = Span(0, self.size)
        present = self._file.present
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
                self._saved = self._saved.add(part)
        self.written_since = self.written_since.add(span)

    @contextmanager
    def _saving(self) -> Generator[None]:
        """Keep the saved bytes' file open: a commit may end while a thread writes to it."""
        if self._saved_fd < 0:
            self._saved_fd = _unnamed_file(self._file.path.parent)
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
                self._saved = self._saved.add(lost)

    async def _copy(self, spans: list[Span]) -> None:
        for span in spans:
            for piece in span.pieces(MIB):
                buffer = memoryview(bytearray(piece.size))
                await self._disk.read(self._file.fd, piece.start, buffer)
                await self._disk.write(self._saved_fd, piece.start, buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with frozen bytes that are all present. Blocking; any thread."""
        read_exactly(self._file.fd, offset, buffer)
        span = Span(offset, offset + buffer.nbytes)
        for saved in self._saved.within(span):
            read_exactly(
                self._saved_fd, saved.start, buffer[saved.start - offset : saved.stop - offset]
            )

    def missing(self, span: Span) -> Iterator[Span]:
        """Yield the clean bytes of a span that must be fetched before `body` can be read."""
        present = self._file.present
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


class _FrozenBody(Body):
    def __init__(self, frozen: Frozen, span: Span) -> None:
        self.size = span.size
        self._frozen = frozen
        self._start = span.start

    @override
    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._frozen.read_into(self._start + offset, buffer)


class LiveBody(Body):
    """Bytes of a staged file as they are when they are read, for a part sent ahead of a commit."""

    def __init__(self, file: StagedFile, span: Span) -> None:
        self.size = span.size
        self._file = file
        self._start = span.start

    @override
    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            read_exactly(self._file.fd, self._start + offset, buffer)
        except OSError as error:  # also when the file has lost its name, and so its stage
            raise stage_error(error, self._file.path) from error


def _unnamed_file(directory: Path) -> int:
    """Open a file that has no name and vanishes with its descriptor."""
    try:
        return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError:  # not every file system has O_TMPFILE
        path = directory / f".saved-{os.getpid()}-{os.urandom(6).hex()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        path.unlink()
        return fd


def stage_error(error: OSError, path: Path) -> VfsError:
    """Return what a failure of the stage's own disk means to a caller."""
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return FullError(
            f"the disk of the stage is full: free space on the file system of {path.parent}",
            detail=str(error),
        )
    return VfsError(f"the stage's disk fails at {path}: {error.strerror}", detail=str(error))
