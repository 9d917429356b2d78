"""Reads through the RAM cache: one fetch a block, bounded memory, no waiting in circles."""

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from vfs.cache.fill import REQUEST_BYTES, open_fetcher
from vfs.cache.ram import RamCache
from vfs.errors import StaleError, TransientError
from vfs.layout.base import FileVersion
from vfs.spans import SpanSet
from vfs.store.base import ObjectVersion
from vfs.values import KIB, MIB, Key, Span, Version

BLOCK = 128 * KIB


def version(size, name="a", of="1"):
    return FileVersion(ObjectVersion(Key(name), Version(of)), size, 0)


def content(size, seed=1):
    return random.Random(seed).randbytes(size)


class Source:
    """Where blocks are fetched from: counts, delays and fails on request."""

    def __init__(self, data):
        self.data = data
        self.asked = []
        self.running = 0
        self.most_running = 0
        self.errors = []
        self.delay_s = 0.0
        self.gate = None

    async def fill(self, file, span, buffers):
        self.asked.append(span)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await trio.sleep(self.delay_s)
            if self.gate is not None:
                await self.gate.wait()
            if self.errors:
                raise self.errors.pop()
            assert sum(map(len, buffers)) == span.size
            at = span.start
            for buffer in buffers:
                buffer[:] = self.data[at : at + len(buffer)]
                at += len(buffer)
        finally:
            self.running -= 1


async def test_a_read_returns_exactly_the_bytes(autojump_clock):
    size = 3 * MIB + 777
    source = Source(content(size))
    pick = random.Random(2)
    async with open_fetcher(RamCache(2 * MIB, BLOCK), source.fill) as fetcher:
        file = version(size)
        for _ in range(200):
            start = pick.randrange(size)
            span = Span(start, min(size, start + pick.choice([1, 4096, BLOCK, 700_000])))
            assert bytes(await fetcher.read(file, span)) == source.data[span.start : span.stop]
        assert await fetcher.read(file, Span(5, 5)) == b""


@pytest.mark.promise("S-read-5")
async def test_many_readers_of_a_block_share_one_fetch(autojump_clock):
    source = Source(content(MIB))
    source.delay_s = 1
    got = []
    async with open_fetcher(RamCache(4 * MIB, BLOCK), source.fill) as fetcher:

        async def read():
            got.append(bytes(await fetcher.read(version(MIB), Span(1000, 2000))))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(read)
        await fetcher.read(version(MIB), Span(0, 100))
    assert got == [source.data[1000:2000]] * 50
    assert source.asked == [Span(0, BLOCK)]


@pytest.mark.promise("S-read-5")
async def test_adjacent_missing_blocks_are_one_request(autojump_clock):
    source = Source(content(4 * MIB))
    async with open_fetcher(RamCache(8 * MIB, BLOCK), source.fill) as fetcher:
        await fetcher.read(version(4 * MIB), Span(2 * BLOCK, 3 * BLOCK))
        await fetcher.read(version(4 * MIB), Span(0, MIB))
    assert sorted(source.asked) == [
        Span(0, 2 * BLOCK),
        Span(2 * BLOCK, 3 * BLOCK),
        Span(3 * BLOCK, 8 * BLOCK),
    ]


async def test_an_error_reaches_every_reader_that_waits_and_is_not_kept(autojump_clock):
    source = Source(content(MIB))
    source.delay_s = 1
    source.errors = [StaleError("gone")]
    failed = []
    async with open_fetcher(RamCache(4 * MIB, BLOCK), source.fill) as fetcher:

        async def read():
            with pytest.raises(StaleError, match="gone"):
                await fetcher.read(version(MIB), Span(0, 100))
            failed.append(True)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(read)
        assert len(failed) == 10
        assert bytes(await fetcher.read(version(MIB), Span(0, 9))) == source.data[:9]


async def test_an_unexpected_exception_fails_the_readers_and_not_the_fetcher(
    autojump_clock, expect_log
):
    expect_log("failed unexpectedly")
    source = Source(content(MIB))
    source.errors = [ZeroDivisionError("bug")]
    async with open_fetcher(RamCache(4 * MIB, BLOCK), source.fill) as fetcher:
        with pytest.raises(Exception, match="bug"):
            await fetcher.read(version(MIB), Span(0, 100))
        assert bytes(await fetcher.read(version(MIB), Span(0, 9))) == source.data[:9]


async def test_a_cancelled_reader_costs_the_others_nothing(autojump_clock):
    source = Source(content(MIB))
    source.delay_s = 10
    async with open_fetcher(RamCache(4 * MIB, BLOCK), source.fill) as fetcher:
        got = []

        async def read():
            got.append(bytes(await fetcher.read(version(MIB), Span(0, 100))))

        async with trio.open_nursery() as nursery:
            with trio.move_on_after(1):
                nursery.start_soon(read)
                await fetcher.read(version(MIB), Span(0, 100))
        assert got == [source.data[:100]]
        assert len(source.asked) == 1


