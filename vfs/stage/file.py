"""The local copy of one file's bytes that the store does not have yet.

A sparse file holds bytes at their own offsets. Three sets say what they mean: `present`, what may
be read from here (written bytes, zeros of an extension, clean bytes fetched to complete a part);
`dirty`, what differs from the base version; `holes`, what of it is zeros that were never written
and take no space.

A commit reads a `Frozen` state while writing goes on, so that what is uploaded is what the file
held at one moment, never a mixture of two. `persist` makes what was written survive a crash: first
the bytes, then the records of the journal that say where they are.
"""

import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import trio

from vfs.errors import CorruptError
from vfs.holes import HOLE_BYTES, is_zero, punch_hole
from vfs.layout.base import FileVersion
from vfs.spans import EMPTY, SpanSet
from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk, stage_error, write_exactly
from vfs.stage.frozen import Frozen
from vfs.stage.journal import (
    GONE,
    Extent,
    StagedState,
    Written,
    commit_record,
    cut_record,
    stored_record,
    write_record,
)
from vfs.stage.log import FileLog, log_path
from vfs.stage.records import Record
from vfs.values import Span

log = logging.getLogger(__name__)


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
        self.bytes_sent = 0  # read for uploads: grows while one is moving; counted by any thread
        self._budget = budget
        self._disk = disk
        self._readers = 0
        self._holders = 0  # who waits for the disk
        self._is_closing = False  # as soon as nobody does
        self._in_flight = Span(0, 0)  # what is being written: not clean any more, nor dirty yet
        self._unsettled = False  # stored, and a restart may not find that told yet
        self.preserved = False  # holds the only copy of something: never removed by us
        self._frozen: Frozen | None = None
        self.on_change: Callable[[Span], None] = lambda _span: None  # called between two awaits
        self.on_write: Callable[[Span], None] = lambda _span: None  # before the bytes are there
        self._lock = trio.Lock()  # guards the file's bytes against a second writer
        self.log = FileLog(log_path(path))
        self._untold: Written = Written(base_size)  # what the journal does not say yet, or the base
        self._told_size = base_size
        self._before_freeze: Written = self._untold
        self._commit_id: str | None = None  # of the commit that reads the frozen state
        self._unsafe: OSError | None = None  # the disk may have dropped what it was given
        self._persisting = trio.Lock()
        self._fd = -1

    def create(self) -> None:
        """Make the file. Blocking. Errors: OSError."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def reopen(self) -> StagedState | None:
        """Open what an earlier owner has left; None when its journal is empty. Blocking.

        Errors: OSError; MetadataError for a newer format; CorruptError when the journal or the
        bytes are damaged: then nothing was changed.
        """
        state = self.log.open()
        if state is None or state.is_stored:
            return state
        extent = state.extent
        self._open_bytes(extent)
        self.size, self.base_size = extent.size, extent.base_size
        self.present = self.dirty = extent.dirty
        self.holes = extent.holes
        for hole in self.holes:  # written later than what is known, and not synced
            punch_hole(self._fd, hole)
        os.fdatasync(self._fd)
        self._untold = self._before_freeze = Written(self.size)
        self._told_size = self.size
        return state

    def rebase(self, extent: Extent) -> None:
        """Take a file that was reopened for one that is stored but for this extent."""
        before = self._charged
        self.size, self.base_size = extent.size, extent.base_size
        self.present = self.dirty = extent.dirty
        self.holes = extent.holes
        self._untold, self._told_size = Written(self.size), self.size
        self._budget.free(before - self._charged)

    def charge(self) -> None:
        """Pay for what was reopened, past the limit if need be."""
        self._budget.settle(-self._charged)

    def _open_bytes(self, extent: Extent) -> None:
        written = extent.dirty.minus(extent.holes)
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if written:
                raise CorruptError(f"{self.path} is missing, its journal is there") from None
            self.create()
        if os.fstat(self._fd).st_size < written.stop:
            raise CorruptError(f"{self.path} is shorter than its journal says")

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
        if not self.holes and self.present.covers(new):
            return 0
        gaps = sum(gap.size for gap in self.present.missing(new))
        return gaps + sum(hole.size for hole in self.holes.within(new))

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes; zeros become a hole.

        Errors: FullError (nothing is changed), VfsError when the disk fails.
        """
        span = Span(offset, offset + len(data))
        zeros = span.size >= HOLE_BYTES and is_zero(data)
        # Reserved outside the lock: the commit that drains the stage needs the lock to complete
        # parts.
        reserved = 0 if zeros else self._cost(span)
        await self._budget.reserve(reserved)
        try:
            async with self._lock:
                hole = await self._write(span, data, zeros=zeros)
                # No await from here on: the sets and the size change together.
                before = self._charged
                if offset > self.size:
                    self._extend(offset)
                self.present = self.present.add(span)
                self.dirty = self.dirty.add(span)
                self.holes = self.holes.add(span) if hole else self.holes.remove(span)
                self.size = max(self.size, span.stop)
                self._untold = self._untold.wrote(span)
                self.changes += 1
                reserved -= self._charged - before
                self.on_change(span)
        finally:
            self._budget.settle(reserved)

    async def _write(self, span: Span, data: bytes | memoryview, *, zeros: bool) -> bool:
        """Write bytes; True when a hole stands for them."""
        self._in_flight = span
        self.on_write(span)
        try:
            if self._frozen is not None:
                await self._frozen.keep(span)
            if zeros and punch_hole(self._fd, span):
                # The journal tells of them as of any bytes, and wants the file to have them.
                if os.fstat(self._fd).st_size < span.stop:
                    os.ftruncate(self._fd, span.stop)
                return True
            await self._disk.write(self._fd, span.start, data)
        except OSError as error:
            for gap in self.present.missing(span):  # what was never written must read as zeros
                punch_hole(self._fd, gap)
            raise stage_error(error, self.path) from error
        else:
            return False
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
                self._untold = self._untold.cut_to(size)
                self.changes += 1
                self.on_change(Span(min(size, before), max(size, before)))
                return

    async def _shrink(self, size: int) -> None:
        untold = self._untold
        # A journal that is begun meanwhile must not tell of bytes that may be gone.
        self._untold = untold.cut_to(size)
        try:
            if self.log.begun:
                # What is cut off is gone at once, so a restart must not count on it any more.
                self.log.append(cut_record(size), dirty=self.dirty)
                self._told_size = min(self._told_size, size)
                if self.log.promised:
                    await self.log.sync()
            await trio.to_thread.run_sync(os.ftruncate, self._fd, size)
        except OSError as error:
            self._untold = untold
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

    def is_stored(self, span: Span) -> bool:
        """Tell whether all bytes of a span are here, as the base version has them."""
        clean = self.present.covers(span) and not self.dirty.touches(span)
        return clean and not self._in_flight.overlaps(span)

    async def read_into(self, span: Span, buffer: memoryview) -> None:
        """Fill the buffer with bytes that are all present."""
        try:
            await self._disk.read(self._fd, span.start, buffer)
        except OSError as error:
            raise stage_error(error, self.path) from error

    async def freeze(self, commit_id: str | None = None) -> Frozen:
        """Return the file as it is now, for one commit at a time; `thaw` ends it.

        With an id, the commit is journalled where there is a journal.
        """
        async with self._lock:  # no write is half done
            if self._frozen is not None:
                raise ValueError("already frozen")
            if self.log.begun:
                self.note()
                if commit_id is not None:
                    self.log.append(commit_record(commit_id, self.size), dirty=self.dirty)
            self._frozen = Frozen(self, self._disk, self._budget)
            self._commit_id = commit_id
            self._before_freeze, self._untold = self._untold, Written(self.size)
            return self._frozen

    def thaw(self, *, stored: FileVersion | None) -> None:
        """End the frozen state; with `stored` its content is that version, the base from now on."""
        frozen = self._frozen
        if frozen is None:
            return
        self._frozen = None
        if stored is not None:
            self._unsettled = self.log.begun
            self.base_size = min(frozen.size, self.size)
            self.dirty = frozen.written_since.cut(self.size).add(Span(self.base_size, self.size))
        elif not self.log.begun:
            self._untold = self._before_freeze.then(self._untold)
        frozen.close()

    def drop_clean(self) -> None:
        """Give back the space of bytes that the store has."""
        if self._frozen is not None or self._readers or self._unsettled or self._fd < 0:
            return
        clean = self.present.minus(self.dirty).minus(self.holes).remove(self._in_flight)
        for claim in self.log.claims():
            clean = clean.minus(claim)
        for span in clean:
            punch_hole(self._fd, span)
        self.present = self.present.minus(clean)
        self._budget.free(clean.size)

    # The journal

    @property
    def extent(self) -> Extent:
        """The file as its journal would tell it."""
        return Extent(self.size, self.base_size, self.dirty, self.holes)

    def begin_log(self, state: StagedState) -> None:
        """Journal the file from now on; `state` says which it is and what it is made from.

        Its extent is not used. Errors: FullError, VfsError when the disk fails.
        """
        if not self.log.begun:
            size = state.base.size if state.base is not None else 0
            with self._disk_errors():
                self.log.begin(replace(state, extent=Extent(size, size)))
                self._told_size = size
                if self._frozen is not None:
                    told, self._told_size = self._before_freeze, self._frozen.size
                    record = write_record(told.cut, self._told_size, told.spans, self.log.boot)
                    self.log.append(record, dirty=self.dirty)
                    if self._commit_id is not None:
                        self.log.append(
                            commit_record(self._commit_id, self._frozen.size), dirty=self.dirty
                        )

    def note(self) -> None:
        """Tell the journal what was written, so that it survives the daemon.

        Errors: FullError, VfsError when the disk fails; it is told by the next call.
        """
        untold, size = self._untold, self.size
        if self.log.begun and (untold != Written(size) or size != self._told_size):
            self._untold, self._told_size = Written(size), size
            record = write_record(untold.cut, size, untold.spans, self.log.boot)
            with self._disk_errors():
                self.log.append(record, dirty=self.dirty)

    def tell(self, *records: Record) -> None:
        """Journal records after what was written so far, where there is a journal.

        Errors: FullError, VfsError when the disk fails; they are queued for the next call.
        """
        if self.log.begun:
            self.note()
            with self._disk_errors():
                self.log.append(*records, dirty=self.dirty)

    async def tell_stored(self, base: FileVersion) -> None:
        """Journal that a commit has taken effect, after `thaw`; until then nothing is given back.

        Errors: FullError, VfsError when the disk fails: the store knows, and a restart asks it.
        """
        self.tell(stored_record(base))
        await self.sync_log()
        self._unsettled = False

    async def sync_log(self) -> None:
        """Return when the journal is on the disk, if a reboot is to read it.

        Errors: FullError, VfsError when the disk fails.
        """
        if self.log.promised:
            with self._disk_errors():
                await self.log.sync()

    async def persist(self) -> None:
        """Return when all that was written before the call survives a power cut.

        Errors: FullError, VfsError when the disk fails; what was not made durable is tried again by
        the next call.
        """
        async with self._persisting:
            async with self._lock:  # no write is half done
                self.note()
                tagged, nothing_new = self.log.tagged, self.log.is_kept
            with self._disk_errors():
                if self._unsafe is not None:
                    raise self._unsafe
                if nothing_new:
                    await self.log.sync()
                    return
                await self.log.promise(tagged, self._sync_bytes)
                await self.log.compact()

    async def keep_log(self) -> None:
        """Return when a reboot would read the journal, if no more than its beginning.

        Errors: FullError, VfsError when the disk fails.
        """
        if not self.log.promised:
            with self._disk_errors():
                await self.log.promise(0, lambda: None)
        else:
            await self.sync_log()

    def _sync_bytes(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            # What could not be written may be gone from the page cache by now, and the next
            # fdatasync would not say so: nothing more is promised of this file.
            self._unsafe = error
            raise

    async def settle_log(self) -> None:
        """Make a journal that was taken over hold after a reboot too, as it stands."""
        with self._disk_errors():
            await self.log.settle()

    @contextmanager
    def _disk_errors(self) -> Generator[None]:
        """Tell what the disk does wrong; nothing is closed meanwhile, be it in a thread."""
        self._holders += 1
        try:
            yield
        except OSError as error:
            raise stage_error(error, self.path) from error
        finally:
            self._holders -= 1
            if self._is_closing and not self._holders:
                self.close()

    def discard(self) -> None:
        """Remove what an earlier owner has left and nobody wants, opened or not."""
        self.close()
        self.log.discard()
        self.path.unlink(missing_ok=True)

    async def forget(self) -> None:
        """Return when no restart takes the file up any more.

        Errors: FullError, VfsError when the disk fails.
        """
        self.tell(GONE)
        await self.sync_log()

    def leave(self) -> None:
        """Let go of the file and its journal as they are, for the next owner of the stage."""
        self.log.leave()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def close(self) -> None:
        """Remove the file and give its space back. Never fails.

        What its disk does not let go of is removed by the next owner of the stage.
        """
        if self._fd < 0:
            return
        if self._holders:
            self._is_closing = True
            return
        self.thaw(stored=None)
        self._budget.free(self._charged)
        fd, self._fd = self._fd, -1
        try:
            os.close(fd)
            if not self.preserved:
                self.log.remove()
                self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed: %s", self.path, error.strerror)
