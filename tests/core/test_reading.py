"""What reading costs in requests, and that it is right whatever is asked at once."""

import random

import pytest
import trio

from tests.support.tree import put, shell_on
from vfs.values import KIB, MIB, Span

SIZE = 96 * MIB


@pytest.mark.promise("S-read-8")
@pytest.mark.parametrize("at_once", [1, 4, 16])
async def test_a_sequential_reader_costs_few_large_requests_however_many_it_makes_at_once(
    store, tmp_path, at_once
):
    data = random.Random(at_once).randbytes(SIZE)
    await put(store, "image", data)
    async with shell_on(store, tmp_path, "memory=256M") as shell:
        fd = await shell.open("image")
        store.forget()
        pieces = iter(list(Span(0, SIZE).pieces(MIB)))

        async def read():
            for piece in pieces:
                assert await shell.pread(fd, piece.start, MIB) == data[piece.start : piece.stop]

        # The kernel's own read-ahead asks for several pieces before it has the first.
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(read)
        assert sum(call.size for call in store.asked("read")) == SIZE
        assert store.count("read") <= at_once + 40
        await shell.close(fd)


async def test_pieces_of_blocks_that_lie_apart_are_put_together(store, tmp_path):
    data = random.Random(1).randbytes(8 * MIB)
    await put(store, "image", data)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("image")
        # Every other block first, so that neighbours are not neighbours in memory.
        for at in [*range(0, 64, 2), *range(1, 64, 2)]:
            await shell.pread(fd, at * (128 << 10) + 7, 9)
        pick = random.Random(2)
        for _ in range(200):
            start = pick.randrange(len(data))
            size = pick.randrange(1, 2 * MIB)
            assert await shell.pread(fd, start, size) == data[start : start + size]
        await shell.close(fd)


@pytest.mark.promise("S-read-8")
async def test_a_reader_that_goes_down_costs_few_large_requests(store, tmp_path):
    data = random.Random(3).randbytes(SIZE)
    await put(store, "image", data)
    async with shell_on(store, tmp_path, "memory=256M") as shell:
        fd = await shell.open("image")
        store.forget()
        for piece in reversed(list(Span(0, SIZE).pieces(128 * KIB))):
            assert await shell.pread(fd, piece.start, piece.size) == data[piece.start : piece.stop]
        assert sum(call.size for call in store.asked("read")) == SIZE
        assert store.count("read") <= 60
        await shell.close(fd)


@pytest.mark.promise("S-read-8")
async def test_small_reads_at_random_fetch_the_blocks_that_they_touch(store, tmp_path):
    data = random.Random(4).randbytes(SIZE)
    await put(store, "image", data)
    async with shell_on(store, tmp_path, "memory=256M") as shell:
        fd = await shell.open("image")
        store.forget()
        pick = random.Random(5)
        starts = [pick.randrange(SIZE // (4 * KIB)) * 4 * KIB for _ in range(200)]
        for start in starts:
            assert await shell.pread(fd, start, 4 * KIB) == data[start : start + 4 * KIB]
        touched = {start // (128 * KIB) for start in starts}
        assert sum(call.size for call in store.asked("read")) == len(touched) * 128 * KIB
        await shell.close(fd)


async def test_a_reader_with_strides_is_not_fetched_what_lies_between(store, tmp_path):
    data = random.Random(6).randbytes(SIZE)
    await put(store, "image", data)
    async with shell_on(store, tmp_path, "memory=256M") as shell:
        fd = await shell.open("image")
        store.forget()
        for start in range(0, SIZE, MIB):
            assert await shell.pread(fd, start, 4 * KIB) == data[start : start + 4 * KIB]
        assert sum(call.size for call in store.asked("read")) == SIZE // MIB * 128 * KIB
        await shell.close(fd)
