"""The SSD tier, as readers and commits see it: never slower than no tier, never a failure.

A fetched block is written behind its reader, from the frame that the RAM tier keeps; what the disk
cannot keep up with is not written at all. A disk that fails is left alone for a while, with one
line in the log, and everything comes from the store.
"""

import logging
import math
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from vfs.cache.disk.catalogue import Catalogue
from vfs.cache.disk.data import DataFile, aligned
from vfs.cache.disk.directory import CacheDirectory
from vfs.cache.disk.health import Health
from vfs.cache.disk.known import CachedFile, checksum, chunks_of
from vfs.cache.disk.metadata import MetadataCache
from vfs.errors import BusyError, MetadataError, UnsupportedError
from vfs.layout.base import FileVersion
from vfs.spans import SpanSet
from vfs.tasks import open_tasks
from vfs.values import Span

log = logging.getLogger(__name__)

FLUSH_S = 1.0
SWEEP_S = 10.0
FILLERS = 2
READERS = 16
FREE_SHARE = 20
"""This part of the disk stays free, whatever the limit says."""


@dataclass(frozen=True, slots=True)
class Fill:
    """Blocks to write, in whole frames that stay as they are until `done` is called."""

    file: FileVersion
    blocks: range
    frames: Sequence[memoryview]
    done: Callable[[], None]
    patient: bool = False  # written however many wait


