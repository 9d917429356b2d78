"""Files that were unlinked while they are open: in nobody's way, and gone in the end."""

from contextlib import suppress
from dataclasses import replace

import pytest
import trio
import trio.testing

from tests.support.faulty import FaultyStore
from tests.support.tree import Shell, get, keys, shell_on, tree_on
from vfs.errors import TransientError
from vfs.store.memory import MemoryStore, everything
from vfs.values import MIB

LARGE = b"0123456789abcdef" * (MIB // 4)


@pytest.fixture
def store():
    return FaultyStore(MemoryStore(features=everything()))


async def left(store):
    return [key for key in await keys(store, own=True) if "attrs" not in key and "dig" not in key]


@pytest.mark.parametrize("data", [b"bytes", LARGE], ids=["small", "large"])
async def test_its_name_can_be_a_directory_at_once(store, tmp_path, data):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", data)
        fd = await shell.open("a")
        await shell.unlink("a")
        await shell.mkdir("a")
        await shell.write("a/b", b"x")
        assert await shell.all(fd) == data
        await shell.pwrite(fd, 0, b"B")
        assert await shell.all(fd) == b"B" + data[1:]
        await shell.close(fd)
        await shell.drain()
        assert await left(store) == ["a/", "a/b"]


@pytest.mark.parametrize("moves", [True, False])
@pytest.mark.promise("S-name-2")
async def test_its_directory_can_be_removed_and_made_anew(moves, tmp_path):
    store = FaultyStore(MemoryStore(features=replace(everything(), move=moves)))
    async with shell_on(store, tmp_path, "metadata_ttl=0") as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"bytes")
        fd = await shell.open("d/a")
        await shell.unlink("d/a")
        await shell.rmdir("d")
        assert await shell.ls() == []
        await shell.mkdir("d")
        assert await shell.ls("d") == []
        assert await shell.all(fd) == b"bytes"
        await shell.rmdir("d")
        await shell.close(fd)
        assert await left(store) == []


async def test_a_directory_can_take_its_name(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        await shell.write("d/b", b"x")
        await shell.write("a", b"bytes")
        fd = await shell.open("a")
        await shell.unlink("a")
        await shell.rename("d", "a")
        assert await shell.all(fd) == b"bytes"
        await shell.close(fd)
        assert await left(store) == ["a/", "a/b"]


async def test_a_new_file_of_its_name_is_another(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"old")
        fd = await shell.open("a")
        await shell.unlink("a")
        await shell.write("a", b"new")
        assert await shell.all(fd) == b"old"
        await shell.close(fd)
        assert await get(store, "a") == b"new"
    assert await left(store) == ["a"]


async def test_where_it_cannot_be_put_aside_it_stays_until_it_is_closed(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        fd = await shell.open("a")
        store.fail("move", TransientError("no network"), times=10)
        await shell.unlink("a")
        assert await shell.ls() == []
        assert await shell.all(fd) == b"bytes"
        await shell.close(fd)
        assert await left(store) == []


@pytest.mark.parametrize("outage", [False, True])
async def test_it_goes_also_when_nobody_was_told_that_it_was_put_aside(store, tmp_path, outage):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        fd = await shell.open("a")
        store.lose_reply("move")
        fault = store.fail("head", TransientError("no network"), times=2 if outage else 0)
        await shell.unlink("a")
        fault.times = 0
        assert outage or await shell.all(fd) == b"bytes"
        await shell.close(fd)
        assert await left(store) == []


@pytest.mark.parametrize("operation", ["copy", "remove"])
async def test_its_copy_is_not_left_where_a_lost_answer_has_kept_its_directory(
    backend, tmp_path, operation
):
    store = FaultyStore(backend)
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"bytes")
        fd = await shell.open("d/a")
        await shell.unlink("d/a")
        store.lose_reply(operation)
        with suppress(TransientError):
            await shell.rmdir("d")
        assert await shell.all(fd) == b"bytes"
        await shell.close(fd)
        assert [key for key in await left(store) if not key.startswith("d")] == []


@pytest.mark.parametrize("operation", ["move", "remove"])
async def test_a_mount_that_dies_leaves_nothing_of_it(store, tmp_path, operation):
    async with tree_on(store, tmp_path) as mount:
        shell = Shell(mount)
        await shell.write("a", b"bytes")
        await shell.drain()
        fd = await shell.open("a")
        if operation == "move":
            store.lose_reply("move", TransientError("gone"), times=1)
        await shell.unlink("a")
        assert await shell.ls() == []
        del fd
    assert len(await left(store)) == 1
    async with shell_on(store, tmp_path) as shell:
        assert await shell.ls() == []
    assert await left(store) == []


async def test_a_directory_stays_when_what_was_unlinked_in_it_cannot_be_taken_away(
    backend, store, tmp_path
):
    store = FaultyStore(backend)
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"bytes")
        fd = await shell.open("d/a")
        await shell.unlink("d/a")
        store.fail("copy", TransientError("no network"), times=10)
        with pytest.raises(TransientError):
            await shell.rmdir("d")
        assert await shell.ls() == ["d"]
        assert await shell.ls("d") == []
        assert await shell.all(fd) == b"bytes"
        await shell.close(fd)
        await shell.rmdir("d")
        assert await left(store) == []


