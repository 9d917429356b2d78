"""A rename that fails while nobody can tell whether its copy was made."""

from contextlib import suppress
from dataclasses import replace

import pytest

from tests.support.faulty import FaultyStore
from tests.support.tree import Shell, get, keys, put, shell_on, tree_on
from vfs.errors import TransientError
from vfs.store.memory import MemoryStore, everything


class GoesDown(FaultyStore):
    """Makes one copy, and does not answer from then on."""

    def __init__(self, inner):
        super().__init__(inner)
        self.is_down = False
        self.last = None

    async def _play(self, asked, run):
        if not self.is_down and asked.operation == "copy" and asked.key == self.last:
            await run()
            self.is_down = True
        if self.is_down:
            raise TransientError("down")
        return await super()._play(asked, run)


@pytest.fixture(params=[True, False], ids=["tags", "versions"])
def store(request):
    return GoesDown(MemoryStore(features=replace(everything(), move=False), tags=request.param))


@pytest.fixture(autouse=True)
def logged(expect_log, virtual_time):
    expect_log("failed|in part|close of .*: down", maybe=True)


async def fail_in_doubt(shell, store, old="a", new="b", *, copy="b"):
    await shell.drain()
    store.last = copy
    with pytest.raises(TransientError):
        await shell.rename(old, new)
    store.last = None


async def test_its_copy_goes_when_the_store_answers_again(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        await fail_in_doubt(shell, store)
        assert not await shell.exists("b")
        store.is_down = False
        await shell.drain()
        assert await shell.ls() == ["a"]
        assert await keys(store) == ["a"]


async def test_its_copy_goes_with_the_next_mount(store, tmp_path):
    async with tree_on(store, tmp_path) as mount:
        shell = Shell(mount)
        await shell.write("a", b"bytes")
        await fail_in_doubt(shell, store)
    store.is_down = False
    async with shell_on(store, tmp_path) as shell:
        assert await shell.ls() == ["a"]
    assert await keys(store) == ["a"]


async def test_a_second_attempt_heals_it(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        await fail_in_doubt(shell, store)
        store.is_down = False
        await shell.rename("a", "b")
        assert await shell.ls() == ["b"]
        assert await keys(store) == ["b"]


async def test_a_second_attempt_over_a_file_heals_it(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        await shell.write("b", b"old")
        await fail_in_doubt(shell, store)
        store.is_down = False
        await shell.rename("a", "b")
        assert await shell.ls() == ["b"]
        assert await shell.read("b") == b"bytes"
    assert await keys(store) == ["b"]


async def test_a_new_file_of_the_name_waits_and_stays(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        await fail_in_doubt(shell, store)
        fd = await shell.create("b")
        await shell.pwrite(fd, 0, b"bytes")
        store.is_down = False
        await shell.close(fd)
        await shell.drain()
        assert await shell.ls() == ["a", "b"]
    assert await keys(store) == ["a", "b"]


async def test_it_does_not_come_back_when_the_file_is_removed_or_written(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        for name in ("a", "c"):
            await shell.write(name, b"bytes")
        await fail_in_doubt(shell, store)
        store.is_down = False
        await shell.unlink("a")
        await fail_in_doubt(shell, store, "c", "d", copy="d")
        fd = await shell.open("c")
        await shell.pwrite(fd, 0, b"B")
        store.is_down = False
        await shell.close(fd)
        await shell.drain()
        assert await shell.ls() == ["c"]
    assert await keys(store) == ["c"]


async def test_what_another_host_has_put_there_stays(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        await fail_in_doubt(shell, store)
        store.is_down = False
        await put(store, "b", b"other")
        await shell.drain()
        assert await shell.read("b") == b"other"
    assert await get(store, "a") == b"bytes"


async def test_a_directory_of_which_one_copy_is_in_doubt_keeps_that_file(
    store, tmp_path, monkeypatch
):
    monkeypatch.setattr("vfs.tree.rename_tree.MOVES_AT_ONCE", 1)
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"aaa")
        await shell.write("d/b", b"bbb")
        await fail_in_doubt(shell, store, "d", "e", copy="e/b")
        store.is_down = False
        await shell.drain()
        assert await shell.ls("d") == ["b"]
        assert await shell.ls("e") == ["a"]
    assert await keys(store) == ["d/", "d/b", "e/", "e/a"]


async def test_a_file_is_stored_after_its_doubt_is_settled(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"bytes")
        fd = await shell.open("a")
        await fail_in_doubt(shell, store)
        await shell.pwrite(fd, 0, b"B")
        store.is_down = False
        store.fail("list", TransientError("down"), times=3)
        with suppress(TransientError):
            await shell.close(fd)
        await shell.drain()
        assert await shell.ls() == ["a"]
        assert await shell.read("a") == b"Bytes"
    assert await keys(store) == ["a"]
