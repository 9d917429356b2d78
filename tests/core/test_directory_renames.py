"""A directory's rename, file by file, that is interrupted: by an error, or by a crash."""

import shutil
from dataclasses import replace

import pytest
import trio
import trio.testing

from tests.support.crash import Steps, run_until
from tests.support.faulty import FaultyStore
from tests.support.tree import get, keys, shell_on
from vfs.errors import NotEmptyError, TransientError
from vfs.store.memory import MemoryStore, everything
from vfs.tasks import open_tasks

DOWN = TransientError("down")


@pytest.fixture(autouse=True)
def one_after_the_other(monkeypatch):
    monkeypatch.setattr("vfs.tree.rename_tree.MOVES_AT_ONCE", 1)


async def half_renamed(shell, store: FaultyStore, operation: str, key: str) -> None:
    store.fail(operation, DOWN, key=key, times=1)
    with pytest.raises(TransientError):
        await shell.rename("d", "e")


async def two_files(shell) -> None:
    await shell.mkdir("d", 0o700)
    await shell.write("d/a", b"aaa")
    await shell.write("d/b", b"bbb")
    await shell.drain()


async def test_an_open_file_goes_on_under_its_new_name_when_the_rest_could_not_move(
    store, backend, tmp_path, expect_log
):
    expect_log("only in part: 1 files")
    async with shell_on(store, tmp_path) as shell:
        await two_files(shell)
        moved, stays = await shell.open("d/a"), await shell.open("d/b")
        await half_renamed(shell, store, "copy", "e/b")
        for fd in (moved, stays):
            await shell.pwrite(fd, 0, b"X")
            await shell.close(fd)
        assert await get(backend, "e/a") == b"Xaa"
        assert await get(backend, "d/b") == b"Xbb"
        assert await shell.ls("d") == ["b"]
        assert await shell.ls("e") == ["a"]
        assert await shell.mode("e") == 0o700
    assert await keys(backend) == ["d/", "d/b", "e/", "e/a"]


async def test_an_open_file_two_levels_down_goes_on_under_its_new_name(
    store, backend, tmp_path, expect_log
):
    expect_log("only in part: 1 files")
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        await shell.mkdir("d/s")
        await shell.write("d/s/a", b"aaa")
        await shell.write("d/s/b", b"bbb")
        fd = await shell.open("d/s/a")
        await half_renamed(shell, store, "copy", "e/s/b")
        await shell.pwrite(fd, 0, b"X")
        await shell.close(fd)
        assert await shell.read("e/s/a") == b"Xaa"
    assert await keys(backend) == ["d/", "d/s/", "d/s/b", "e/", "e/s/", "e/s/a"]


async def test_what_was_written_during_the_rename_goes_where_the_file_is(
    store, backend, tmp_path, expect_log
):
    expect_log("only in part: 1 files")
    async with shell_on(store, tmp_path) as shell:
        await two_files(shell)
        fd = await shell.open("d/a")
        held = store.block("copy", key="e/b")
        held.before = DOWN
        async with open_tasks() as nursery:
            nursery.start_soon(half_renamed, shell, store, "none", "none")
            await held.reached.wait()
            await shell.pwrite(fd, 0, b"X")
            held.release()
        await shell.close(fd)
        assert await shell.read("e/a") == b"Xaa"
    assert await keys(backend) == ["d/", "d/b", "e/", "e/a"]


async def test_a_file_that_was_copied_is_removed_under_its_old_name_later(
    store, backend, tmp_path, expect_log
):
    expect_log("only in part: 1 files")
    async with shell_on(store, tmp_path) as shell:
        await two_files(shell)
        fd = await shell.open("d/a")
        await half_renamed(shell, store, "remove", "d/a")
        await shell.pwrite(fd, 0, b"X")
        await shell.close(fd)
        await shell.drain()
        assert await shell.ls("d") == ["b"]
        assert await shell.read("e/a") == b"Xaa"
    assert await keys(backend) == ["d/", "d/b", "e/", "e/a"]


@pytest.mark.parametrize("operation", ["copy", "write"])
async def test_an_empty_directory_that_could_not_be_replaced_stays(
    store, backend, tmp_path, expect_log, operation
):
    expect_log("only in part: 0 files")
    async with shell_on(store, tmp_path) as shell:
        await two_files(shell)
        await shell.mkdir("e", 0o711)
        await shell.drain()
        await half_renamed(shell, store, operation, "e/a" if operation == "copy" else "e/")
        assert await shell.mode("e") == 0o711
        assert await shell.ls("e") == []
    async with shell_on(store, tmp_path / "other") as shell:
        assert await shell.mode("e") == 0o711
    assert await keys(backend) == ["d/", "d/a", "d/b", "e/"]


