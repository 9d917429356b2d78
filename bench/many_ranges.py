"""Many small ranged reads in this process, and what processor time they cost.

python -m bench.many_ranges store|cache URL KEY COUNT AT_ONCE

`store` asks the store as a mount does, with everything around it; `cache` reads through the RAM
tier, of which nothing is there. Prints the seconds and the processor seconds.
"""

import itertools
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from vfs.cache.fill import open_fetcher
from vfs.cache.ram import RamCache
from vfs.layout.base import FileVersion
from vfs.store.base import ObjectInfo, Store
from vfs.store.config import StoreConfig
from vfs.store.open import open_store
from vfs.values import KIB, MIB, Key, Span

RANGE_BYTES = 128 * KIB
WARM_UP = 20  # requests of each task that are not counted: they connect

Read = Callable[[Span], Awaitable[object]]


async def main(way: str, url: str, key: str, count: str, at_once: str) -> None:
    """Read `count` ranges, so many at once."""
    async with open_store(url, StoreConfig.model_validate({})) as store:
        info = await store.head(Key(key))
        if way == "store":
            await _measure(_from_store(store, info), info.size, int(count), int(at_once))
            return

        async def fetch(file: FileVersion, span: Span, buffers: Sequence[memoryview]) -> None:
            await store.read_into(file.pin, span, buffers)

        # Far smaller than what is read: every block is fetched.
        async with open_fetcher(RamCache(16 * MIB, RANGE_BYTES), fetch) as fetcher:
            file = FileVersion.of(info)
            await _measure(
                lambda span: fetcher.read(file, span), info.size, int(count), int(at_once)
            )


def _from_store(store: Store, info: ObjectInfo) -> Read:
    free: list[memoryview] = []

    async def read(span: Span) -> None:
        buffer = free.pop() if free else memoryview(bytearray(RANGE_BYTES))
        await store.read_into(info.pin, span, [buffer])
        free.append(buffer)

    return read


async def _measure(read: Read, size: int, count: int, at_once: int) -> None:
    spans = itertools.cycle(Span(0, size // RANGE_BYTES * RANGE_BYTES).pieces(RANGE_BYTES))

    async def some(number: int) -> None:
        for _ in range(number):
            await read(next(spans))

    async def all_at_once(number: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(some, number)

    await all_at_once(WARM_UP)
    before, began_s = os.times(), time.perf_counter()
    await all_at_once(count // at_once)
    after, took_s = os.times(), time.perf_counter() - began_s
    print(took_s, after.user + after.system - before.user - before.system)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
