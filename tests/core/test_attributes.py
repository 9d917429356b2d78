"""Modes, owners, times: kept in sidecars, merged between mounts, never in the way of data."""

import json
import stat

import pytest
import trio

from tests.support.tree import CALLER, get, keys, put, shell_on, tree_on
from vfs.errors import (
    ConflictError,
    ExistsError,
    InvalidError,
    MetadataError,
    ReadOnlyError,
    TransientError,
    UnsupportedError,
)
from vfs.tree import sidecar as sidecar_module
from vfs.tree.metadata import NoAttributeError
from vfs.tree.sidecar import decode_sidecar

TTL = "metadata_ttl=0"


@pytest.mark.parametrize("size", [0, 1])
async def test_the_time_of_a_cut_to_the_size_that_it_has_is_kept_across_a_remount(
    store, tmp_path, size
):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", bytes(size))
        await shell.setattr("a", mtime_ns=5)
        await shell.drain()
        await shell.truncate("a", size)
        cut_ns = (await shell.stat("a")).mtime_ns
        assert cut_ns > 5
    async with shell_on(store, tmp_path) as shell:
        assert (await shell.stat("a")).mtime_ns == cut_ns


@pytest.mark.promise("S-attr-1")
async def test_attributes_are_kept_across_a_remount(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x", mode=0o640)
        await shell.setattr("a", uid=3, gid=4, mtime_ns=5)
        await shell.chmod("a", 0o4711)
        await shell.mkdir("d", 0o1777)
        await shell.chmod("", 0o711)
    for stage in ("same", "other"):
        async with shell_on(store, tmp_path if stage == "same" else tmp_path / stage) as shell:
            found = await shell.stat("a")
            assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o4711, 3, 4)
            assert found.mtime_ns == 5
            assert await shell.mode("d") == 0o1777
            assert await shell.mode("") == 0o711


