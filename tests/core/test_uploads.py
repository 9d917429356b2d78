"""Uploads in parts that nobody wants any more do not stay in the bucket."""

import random

import pytest
import trio

from tests.support.faulty import FaultyStore
from tests.support.tree import Shell, shell_on, tree_on
from vfs.errors import DeniedError, TransientError
from vfs.store.base import Properties
from vfs.store.memory import MemoryStore
from vfs.values import MIB, Key

DATA = random.Random(3).randbytes(20 * MIB)


@pytest.fixture
def memory():
    return MemoryStore()


@pytest.fixture
def store(memory):
    return FaultyStore(memory)


def uploads(memory):
    return [one.key for one in memory._bucket.uploads.values()]


async def half_written(shell, name="a"):
    """Write a file whose first parts are in the store, and leave it open."""
    fd = await shell.create(name)
    for offset in range(0, len(DATA), MIB):
        await shell.pwrite(fd, offset, DATA[offset : offset + MIB])
    return fd


async def sent(store, parts):
    while sum(one.outcome == "OK" for one in store.asked("upload_part")) < parts:
        await trio.sleep(0.1)


async def test_an_abort_that_fails_is_tried_until_it_succeeds(
    store, memory, tmp_path, autojump_clock
):
    store.fail("abort_upload", TransientError("no network"), times=20)
    async with shell_on(store, tmp_path / "stage") as shell:
        fd = await half_written(shell)
        await sent(store, 3)
        await shell.unlink("a")
        assert uploads(memory) == ["a"]
        await trio.sleep(800)
        assert shell.mount.uploads.unwanted == 1
        await trio.sleep(200)
        assert uploads(memory) == []
        assert shell.mount.uploads.unwanted == 0
        await shell.close(fd)
    assert store.count("abort_upload") == 21


async def test_an_unlink_does_not_wait_for_the_abort(store, memory, tmp_path):
    async with shell_on(store, tmp_path / "stage") as shell:
        fd = await half_written(shell)
        await sent(store, 3)
        held = store.block("abort_upload")
        await shell.unlink("a")
        await held.reached.wait()
        assert not await shell.exists("a")
        held.release()
        await shell.close(fd)
    assert uploads(memory) == []


async def test_an_unmount_tries_the_abort_at_once(store, memory, tmp_path):
    store.fail("abort_upload", TransientError("no network"), times=1)
    async with shell_on(store, tmp_path / "stage") as shell:
        fd = await half_written(shell)
        await sent(store, 3)
        await shell.unlink("a")
        await shell.close(fd)
        while not store.count("abort_upload"):
            await trio.lowlevel.checkpoint()
    assert uploads(memory) == []


async def test_the_next_mount_aborts_what_the_last_one_could_not(store, memory, tmp_path):
    store.fail("abort_upload", TransientError("no network"), times=1000)
    async with tree_on(store, tmp_path / "stage") as mount:
        await half_written(Shell(mount))
        await sent(store, 3)
        await Shell(mount).unlink("a")
    assert uploads(memory) == ["a"]
    async with shell_on(memory, tmp_path / "stage") as shell:
        await shell.drain()
    assert uploads(memory) == []


async def test_the_next_mount_goes_on_with_the_upload_of_a_file_that_is_wanted(
    store, memory, tmp_path
):
    async with tree_on(store, tmp_path / "stage") as mount:
        shell = Shell(mount)
        fd = await half_written(shell)
        await sent(store, 3)
        await mount.fs.context.content(shell.handle(fd).node).persist()
    assert uploads(memory) == ["a"]
    store.forget()
    async with shell_on(store, tmp_path / "stage") as shell:
        await shell.drain()
        assert await shell.read("a") == DATA
    assert store.count("begin_upload") == 0
    assert store.count("abort_upload") == 0
    assert uploads(memory) == []


async def test_an_upload_whose_asker_has_gone_is_aborted_when_it_is_answered(
    store, memory, tmp_path
):
    async with shell_on(store, tmp_path / "stage") as shell:
        held = store.block("begin_upload")
        fd = await half_written(shell)
        await held.reached.wait()
        await shell.unlink("a")
        await shell.close(fd)
        assert uploads(memory) == []
        held.release()
        while not store.count("abort_upload"):
            await trio.lowlevel.checkpoint()
    assert uploads(memory) == []


async def test_uploads_of_others_are_left_alone(store, memory, tmp_path):
    foreign = await memory.begin_upload(Key("a"), properties=Properties({}))
    async with shell_on(store, tmp_path / "stage") as shell:
        fd = await half_written(shell)
        await sent(store, 3)
        await shell.unlink("a")
        await shell.close(fd)
    async with shell_on(store, tmp_path / "stage"):
        pass
    assert list(memory._bucket.uploads) == [foreign.upload_id]


async def test_a_store_that_denies_aborts_is_not_asked_all_the_time(
    store, tmp_path, autojump_clock
):
    store.fail("abort_upload", DeniedError("no permission to abort"), times=1000)
    async with shell_on(store, tmp_path / "stage") as shell:
        fd = await half_written(shell)
        await sent(store, 3)
        await shell.unlink("a")
        await shell.close(fd)
        await trio.sleep(3600)
        assert store.count("abort_upload") < 70
