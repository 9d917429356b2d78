"""What was removed or replaced never comes back, whatever happens to its directory meanwhile."""

import stat
from dataclasses import replace

import pytest
import trio

from tests.support.crash import Steps, run_until
from tests.support.faulty import FaultyStore
from tests.support.tree import get, keys, put, shell_on
from vfs.errors import DeniedError, TransientError
from vfs.file.committer import COMMITS_AT_ONCE
from vfs.store.memory import MemoryStore, everything
from vfs.values import MIB


@pytest.fixture(params=["moves", "copies"])
def any_store(request, backend):
    return FaultyStore(MemoryStore(features=everything()) if request.param == "moves" else backend)


@pytest.fixture(params=["remote", "local"])
def mode(request):
    return f"fsync={request.param}"


@pytest.mark.promise("S-name-2")
async def test_an_open_file_that_was_removed_does_not_come_back_with_its_directory(
    any_store, mode, tmp_path
):
    async with shell_on(any_store, tmp_path / "stage", mode) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"bytes")
        await shell.drain()
        fd = await shell.open("d/a")
        await shell.unlink("d/a")
        await shell.rename("d", "e")
        assert await shell.ls("e") == []
        await shell.close(fd)
        assert await shell.ls("e") == []
    async with shell_on(any_store, tmp_path / "other", "metadata_ttl=0") as other:
        assert await other.ls("e") == []


async def test_what_a_rename_replaced_does_not_come_back_when_the_file_is_renamed_on(
    any_store, tmp_path
):
    async with shell_on(any_store, tmp_path / "stage", "fsync=local") as shell:
        await shell.write("b", b"the old one")
        await shell.drain()
        busy = any_store.block("write", times=COMMITS_AT_ONCE)
        for number in range(COMMITS_AT_ONCE):  # nothing else can be stored meanwhile
            await shell.write(f"busy-{number}", b"x")
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"the new one")
        await shell.fsync(fd)
        await shell.rename("a", "b")
        await shell.rename("b", "c")
        busy.release()
        await shell.close(fd)
        await shell.drain()
        assert [name for name in await shell.ls() if "busy" not in name] == ["c"]
    assert [key for key in await keys(any_store) if "busy" not in key] == ["c"]


async def test_a_link_is_never_seen_as_a_file_after_a_crash(tmp_path):
    async def prepare(shell):
        await shell.write("file", b"x")

    async def scenario(shell):
        await shell.symlink("link", "target")

    store, steps = MemoryStore(features=everything()), Steps(1, after=True)
    while steps.done[steps.fatal - 1 : steps.fatal] != ["write link"]:
        store, steps = MemoryStore(features=everything()), Steps(steps.fatal + 1, after=True)
        assert not await run_until(store, tmp_path / f"{steps.fatal}", steps, prepare, scenario), (
            "the link was not stored"
        )
    async with shell_on(store, tmp_path / f"{steps.fatal}") as shell:
        assert stat.S_ISLNK((await shell.stat("link")).mode)


async def test_the_last_close_waits_for_whoever_syncs_the_journal(any_store, tmp_path):
    async with shell_on(any_store, tmp_path / "stage", "fsync=local") as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"bytes")
        await shell.fsync(fd)
        committer = shell.fs.context.committer
        (content,) = committer.dirty
        upload = any_store.block("write")
        committer.start(content)
        await upload.reached.wait()
        async with content.staged.log._log._lock:  # as while another sync is under way
            upload.release()
            while content.needs_commit:
                await trio.sleep(0.001)
            await shell.close(fd)
        await shell.drain()
        assert committer.failed_uploads == 0


async def test_a_removal_that_fails_at_the_last_close_is_tried_again(store, expect_log, tmp_path):
    expect_log("removal of unlinked 'a' failed")
    expect_log("upload of 'a' failed", maybe=True)
    async with shell_on(store, tmp_path / "stage") as shell:
        await shell.write("a", b"bytes")
        fd = await shell.open("a")
        await shell.unlink("a")
        store.fail("remove", TransientError("down"), times=2)
        await shell.close(fd)
        assert await shell.ls() == []
        await shell.drain()
        assert await keys(store) == []
        assert await shell.ls() == []