async def test_a_mode_set_before_the_first_flush_is_kept(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.chmod("a", 0o600)
        await shell.close(fd)
    async with shell_on(store, tmp_path / "other") as shell:
        assert await shell.mode("a") == 0o600


async def test_a_size_and_a_mode_set_at_once_are_both_kept(store, tmp_path):
    for number, size in enumerate((3, 5)):  # as it is, and another
        await put(store, "a", b"abc")
        async with shell_on(store, tmp_path / f"{number}") as shell:
            await shell.setattr("a", size=size, mode=0o600, mtime_ns=77)
        async with shell_on(store, tmp_path / f"other-{number}") as shell:
            assert await shell.mode("a") == 0o600
            assert (await shell.stat("a")).mtime_ns == 77


async def test_a_mode_changed_while_a_file_is_written_survives_the_commit(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"1")
        await shell.fsync(fd)
        await shell.pwrite(fd, 0, b"2")
        await shell.chmod("a", 0o600)
        await shell.close(fd)
    async with shell_on(store, tmp_path / "other") as shell:
        assert await shell.mode("a") == 0o600


async def test_changing_attributes_never_rewrites_an_object(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x" * 1000)
        version = (await store.head("a")).version
        store.forget()
        await shell.chmod("a", 0o600)
        await shell.drain()
        assert (await store.head("a")).version == version
        assert [call.key for call in store.calls if call.operation == "write"] == [".vfs.attrs"]


async def test_many_changes_are_one_upload(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        for number in range(20):
            await shell.write(f"f{number}", b"x")
        store.forget()
        await shell.drain()
        assert store.count("write") == 1


@pytest.mark.promise("S-attr-4")
async def test_two_mounts_merge_their_changes(backend, tmp_path):
    async with shell_on(backend, tmp_path / "0") as shell:
        for name in "abc":
            await shell.write(name, b"x")
    async with (
        shell_on(backend, tmp_path / "1", TTL) as one,
        shell_on(backend, tmp_path / "2", TTL) as two,
    ):
        await one.ls()
        await two.ls()
        await one.chmod("a", 0o601)
        await two.chmod("b", 0o602)
        await two.chmod("c", 0o603)
        await one.drain()
        await two.drain()
        for shell in (one, two):
            assert [await shell.mode(name) for name in "abc"] == [0o601, 0o602, 0o603]
    async with shell_on(backend, tmp_path / "3") as shell:
        assert [await shell.mode(name) for name in "abc"] == [0o601, 0o602, 0o603]


async def test_an_earlier_journal_never_hides_a_later_change_of_another_mount(backend, tmp_path):
    async with shell_on(backend, tmp_path / "1") as shell:
        await shell.write("a", b"x")
        await shell.chmod("a", 0o601)
    async with shell_on(backend, tmp_path / "2") as shell:
        await shell.chmod("a", 0o602)
    async with shell_on(backend, tmp_path / "1") as shell:
        assert await shell.mode("a") == 0o602
    async with shell_on(backend, tmp_path / "3") as shell:
        assert await shell.mode("a") == 0o602


async def test_a_remount_after_a_clean_end_has_nothing_to_upload(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x")
        await shell.mkdir("d")
        await shell.write("d/b", b"x")
    store.forget()
    async with shell_on(store, tmp_path) as shell:
        await shell.drain()
    assert store.count("write") == 0


async def test_a_large_directory_is_split_into_shards_without_loss(store, tmp_path, monkeypatch):
    monkeypatch.setattr(sidecar_module, "SHARD_ENTRIES", 10)
    async with shell_on(store, tmp_path) as shell:
        for number in range(35):
            await shell.write(f"f{number}", b"", mode=0o600 + number % 8)
            if number % 9 == 0:
                await shell.drain()
        await shell.drain()
        own = [key for key in await keys(store, own=True) if ".vfs" in key]
        assert own == [f".vfs.attrs.{n}-4" for n in range(4)]
    async with shell_on(store, tmp_path / "other") as shell:
        for number in range(35):
            assert await shell.mode(f"f{number}") == 0o600 + number % 8
        await shell.chmod("f3", 0o777)
    assert len([key for key in await keys(store, own=True) if ".vfs" in key]) == 4
    async with shell_on(store, tmp_path / "third") as shell:
        assert await shell.mode("f3") == 0o777
        assert await shell.mode("f4") == 0o604


@pytest.mark.parametrize("operation", ["write", "remove"])
async def test_a_split_that_was_interrupted_is_completed(store, tmp_path, monkeypatch, operation):
    async with shell_on(store, tmp_path) as shell:
        for number in range(15):
            await shell.write(f"f{number}", b"", mode=0o600 + number % 8)
    monkeypatch.setattr(sidecar_module, "SHARD_ENTRIES", 10)
    async with shell_on(store, tmp_path / "other", TTL) as shell:
        await shell.chmod("f3", 0o777)
        key = ".vfs.attrs.1-2" if operation == "write" else ".vfs.attrs"
        store.fail(operation, TransientError("down"), key=key)
        with pytest.raises(TransientError):
            await shell.drain()
        assert await shell.mode("f3") == 0o777
        assert await shell.mode("f4") == 0o604
        await shell.drain()
    async with shell_on(store, tmp_path / "third") as shell:
        assert await shell.mode("f3") == 0o777
        for number in range(4, 15):
            assert await shell.mode(f"f{number}") == 0o600 + number % 8


@pytest.mark.parametrize(
    "content",
    [b"garbage", b"", json.dumps({"version": 2, "entries": {"a": 1}}).encode()],
    ids=["garbage", "empty", "newer"],
)
@pytest.mark.promise("S-attr-5")
async def test_a_sidecar_that_cannot_be_read_is_left_untouched_and_in_nobodys_way(
    store, tmp_path, expect_log, content
):
    expect_log("attributes of '' cannot be read")
    await put(store, "a", b"data")
    await put(store, ".vfs.attrs", content)
    async with tree_on(store, tmp_path) as mount:
        from tests.support.tree import Shell  # noqa: PLC0415

        shell = Shell(mount)
        assert await shell.read("a") == b"data"
        assert await shell.mode("a") == 0o644
        with pytest.raises(MetadataError):
            await shell.chmod("a", 0o600)
        await shell.write("new", b"new")
        await shell.write("a", b"more data")
        await shell.rename("a", "b")
        await shell.mkdir("d")
        await shell.symlink("l", "b")
        await shell.write("d/x", b"x")
        await shell.unlink("new")
        await shell.drain()
        assert await shell.ls() == ["b", "d", "l"]
    assert await get(store, ".vfs.attrs") == content
    assert await get(store, "b") == b"more data"


async def test_attributes_can_be_off(store, tmp_path):
    async with shell_on(store, tmp_path, "attributes=none") as shell:
        await shell.write("a", b"x", mode=0o600)
        await shell.chmod("a", 0o640)
        await shell.mkdir("d")
    assert await keys(store, own=True) == ["a", "d/"]


@pytest.mark.promise("S-attr-2")
async def test_a_file_rewritten_by_another_tool_keeps_permissions_and_loses_the_rest(
    store, tmp_path
):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x", mode=0o4750)
        await shell.setattr("a", uid=3, mtime_ns=5)
    await put(store, "a", b"theirs")
    async with shell_on(store, tmp_path / "other") as shell:
        found = await shell.stat("a")
        assert (found.mode, found.uid) == (stat.S_IFREG | 0o750, 3)
        assert found.mtime_ns > 5
        assert await shell.read("a") == b"theirs"


@pytest.mark.promise("S-attr-3")
async def test_objects_of_other_tools_get_the_defaults(store, tmp_path):
    await put(store, "dir/file", b"x")
    async with shell_on(store, tmp_path, "uid=5", "gid=6", "umask=077") as shell:
        found = await shell.stat("dir/file")
        assert (found.mode, found.uid, found.gid) == (stat.S_IFREG | 0o600, 5, 6)
        assert found.mtime_ns == (await store.head("dir/file")).mtime_ns
        assert (await shell.stat("dir")).mode == stat.S_IFDIR | 0o700


@pytest.mark.promise("S-attr-3")
async def test_ls_and_stat_never_disagree(store, tmp_path):
    await put(store, "theirs", b"xyz")
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.write("mine", b"xy", mode=0o600)
        for _ in range(2):
            listed = {node.name: (node.attributes, node.size) for node in await shell.nodes()}
            for name in ("theirs", "mine"):
                assert listed[name] == (await shell.stat(name), await shell.size(name))
            await shell.drain()


async def test_a_group_is_inherited_from_a_setgid_directory(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        await shell.setattr("d", gid=77, mode=0o2775)
        await shell.write("d/f", b"")
        await shell.mkdir("d/sub")
        assert (await shell.stat("d/f")).gid == 77
        found = await shell.stat("d/sub")
        assert (found.gid, bool(found.mode & stat.S_ISGID)) == (77, True)


@pytest.mark.promise("S-attr-6")
async def test_extended_attributes_are_kept_when_asked_for(store, tmp_path):
    async with shell_on(store, tmp_path, "xattr") as shell:
        await shell.write("a", b"x")
        metadata = shell.fs.metadata
        node = await shell.node("a")
        await metadata.set_xattr(node, "user.one", b"\0\xff")
        await metadata.set_xattr(node, "user.two", b"2")
        await metadata.remove_xattr(node, "user.two")
        with pytest.raises(UnsupportedError):
            await metadata.set_xattr(node, "security.x", b"")
        with pytest.raises(InvalidError):
            await metadata.set_xattr(node, "user.big", bytes(70_000))
        with pytest.raises(NoAttributeError):
            metadata.get_xattr(node, "user.two")
        await shell.write("a", b"rewritten")
        await shell.rename("a", "b")
    async with shell_on(store, tmp_path / "other", "xattr") as shell:
        node = await shell.node("b")
        assert shell.fs.metadata.list_xattrs(node) == ["user.one"]
        assert shell.fs.metadata.get_xattr(node, "user.one") == b"\0\xff"
    async with shell_on(store, tmp_path / "off") as shell:
        with pytest.raises(UnsupportedError):
            shell.fs.metadata.list_xattrs(await shell.node("b"))


@pytest.mark.promise("S-mount-4")
async def test_a_read_only_mount_writes_nothing(store, tmp_path):
    await put(store, "a", b"x")
    await put(store, "d/b", b"x")
    store.forget()
    async with shell_on(store, tmp_path, "ro") as shell:
        assert await shell.read("a") == b"x"
        for change in (
            shell.write("new", b""),
            shell.write("a", b""),
            shell.unlink("a"),
            shell.rename("a", "b"),
            shell.mkdir("e"),
            shell.rmdir("d"),
            shell.chmod("a", 0o600),
            shell.truncate("a", 0),
            shell.symlink("l", "x"),
        ):
            with pytest.raises(ReadOnlyError):
                await change
    assert {call.operation for call in store.calls} <= {"list", "head", "read", "probe"}


async def test_fsync_of_a_directory_stores_its_attributes(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x", mode=0o600)
        fd = await shell.fs.reading.open(await shell.node(""))
        await shell.fs.reading.sync(fd)
        shell.fs.reading.close(fd)
        stored = decode_sidecar(await get(store, ".vfs.attrs") or b"")
        assert stored["a"].attributes.mode & 0o777 == 0o600


async def test_a_sidecar_that_others_change_all_the_time_is_given_up_for_now(
    backend, store, tmp_path
):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x")
        store.fail("write", ConflictError("faster"), key=".vfs.attrs", times=20)
        with pytest.raises(ConflictError):
            await shell.drain()
        store.script.clear()
        await shell.drain()
        assert await get(backend, ".vfs.attrs")


async def test_entries_of_removed_names_leave_the_sidecar(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x")
        await shell.write("b", b"x")
        await shell.drain()
        await shell.unlink("a")
        await shell.rename("b", "c")
        await shell.drain()
        assert set(decode_sidecar(await get(store, ".vfs.attrs") or b"")) == {"c"}


async def test_times_of_a_directory_move_with_its_names(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        before = (await shell.stat("d")).mtime_ns
        await trio.sleep(0.001)
        await shell.write("d/x", b"")
        assert (await shell.stat("d")).mtime_ns > before


async def test_a_name_that_was_only_asked_for_keeps_its_mode(store, tmp_path):
    """A refused rename looks its target up; the mode that `stat` shows must not come from that."""
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d", 0o700)
        await shell.mkdir("d/sub", 0o711)
        await shell.mkdir("d/sub/deep", 0o701)
    async with shell_on(store, tmp_path / "other") as shell:
        parent = await shell.node("d/sub")
        with pytest.raises(ExistsError):
            await shell.fs.namespace.mkdir(parent, "deep", 0o777, CALLER)
        assert await shell.mode("d/sub/deep") == 0o701
        await shell.rename("d", "e")
        parent = await shell.node("e/sub")
        with pytest.raises(ExistsError):
            await shell.fs.namespace.mkdir(parent, "deep", 0o777, CALLER)
        assert await shell.mode("e/sub/deep") == 0o701
