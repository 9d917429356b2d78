"""Names: unlink, rename and what becomes of open and dirty files by them."""

import contextlib
import os
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.faulty import FaultyStore
from tests.support.tree import CALLER, Shell, get, keys, put, shell_on, tree_on
from vfs.errors import (
    ExistsError,
    InvalidError,
    IsDirectoryError,
    NameTooLongError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    StaleError,
    TransientError,
    WrongKindError,
)
from vfs.store.memory import MemoryStore, everything
from vfs.tree import rename as rename_module
from vfs.tree.rename import NOREPLACE
from vfs.values import MIB

TTL = "metadata_ttl=0"


@pytest.fixture(params=["copies", "moves"])
def store(request):
    """S3-like, and one that renames atomically like a local directory."""
    features = replace(everything(), move=request.param == "moves")
    return FaultyStore(MemoryStore(features=features))


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """A file that is copied while the rename waits, and one that is copied afterwards."""
    if request.param == "large":
        monkeypatch.setattr(rename_module, "COPIED_AT_ONCE_BYTES", 10)
    return 1000


# Unlink


async def test_an_unlinked_file_is_gone_at_once_and_from_the_store(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x")
        await shell.unlink("a")
        assert not await shell.exists("a")
        assert await shell.ls() == []
        assert await keys(store) == []
        with pytest.raises(NotFoundError):
            await shell.unlink("a")


@pytest.mark.promise("S-name-2")
async def test_an_open_file_outlives_its_name(store, tmp_path):
    data = os.urandom(3 * MIB)
    await put(store, "a", data)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("a")
        await shell.unlink("a")
        assert await shell.ls() == []
        await shell.pwrite(fd, 5, b"12345")
        assert await shell.all(fd) == data[:5] + b"12345" + data[10:]
        await shell.fsync(fd)
        await shell.close(fd)
        assert await keys(store) == []
        assert shell.staged_bytes == 0


async def test_a_temporary_file_that_is_unlinked_at_once_never_becomes_an_object(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("tmp")
        await shell.unlink("tmp")
        await shell.pwrite(fd, 0, b"scratch")
        await shell.fsync(fd)
        assert await shell.all(fd) == b"scratch"
        await shell.close(fd)
        assert await keys(store) == []
        assert store.count("write") == 0
        assert shell.staged_bytes == 0


@pytest.mark.parametrize("first_closed", ["old", "new"])
@pytest.mark.parametrize("flush_early", [False, True])
async def test_a_name_made_anew_while_the_old_file_is_open(
    store, tmp_path, first_closed, flush_early
):
    await put(store, "log", b"old")
    async with shell_on(store, tmp_path) as shell:
        old = await shell.open("log")
        await shell.unlink("log")
        new = await shell.create("log")
        await shell.pwrite(new, 0, b"new content")
        if flush_early:
            await shell.fsync(new)
            assert await get(store, "log") == b"new content"
        else:
            assert await shell.all(old) == b"old"
        for fd in (old, new) if first_closed == "old" else (new, old):
            await shell.close(fd)
        assert await get(store, "log") == b"new content"
        assert await shell.read("log") == b"new content"
        assert shell.mount.conflicts.count == 0
        assert await keys(store) == ["log"]
    async with shell_on(store, tmp_path) as shell:
        assert await shell.read("log") == b"new content"


async def test_a_name_made_and_unlinked_again_stays_gone(store, tmp_path):
    await put(store, "a", b"old")
    async with shell_on(store, tmp_path) as shell:
        old = await shell.open("a")
        await shell.unlink("a")
        new = await shell.create("a")
        await shell.unlink("a")
        await shell.close(new)
        await shell.close(old)
        assert await keys(store) == []
        assert not await shell.exists("a")


@pytest.mark.promise("S-name-2")
async def test_a_commit_that_ends_late_never_brings_a_name_back(store, tmp_path):
    async with shell_on(store, tmp_path) as shell, trio.open_nursery() as nursery:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"x")
        gate = store.block("write", key="a")

        async def sync():
            await shell.fsync(fd)

        nursery.start_soon(sync)
        await gate.reached.wait()
        await shell.unlink("a")
        gate.release()
        await wait_all_tasks_blocked()
        await shell.close(fd)
        assert await keys(store) == []


@pytest.mark.parametrize("operation", ["write", "finish_upload"])
async def test_a_commit_that_lands_without_an_answer_is_removed_with_its_name(
    store, tmp_path, virtual_time, operation, expect_log
):
    expect_log("failed")
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, bytes(100 if operation == "write" else 20 * MIB))
        store.lose_reply(operation, key="a")
        with pytest.raises(TransientError):
            await shell.fsync(fd)
        assert await keys(store) == ["a"]
        await shell.unlink("a")
        await shell.close(fd)
        assert await keys(store) == []