async def test_a_link_that_cannot_be_made_leaves_what_was_unlinked_hidden(
    store, expect_log, tmp_path
):
    expect_log("upload of 'a' failed")
    async with shell_on(store, tmp_path / "stage", "metadata_ttl=0") as shell:
        await shell.write("a", b"bytes")
        fd = await shell.open("a")
        await shell.unlink("a")
        store.fail("write", DeniedError("no"), times=1)
        with pytest.raises(DeniedError):
            await shell.symlink("a", "b")
        assert await shell.ls() == []
        await shell.close(fd)


async def test_two_files_that_are_not_stored_yet_change_their_names(any_store, mode, tmp_path):
    async with shell_on(any_store, tmp_path / "stage", mode) as shell:
        await shell.write("a", b"one")
        await shell.write("b", b"another")
        await shell.drain()
        files = [await shell.open("a"), await shell.open("b")]
        for fd in files:
            await shell.pwrite(fd, 0, b"new")
        for old, new in [("a", "c"), ("b", "a"), ("c", "b")]:
            await shell.rename(old, new)
        for fd in files:
            await shell.close(fd)
        await shell.drain()
        assert await shell.read("a") == b"newther"
        assert await shell.read("b") == b"new"
    assert await keys(any_store) == ["a", "b"]


async def test_a_file_of_a_name_whose_removal_is_not_known_to_be_done_waits_for_it(
    store, expect_log, tmp_path
):
    expect_log("removal of unlinked 'a' failed")
    expect_log("upload of 'b' failed", maybe=True)
    async with shell_on(store, tmp_path / "stage") as shell:
        await shell.write("a", b"one")
        await shell.write("c", b"another")
        store.lose_reply("remove", times=1)
        retry = store.block("remove", times=1)
        await shell.rename("a", "b")
        await retry.reached.wait()
        await shell.rename("c", "a")
        retry.release()
        await shell.drain()
        assert {name: await shell.read(name) for name in await shell.ls()} == {
            "a": b"another",
            "b": b"one",
        }
    assert await keys(store) == ["a", "b"]


