"""The RAM tier: blocks of file versions in one arena that never grows.

The arena is one anonymous mapping cut into equal, page-aligned frames, so the tier costs exactly
its limit, and a fetch is received straight into the frames that are kept. A frame is free, held
(being filled, or being read across an await) or cached; only a cached frame that nobody holds is
evicted. A task that needs frames when all are held waits for the next release.

A scan must not evict what is used again and again, so blocks are cold or hot. Cold ones go in the
order of the arena, which is that in which they came: a hand sweeps over the frames and stops at the
next one that may go, so that what is fetched together lies together, whatever happened before. A
block that is used a second time becomes hot, and the hand passes over it. Touches soon after the
first are the same use: a sequential reader touches a block many times. When a block goes, the time
of its first touch is remembered for a while, so that a second use counts even if the block has to
be fetched again. Hot blocks have a part of the arena at most; when they have it all, one that was
not used for long turns cold where it lies.

The second use is that of 2Q (Johnson and Shasha, VLDB 1994); comparing intervals before a block
replaces a hot one is that of LIRS (Jiang and Zhang, SIGMETRICS 2002), and keeps a part of a file
that is read in circles and does not fit.
"""

import mmap
from collections import OrderedDict, defaultdict, deque
from itertools import chain
from typing import NamedTuple

import trio

from vfs.values import SECTOR_BYTES

HOT_SHARE = 7, 16
"""Of the frames, at most: half is for read-ahead, and what others fetch meanwhile needs some."""
YOUNG_SHARE = 1, 2
"""So many of the newest frames are passed over: those that were free before lie in no order."""
ONE_USE_READS = 32
"""Touches are one use while so many others could have read a whole block each in sectors."""
PATIENCE = 2
"""A hot block gives way when it was not used for so many times the interval of the new one."""
LOOKS = 8
"""So many hot blocks are looked at for one that gives way."""
LOOK_EVERY = 64
"""So many hits after none gave way they are looked at again: a hit stays cheap."""


class BlockKey(NamedTuple):
    """Identity of one block: of which file version, and which one."""

    owner: str
    number: int


class Frame:
    """One buffer of the arena."""

    __slots__ = ("holds", "is_hot", "key", "number", "taken", "used", "view")

    def __init__(self, number: int, view: memoryview) -> None:
        self.number = number  # its place in the arena
        self.view = view
        self.key: BlockKey | None = None  # set while it is cached
        self.holds = 0
        self.taken = 0  # count of takes when it was taken
        self.is_hot = False
        self.used = 0  # count of hits at its last touch if hot, at its first if cold, 0 if none