async def test_an_unlink_that_fails_leaves_the_file_as_it_was(
    store, tmp_path, virtual_time, expect_log
):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"one")
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"two")
        store.fail("remove", TransientError("down"))
        fd2 = await shell.open("a")
        await shell.fs.files.release(fd2)
        # The file is open: nothing is removed yet. Close it, so that unlink must ask the store.
        await shell.close(fd)
        with pytest.raises(TransientError):
            await shell.unlink("a")
        assert await shell.read("a") == b"two"
        await shell.unlink("a")
        assert await keys(store) == []


async def test_parts_on_their_way_when_a_name_goes_leave_no_upload_behind(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        gate = store.block("begin_upload")
        fd = await shell.create("a")
        for at in range(12):
            await shell.pwrite(fd, at * MIB, bytes(MIB))
        await gate.reached.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.unlink, "a")
            await wait_all_tasks_blocked()
            gate.release()
        await shell.close(fd)
        await wait_all_tasks_blocked()
    assert store._inner._bucket.uploads == {}


# Rename of files


async def test_a_renamed_file_keeps_content_and_attributes(store, tmp_path, size, virtual_time):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x" * size, mode=0o640)
        await shell.setattr("a", uid=7, gid=8, mtime_ns=12345)
        inode = (await shell.node("a")).inode
        await shell.rename("a", "b")
        assert await shell.ls() == ["b"]
        assert (await shell.node("b")).inode == inode
        assert await shell.read("b") == b"x" * size
    assert await keys(store) == ["b"]
    async with shell_on(store, tmp_path / "other") as shell:
        found = await shell.stat("b")
        assert (found.mode & 0o777, found.uid, found.gid, found.mtime_ns) == (0o640, 7, 8, 12345)
        assert await shell.read("b") == b"x" * size


@pytest.mark.promise("S-name-3")
async def test_a_rename_over_a_file_replaces_it(store, tmp_path, size):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"a" * size)
        await shell.write("b", b"b" * 5, mode=0o600)
        await shell.rename("a", "b")
        assert await shell.read("b") == b"a" * size
        assert await shell.mode("b") == 0o644
    assert await keys(store) == ["b"]
    assert await get(store, "b") == b"a" * size


@pytest.mark.promise("S-read-2")
async def test_what_is_replaced_while_open_never_shows_the_new_content(store, tmp_path, size):
    old = os.urandom(2 * MIB)
    await put(store, "b", old)
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"a" * size)
        fd = await shell.open("b")
        await shell.pread(fd, 0, MIB)
        await shell.pwrite(fd, 10, b"staged")
        await shell.rename("a", "b")
        with contextlib.suppress(StaleError):
            assert await shell.pread(fd, 0, MIB) == old[:10] + b"staged" + old[16:MIB]
        await shell.pwrite(fd, 0, b"nobody sees this")
        await shell.close(fd)
        assert await shell.read("b") == b"a" * size
    assert await get(store, "b") == b"a" * size
    assert await keys(store) == ["b"]


@pytest.mark.promise("S-name-6")
async def test_a_dirty_file_is_renamed_and_stored_under_its_new_name(store, tmp_path):
    base = os.urandom(20 * MIB)
    await put(store, "a", base)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 3, b"dirty")
        await shell.rename("a", "b")
        assert await shell.ls() == ["b"]
        expected = base[:3] + b"dirty" + base[8:]
        assert await shell.pread(fd, 0, 100) == expected[:100]
        await shell.pwrite(fd, 0, b"+")
        await shell.close(fd)
        assert await get(store, "b") == b"+" + expected[1:]
        assert not await shell.exists("a")
    assert await keys(store) == ["b"]