@pytest.mark.parametrize("moves", [True, False])
async def test_a_crash_does_not_lose_the_empty_directory_that_is_replaced(tmp_path, moves):
    for fatal in range(1, 40):
        store = MemoryStore(features=replace(everything(), move=moves))
        steps = Steps(fatal, after=True)

        async def prepare(shell):
            await two_files(shell)
            await shell.mkdir("e", 0o711)

        async def scenario(shell):
            await shell.rename("d", "e")

        await run_until(store, tmp_path / f"{fatal}", steps, prepare, scenario)
        async with shell_on(store, tmp_path / f"{fatal}") as shell:
            found = await shell.ls(), await shell.ls("e"), await shell.mode("e")
        allowed = (["d", "e"], [], 0o711), (["e"], ["a", "b"], 0o700)
        assert found in allowed, steps.done
        if not steps.crashed:
            return
    raise AssertionError("the scenario has no end")


async def crash_in_the_middle(tmp_path) -> MemoryStore:
    """Leave a rename of which one file has moved."""
    for fatal in range(1, 40):
        backend = MemoryStore(features=replace(everything(), move=False))
        steps = Steps(fatal, after=True)

        async def scenario(shell):
            await shell.rename("d", "e")

        shutil.rmtree(tmp_path)
        await run_until(backend, tmp_path, steps, two_files, scenario)
        if await get(backend, "e/a") is not None and await get(backend, "d/a") is None:
            return backend
    raise AssertionError("no file moves")


async def test_a_mount_is_ready_before_an_interrupted_rename_is_finished(tmp_path):
    store = FaultyStore(await crash_in_the_middle(tmp_path))
    held = store.block("copy", key="e/b")
    async with shell_on(store, tmp_path) as shell:
        await held.reached.wait()
        assert await shell.ls() == ["e"]
        assert await shell.mode("e") == 0o700
        assert not await shell.exists("d")
        read: list[bytes] = []

        async def reader(name):
            read.append(await shell.read(name))

        async with open_tasks() as nursery:
            nursery.start_soon(reader, "e/a")
            nursery.start_soon(reader, "e/b")
            nursery.start_soon(shell.mkdir, "d")
            await trio.testing.wait_all_tasks_blocked()
            assert not read
            held.release()
        assert sorted(read) == [b"aaa", b"bbb"]
        assert await shell.ls("d") == []
    assert await keys(store) == ["d/", "e/", "e/a", "e/b"]


@pytest.mark.parametrize("step", ["rename", "rmdir", "replace"])
async def test_a_directory_that_is_still_on_its_way_can_be_renamed_but_not_removed(tmp_path, step):
    store = FaultyStore(await crash_in_the_middle(tmp_path))
    held = store.block("copy", key="e/b")
    async with shell_on(store, tmp_path) as shell:
        await held.reached.wait()
        if step == "replace":
            await shell.mkdir("x")

        async def change():
            if step == "rename":
                await shell.rename("e", "d")
                return
            with pytest.raises(NotEmptyError):
                await (shell.rmdir("e") if step == "rmdir" else shell.rename("x", "e"))

        async with open_tasks() as nursery:
            nursery.start_soon(change)
            await trio.testing.wait_all_tasks_blocked()
            held.release()
        name = "d" if step == "rename" else "e"
        assert await shell.ls(name) == ["a", "b"]


async def test_an_interrupted_rename_that_fails_again_is_finished_by_the_next_mount(
    tmp_path, expect_log
):
    expect_log("only in part")
    expect_log("move_directory is not finished yet")
    store = FaultyStore(await crash_in_the_middle(tmp_path))
    store.fail("copy", DOWN, key="e/b")
    async with shell_on(store, tmp_path) as shell:
        assert await shell.ls("e") == ["a"]
        assert await shell.ls("d") == ["b"]
        assert await shell.ls() == ["d", "e"]
    async with shell_on(store, tmp_path) as shell:
        assert await shell.ls("e") == ["a", "b"]
        assert await shell.ls() == ["e"]


async def test_a_mount_that_ends_leaves_the_rest_of_a_rename_to_the_next_one(tmp_path):
    store = FaultyStore(await crash_in_the_middle(tmp_path))
    held = store.block("copy", key="e/b")
    async with shell_on(store, tmp_path):
        await held.reached.wait()
    held.release()
    async with shell_on(store, tmp_path) as shell:
        assert await shell.ls("e") == ["a", "b"]
    assert await keys(store) == ["e/", "e/a", "e/b"]
