"""The local copy of one file's bytes that the store does not have yet.

A sparse file holds bytes at their own offsets. Three sets say what they mean: `present`, what may
be read from here (written bytes, zeros of an extension, clean bytes fetched to complete a part);
`dirty`, what differs from the base version; `holes`, what of it is zeros that were never written
and take no space.

A commit reads a `Frozen` state while writing goes on, so that what is uploaded is what the file
held at one moment, never a mixture of two. `persist` makes what was written survive a crash: first
the bytes, then the records of the journal that say where they are.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import trio

from vfs.spans import EMPTY, SpanSet
from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk, stage_error, write_exactly
from vfs.stage.frozen import Frozen
from vfs.stage.holes import punch_hole
from vfs.stage.journal import Extent, StagedState, Written, write_record
from vfs.stage.log import FileLog
from vfs.values import Span


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
        self.log = FileLog(path.with_suffix(".log"))
        self._unsynced = Written(base_size)  # what the journal does not say yet
        self._persisting = trio.Lock()
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
                self._unsynced = self._unsynced.wrote(span)
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
                self._unsynced = self._unsynced.cut_to(size)
                self.changes += 1
                self.on_change(Span(min(size, before), max(size, before)))
                return

    async def _shrink(self, size: int) -> None:
        try:
            if self.log.state is not None:
                # What is cut off is gone at once, so a restart must not count on it any more.
                self.log.append(write_record(size, size, (), None))
                await self.log.sync()
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

    async def freeze(self) -> Frozen:
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
        for claim in self.log.claims():
            clean = clean.minus(claim)
        for span in clean:
            punch_hole(self._fd, span)
        self.present = self.present.minus(clean)
        self._budget.free(clean.size)

    @property
    def extent(self) -> Extent:
        """The file as its journal would tell it."""
        return Extent(self.size, self.base_size, self.dirty, self.holes)

    async def persist(self, state: StagedState) -> None:
        """Return when all that was written before the call survives a power cut.

        `state` says which file this is, for a journal that begins with it; its extent is not used.
        Errors: FullError, VfsError when the disk fails; what was not made durable is tried again by
        the next call.
        """
        async with self._persisting:
            async with self._lock:
                written, extent = self._unsynced, self.extent
                if self.log.state is not None and written == Written(self.size):
                    return
                self._unsynced = Written(self.size)
            try:
                await trio.to_thread.run_sync(os.fdatasync, self._fd)
                if self.log.state is None:
                    await self.log.begin(replace(state, extent=extent))
                else:
                    self.log.append(write_record(written.cut, extent.size, written.spans, None))
                    await self.log.sync()
            except OSError as error:
                self._unsynced = written.then(self._unsynced)
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
            self.log.remove()
            self.path.unlink(missing_ok=True)