async def test_a_new_dirty_file_is_renamed_before_it_was_ever_stored(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("tmp")
        await shell.pwrite(fd, 0, b"x")
        await shell.rename("tmp", "final")
        await shell.close(fd)
        assert await shell.ls() == ["final"]
    assert await keys(store) == ["final"]


async def test_a_new_file_may_take_the_old_name_of_a_dirty_one(store, tmp_path):
    """Log rotation: rename the log that is being written, make a new one."""
    await put(store, "log", b"one ")
    async with shell_on(store, tmp_path) as shell:
        gate = store.block("write", key="log.1")
        fd = await shell.open("log")
        await shell.pwrite(fd, 4, b"two")
        await shell.rename("log", "log.1")
        new = await shell.create("log")
        await shell.pwrite(new, 0, b"fresh")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.close, new)
            await wait_all_tasks_blocked()
            gate.release()
        await shell.close(fd)
        assert shell.mount.conflicts.count == 0
        assert await shell.read("log") == b"fresh"
        assert await shell.read("log.1") == b"one two"
    assert await get(store, "log") == b"fresh"
    assert await get(store, "log.1") == b"one two"


async def test_a_file_may_be_renamed_to_the_old_name_of_a_dirty_one(store, tmp_path):
    await put(store, "a", b"a" * 10)
    await put(store, "b", b"b" * 10)
    async with shell_on(store, tmp_path) as shell:
        gate = store.block("write", key="c")
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"A")
        await shell.rename("a", "c")
        await shell.rename("b", "a")
        assert await shell.read("a") == b"b" * 10
        gate.release()
        await shell.close(fd)
    assert await get(store, "a") == b"b" * 10
    assert await get(store, "c") == b"A" + b"a" * 9
    assert await keys(store) == ["a", "c"]


async def test_a_dirty_file_may_be_renamed_again_and_back(store, tmp_path):
    await put(store, "a", b"a" * 10)
    for way in (["b", "c"], ["b", "a"], ["b", "c", "b", "a", "d"]):
        async with shell_on(store, tmp_path) as shell:
            (first,) = await shell.ls()
            old = await get(store, first)
            gate = store.block("write", times=1)
            fd = await shell.open(first)
            await shell.pwrite(fd, 0, b"A")
            here = first
            async with trio.open_nursery() as nursery:

                async def rename(names=way, start=first):
                    nonlocal here
                    here = start
                    for name in names:
                        await shell.rename(here, name)
                        here = name

                nursery.start_soon(rename)
                await wait_all_tasks_blocked()
                gate.release()
            await shell.close(fd)
            assert await shell.ls() == [way[-1]]
        assert await keys(store) == [way[-1]]
        assert await get(store, way[-1]) == b"A" + old[1:]


async def test_a_dirty_renamed_file_can_be_unlinked(store, tmp_path):
    for _ in range(2):
        await put(store, "a", b"a" * 10)
        async with shell_on(store, tmp_path) as shell:
            store.script.clear()
            gate = store.block("write", key="b")
            fd = await shell.open("a")
            await shell.pwrite(fd, 0, b"A")
            await shell.rename("a", "b")
            await wait_all_tasks_blocked()
            await shell.unlink("b")
            assert await shell.all(fd) == b"A" + b"a" * 9
            gate.release()
            await shell.close(fd)
            assert await shell.ls() == []
        assert await keys(store) == []
    async with shell_on(store, tmp_path) as shell:
        assert await shell.ls() == []