async def test_a_directory_goes_with_all_that_had_one_name_in_it(backend, tmp_path):
    store = FaultyStore(backend)
    async with shell_on(store, tmp_path, "metadata_ttl=0") as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"first")
        fd = await shell.open("d/a")
        await shell.unlink("d/a")
        await shell.write("d/a", b"second")
        await shell.unlink("d/a")
        await shell.rmdir("d")
        assert await shell.ls() == []
        await shell.close(fd)
        await shell.drain()
    assert await left(store) == []


@pytest.mark.parametrize("dirty", [False, True], ids=["clean", "dirty"])
@pytest.mark.parametrize("step", ["head", "remove"])
async def test_a_file_may_take_its_name_while_it_is_closed(backend, tmp_path, dirty, step):
    """The kernel does not wait for the last close before it lets a program go on."""
    bare = replace(everything(), move=False, remove_if_version=False)
    store = FaultyStore(MemoryStore(features=bare))
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"old")
        await shell.write("b", b"new")
        fd = await shell.open("a")
        await shell.unlink("a")
        writer = await shell.open("b") if dirty else None
        if writer is not None:
            await shell.pwrite(writer, 0, b"New")
        gate = store.block(step, key="a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.close, fd)
            await gate.reached.wait()
            nursery.start_soon(shell.rename, "b", "a")
            await trio.testing.wait_all_tasks_blocked()
            gate.release()
        if writer is not None:
            await shell.close(writer)
        await shell.drain()
        assert await shell.ls() == ["a"]
        assert await shell.read("a") == (b"New" if dirty else b"new")
    assert await left(store) == ["a"]


async def test_the_last_close_waits_for_a_file_that_takes_its_name(tmp_path):
    bare = replace(everything(), move=False, remove_if_version=False)
    store = FaultyStore(MemoryStore(features=bare))
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"old")
        await shell.write("b", b"new")
        fd = await shell.open("a")
        await shell.unlink("a")
        copying, removing = store.block("copy", key="a"), store.block("remove", key="a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.rename, "b", "a")
            await copying.reached.wait()
            nursery.start_soon(shell.close, fd)
            await trio.testing.wait_all_tasks_blocked(0.01)
            copying.release()
            await trio.testing.wait_all_tasks_blocked(0.01)
            removing.release()
        assert await shell.ls() == ["a"]
        assert await shell.read("a") == b"new"
    assert await left(store) == ["a"]


async def test_a_file_that_was_stored_and_changed_may_take_its_name(backend, tmp_path, expect_log):
    expect_log("upload of 'a' failed")
    store = FaultyStore(backend)
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"old")
        old = await shell.open("a")
        await shell.unlink("a")
        new = await shell.create("b")
        await shell.pwrite(new, 0, b"stored")
        await shell.fsync(new)
        await shell.pwrite(new, 0, b"Stored")
        store.fail("write", TransientError("no network"), key="a")
        await shell.rename("b", "a")
        await trio.testing.wait_all_tasks_blocked(0.05)
        await shell.close(old)
        with suppress(TransientError):  # of the first attempt
            await shell.fsync(new)
        await shell.close(new)
        assert await shell.ls() == ["a"]
        assert await shell.read("a") == b"Stored"
    assert await left(store) == ["a"]


@pytest.mark.parametrize("again", [True, False], ids=["again", "not again"])
@pytest.mark.parametrize("failing", ["head", "remove", "remove and look", "answer"])
async def test_what_a_failed_removal_of_its_directory_has_copied_goes_as_well(
    backend, tmp_path, failing, again
):
    store = FaultyStore(backend)
    down = TransientError("no network")
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"bytes")
        fd = await shell.open("d/a")
        await shell.unlink("d/a")
        copied = store.hold_answer("copy")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_rmdir_in_vain, shell, failing == "answer")
            await copied.reached.wait()
            if failing == "head":
                store.fail("head", down)
            elif failing == "answer":
                store.lose_reply("remove", down, key="d/a")
            else:
                store.fail("remove", down, key="d/a")
            if failing == "remove and look":
                store.fail("", down, times=4)
            copied.release()
        store.script.clear()
        assert await shell.all(fd) == b"bytes"
        if again and failing != "answer":
            await shell.rmdir("d")
        assert await shell.all(fd) == b"bytes"
        await shell.close(fd)
        await shell.drain()
        assert [key for key in await left(store) if key != "d/"] == []


async def _rmdir_in_vain(shell, done):
    with suppress(TransientError) if done else pytest.raises(TransientError):
        await shell.rmdir("d")


async def test_one_that_was_put_aside_without_an_answer_is_found_there(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        fd = await shell.open("a")
        store.lose_reply("move")
        await shell.unlink("a")
        assert await shell.all(fd) == b"bytes"
        await shell.write("a", b"new")
        await shell.close(fd)
        assert await left(store) == ["a"]
        assert await shell.read("a") == b"new"