async def test_a_new_file_waits_for_the_name_of_one_that_is_renamed_and_then_replaced(
    store, tmp_path
):
    async with shell_on(store, tmp_path, "fsync=local") as shell:
        await shell.mkdir("d")
        await shell.write("b", b"old")
        await shell.write("c", b"replacement")
        await shell.drain()
        fd = await shell.open("b")
        await shell.pwrite(fd, 0, b"OLD")
        held = store.block("write", key="d/b")
        await shell.rename("b", "d/b")
        heir = await shell.create("b")
        for offset in range(0, 12 * MIB, MIB):  # parts go ahead of the commit
            await shell.pwrite(heir, offset, bytes([offset // MIB + 1]) * MIB)
        await shell.close(heir)
        await shell.pwrite(await shell.open("c"), 0, b"R")
        await shell.rename("c", "d/b")
        held.release()
        await shell.close(fd)
        await shell.drain()
        assert shell.mount.conflicts.count == 0
        assert await shell.ls() == ["b", "d"]
        assert await shell.read("d/b") == b"Replacement"
    assert await keys(store) == ["b", "d/", "d/b"]
    assert len(await get(store, "b")) == 12 * MIB


@pytest.mark.parametrize("made", ["written", "renamed there"])
@pytest.mark.parametrize("moved", ["d", "."])
async def test_a_file_in_the_place_of_an_unlinked_one_moves_with_its_directory(
    any_store, tmp_path, made, moved
):
    """By tar or git, say: unlinked and made anew while somebody has the old one open."""
    async with shell_on(any_store, tmp_path / "stage") as shell:
        await shell.mkdir("c")
        await shell.mkdir("c/d")
        await shell.write("c/d/f", b"OLD1")
        fd = await shell.open("c/d/f")
        assert await shell.all(fd) == b"OLD1"
        await shell.unlink("c/d/f")
        if made == "written":
            await shell.write("c/d/f", b"NEW1")
        else:
            await shell.write("c/d/x", b"NEW1")
            await shell.rename("c/d/x", "c/d/f")
        await shell.rename("c/d" if moved == "d" else "c", "e")
        place = "e/f" if moved == "d" else "e/d/f"
        assert await shell.read(place) == b"NEW1"
        await shell.close(fd)
        await shell.drain()
        assert await shell.read(place) == b"NEW1"
    assert await get(any_store, place) == b"NEW1"


async def test_every_open_generation_of_a_name_keeps_out_of_the_way(any_store, tmp_path):
    async with shell_on(any_store, tmp_path / "stage") as shell:
        await shell.mkdir("d")
        handles = []
        for number in range(3):
            await shell.write("d/f", b"%d" % number)
            handles.append(await shell.open("d/f"))
            assert await shell.all(handles[-1]) == b"%d" % number
            await shell.unlink("d/f")
        fd = await shell.create("d/f")
        await shell.pwrite(fd, 0, b"new")
        await shell.rename("d", "e")
        for number, handle in enumerate(handles):
            assert await shell.all(handle) == b"%d" % number
            await shell.close(handle)
        await shell.pwrite(fd, 3, b"er")
        await shell.close(fd)
        await shell.drain()
        assert shell.mount.conflicts.count == 0
        assert await shell.read("e/f") == b"newer"
        await shell.unlink("e/f")
        await shell.rmdir("e")
    assert await keys(any_store) == []


async def test_an_interrupted_rename_of_a_directory_overwrites_nobodys_file(tmp_path, expect_log):
    expect_log("both names stay")
    backend = MemoryStore(features=replace(everything(), move=False))

    async def prepare(shell):
        await shell.mkdir("a")
        for number in range(40):
            await shell.write(f"a/{number:02}", b"AAAA")

    async def scenario(shell):
        await shell.rename("a", "b")

    steps = Steps(40, after=True)
    assert not await run_until(backend, tmp_path, steps, prepare, scenario)
    await put(backend, "b/39", b"BBBB")
    async with shell_on(backend, tmp_path) as shell:
        assert await shell.read("b/39") == b"BBBB"
        assert await shell.read("a/39") == b"AAAA"
        assert len(await shell.ls("b")) == 40


async def test_a_directory_goes_when_what_was_changed_in_it_has_been_renamed(any_store, tmp_path):
    async with shell_on(any_store, tmp_path / "stage", "fsync=local") as shell:
        await shell.mkdir("a")
        await shell.write("a/b", b"old")
        await shell.drain()
        fd = await shell.open("a/b")
        await shell.pwrite(fd, 0, b"NEW")
        await shell.rename("a/b", "b")
        assert await shell.ls("a") == []
        await shell.rmdir("a")
        await shell.close(fd)
        await shell.drain()
        assert await shell.ls() == ["b"]
        assert await shell.read("b") == b"NEW"


async def test_an_interrupted_rename_of_a_directory_knows_its_own_copies_of_any_size(
    tmp_path, monkeypatch
):
    from vfs.tree import rename_tree  # noqa: PLC0415

    monkeypatch.setattr(rename_tree, "COMPARED_BYTES", 0)
    backend = MemoryStore(features=replace(everything(), move=False))

    async def prepare(shell):
        await shell.mkdir("a")
        await shell.write("a/image", b"a large one")

    async def scenario(shell):
        await shell.rename("a", "b")

    done = 0
    while True:
        done += 1
        store = MemoryStore(features=backend.features)
        if await run_until(store, tmp_path / f"{done}", Steps(done, after=True), prepare, scenario):
            break
        async with shell_on(store, tmp_path / f"{done}") as shell:
            assert len(await shell.ls()) == 1
            [name] = await shell.ls()
            assert await shell.read(f"{name}/image") == b"a large one"
    assert done > 3
