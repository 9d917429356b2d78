"""Holes of a file cost the store's own copies, and no bandwidth."""

import hashlib
from dataclasses import replace

import pytest

from tests.support.faulty import FaultyStore
from tests.support.tree import get, keys, put, shell_on
from vfs.errors import DeniedError, NotFoundError
from vfs.layout.zeros import SIZES, ZEROS
from vfs.store.base import Features
from vfs.store.memory import MemoryStore, everything
from vfs.values import MIB

SIZE = 200 * MIB
SENT = ("write", "upload_part")


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


def sent_bytes(store):
    return sum(one.size for one in store.calls if one.operation in SENT)


async def zeros(store):
    return await keys(store, ZEROS, own=True)


async def write_sparse(shell, name="image"):
    """Make a file of zeros with a few bytes in the middle; return what it holds."""
    fd = await shell.create(name)
    await shell.ftruncate(fd, SIZE)
    await shell.pwrite(fd, 100 * MIB, b"data")
    await shell.close(fd)
    return bytes(100 * MIB) + b"data" + bytes(100 * MIB - 4)


@pytest.mark.promise("S-write-14")
async def test_a_sparse_file_is_stored_without_sending_its_zeros(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        wanted = await write_sparse(shell)
        assert await get(store, "image") == wanted
        assert sent_bytes(store) <= SIZES[0] + 10 * MIB
        store.forget()
        await write_sparse(shell, "second")
        assert sent_bytes(store) <= 10 * MIB
    assert await zeros(store) == [f"{ZEROS}/{SIZES[0]}"]


async def test_zeros_that_were_found_are_read_before_they_are_believed(store, tmp_path, expect_log):
    expect_log("does not hold 5242880 zeros")
    await put(store, f"{ZEROS}/{SIZES[0]}", bytes(SIZES[0] - 1) + b"x")
    async with shell_on(store, tmp_path) as shell:
        assert await get(store, "image") is None
        wanted = await write_sparse(shell)
        assert await get(store, "image") == wanted
        assert store.count("copy_part") == 0


async def test_zeros_that_have_gone_are_sent(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await write_sparse(shell, "first")
        store.fail("copy_part", NotFoundError("gone", key="x"), times=3)
        wanted = await write_sparse(shell)
        assert await get(store, "image") == wanted


async def test_where_zeros_cannot_be_kept_they_are_sent(store, tmp_path):
    store.fail("write", DeniedError("only below images/"), key=f"{ZEROS}/{SIZES[0]}", times=100)
    async with shell_on(store, tmp_path) as shell:
        wanted = await write_sparse(shell)
        assert await get(store, "image") == wanted
    assert store.count("write", key=f"{ZEROS}/{SIZES[0]}") == 1


@pytest.mark.parametrize(
    "features",
    [replace(everything(), copy_part=False), replace(everything(), sparse=True)],
    ids=["no range copies", "holes cost nothing"],
)
async def test_where_nothing_is_won_no_zeros_are_kept(features: Features, tmp_path):
    store = FaultyStore(MemoryStore(features=features))
    async with shell_on(store, tmp_path) as shell:
        wanted = await write_sparse(shell)
        assert await get(store, "image") == wanted
    assert await zeros(store) == []


async def test_larger_parts_are_put_together_from_smaller_ones(store, tmp_path):
    async with shell_on(store, tmp_path, "part_size=20M") as shell:
        wanted = await write_sparse(shell)
        assert sent_bytes(store) <= SIZES[0] + 30 * MIB
        assert await get(store, "image") == wanted
    assert await get(store, f"{ZEROS}/{SIZES[1]}") == bytes(SIZES[1])


async def test_the_digest_of_a_sparse_file_is_known_without_reading_it(store, tmp_path):
    async with shell_on(store, tmp_path, "verify_uploads=true") as shell:
        wanted = await write_sparse(shell)
        assert hashlib.sha256(await get(store, "image")).digest() == hashlib.sha256(wanted).digest()
        await shell.mount.digests.drain()
    assert any("digests" in key for key in await keys(store, own=True))