class DiskTier:
    """Blocks on the local disk."""

    def __init__(self, path: Path, url: str, limit_bytes: int, block_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.block_bytes = block_bytes
        self.hits = 0  # blocks
        self.skipped = 0  # blocks that were not kept
        self.health = Health(path)
        self.metadata = MetadataCache(path / "metadata")  # in use while the directory is ours
        self._path = path
        self._url = url
        self._catalogue: Catalogue | None = None  # None while the disk is left alone
        self._closing: list[Catalogue] = []  # failed, and perhaps still in use
        self._threads = trio.CapacityLimiter(READERS)
        self.backlog_bytes = 0  # of blocks that wait to be written
        self._offer, self._offered = trio.open_memory_channel[Fill](math.inf)

    @property
    def is_in_use(self) -> bool:
        """Whether the disk is read and written now."""
        return self._catalogue is not None

    @property
    def used_bytes(self) -> int:
        """Bytes of blocks on the disk."""
        return self._catalogue.blocks * self.block_bytes if self._catalogue else 0

    # Reading

    async def read(
        self, file: FileVersion, blocks: range, frames: Sequence[memoryview]
    ) -> list[range]:
        """Fill the frames of blocks that are there; return which are not."""
        catalogue = self._catalogue
        cached = await self._load(catalogue, file)
        if catalogue is None or cached is None:
            return [blocks]
        missing: list[range] = []
        with cached.kept():
            for there, run in list(cached.runs(blocks)):
                if there:
                    first = run.start - blocks.start
                    missing += await self._read_run(catalogue, cached, file, run, frames[first:])
                else:
                    missing.append(run)
        return missing

    async def _load(self, catalogue: Catalogue | None, file: FileVersion) -> CachedFile | None:
        if catalogue is None:
            return None
        try:
            return await catalogue.load(file)
        except self.health.errors as error:
            self._fail(catalogue, error)
            return None

    async def missing(self, file: FileVersion, blocks: range) -> list[range]:
        """Return which blocks are not there."""
        cached = await self._load(self._catalogue, file)
        if cached is None:
            return [blocks]
        return [run for there, run in cached.runs(blocks) if not there]

    async def _read_run(
        self,
        catalogue: Catalogue,
        cached: CachedFile,
        file: FileVersion,
        run: range,
        frames: Sequence[memoryview],
    ) -> list[range]:
        if cached.retired:  # its checksums are those of a newer version by now
            return [run]
        chunks, sums, sizes = chunks_of(run), cached.sums(run), self._sizes(file, run)
        cached.use(chunks)
        try:
            right = await trio.to_thread.run_sync(
                _read_blocks, cached.data, run.start * self.block_bytes, frames, sizes, sums,
                limiter=self._threads,
            )  # fmt: skip
        except OSError as error:
            catalogue.drop(cached, run)
            if self.health.is_bad_after_read(error):
                self._fail(catalogue, error)
            return [run]
        finally:
            cached.let_go(chunks)
        catalogue.touch(cached, chunks)
        wrong: list[range] = []
        for block, is_right in zip(run, right, strict=True):
            if is_right:
                cached.prove(block)
                self.hits += 1
            else:
                self.health.damaged(file.pin.key)
                catalogue.drop(cached, range(block, block + 1))
                wrong.append(range(block, block + 1))
        return wrong

    def _sizes(self, file: FileVersion, blocks: range) -> list[int]:
        size = self.block_bytes
        return [min(size, file.size - block * size) for block in blocks]

    def peek(self, file: FileVersion, span: Span) -> bytearray | None:
        """Return the bytes of a small span if they are in the page cache, without waiting."""
        cached = self._proved(file, span)
        if cached is None:
            return None
        buffer = bytearray(span.size)
        try:
            count = os.preadv(cached.data.fd, [buffer], span.start, os.RWF_NOWAIT)
        except OSError:  # not in the page cache; or a file system that cannot tell
            return None
        if count < span.size:  # some of it is not
            return None
        self._hit(cached, span)
        return buffer

    def has(self, file: FileVersion, span: Span) -> bool:
        """Tell whether `read_small` is worth a try."""
        return self._proved(file, span) is not None

    async def read_small(self, file: FileVersion, span: Span) -> bytearray | None:
        """Return the bytes of a small span; None when they are not there."""
        catalogue, cached = self._catalogue, self._proved(file, span)
        if catalogue is None or cached is None:
            return None
        buffer = bytearray(span.size)
        chunks = chunks_of(self._blocks(span))
        cached.use(chunks)
        try:
            count = await trio.to_thread.run_sync(
                os.preadv, cached.data.fd, [buffer], span.start, limiter=self._threads
            )
        except OSError as error:
            if self.health.is_bad_after_read(error):
                self._fail(catalogue, error)
            return None
        finally:
            cached.let_go(chunks)
        if count < span.size:  # somebody has cut the file: what is there cannot be trusted
            catalogue.drop(cached, self._blocks(span))
            return None
        self._hit(cached, span)
        return buffer

    def _blocks(self, span: Span) -> range:
        return range(span.start // self.block_bytes, (span.stop - 1) // self.block_bytes + 1)

    def _proved(self, file: FileVersion, span: Span) -> CachedFile | None:
        cached = self._catalogue.find(file) if self._catalogue is not None else None
        blocks = self._blocks(span)
        if cached is not None and cached.is_proved(blocks.start, blocks.stop - 1):
            return cached
        return None

    def _hit(self, cached: CachedFile, span: Span) -> None:
        self.hits += 1
        if self._catalogue is not None:
            self._catalogue.touch(cached, chunks_of(self._blocks(span)))

    # Filling

    def keep(self, fill: Fill) -> None:
        """Write blocks some time later, if the disk keeps up."""
        size = len(fill.blocks) * self.block_bytes
        if self._catalogue is None or not self.health.may_fill(
            0 if fill.patient else self.backlog_bytes, size
        ):
            self.skipped += len(fill.blocks)
            fill.done()
            return
        self.backlog_bytes += size
        self._offer.send_nowait(fill)

    async def _fill(self) -> None:
        async for fill in self._offered:
            catalogue = self._catalogue
            try:
                if catalogue is not None and not await self._write(catalogue, fill):
                    self.skipped += len(fill.blocks)
            except self.health.errors as error:
                self.skipped += len(fill.blocks)
                if not self.health.is_full(error) and catalogue is not None:
                    self._fail(catalogue, error)
            except Exception as error:  # a fault of ours costs the cache, never the mount
                log.exception("blocks could not be kept")
                if catalogue is not None:
                    self._fail(catalogue, error)
            finally:
                self.backlog_bytes -= len(fill.blocks) * self.block_bytes
                fill.done()

    async def _write(self, catalogue: Catalogue, fill: Fill) -> bool:
        cached = await catalogue.load(fill.file)
        count = len(fill.blocks)
        with cached.kept():
            if not await catalogue.reserve(count):
                return False
            try:
                sums, lacking = await self._write_run(cached, fill)
                if sums:
                    catalogue.put(cached, fill.blocks, sums)
            finally:
                catalogue.free(count)
        if lacking and not await catalogue.evict(-(-lacking // self.block_bytes)):
            self.health.full()
        return bool(sums)

    async def _write_run(self, cached: CachedFile, fill: Fill) -> tuple[list[int], int]:
        """Write blocks; return checksums, none if they were not, and bytes that the disk lacks."""
        chunks = chunks_of(fill.blocks)
        if not cached.may_write(chunks):
            return [], 0
        cached.use(chunks)
        try:
            return await trio.to_thread.run_sync(
                _write_blocks, cached.data, fill.blocks.start * self.block_bytes,
                fill.frames, self._sizes(fill.file, fill.blocks),
            )  # fmt: skip
        finally:
            cached.let_go(chunks)

    # Versions

    def hand_over(self, old: FileVersion, new: FileVersion, changed: SpanSet) -> None:
        """Let the blocks of a version that a commit did not change be those of the new one."""
        if self._catalogue is not None:
            self._catalogue.hand_over(old, new, changed)

    async def forget(self, file: FileVersion) -> int:
        """Give back the space of a file; return the bytes of its blocks."""
        catalogue = self._catalogue
        if catalogue is None:
            return 0
        try:
            return await catalogue.forget(file) * self.block_bytes
        except self.health.errors as error:
            self._fail(catalogue, error)
            return 0

    # Life

    def _fail(self, catalogue: Catalogue, error: Exception) -> None:
        if self._catalogue is catalogue:
            self._catalogue = None
            self.metadata.abandon()
            self._closing.append(catalogue)
            self.health.failed(error)

    async def open(self) -> None:
        """Take the directory into use, if that is possible.

        Errors: DeniedError for a directory that is not ours.
        """
        directory = CacheDirectory(self._path, self._url, self.block_bytes)
        try:
            blocks = await trio.to_thread.run_sync(
                partial(directory.open, anew=self.health.is_damaged)
            )
        except (BusyError, MetadataError, UnsupportedError) as error:
            self.health.refused(error, retry=isinstance(error, BusyError))
        except self.health.errors as error:
            self.health.failed(error)
        else:
            with trio.CancelScope(shield=True):  # the directory is ours already
                await trio.to_thread.run_sync(self.metadata.open)
            self._catalogue = Catalogue(directory, self.limit_bytes, blocks)
            self.health.opened()

    async def _keep_up(self) -> None:
        """Write the index, close what has failed, and try again what had."""
        swept_s = trio.current_time()
        while True:
            await trio.sleep(FLUSH_S)
            now = trio.current_time()
            catalogue = self._catalogue
            if catalogue is not None:
                try:
                    await catalogue.flush()
                    if now - swept_s >= SWEEP_S:
                        swept_s = now
                        await catalogue.sweep()
                except Exception as error:
                    if not isinstance(error, self.health.errors):  # a fault of ours
                        log.exception("the cache could not be kept up")
                    self._fail(catalogue, error)
            self._close_failed()
            if self._catalogue is None and not self._closing and self.health.may_retry():
                await self.open()

    def _close_failed(self) -> None:
        for catalogue in list(self._closing):
            if not catalogue.is_used:
                catalogue.close()
                self._closing.remove(catalogue)

    async def _shut(self) -> None:
        catalogue, self._catalogue = self._catalogue, None
        if catalogue is not None:
            try:
                await catalogue.flush()
            except self.health.errors as error:
                self.health.failed(error)
            await trio.to_thread.run_sync(self.metadata.close)
            self._closing.append(catalogue)
        for failed in self._closing:
            failed.close()

    async def run(self, nursery: trio.Nursery) -> None:
        """Start the tasks of the tier."""
        for _ in range(FILLERS):
            nursery.start_soon(self._fill)
        nursery.start_soon(self._keep_up)

    async def aclose(self) -> None:
        """Write the index a last time; the tasks have ended."""
        with trio.CancelScope(shield=True):
            await self._shut()


def _read_blocks(
    data: DataFile,
    offset: int,
    frames: Sequence[memoryview],
    sizes: Sequence[int],
    sums: Sequence[int],
) -> list[bool]:
    """Read blocks that lie together; tell which match their checksums. Blocking."""
    views = [frame[: aligned(size)] for frame, size in zip(frames, sizes, strict=False)]
    got = data.read(offset, views)
    right: list[bool] = []
    for view, size, expected in zip(views, sizes, sums, strict=True):
        right.append(got >= size and checksum(view[:size]) == expected)
        got -= len(view)
    return right


def _write_blocks(
    data: DataFile, offset: int, frames: Sequence[memoryview], sizes: Sequence[int]
) -> tuple[list[int], int]:
    """Write blocks that lie together; return checksums, and bytes that the disk lacks. Blocking.

    Where that would leave too little of the disk free nothing is written, and there are no
    checksums.
    """
    disk = os.statvfs(data.path)
    floor = disk.f_blocks * disk.f_frsize // FREE_SHARE
    lacking = floor + sum(sizes) - disk.f_bavail * disk.f_frsize
    if lacking > 0:
        return [], lacking
    views = [frame[: aligned(size)] for frame, size in zip(frames, sizes, strict=True)]
    for view, size in zip(views, sizes, strict=True):
        view[size:] = bytes(len(view) - size)
    sums = [checksum(view[:size]) for view, size in zip(views, sizes, strict=True)]
    data.write(offset, views)
    return sums, 0


@asynccontextmanager
async def open_tier(tier: DiskTier) -> AsyncGenerator[DiskTier]:
    """Run a tier; leaving the block writes its index."""
    await tier.open()
    try:
        async with open_tasks() as nursery:
            await tier.run(nursery)
            yield tier
            nursery.cancel_scope.cancel()
    finally:
        await tier.aclose()