async def test_a_rename_over_a_dirty_renamed_file_ends_all_of_it(store, tmp_path):
    await put(store, "a", b"a" * 10)
    await put(store, "x", b"x" * 10)
    async with shell_on(store, tmp_path) as shell:
        gate = store.block("write", key="b")
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"A")
        await shell.rename("a", "b")
        await wait_all_tasks_blocked()
        await shell.rename("x", "b")
        gate.release()
        await shell.close(fd)
        assert await shell.ls() == ["b"]
    assert await keys(store) == ["b"]
    async with shell_on(store, tmp_path) as shell:
        assert await shell.read("b") == b"x" * 10


async def test_a_write_during_a_rename_goes_to_the_new_name(store, tmp_path):
    await put(store, "a", b"a" * 100)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("a")
        gate = store.block("copy" if not store.features.move else "move")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.rename, "a", "b")
            await gate.reached.wait()
            await shell.pwrite(fd, 0, b"during")
            nursery.start_soon(shell.fsync, fd)
            await wait_all_tasks_blocked()
            gate.release()
        assert await get(store, "b") == b"during" + b"a" * 94
        await shell.close(fd)
        assert shell.mount.conflicts.count == 0
    assert await keys(store) == ["b"]


async def test_a_rename_that_fails_changes_nothing(store, tmp_path, virtual_time):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"aaa")
        await shell.write("b", b"bbb")
        fd = await shell.open("b")
        await shell.pwrite(fd, 0, b"B")
        store.fail("copy" if not store.features.move else "move", TransientError("down"))
        with pytest.raises(TransientError):
            await shell.rename("a", "b")
        await shell.close(fd)
        assert await shell.read("a") == b"aaa"
        assert await shell.read("b") == b"Bbb"
    async with shell_on(store, tmp_path) as shell:  # and no restart carries it out
        assert await shell.read("a") == b"aaa"
        assert await shell.read("b") == b"Bbb"


@pytest.mark.promise("S-name-4")
async def test_noreplace_refuses_an_existing_name(store, tmp_path):
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.write("a", b"a")
        assert not await shell.exists("b")
        await put(store, "b", b"another host's")
        with pytest.raises(ExistsError):
            await shell.rename("a", "b", NOREPLACE)
        assert await shell.read("b") == b"another host's"
        with pytest.raises(InvalidError):
            await shell.rename("a", "c", 2)  # RENAME_EXCHANGE