class RamCache:
    """Frames by block key."""

    def __init__(self, limit_bytes: int, block_bytes: int) -> None:
        count = max(limit_bytes // block_bytes, 1)
        self.block_bytes = block_bytes
        self.limit_bytes = count * block_bytes
        self.frame_count = count  # how many blocks fit
        self.hits = 0
        self.misses = 0
        self._arena = mmap.mmap(-1, self.limit_bytes)
        self._view = memoryview(self._arena)
        self._frames = [
            Frame(number, self._view[number * block_bytes : (number + 1) * block_bytes])
            for number in range(count)
        ]
        self._free = deque(self._frames)
        self._hand = 0  # the number of the frame that is looked at next
        self._takes = 0
        self._idle = 0  # cached frames that nobody holds
        self._cached: dict[BlockKey, Frame] = {}
        self._owned: defaultdict[str, set[int]] = defaultdict(set)  # cached blocks by owner
        self._hot: OrderedDict[Frame, int] = OrderedDict()  # `used` when it was put at the end
        self._past: OrderedDict[BlockKey, int] = OrderedDict()  # `used` of evicted blocks
        self._waiting: deque[trio.Event] = deque()
        self._next_look = 0  # count of hits
        self._most_hot = count * HOT_SHARE[0] // HOT_SHARE[1]
        self._most_young = count * YOUNG_SHARE[0] // YOUNG_SHARE[1]
        self._one_use = max(block_bytes // SECTOR_BYTES, 1) * ONE_USE_READS

    @property
    def used_bytes(self) -> int:
        """Bytes of frames that hold a block."""
        return len(self._cached) * self.block_bytes

    @property
    def hot_bytes(self) -> int:
        """Bytes of frames that a scan does not evict."""
        return len(self._hot) * self.block_bytes

    def view(self, first: Frame, start: int, size: int) -> memoryview:
        """Return bytes from `start` of a frame on, which may reach into those that follow it."""
        begin = first.number * self.block_bytes + start
        return self._view[begin : begin + size]

    def __contains__(self, key: BlockKey) -> bool:
        return key in self._cached

    def get(self, key: BlockKey) -> Frame | None:
        """Return the block's frame, which counts as a touch; not held."""
        frame = self._cached.get(key)
        if frame is None:
            self.misses += 1
            return None
        self.hits = now = self.hits + 1
        if frame.is_hot or not frame.used:
            frame.used = now
        elif now - frame.used > self._one_use:
            self._used_again(frame)
        return frame

    def _used_again(self, frame: Frame) -> None:
        """Make a block hot, unless all that are hot are worth more."""
        interval = self.hits - frame.used
        frame.used = self.hits
        if len(self._hot) < self._most_hot or self._cool_for(interval):
            frame.is_hot = True
            self._hot[frame] = frame.used

    def _cool_for(self, interval: int) -> bool:
        """Let a hot block turn cold if one that is used at such intervals is worth more."""
        if self.hits < self._next_look:
            return False
        self._next_look = self.hits + LOOK_EVERY
        for _ in range(min(LOOKS, len(self._hot))):
            frame, placed = next(iter(self._hot.items()))
            if frame.used == placed:
                if self.hits - placed <= PATIENCE * interval:
                    return False
                self._next_look = 0
                self._cool(frame)
                return True
            self._hot.move_to_end(frame)  # it was used since it was put there
            self._hot[frame] = frame.used
        return False

    def _cool(self, frame: Frame) -> None:
        if frame.is_hot:
            frame.is_hot = False
            del self._hot[frame]

    def take(self) -> Frame | None:
        """Return a frame to fill, held once; None when all are held."""
        if self._free:
            frame = self._free.popleft()
        elif self._idle:
            frame = self._next_to_go()
            self._evict(frame)
        else:
            return None
        self._takes += 1
        frame.taken = self._takes
        frame.holds = 1
        return frame

    def _next_to_go(self) -> Frame:
        old = self._takes - self._most_young
        frames, hand = self._frames, self._hand
        for number in chain(range(hand, len(frames)), range(hand)):
            frame = frames[number]
            if not (frame.holds or frame.is_hot or frame.taken > old):
                self._hand = number + 1
                return frame
        # Rare: nearly all are held. The oldest of the young ones, and a hot one if need be.
        unheld = (frame for frame in frames if not frame.holds)
        return min(unheld, key=lambda frame: (frame.is_hot, frame.taken))

    def _evict(self, frame: Frame) -> None:
        key = frame.key
        assert key is not None  # noqa: S101 - idle frames are cached ones
        if frame.used:
            self._past[key] = frame.used
            if len(self._past) > self.frame_count:
                self._past.popitem(last=False)
        self._uncache(key)
        self._cool(frame)
        frame.key = None
        self._idle -= 1

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
        """Cache a filled frame, which is still held."""
        self._put(key, frame)
        frame.used = self._past.pop(key, 0)

    def _put(self, key: BlockKey, frame: Frame) -> None:
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
        if frame.holds == 0:
            self._idle -= 1
        frame.holds += 1

    def release(self, frame: Frame) -> None:
        """End one hold; a frame that is not cached is free again."""
        frame.holds -= 1
        if frame.holds == 0:
            if frame.key is None:
                self._free.append(frame)
            else:
                self._idle += 1
            self._wake()

    def drop(self, key: BlockKey) -> None:
        """Forget one block."""
        frame = self._uncache(key)
        if frame is None:
            return
        self._cool(frame)
        frame.key = None
        if frame.holds == 0:
            self._idle -= 1
            self._free.append(frame)
            self._wake()

    def rename(self, old: BlockKey, new: BlockKey) -> None:
        """Let a block count for another version that has the same bytes there."""
        frame = self._uncache(old)
        if frame is not None:
            self._put(new, frame)