@pytest.mark.promise("S-read-7")
async def test_two_hundred_readers_of_a_mebibyte_share_an_eight_mebibyte_cache(autojump_clock):
    size = 300 * MIB
    cache = RamCache(8 * MIB, BLOCK)

    async def fill(file, span, buffers):
        await trio.sleep(0.05)
        number = span.start
        for buffer in buffers:
            buffer[:8] = number.to_bytes(8, "big")
            number += BLOCK

    done = []
    async with open_fetcher(cache, fill) as fetcher:

        async def read(index):
            span = Span(index * MIB, (index + 1) * MIB)
            for _ in range(3):
                data = bytes(await fetcher.read(version(size), span))
                for at in range(0, MIB, BLOCK):
                    assert int.from_bytes(data[at : at + 8], "big") == span.start + at
                assert cache.used_bytes <= cache.limit_bytes
            done.append(index)

        async with trio.open_nursery() as nursery:
            for index in range(200):
                nursery.start_soon(read, index)
    assert len(done) == 200


async def test_cancelled_readers_leave_their_turn_to_others(autojump_clock):
    """Readers that wait for a frame and are cancelled must not swallow the wake-up."""
    source = Source(content(8 * MIB))
    source.delay_s = 1
    cache = RamCache(4 * BLOCK, BLOCK)
    file = version(8 * MIB)
    async with open_fetcher(cache, source.fill) as fetcher:
        pick = random.Random(4)
        done = []

        async def read(index, patience):
            with trio.move_on_after(patience):
                span = Span(index * BLOCK, (index + 2) * BLOCK)
                await fetcher.read(file, span)
            done.append(index)

        async with trio.open_nursery() as nursery:
            for index in range(60):
                patience = pick.choice([0.5, 1.0, 2.5, 1000])
                nursery.start_soon(read, index, patience)
        assert len(done) == 60
        assert bytes(await fetcher.read(file, Span(0, 10))) == source.data[:10]


async def test_a_commit_hands_over_the_blocks_that_it_left_alone(autojump_clock):
    size = 6 * BLOCK
    source = Source(content(size))
    async with open_fetcher(RamCache(4 * MIB, BLOCK), source.fill) as fetcher:
        old, new = version(size), version(size, of="2")
        await fetcher.read(old, Span(0, size))
        source.asked.clear()
        fetcher.hand_over(old, new, SpanSet([Span(BLOCK + 5, BLOCK + 6)]))
        await fetcher.read(new, Span(0, BLOCK))
        await fetcher.read(new, Span(2 * BLOCK, size))
        assert source.asked == []
        await fetcher.read(new, Span(BLOCK, BLOCK + 1))
        assert source.asked == [Span(BLOCK, 2 * BLOCK)]


async def test_blocks_of_another_version_never_answer(autojump_clock):
    one, two = Source(content(BLOCK, 1)), content(BLOCK, 2)
    async with open_fetcher(RamCache(4 * MIB, BLOCK), one.fill) as fetcher:
        await fetcher.read(version(BLOCK), Span(0, 10))
        one.data = two
        assert bytes(await fetcher.read(version(BLOCK, of="2"), Span(0, 10))) == two[:10]


async def test_reading_ahead_starts_requests_and_waits_for_none(autojump_clock):
    source = Source(content(4 * REQUEST_BYTES))
    source.gate = trio.Event()
    async with open_fetcher(RamCache(8 * REQUEST_BYTES, BLOCK), source.fill) as fetcher:
        fetcher.prefetch(version(4 * REQUEST_BYTES), Span(0, 10 * REQUEST_BYTES))
        await wait_all_tasks_blocked()
        assert sorted(source.asked) == list(Span(0, 4 * REQUEST_BYTES).pieces(REQUEST_BYTES))
        fetcher.prefetch(version(4 * REQUEST_BYTES), Span(0, 4 * REQUEST_BYTES))
        await wait_all_tasks_blocked()
        assert len(source.asked) == 4
        source.gate.set()
        assert bytes(await fetcher.read(version(4 * REQUEST_BYTES), Span(0, 7))) == source.data[:7]


async def test_reading_ahead_takes_no_frame_that_is_in_use(autojump_clock):
    source = Source(content(8 * MIB))
    source.gate = trio.Event()
    async with open_fetcher(RamCache(MIB, BLOCK), source.fill) as fetcher:
        fetcher.prefetch(version(8 * MIB), Span(0, 8 * MIB))
        await wait_all_tasks_blocked()
        assert sum(span.size for span in source.asked) == MIB
        source.gate.set()


async def test_a_failed_read_ahead_harms_nobody(autojump_clock):
    source = Source(content(MIB))
    source.errors = [TransientError("reset")]
    async with open_fetcher(RamCache(4 * MIB, BLOCK), source.fill) as fetcher:
        fetcher.prefetch(version(MIB), Span(0, MIB))
        await wait_all_tasks_blocked()
        assert bytes(await fetcher.read(version(MIB), Span(0, 9))) == source.data[:9]
