"""What the SSD tier holds: files in memory, the index behind them, and the budget.

Everything is decided on the loop's thread; the index and the punching of holes run in a thread, one
operation at a time. An operation begins by writing what has changed, so that the index is never
older than what is decided by it.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeVar

import trio

from vfs.cache.disk.directory import CacheDirectory
from vfs.cache.disk.index import CHUNK_BLOCKS, Chunk, ChunkId, Index
from vfs.cache.disk.known import CachedFile, chunks_of
from vfs.layout.base import FileVersion
from vfs.spans import SpanSet

T = TypeVar("T")

LOADED_FILES = 256
EVICT_SHARE = 64
"""An eviction frees this part of the limit at least: few of them are enough."""
_VICTIMS = 256
COLD_SHARE = 4
"""What was used once gives way to what is new, down to this part of the limit."""


class _Victim(NamedTuple):
    chunk: Chunk
    cached: CachedFile | None  # when it is in memory


class Catalogue:
    """The files of one cache directory. Errors: OSError, sqlite3.Error when its disk fails."""

    def __init__(self, directory: CacheDirectory, limit_bytes: int, blocks: int) -> None:
        self.block_bytes = directory.block_bytes
        self.limit_blocks = limit_bytes // self.block_bytes
        self.blocks = blocks  # on the disk
        self._reserved = 0  # blocks that are being written
        self._directory = directory
        self._lock = trio.Lock()  # one operation on the index at a time
        self._thread = trio.CapacityLimiter(1)
        self._files: OrderedDict[str, CachedFile] = OrderedDict()
        self._numbers: dict[int, CachedFile] = {}
        self._changed: defaultdict[CachedFile, set[int]] = defaultdict(set)
        self._touched: set[ChunkId] = set()
        self._later: list[Callable[[Index], int]] = []  # changes that free some blocks
        self._stale: set[ChunkId] = set()  # their blocks were dropped by a commit

    def find(self, file: FileVersion) -> CachedFile | None:
        """Return what is in memory of a file."""
        return self._files.get(file.identity)

    def blocks_of(self, file: FileVersion) -> int:
        """Return how many blocks a whole file has."""
        return -(-file.size // self.block_bytes)

    async def load(self, file: FileVersion) -> CachedFile:
        """Return what is there of a file, taken up when it is new."""
        found = self._files.get(file.identity)
        if found is not None:
            self._files.move_to_end(file.identity)
            return found
        async with self._lock:
            found = self._files.get(file.identity)
            if found is None:
                await self._settle()
                found = await self._run(lambda: self._open(file))
                self._files[file.identity] = found
                self._numbers[found.number] = found
                self._unload()
            return found

    def _open(self, file: FileVersion) -> CachedFile:
        index = self._directory.index
        number = index.find(file.identity)
        chunks: list[Chunk] = []
        if number is None:
            number = index.add(file.identity)
        else:
            chunks = index.chunks(number)
        data = self._directory.open_data(number)
        return CachedFile(number, self.blocks_of(file), data, chunks)

    def _unload(self) -> None:
        for identity, cached in list(self._files.items()):
            if len(self._files) <= LOADED_FILES:
                break
            if not cached.is_used and cached not in self._changed:
                del self._files[identity]
                del self._numbers[cached.number]
                cached.data.close()

    def put(self, cached: CachedFile, blocks: range, sums: Iterable[int]) -> None:
        """Take note of blocks that were written."""
        self.blocks += cached.put(blocks, sums)
        self._note(cached, blocks)

    def drop(self, cached: CachedFile, blocks: range) -> None:
        """Forget blocks whose bytes are wrong or gone."""
        self.blocks -= cached.drop(blocks)
        self._note(cached, blocks)

    def _note(self, cached: CachedFile, blocks: range) -> None:
        # What was unloaded meanwhile has nothing to tell any more.
        if blocks and self._numbers.get(cached.number) is cached:
            self._changed[cached].update(chunks_of(blocks))

    def touch(self, cached: CachedFile, chunks: Iterable[int]) -> None:
        """Take note that chunks were read."""
        self._touched.update(ChunkId(cached.number, chunk) for chunk in chunks)

    async def flush(self) -> None:
        """Write what has changed to the index."""
        if self._changed or self._touched or self._later:
            async with self._lock:
                await self._settle()

    async def _settle(self) -> None:
        """Write what has changed to the index, with the lock held."""
        later, self._later = self._later, []
        changed = [
            cached.chunk(number)
            for cached, numbers in self._changed.items()
            for number in sorted(numbers)
        ]
        self._changed.clear()
        touched, self._touched = self._touched, set()
        if later or changed or touched:
            freed = await self._run(lambda: self._write(later, changed, touched))
            self.blocks -= freed  # not in one line: others have changed it meanwhile

    def _write(
        self, later: list[Callable[[Index], int]], changed: list[Chunk], touched: set[ChunkId]
    ) -> int:
        index = self._directory.index
        freed = sum(change(index) for change in later)
        index.flush(changed, touched)
        return freed

    async def _run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._thread)

    # Room

    async def reserve(self, blocks: int) -> bool:
        """Make room for blocks and keep it until `free`; False where there is none."""
        while self.blocks + self._reserved + blocks > self.limit_blocks:
            if not await self.evict(max(blocks, self.limit_blocks // EVICT_SHARE)):
                return False
        self._reserved += blocks
        return True

    def free(self, blocks: int) -> None:
        """Give reserved room back, or let what was put there count instead."""
        self._reserved -= blocks

    async def evict(self, blocks: int) -> int:
        """Free some blocks that nobody is using just now; return how many."""
        async with self._lock:
            await self._settle()
            index = self._directory.index
            keep_cold = self.limit_blocks // COLD_SHARE
            coldest = await self._run(lambda: index.coldest(_VICTIMS, keep_cold))
            freed = 0
            victims: list[_Victim] = []
            for chunk in coldest:
                cached = self._numbers.get(chunk.at.file)
                if freed >= blocks:
                    break
                if cached is None or cached.is_free(chunk.at.number):
                    victims.append(_Victim(chunk, cached))
                    freed += chunk.blocks
            await self._remove(victims)
            return freed

    async def _remove(self, victims: list[_Victim]) -> None:
        """Forget chunks, first in memory, then in the index, and then give their space back."""
        for chunk, cached in victims:
            if cached is None:
                self.blocks -= chunk.blocks
            else:  # it may have more by now
                start = chunk.at.number * CHUNK_BLOCKS
                self.blocks -= cached.drop(range(start, start + CHUNK_BLOCKS))
                cached.punching.add(chunk.at.number)
        try:
            if victims:
                await self._run(lambda: self._free_space(victims))
        finally:
            for chunk, cached in victims:
                if cached is not None:
                    cached.punching.discard(chunk.at.number)

    def _free_space(self, victims: list[_Victim]) -> None:
        index = self._directory.index
        index.drop(chunk.at for chunk, _ in victims)
        for chunk, cached in victims:
            first = chunk.at.number * CHUNK_BLOCKS
            blocks = range(first, first + CHUNK_BLOCKS)
            if cached is not None:
                self._directory.punch(cached.data, [blocks])
            elif index.is_empty(chunk.at.file):
                self._directory.remove(chunk.at.file)
            else:
                data = self._directory.open_data(chunk.at.file)
                try:
                    self._directory.punch(data, [blocks])
                finally:
                    data.close()

    async def sweep(self) -> None:
        """Give back the space of blocks that a commit has outdated and nobody has written anew."""
        async with self._lock:
            stale, self._stale = self._stale, set()
            for at in stale:
                cached = self._numbers.get(at.file)
                if cached is None:
                    continue
                if not cached.is_free(at.number):
                    self._stale.add(at)
                    continue
                gaps = cached.chunk(at.number).gaps()
                cached.punching.add(at.number)
                try:
                    await self._run(partial(self._directory.punch, cached.data, gaps))
                finally:
                    cached.punching.discard(at.number)

    # Versions

    def hand_over(self, old: FileVersion, new: FileVersion, changed: SpanSet) -> None:
        """Let the blocks of a version that a commit did not change be those of the new one."""
        cached = self._files.get(old.identity)
        if cached is None or new.identity in self._files:
            return  # nobody has read it lately: not worth a look into the index
        del self._files[old.identity]
        blocks = self.blocks_of(new)
        for span in changed:
            self._outdate(cached, span.start // self.block_bytes, -(-span.stop // self.block_bytes))
        self._outdate(cached, blocks, cached.blocks)
        heir = cached.succeed(blocks)
        if cached in self._changed:
            self._changed[heir] = self._changed.pop(cached)
        self._files[new.identity] = self._numbers[heir.number] = heir
        identity = new.identity
        self._later.append(lambda index: self._rename(index, heir.number, identity))

    def _outdate(self, cached: CachedFile, start: int, stop: int) -> None:
        blocks = range(start, min(stop, cached.blocks))
        if blocks:
            self.drop(cached, blocks)
            self._stale.update(ChunkId(cached.number, chunk) for chunk in chunks_of(blocks))

    def _rename(self, index: Index, number: int, identity: str) -> int:
        gone = index.rename(number, identity)
        for other in gone:
            self._directory.data_path(other).unlink(missing_ok=True)
        return sum(gone.values())

    async def forget(self, file: FileVersion) -> int:
        """Give back all blocks of a file that nobody is using just now; return how many."""
        cached = await self.load(file)
        with cached.kept():
            async with self._lock:
                await self._settle()
                chunks = await self._run(lambda: self._directory.index.chunks(cached.number))
                free = [chunk for chunk in chunks if cached.is_free(chunk.at.number)]
                await self._remove([_Victim(chunk, cached) for chunk in free])
        return sum(chunk.blocks for chunk in free)

    @property
    def is_used(self) -> bool:
        """Whether a thread uses any file."""
        return any(cached.is_used for cached in self._files.values())

    def close(self) -> None:
        """Close all files; what has not been flushed is forgotten."""
        for cached in self._files.values():
            cached.data.close()
        self._files.clear()
        self._numbers.clear()
        self._directory.close()
