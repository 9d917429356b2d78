"""The SSD tier below a whole tree: what a commit hands over, and that nothing is ever wrong."""

import os
import random

import pytest
import trio

from tests.support.tree import put, shell_on
from vfs.values import KIB, MIB

CACHE = {"cache_bytes": 64 * MIB}
SIZE = 6 * MIB + 12_345


@pytest.fixture
def pick():
    seed = int(os.environ.get("CACHE_SEED") or random.randrange(1 << 30))
    print(f"CACHE_SEED={seed}")
    return random.Random(seed)


async def kept(shell, size):
    """Return when the disk has that many bytes and nothing waits to be written."""
    disk = shell.mount.disk
    with trio.fail_after(20):
        while disk.used_bytes < size or disk.backlog_bytes:
            await trio.sleep(0.005)


def read_bytes(store):
    return sum(call.size for call in store.asked("read", "image"))


@pytest.mark.promise("S-read-9")
async def test_what_was_written_is_read_from_the_disk_after_a_restart(store, tmp_path, pick):
    data = pick.randbytes(SIZE)
    async with shell_on(store, tmp_path, **CACHE) as shell:
        await shell.write("image", data)
        await kept(shell, SIZE)
    store.forget()
    async with shell_on(store, tmp_path, **CACHE) as shell:
        assert await shell.read("image") == data
    assert read_bytes(store) == 0


async def test_a_delta_hands_over_what_it_did_not_change(store, tmp_path, pick):
    data = bytearray(pick.randbytes(SIZE))
    await put(store, "image", bytes(data))
    async with shell_on(store, tmp_path, **CACHE) as shell:
        assert await shell.read("image") == data
        await kept(shell, SIZE)
        fd = await shell.open("image")
        data[3 * MIB : 3 * MIB + 100] = bytes(100)
        await shell.pwrite(fd, 3 * MIB, bytes(100))
        await shell.fsync(fd)
        await shell.close(fd)
    store.forget()
    async with shell_on(store, tmp_path, **CACHE) as shell:
        assert await shell.read("image") == data
    assert read_bytes(store) <= 128 * KIB


async def test_the_stage_is_given_back_when_the_disk_has_its_blocks(store, tmp_path, pick):
    async with shell_on(store, tmp_path, **CACHE) as shell:
        fd = await shell.create("image")
        await shell.pwrite(fd, 0, pick.randbytes(SIZE))
        await shell.close(fd)
        await kept(shell, SIZE)
        with trio.fail_after(20):
            while shell.staged_bytes or list(tmp_path.glob("*/files/*")):
                await trio.sleep(0.005)


async def test_what_is_written_meanwhile_is_not_taken_for_what_was_stored(store, tmp_path, pick):
    async with shell_on(store, tmp_path, **CACHE) as shell:
        fetcher, disk = shell.fs.context.fetcher, shell.mount.disk
        fd = await shell.create("image")
        await shell.pwrite(fd, 0, pick.randbytes(4 * 128 * KIB))
        async with fetcher._room(64 * MIB // fetcher.block_bytes // 4):  # nobody else has frames
            await shell.fsync(fd)
            await shell.pwrite(fd, 128 * KIB + 5, b"not stored yet")
        file = (await shell.node("image")).content.base
        with trio.fail_after(20):
            while len(missing := await disk.missing(file, range(4))) != 1 or len(missing[0]) > 1:
                await trio.sleep(0.005)
        assert missing == [range(1, 2)]
        await shell.close(fd)


async def test_a_storm_of_writes_commits_and_restarts_reads_right(store, tmp_path, pick):
    """With a disk and memory that are too small for all of it."""
    files = {name: bytearray(pick.randbytes(pick.randrange(1, 3 * MIB))) for name in "abc"}
    for name, data in files.items():
        await put(store, name, bytes(data))
    for _ in range(4):
        limit = pick.choice([1, 4, 16]) * MIB
        async with shell_on(store, tmp_path, cache_bytes=limit) as shell:
            for _ in range(40):
                name = pick.choice("abc")
                data = files[name]
                fd = await shell.open(name)
                what = pick.randrange(6)
                if what < 3:
                    start, size = pick.randrange(len(data)), pick.choice([100, 4096, MIB])
                    assert await shell.pread(fd, start, size) == data[start : start + size]
                elif what == 3:
                    new = pick.randbytes(pick.choice([10, 4096, 300_000]))
                    start = pick.randrange(len(data) + 5000)
                    data.extend(bytes(max(0, start + len(new) - len(data))))
                    data[start : start + len(new)] = new
                    await shell.pwrite(fd, start, new)
                elif what == 4:
                    size = pick.randrange(1, len(data) + 200_000)
                    del data[size:]
                    data.extend(bytes(size - len(data)))
                    await shell.ftruncate(fd, size)
                else:
                    await shell.fsync(fd)
                    if pick.random() < 0.3:
                        await kept(shell, 0)
                await shell.close(fd)
            assert shell.mount.disk.used_bytes <= limit
            for name, data in files.items():
                assert await shell.read(name) == data
