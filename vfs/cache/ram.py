"""The RAM tier: blocks of file versions in one arena that never grows.

The arena is one anonymous mapping cut into equal, page-aligned frames, so the tier costs exactly
its limit, and a fetch is received straight into the frames that are kept. A frame is free, held
(being filled, or being read across an await) or cached; only a cached frame that nobody holds is
evicted, the least recently used first. A task that needs frames when all are held waits for the
next release.
"""

import mmap
from collections import OrderedDict, defaultdict, deque
from typing import NamedTuple

import trio


class BlockKey(NamedTuple):
    """Identity of one block: of which file version, and which one."""

    owner: str
    number: int


class Frame:
    """One buffer of the arena."""

    __slots__ = ("holds", "key", "number", "view")

    def __init__(self, number: int, view: memoryview) -> None:
        self.number = number  # its place in the arena
        self.view = view
        self.key: BlockKey | None = None  # set while it is cached
        self.holds = 0


class RamCache:
    """Frames by block key."""

    def __init__(self, limit_bytes: int, block_bytes: int) -> None:
        count = max(limit_bytes // block_bytes, 1)
        self.block_bytes = block_bytes
        self.limit_bytes = count * block_bytes
        self.hits = 0
        self.misses = 0
        self._arena = mmap.mmap(-1, self.limit_bytes)
        self._view = memoryview(self._arena)
        # Taken from the end, so that pages of the arena are touched in order and only when needed.
        self._free = [
            Frame(number, self._view[number * block_bytes : (number + 1) * block_bytes])
            for number in range(count - 1, -1, -1)
        ]
        self._cached: OrderedDict[BlockKey, Frame] = OrderedDict()
        self._owned: defaultdict[str, set[int]] = defaultdict(set)  # cached blocks by owner
        self._waiting: deque[trio.Event] = deque()

    @property
    def used_bytes(self) -> int:
        """Bytes of frames that hold a block."""
        return len(self._cached) * self.block_bytes

    @property
    def frame_count(self) -> int:
        """How many blocks fit."""
        return self.limit_bytes // self.block_bytes

    def view(self, first: Frame, start: int, size: int) -> memoryview:
        """Return bytes from `start` of a frame on, which may reach into those that follow it."""
        begin = first.number * self.block_bytes + start
        return self._view[begin : begin + size]

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._cached

    def get(self, key: BlockKey) -> Frame | None:
        """Return the block's frame, now the most recently used; not held."""
        frame = self._cached.get(key)
        if frame is None:
            self.misses += 1
            return None
        self.hits += 1
        self._cached.move_to_end(key)
        return frame

    def take(self) -> Frame | None:
        """Return a frame to fill, held once; None when all are held."""
        if self._free:
            frame = self._free.pop()
            frame.holds = 1
            return frame
        for key, frame in self._cached.items():
            if frame.holds == 0:
                self._uncache(key)
                frame.key = None
                frame.holds = 1
                return frame
        return None

    async def take_waiting(self) -> Frame:
        """Return a frame to fill, held once, waiting until one is let go."""
        while (frame := self.take()) is None:
            turn = trio.Event()
            self._waiting.append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn.is_set():
                    self._wake()  # cancelled after its turn had come: the next one has it
                else:
                    self._waiting.remove(turn)
                raise
        return frame

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()

    def keep(self, key: BlockKey, frame: Frame) -> None:
        """Cache a filled frame."""
        self.drop(key)
        frame.key = key
        self._cached[key] = frame
        self._owned[key.owner].add(key.number)

    def blocks_of(self, owner: str) -> list[int]:
        """Return the numbers of an owner's cached blocks."""
        return list(self._owned.get(owner, ()))

    def _uncache(self, key: BlockKey) -> Frame | None:
        frame = self._cached.pop(key, None)
        if frame is not None:
            numbers = self._owned[key.owner]
            numbers.discard(key.number)
            if not numbers:
                del self._owned[key.owner]
        return frame

    def hold(self, frame: Frame) -> None:
        """Keep a frame's bytes in place across an await."""
        frame.holds += 1

    def release(self, frame: Frame) -> None:
        """End one hold; a frame that is not cached is free again."""
        frame.holds -= 1
        if frame.holds == 0:
            if frame.key is None:
                self._free.append(frame)
            self._wake()

    def _forget(self, frame: Frame) -> None:
        frame.key = None
        if frame.holds == 0:
            self._free.append(frame)
            self._wake()

    def drop(self, key: BlockKey) -> None:
        """Forget one block."""
        frame = self._uncache(key)
        if frame is not None:
            self._forget(frame)

    def rename(self, old: BlockKey, new: BlockKey) -> None:
        """Let a block count for another version that has the same bytes there."""
        frame = self._uncache(old)
        if frame is not None:
            self.keep(new, frame)
