"""What is in memory of one file of the SSD tier: a checksum for each block that is there.

Four bytes a block in a mapping of their own, of which only touched pages cost memory: at blocks of
128 KiB some 32 KiB for each GiB that is cached.
"""

import mmap
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import xxhash

from vfs.cache.disk.data import DataFile
from vfs.cache.disk.index import ABSENT, CHUNK_BLOCKS, Chunk, ChunkId

_PAGE_BLOCKS = 1024  # whose checksums are a page of memory


def checksum(block: memoryview) -> int:
    """Return the 32 bits that stand for a block, never 0."""
    return xxhash.xxh3_64_intdigest(block) & 0xFFFFFFFF or 1


class CachedFile:
    """Blocks of one version. On the loop's thread only; no call waits."""

    def __init__(self, number: int, blocks: int, data: DataFile, chunks: Sequence[Chunk]) -> None:
        self.number = number
        self.blocks = blocks  # of the whole file
        self.data = data
        self._sums = memoryview(mmap.mmap(-1, 4 * max(blocks, 1))).cast("I")
        self._proved = memoryview(mmap.mmap(-1, max(blocks, 1)))  # since we started
        self._uses: Counter[int] = Counter()  # of chunks, by reads and writes in threads
        self._keepers = 0
        self.punching: set[int] = set()  # chunks whose space is just being given back
        self.elder: CachedFile | None = None  # the version before, while somebody reads it
        self.retired = False  # its data file belongs to a newer version, or is gone
        for chunk in chunks:
            base = chunk.at.number * CHUNK_BLOCKS
            for block, sum_ in enumerate(chunk.words(), base):
                if sum_ != ABSENT and block < blocks:
                    self._sums[block] = sum_

    # What is there

    def has(self, block: int) -> bool:
        """Tell whether a block is there."""
        return block < self.blocks and self._sums[block] != ABSENT

    def is_proved(self, first: int, last: int) -> bool:
        """Tell whether all these blocks are there and were compared with their checksums."""
        if last >= self.blocks:
            return False
        return all(self._proved[first : last + 1])

    def runs(self, blocks: range) -> Iterator[tuple[bool, range]]:
        """Cut a range of blocks where those that are there begin and end; True: they are."""
        for there, group in groupby(blocks, self.has):
            numbers = list(group)
            yield there, range(numbers[0], numbers[-1] + 1)

    def sums(self, blocks: range) -> list[int]:
        """Return the checksums of blocks that are there."""
        return self._sums[blocks.start : blocks.stop].tolist()

    def put(self, blocks: range, sums: Iterable[int]) -> int:
        """Take note of blocks that were written; return how many are new."""
        new = 0
        if self.retired:
            return new
        for block, sum_ in zip(blocks, sums, strict=True):
            new += self._sums[block] == ABSENT
            self._sums[block] = sum_
            self._proved[block] = 1
        return new

    def prove(self, block: int) -> None:
        """Take note that a block matches its checksum."""
        if not self.retired:
            self._proved[block] = 1

    def drop(self, blocks: Iterable[int]) -> int:
        """Forget blocks; return how many were there."""
        gone = 0
        for block in blocks:
            if not self.retired and self.has(block):
                self._sums[block] = ABSENT
                self._proved[block] = 0
                gone += 1
        return gone

    def chunk(self, number: int) -> Chunk:
        """Return what the index is to say of a chunk."""
        base = number * CHUNK_BLOCKS
        sums = self._sums[base : base + CHUNK_BLOCKS].tolist()
        return Chunk.of(ChunkId(self.number, number), sums)

    # Who uses it

    @property
    def is_used(self) -> bool:
        """Whether somebody reads, writes or punches, here or in the version before."""
        own = self._keepers or self._uses or self.punching
        return bool(own or (self.elder and self.elder.is_used))

    @contextmanager
    def kept(self) -> Generator[None]:
        """Keep the file open across an await, be it before a chunk is used."""
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1

    def is_free(self, chunk: int) -> bool:
        """Tell whether nobody reads or writes a chunk, here or in the version before."""
        if self._uses[chunk] or chunk in self.punching:
            return False
        return self.elder is None or self.elder.is_free(chunk)

    def may_write(self, chunks: Iterable[int]) -> bool:
        """Tell whether blocks may be written: not where a reader of other bytes may still look."""
        if self.elder is not None and not self.elder.is_used:
            self.elder = None
        elder = self.elder
        return not self.retired and all(
            chunk not in self.punching and (elder is None or elder.is_free(chunk))
            for chunk in chunks
        )

    def use(self, chunks: Iterable[int]) -> None:
        """Keep chunks in place while a thread reads or writes them."""
        self._uses.update(chunks)

    def let_go(self, chunks: Iterable[int]) -> None:
        """End one use."""
        for chunk in chunks:
            self._uses[chunk] -= 1
            if not self._uses[chunk]:
                del self._uses[chunk]

    def succeed(self, blocks: int) -> "CachedFile":
        """Return the next version of this file, with its blocks, on the same data."""
        heir = CachedFile(self.number, blocks, self.data, ())
        if blocks <= self.blocks:
            heir._sums, heir._proved = self._sums, self._proved
        else:
            self._copy_to(heir)
        heir.punching = self.punching  # one set: the space is that of both
        heir.elder = self if self.is_used else None
        self.retired = True
        return heir

    def _copy_to(self, heir: "CachedFile") -> None:
        for base in range(0, self.blocks, _PAGE_BLOCKS):
            page = slice(base, min(base + _PAGE_BLOCKS, self.blocks))
            if any(self._sums[page].tobytes()):  # pages of zeros cost no memory
                heir._sums[page] = self._sums[page]  # noqa: SLF001 - the same class
                heir._proved[page] = self._proved[page]  # noqa: SLF001


def chunks_of(blocks: range) -> range:
    """Return the chunks that these blocks are in."""
    return range(blocks.start // CHUNK_BLOCKS, (blocks.stop - 1) // CHUNK_BLOCKS + 1)
