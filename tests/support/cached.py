"""The SSD tier below a RAM tier that is too small to remember anything, over a store in memory."""

import random
from contextlib import asynccontextmanager

import trio

from vfs.cache.disk.health import RETRY_S
from vfs.cache.disk.index import CHUNK_BLOCKS
from vfs.cache.disk.tier import DiskTier, open_tier
from vfs.cache.fill import open_fetcher
from vfs.cache.ram import RamCache
from vfs.layout.base import FileVersion
from vfs.store.base import ObjectVersion
from vfs.values import KIB, MIB, Key, Span, Version

BLOCK = 16 * KIB
CHUNK = BLOCK * CHUNK_BLOCKS
SIZE = 3 * CHUNK + 5 * BLOCK + 777


class Source:
    """A store of one object, in versions; counts what it is asked for."""

    def __init__(self, seed, size=SIZE):
        self.pick = random.Random(seed)
        self.versions = {}
        self.asked_bytes = 0
        self.add(self.pick.randbytes(size))

    def add(self, data):
        number = str(len(self.versions) + 1)
        self.file = FileVersion(ObjectVersion(Key("disk.img"), Version(number)), len(data), 0)
        self.versions[self.file.identity] = data
        return self.file

    @property
    def data(self):
        return self.versions[self.file.identity]

    async def fetch(self, file, span, buffers):
        self.asked_bytes += span.size
        data = self.versions[file.identity]
        at = span.start
        for buffer in buffers:
            buffer[:] = data[at : at + len(buffer)]
            at += len(buffer)

    def span(self, most):
        start = self.pick.randrange(len(self.data))
        return Span(start, min(len(self.data), start + self.pick.randint(1, most)))


class Reader:
    """A RAM tier that is too small to remember anything, over the disk."""

    def __init__(self, fetcher, tier, source):
        self.fetcher, self.tier, self.source = fetcher, tier, source

    async def read(self, span=None, file=None):
        file = file or self.source.file
        span = span or Span(0, file.size)
        out = bytearray()
        for piece in span.pieces(BLOCK * 4):
            out += await self.fetcher.read(file, piece)
        assert bytes(out) == self.source.versions[file.identity][span.start : span.stop]

    async def written(self):
        """Return when everything that was offered is on the disk."""
        with trio.fail_after(20):
            while self.tier.backlog_bytes:
                await trio.sleep(0.001)

    async def in_use_again(self):
        """Return when a disk that was left alone has been tried again."""
        await trio.sleep(RETRY_S + 2)
        with trio.fail_after(600):  # of virtual time
            while not self.tier.is_in_use:
                await trio.sleep(1)

    async def asked(self, span=None):
        """Return how many bytes of a read came from the store."""
        before = self.source.asked_bytes
        await self.read(span)
        return self.source.asked_bytes - before


@asynccontextmanager
async def opened(path, source, limit=64 * MIB, frames=8, block=BLOCK):
    tier = DiskTier(path, "mem://x", limit, block)
    cache = RamCache(frames * block, block)
    async with open_tier(tier), open_fetcher(cache, source.fetch, tier) as fetcher:
        yield Reader(fetcher, tier, source)