async def test_kinds_must_agree(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("file", b"a")
        await shell.mkdir("dir")
        with pytest.raises(IsDirectoryError):
            await shell.rename("file", "dir")
        with pytest.raises(WrongKindError):
            await shell.rename("dir", "file")
        with pytest.raises(InvalidError):
            await shell.rename("dir", "dir/below")
        with pytest.raises(IsDirectoryError):
            await shell.unlink("dir")
        with pytest.raises(WrongKindError):
            await shell.rmdir("file")
        await shell.rename("file", "file")
        assert await shell.ls() == ["dir", "file"]


@pytest.mark.parametrize("how", ["unlink", "rename"])
async def test_an_old_name_that_went_unheard_is_free_for_a_new_file_when_the_renamed_one_goes(
    tmp_path, virtual_time, expect_log, how
):
    expect_log("upload of 'b' failed", maybe=True)
    store = FaultyStore(MemoryStore(features=replace(everything(), move=False)))
    async with shell_on(store, tmp_path, TTL, "fsync=local") as shell:
        await shell.write("c", b"another")
        await shell.write("a", b"old")
        await shell.drain()
        await shell.truncate("a", 2)
        removal = store.lose_reply("remove", key="a")
        await shell.rename("a", "b")
        shell.fs.context.stage.budget.on_pressure()
        await removal.reached.wait()
        await shell.write("a", b"new")
        if how == "unlink":
            await shell.unlink("b")
        else:
            await shell.rename("c", "b")
        await shell.drain()
        assert await get(store, "a") == b"new"
        assert shell.mount.conflicts.count == 0
        assert "a" in await shell.ls()


async def test_two_files_change_names_while_the_removal_of_an_old_one_fails(
    tmp_path, virtual_time, expect_log
):
    expect_log("removal of unlinked .a. failed")
    expect_log("upload of .* failed", maybe=True)
    store = FaultyStore(MemoryStore(features=replace(everything(), move=False)))
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.write("a", b"a")
        await shell.write("b", b"b")
        await shell.drain()
        down = store.fail("remove", TransientError("down"), times=1 << 30)
        await shell.rename("a", "c")
        await shell.rename("b", "a")
        await shell.rename("c", "b")
        down.times = 0
        await shell.drain()
        assert await get(store, "a") == b"b"
        assert await get(store, "b") == b"a"
        assert sorted(await keys(store)) == ["a", "b"]
        assert shell.mount.conflicts.count == 0


async def test_what_was_removed_is_not_seen_again_when_a_new_file_leaves_its_name(
    tmp_path, virtual_time, expect_log
):
    expect_log("removal of unlinked 'a' failed")
    expect_log("upload of .* failed", maybe=True)
    store = FaultyStore(MemoryStore(features=replace(everything(), move=False)))
    async with shell_on(store, tmp_path, "metadata_ttl=1s", "fsync=local") as shell:
        await shell.write("a", b"old")
        await shell.drain()
        down = store.fail("remove", TransientError("down"), times=1 << 30)
        fd = await shell.open("a")
        await shell.unlink("a")
        await shell.close(fd)
        await shell.write("a", b"new")
        await shell.rename("a", "b")
        await trio.sleep(5)
        assert await shell.ls() == ["b"]
        down.times = 0
        await shell.drain()
        assert await keys(store) == ["b"]


# Directories


async def make_tree(shell):
    await shell.mkdir("d", 0o750)
    await shell.mkdir("d/sub", 0o700)
    await shell.mkdir("d/empty")
    await shell.write("d/a", b"aaa", mode=0o600)
    await shell.write("d/sub/b", b"bbb", mode=0o4755)
    await shell.symlink("d/sub/link", "../a")
    await shell.setattr("d/a", mtime_ns=42, uid=3)


async def check_tree(shell, top):
    assert await shell.ls(top) == ["a", "empty", "sub"]
    assert await shell.ls(f"{top}/sub") == ["b", "link"]
    assert await shell.ls(f"{top}/empty") == []
    assert await shell.read(f"{top}/a") == b"aaa"
    assert await shell.read(f"{top}/sub/b") == b"bbb"
    assert await shell.readlink(f"{top}/sub/link") == "../a"
    assert await shell.mode(top) == 0o750
    assert await shell.mode(f"{top}/sub") == 0o700
    assert await shell.mode(f"{top}/sub/b") == 0o4755
    found = await shell.stat(f"{top}/a")
    assert (found.mode & 0o777, found.mtime_ns, found.uid) == (0o600, 42, 3)


@pytest.mark.promise("S-name-5")
async def test_a_renamed_directory_takes_all_with_it(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await make_tree(shell)
        await shell.rename("d", "e")
        assert await shell.ls() == ["e"]
        await check_tree(shell, "e")
        assert not await shell.exists("d")
        await shell.mkdir("x")
        await shell.rename("e", "x/f")
        await check_tree(shell, "x/f")
    assert not [key for key in await keys(store, own=True) if key.startswith(("d", "e"))]
    async with shell_on(store, tmp_path / "other") as shell:
        await check_tree(shell, "x/f")


async def test_a_directory_rename_that_fails_halfway_loses_nothing_and_is_not_finished_later(
    store, tmp_path, expect_log
):
    if store.features.move:
        store.fail("move", TransientError("down"))
    else:
        expect_log("renamed to 'e' only in part")
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        for number in range(20):
            await shell.write(f"d/{number}", bytes([number]), mode=0o600 + number % 8)
        if not store.features.move:
            store.fail("copy", TransientError("down"), key="e/7", times=99)
        with pytest.raises(TransientError):
            await shell.rename("d", "e")
        moved = set(await shell.ls("e")) if await shell.exists("e") else set()
        kept = set(await shell.ls("d"))
        assert moved | kept == {str(number) for number in range(20)}
        assert not moved & kept
        await shell.write("d/7", b"since")
    async with shell_on(store, tmp_path) as shell:
        assert set(await shell.ls("d")) == kept
        assert await shell.read("d/7") == b"since"
        for number in {str(number) for number in range(20)} - {"7"}:
            path = f"e/{number}" if number in moved else f"d/{number}"
            assert await shell.read(path) == bytes([int(number)])
            assert await shell.mode(path) & 0o777 == 0o600 + int(number) % 8


async def test_a_directory_is_renamed_with_files_open_and_dirty(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await make_tree(shell)
        clean = await shell.open("d/a", os.O_RDONLY)
        dirty = await shell.open("d/sub/b")
        fresh = await shell.create("d/sub/fresh")
        await shell.pwrite(dirty, 0, b"B")
        await shell.pwrite(fresh, 0, b"f")
        await shell.rename("d", "e")
        await shell.pwrite(dirty, 1, b"C")
        assert await shell.all(clean) == b"aaa"
        assert await shell.all(dirty) == b"BCb"
        for fd in (clean, dirty, fresh):
            await shell.close(fd)
        assert await shell.read("e/sub/b") == b"BCb"
        assert await shell.read("e/sub/fresh") == b"f"
    assert not await keys(store, "d")


async def test_writes_during_the_rename_of_a_directory_are_no_conflict(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await make_tree(shell)
        fd = await shell.open("d/sub/b")
        gate = store.block("copy" if not store.features.move else "move")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.rename, "d", "e")
            await gate.reached.wait()
            await shell.pwrite(fd, 0, b"during")
            nursery.start_soon(shell.fsync, fd)
            await wait_all_tasks_blocked()
            gate.release()
        await shell.close(fd)
        assert shell.mount.conflicts.count == 0
        assert await shell.read("e/sub/b") == b"during"
    assert not await keys(store, "d")


async def test_attributes_changed_just_before_a_directory_is_renamed_go_with_it(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await make_tree(shell)
        await shell.chmod("d/sub/b", 0o601)
        # The kernel forgets what is below: only the journal knows of the change.
        await shell.rename("d", "e")
        assert await shell.mode("e/sub/b") == 0o601
    assert not await keys(store, "d", own=True)
    async with shell_on(store, tmp_path / "other") as shell:
        assert await shell.mode("e/sub/b") == 0o601


async def test_a_directory_replaces_an_empty_one_only(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await make_tree(shell)
        await shell.mkdir("full")
        await shell.write("full/x", b"x")
        await shell.mkdir("void")
        with pytest.raises(NotEmptyError):
            await shell.rename("d", "full")
        await shell.rename("d", "void")
        await check_tree(shell, "void")
        assert await shell.ls() == ["full", "void"]


@pytest.mark.promise("S-name-8")
async def test_a_directory_must_be_empty_to_go(store, tmp_path):
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"a")
        await shell.chmod("d/a", 0o600)
        with pytest.raises(NotEmptyError):
            await shell.rmdir("d")
        await shell.unlink("d/a")
        assert await shell.ls("d") == []
        await put(store, "d/theirs", b"x")
        with pytest.raises(NotEmptyError):
            await shell.rmdir("d")
        await shell.unlink("d/theirs")
        await shell.rmdir("d")
        assert await shell.ls() == []
        await shell.drain()
        assert not await keys(store, "d", own=True)


async def test_a_name_removed_here_long_ago_and_made_elsewhere_keeps_its_directory(
    store, tmp_path, virtual_time
):
    async with shell_on(store, tmp_path, "metadata_ttl=5s") as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"mine")
        await shell.unlink("d/a")
        await trio.sleep(60)
        await put(store, "d/a", b"theirs")
        with pytest.raises(NotEmptyError):
            await shell.rmdir("d")
        assert await get(store, "d/a") == b"theirs"


@pytest.mark.parametrize("how", ["rmdir", "rename"])
async def test_a_directory_goes_with_what_was_renamed_out_of_it_and_not_stored(
    tmp_path, virtual_time, how
):
    store = FaultyStore(MemoryStore(features=replace(everything(), move=False)))
    async with shell_on(store, tmp_path, TTL, "fsync=local") as shell:
        await shell.mkdir("d")
        await shell.mkdir("e")
        await shell.write("d/a", b"old")
        await shell.drain()
        await shell.truncate("d/a", 2)
        await shell.rename("d/a", "a")
        if how == "rmdir":
            await shell.rmdir("d")
        else:
            await shell.rename("e", "d")
        assert await get(store, "d/a") is None
        assert await get(store, "a") == b"ol"


async def test_a_directory_is_not_empty_while_what_is_written_in_it_is_stored(
    store, tmp_path, virtual_time
):
    async with shell_on(store, tmp_path, "metadata_ttl=5s", "fsync=local") as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"old")
        await shell.drain()
        await trio.sleep(60)
        fd = await shell.open("d/a")
        await shell.pwrite(fd, 0, b"new")
        listing = store.hold_answer("list", key="d/")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def remove():
                with pytest.raises(NotEmptyError):
                    await shell.rmdir("d")

            await listing.reached.wait()
            await shell.drain()
            listing.release()
        await shell.close(fd)
        assert await shell.ls("d") == ["a"]
        assert await shell.read("d/a") == b"new"


@pytest.mark.promise("S-name-7")
async def test_a_directory_that_was_only_implied_stays_when_its_last_file_goes(store, tmp_path):
    await put(store, "d/a", b"x")
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.unlink("d/a")
        assert await shell.ls() == ["d"]
        assert await shell.ls("d") == []


@pytest.mark.promise("S-name-14")
async def test_new_names_are_checked(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        with pytest.raises(NotPermittedError):
            await shell.create(".vfs.attrs")
        with pytest.raises(NotPermittedError):
            await shell.mkdir(".vfs")
        with pytest.raises(NameTooLongError):
            await shell.create("n" * 256)
        with pytest.raises(NotPermittedError):
            shell.fs.namespace.link()
        here = "d" * 180
        for _ in range(5):
            await shell.mkdir(here)
            here = f"{here}/{'d' * 180}"
        with pytest.raises(NameTooLongError):
            await shell.mkdir(here)


async def test_a_directory_whose_keys_would_be_too_long_is_not_renamed_in_part(backend, tmp_path):
    deep = "/".join(["d" * 200] * 4)
    await put(backend, f"a/{deep}/file", b"x")
    await put(backend, "a/first", b"x")
    store = FaultyStore(backend)
    async with shell_on(store, tmp_path, TTL) as shell:
        before = await keys(backend)
        store.forget()
        with pytest.raises(NameTooLongError):
            await shell.rename("a", "b" * 255)
        assert await keys(backend) == before
        assert store.count("copy") == 0
        assert await shell.ls("a") == sorted(["first", "d" * 200])
        await shell.rename("a", "b" * 100)
        assert await shell.read(f"{'b' * 100}/{deep}/file") == b"x"


async def test_symbolic_links_survive_a_remount(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.symlink("link", "some/where else")
        assert await shell.readlink("link") == "some/where else"
        await shell.write("f", b"")
        with pytest.raises(InvalidError):
            await shell.readlink("f")
        await shell.unlink("f")
    assert await get(store, "link") == b"some/where else"
    async with shell_on(store, tmp_path / "other") as shell:
        assert await shell.readlink("link") == "some/where else"
        assert await shell.size("link") == 15


async def files_below(shell):
    found = {}
    for top in await shell.ls():
        for name in ("a", "sub/b"):
            with contextlib.suppress(NotFoundError, WrongKindError):
                found[name] = await shell.read(f"{top}/{name}")
    return found


@pytest.mark.parametrize("failing", range(1, 30, 3))
async def test_a_directory_whose_rename_fails_half_way_loses_nothing(tmp_path, failing, expect_log):
    expect_log("renamed to 'e' only in part|upload of .* failed", maybe=True)
    features = replace(everything(), move=False)
    store = FaultyStore(MemoryStore(features=features))
    async with shell_on(store, tmp_path, TTL) as shell:
        await make_tree(shell)
        await shell.drain()
        calls = len(store.calls)
        real = store._play

        async def play(asked, run):
            if len(store.calls) - calls >= failing:
                store.calls.append(asked)
                raise TransientError("down")
            return await real(asked, run)

        store._play = play
        try:
            await shell.rename("d", "e")
        except TransientError:
            store._play = real
            assert await files_below(shell) == {"a": b"aaa", "sub/b": b"bbb"}
        else:
            store._play = real
            await check_tree(shell, "e")
    async with shell_on(store, tmp_path) as shell:
        assert await files_below(shell) == {"a": b"aaa", "sub/b": b"bbb"}
        top = "d" if await shell.exists("d/a") else "e"
        assert await shell.mode(f"{top}/a") & 0o777 == 0o600


@pytest.mark.parametrize("moves", [True, False])
@pytest.mark.promise("S-name-5")
async def test_a_file_made_in_a_directory_while_it_is_renamed_goes_with_it(moves, tmp_path):
    """The kernel locks the directories that the two names are in, not the one that moves."""
    store = FaultyStore(MemoryStore(features=replace(everything(), move=moves)))
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"old")
        directory = await shell.node("d")

        async def make():
            made = shell.fs.files.create(directory, "new", 0o644, os.O_RDWR, CALLER)
            fd = (await made)[1]
            await shell.pwrite(fd, 0, b"new")
            await shell.close(fd)

        gate = store.block("move" if moves else "remove", key=None if moves else "d/a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.rename, "d", "e")
            await gate.reached.wait()
            nursery.start_soon(make)
            await wait_all_tasks_blocked(0.05)
            gate.release()
        assert await shell.ls() == ["e"]
        assert await shell.ls("e") == ["a", "new"]
        assert await shell.read("e/new") == b"new"
    assert await keys(store) == ["e/", "e/a", "e/new"]


@pytest.mark.parametrize("moves", [True, False])
async def test_a_file_that_is_opened_while_its_directory_is_renamed_goes_with_it(moves, tmp_path):
    store = FaultyStore(MemoryStore(features=replace(everything(), move=moves)))
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"old")
        file = await shell.node("d/a")

        async def change():
            fd = await shell.fs.files.open(file, os.O_RDWR)
            assert await shell.all(fd) == b"old"
            await shell.pwrite(fd, 0, b"new")
            await shell.close(fd)

        gate = store.hold_answer("move" if moves else "remove", key=None if moves else "d/a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.rename, "d", "e")
            await gate.reached.wait()
            nursery.start_soon(change)
            await wait_all_tasks_blocked(0.05)
            gate.release()
        assert await shell.read("e/a") == b"new"
    assert await keys(store) == ["e/", "e/a"]


async def test_an_open_file_is_read_while_its_directory_is_renamed(tmp_path):
    store = FaultyStore(MemoryStore(features=replace(everything(), move=False)))
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"old")
        fd = await shell.open("d/a")
        directory, read = await shell.node("d"), []

        async def look():
            await shell.fs.namespace.lookup(directory, "a")
            read.append(await shell.all(fd))

        gate = store.hold_answer("remove", key="d/a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.rename, "d", "e")
            await gate.reached.wait()
            nursery.start_soon(look)
            await wait_all_tasks_blocked(0.05)
            gate.release()
        assert read == [b"old"]
        await shell.pwrite(fd, 0, b"new")
        await shell.close(fd)
        assert await shell.read("e/a") == b"new"
    assert await keys(store) == ["e/", "e/a"]


async def test_a_directory_that_was_removed_does_not_show_again_after_a_crash(
    store, tmp_path, virtual_time
):
    async with tree_on(store, tmp_path) as mount:
        shell = Shell(mount)
        await shell.mkdir("d")
        await shell.write("d/a", b"aaa")
        await shell.drain()
        fd = await shell.open("d/a")
        await shell.pwrite(fd, 0, b"X")
        store.delay("write", 30, key="a")
        await shell.rename("d/a", "a")
        await shell.rmdir("d")
        assert await keys(store) == ["a"]
    store.delay("write", 30, key="a")
    async with shell_on(store, tmp_path) as shell:
        assert await shell.ls() == ["a"]
        assert await shell.read("a") == b"Xaa"
