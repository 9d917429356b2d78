"""Reads through the cache: one fetch per missing block however many readers wait.

A read holds the blocks that are there, joins the fetches that are under way, and starts requests
for the rest, adjacent blocks in one request. A fetch belongs to nobody: its task runs in the
nursery that `open_fetcher` owns, so a reader that is cancelled costs the others nothing. What the
SSD tier has comes from there; what the store had to be asked for is offered to it.
"""

import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import groupby, pairwise

import trio

from vfs.cache.disk.tier import DiskTier, Fill
from vfs.cache.ram import BlockKey, Frame, RamCache
from vfs.errors import VfsError
from vfs.layout.base import FileVersion
from vfs.spans import SpanSet
from vfs.tasks import open_tasks
from vfs.values import MIB, Span

log = logging.getLogger(__name__)

REQUEST_BYTES = 4 * MIB
"""Largest single request: large enough that its cost is the bytes, small enough to overlap many."""

ReadStored = Callable[[FileVersion, Span, memoryview], Awaitable[bool]]
"""Fills a buffer with stored bytes that are still at hand; False when they are not."""

Fetch = Callable[[FileVersion, Span, Sequence[memoryview]], Awaitable[None]]
"""Fills the buffers with exactly the bytes of a span of a file version."""


class _Pending:
    """A request under way for consecutive blocks."""

    __slots__ = ("done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.error: VfsError | None = None


class Fetcher:
    """The read side of all open files."""

    def __init__(
        self, cache: RamCache, fetch: Fetch, nursery: trio.Nursery, disk: DiskTier | None = None
    ) -> None:
        self._cache = cache
        self._fetch = fetch
        self._disk = disk
        self._nursery = nursery
        self._pending: dict[BlockKey, _Pending] = {}
        self._held_frames = 0
        self.readers = 0  # open handles that read
        self.most_ahead_bytes = 64 * MIB
        self._turns: deque[tuple[trio.Event, int]] = deque()  # who waits, for how many frames
        self.block_bytes = cache.block_bytes

    async def read(self, file: FileVersion, span: Span) -> bytes | memoryview:
        """Return the bytes of a span that lies inside the file.

        Shape: a memoryview is valid until the caller's next await: reply or copy before.
        Errors: StaleError, and what the store raises.
        """
        if not span:
            return b""
        keys = self._keys(file, self._blocks(span))
        ready = [frame for key in keys if (frame := self._cache.get(key)) is not None]
        if len(ready) == len(keys):  # the usual case: no hold, no await
            return self._join(span, ready)
        small = await self._read_small(file, span, keys)
        if small is not None:
            return small
        held: list[Frame] = []
        async with self._room(len(keys)):
            try:
                await self._hold_all(file, span, keys, held)
                # No await from here on: the frames may be reused once they are released.
                return self._join(span, held)
            finally:
                for frame in held:
                    self._cache.release(frame)

    async def _read_small(
        self, file: FileVersion, span: Span, keys: Sequence[BlockKey]
    ) -> memoryview | None:
        """Return part of a block from the disk, unless the whole block is on its way."""
        disk = self._disk
        if disk is None or span.size >= self.block_bytes:
            return None
        if any(key in self._pending for key in keys):
            return None
        data = disk.peek(file, span)
        if data is None and disk.has(file, span):
            data = await disk.read_small(file, span)
        return None if data is None else memoryview(data)

    @asynccontextmanager
    async def _room(self, frames: int) -> AsyncGenerator[None]:
        """Admit a reader that may hold frames while it waits for others, in the order of arrival.

        All readers together hold at most half of the arena, so that some frame can always be taken
        and no two readers wait for what the other holds.
        """
        turn = trio.Event()
        self._turns.append((turn, frames))
        self._admit()
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self._leave(frames)
            else:
                self._turns.remove((turn, frames))
            raise
        try:
            yield
        finally:
            self._leave(frames)

    def _leave(self, frames: int) -> None:
        self._held_frames -= frames
        self._admit()

    def _admit(self) -> None:
        most = max(self._cache.frame_count // 2, 1)
        while self._turns:
            turn, frames = self._turns[0]
            if self._held_frames and self._held_frames + frames > most:
                return
            self._held_frames += frames
            self._turns.popleft()
            turn.set()

    async def _hold_all(
        self, file: FileVersion, span: Span, keys: Sequence[BlockKey], held: list[Frame]
    ) -> None:
        self.prefetch(file, span)
        for key in keys:
            while (frame := self._cache.get(key)) is None:
                await self._fetched(file, key)
            self._cache.hold(frame)
            held.append(frame)

    async def _fetched(self, file: FileVersion, key: BlockKey) -> None:
        """Return when the fetch of one block is over; start it when nobody has."""
        fetch = self._pending.get(key)
        if fetch is None:
            frame = await self._cache.take_waiting()
            if key in self._pending or key in self._cache:  # somebody was faster
                self._cache.release(frame)
                return
            fetch = self._start(file, key.number, [frame])
        await fetch.done.wait()
        if fetch.error is not None:
            raise fetch.error.with_traceback(None)

    def ahead_bytes(self) -> int:
        """Return how far one reader may read ahead now: its share, one block at least."""
        share = max(self._cache.frame_count // (2 * max(self.readers, 1)), 1)
        return min(share * self.block_bytes, self.most_ahead_bytes)

    def prefetch(self, file: FileVersion, span: Span) -> None:
        """Start fetching what is missing of a span, as far as frames can be had now."""
        run: list[Frame] = []
        first = 0
        most = self.request_blocks
        for index in self._blocks(span.clip(Span(0, file.size))):
            key = BlockKey(file.identity, index)
            missing = key not in self._cache and key not in self._pending
            if run and (not missing or len(run) == most):
                self._start(file, first, run)
                run = []
            if not missing:
                continue
            frame = self._cache.take()
            if frame is None:
                break
            if not run:
                first = index
            run.append(frame)
        if run:
            self._start(file, first, run)

    def _start(self, file: FileVersion, first: int, frames: list[Frame]) -> _Pending:
        fetch = _Pending()
        for index in range(first, first + len(frames)):
            self._pending[BlockKey(file.identity, index)] = fetch
        self._nursery.start_soon(self._run, file, first, frames, fetch)
        return fetch

    async def _run(
        self, file: FileVersion, first: int, frames: list[Frame], fetch: _Pending
    ) -> None:
        try:
            await self._fill(file, range(first, first + len(frames)), frames)
        except VfsError as error:
            fetch.error = error
        except Exception as error:
            # A fault of ours fails the readers of these blocks, never the mount.
            log.exception("fetch of %r failed unexpectedly", file.pin.key)
            fetch.error = VfsError(f"unexpected error: {error}", key=file.pin.key)
        else:
            for index, frame in enumerate(frames, first):
                self._cache.keep(BlockKey(file.identity, index), frame)
        finally:
            for index in range(first, first + len(frames)):
                del self._pending[BlockKey(file.identity, index)]
            for frame in frames:
                self._cache.release(frame)
            if not fetch.done.is_set() and fetch.error is None and frames[0].key is None:
                fetch.error = VfsError("the read was cancelled", key=file.pin.key)
            fetch.done.set()

    @property
    def disk(self) -> DiskTier | None:
        """The SSD tier; None where nothing is kept on disk."""
        return self._disk

    async def to_disk(self, file: FileVersion, blocks: range) -> int:
        """Fetch blocks that the disk does not have, past the RAM tier; return their bytes.

        At most as many as fit into one request. They are written, or given up, when this returns.
        Errors: StaleError, and what the store raises.
        """
        disk = self._disk
        if disk is None:
            return 0
        runs = await disk.missing(file, blocks)
        count = sum(len(run) for run in runs)
        async with self._room(count):
            for run in runs:
                async with self._taken(len(run)) as frames:
                    written = trio.Event()
                    await self._fetch_run(file, run, frames)
                    self._offer(disk, file, run, frames, waiting=written)
                    await written.wait()
        size = self.block_bytes
        return sum(min(run.stop * size, file.size) - run.start * size for run in runs)

    async def adopt(self, file: FileVersion, blocks: range, read: ReadStored) -> None:
        """Let the disk keep blocks that were just stored and are still at hand."""
        disk, size = self._disk, self.block_bytes
        if disk is None or not blocks:
            return
        async with self._room(len(blocks)), self._taken(len(blocks)) as frames:
            span = Span(blocks.start * size, min(blocks.stop * size, file.size))
            pieces = zip(frames, span.pieces(size), strict=True)
            right = [await read(file, piece, frame.view[: piece.size]) for frame, piece in pieces]
            for is_right, group in groupby(range(len(blocks)), right.__getitem__):
                run = list(group)
                if is_right:
                    written = trio.Event()
                    own, first = frames[run[0] : run[-1] + 1], blocks.start + run[0]
                    numbers = range(first, first + len(run))
                    self._offer(disk, file, numbers, own, waiting=written)
                    await written.wait()

    @asynccontextmanager
    async def _taken(self, count: int) -> AsyncGenerator[list[Frame]]:
        """Take frames that are given back, those already taken also when this is cancelled."""
        frames: list[Frame] = []
        try:
            for _ in range(count):
                frames.append(await self._cache.take_waiting())  # noqa: PERF401 - not lost
            yield frames
        finally:
            self._release(frames)

    def spawn(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something beside the fetches, as long as they run."""
        self._nursery.start_soon(work)

    @property
    def request_blocks(self) -> int:
        """How many blocks the largest request has."""
        return max(REQUEST_BYTES // self.block_bytes, 1)

    def forget(self, file: FileVersion) -> None:
        """Let the blocks of a file go that nobody is reading."""
        for number in self._cache.blocks_of(file.identity):
            self._cache.drop(BlockKey(file.identity, number))

    async def _fill(self, file: FileVersion, blocks: range, frames: list[Frame]) -> None:
        """Fill frames, from the disk as far as it has their blocks."""
        disk = self._disk
        missing = [blocks]
        if disk is not None:
            missing = await disk.read(file, blocks, [frame.view for frame in frames])
        if missing == [blocks]:  # the usual case needs no tasks
            await self._fetch_run(file, blocks, frames)
        elif missing:
            async with open_tasks() as nursery:
                for run in missing:
                    own = frames[run.start - blocks.start : run.stop - blocks.start]
                    nursery.start_soon(self._fetch_run, file, run, own)
        if disk is not None:
            for run in missing:
                own = frames[run.start - blocks.start : run.stop - blocks.start]
                self._offer(disk, file, run, own)

    async def _fetch_run(self, file: FileVersion, run: range, frames: Sequence[Frame]) -> None:
        """Fill frames from the store."""
        size = self.block_bytes
        span = Span(run.start * size, min(run.stop * size, file.size))
        pieces = zip(frames, span.pieces(size), strict=True)
        await self._fetch(file, span, [frame.view[: piece.size] for frame, piece in pieces])

    def _offer(
        self,
        disk: DiskTier,
        file: FileVersion,
        run: range,
        frames: Sequence[Frame],
        waiting: trio.Event | None = None,
    ) -> None:
        """Let the disk keep what the store had to be asked for; the frames stay until it has.

        With somebody `waiting` for it, it is not left out because the disk is slow.
        """
        for frame in frames:
            self._cache.hold(frame)

        def done() -> None:
            self._release(frames)
            if waiting is not None:
                waiting.set()

        views = [frame.view for frame in frames]
        disk.keep(Fill(file, run, views, done, patient=waiting is not None))

    def _release(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self._cache.release(frame)

    def hand_over(self, old: FileVersion, new: FileVersion, changed: SpanSet) -> None:
        """Let the cached blocks of a version that a commit did not change serve the new version."""
        if old.identity == new.identity:
            return
        if self._disk is not None:
            self._disk.hand_over(old, new, changed)
        for number in self._cache.blocks_of(old.identity):
            start = number * self.block_bytes
            if not changed.touches(Span(start, start + self.block_bytes)):
                self._cache.rename(BlockKey(old.identity, number), BlockKey(new.identity, number))

    def _blocks(self, span: Span) -> range:
        if not span:
            return range(0)
        return range(span.start // self.block_bytes, -(-span.stop // self.block_bytes))

    @staticmethod
    def _keys(file: FileVersion, blocks: range) -> list[BlockKey]:
        owner = file.identity
        return [BlockKey(owner, index) for index in blocks]

    def _join(self, span: Span, frames: Sequence[Frame]) -> bytes | memoryview:
        """Return the bytes of a span out of its frames, copied only where they lie apart.

        What was fetched in one request lies together: frames are taken, and evicted, in order.
        """
        base = span.start // self.block_bytes * self.block_bytes
        if frames[-1].number - frames[0].number == len(frames) - 1 and _ascending(frames):
            return self._cache.view(frames[0], span.start - base, span.size)
        views: list[memoryview] = []
        for frame in frames:
            piece = span.clip(Span(base, base + self.block_bytes)).shift(-base)
            views.append(frame.view[piece.start : piece.stop])
            base += self.block_bytes
        return b"".join(views)


def _ascending(frames: Sequence[Frame]) -> bool:
    return all(one.number + 1 == two.number for one, two in pairwise(frames))


@asynccontextmanager
async def open_fetcher(
    cache: RamCache, fetch: Fetch, disk: DiskTier | None = None
) -> AsyncGenerator[Fetcher]:
    """Run a fetcher; leaving the block cancels its requests."""
    async with open_tasks() as nursery:
        yield Fetcher(cache, fetch, nursery, disk)
        nursery.cancel_scope.cancel()
