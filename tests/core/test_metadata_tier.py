"""The metadata tier below a whole tree: what it asks the store, what it keeps, and for how long."""

import gc
import os
from dataclasses import replace

import pytest
import trio
from typing_extensions import override

from tests.support.tree import put, shell_on
from vfs.errors import (
    AuthenticationError,
    DeniedError,
    NotFoundError,
    ThrottledError,
    UnreachableError,
)
from vfs.fuse.trim import Trimmer
from vfs.layout.base import Entry
from vfs.store.base import BytesBody, ListPage, ObjectInfo
from vfs.store.memory import MemoryStore, everything
from vfs.tree import listing
from vfs.tree.listing import LISTED_ENTRIES, LISTING_ENTRIES
from vfs.tree.node import Node
from vfs.values import MIB, Key, Version

HOUR = ("metadata_ttl=1h", "negative_ttl=1s")
CACHE = {"cache_bytes": 64 * MIB}


async def fill(backend, count, prefix=""):
    for number in range(count):
        await backend.write(Key(f"{prefix}f{number:05}"), BytesBody(b"x"))


async def fifty(work):
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(work)


# Asked once


@pytest.mark.promise("S-name-16")
@pytest.mark.parametrize("count", [30, 2500])
async def test_fifty_who_list_a_cold_directory_cost_one_listing(backend, store, tmp_path, count):
    await fill(backend, count, "d/")
    async with shell_on(store, tmp_path) as shell:
        node = await shell.node("d")
        store.forget()

        async def ls():
            assert len(await shell.ls("d")) == count

        await fifty(ls)
        assert node.directory.entries is not None
        assert store.count("list", "d/") == -(-count // 1000)


@pytest.mark.promise("S-name-16")
async def test_fifty_who_list_a_directory_too_large_to_keep_cost_one_listing(
    backend, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(listing, "KEPT_ENTRIES", 1500)
    await fill(backend, 4500)
    async with shell_on(store, tmp_path, "metadata_ttl=1h") as shell:
        store.forget()

        async def ls():
            assert len(await shell.ls()) == 4500

        await fifty(ls)
        await ls()
        assert store.count("list", "") == 5


@pytest.mark.promise("S-name-16")
async def test_fifty_who_look_a_name_up_in_a_large_directory_ask_once(backend, store, tmp_path):
    await fill(backend, 1500, "d/")
    async with shell_on(store, tmp_path) as shell:
        await shell.node("d/f00001")
        store.forget()
        gate = store.block("head", key="d/f00700", times=50)

        async def look():
            assert (await shell.node("d/f00700")).name == "f00700"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fifty, look)
            await gate.reached.wait()
            await trio.sleep(0.1)
            gate.release()
        assert store.count("head") == 1


# What is not there


@pytest.mark.promise("S-name-17")
@pytest.mark.parametrize("count", [30, 1500])
async def test_a_missing_name_costs_one_question_in_its_time_to_live(
    backend, store, tmp_path, virtual_time, count
):
    await fill(backend, count, "d/")
    async with shell_on(store, tmp_path, *HOUR) as shell:
        assert not await shell.exists("d/missing")
        for _ in range(5):
            store.forget()
            for _ in range(20):
                await trio.sleep(0.05)
                assert not await shell.exists("d/missing")
            assert len(store.calls) <= (1 if count == 30 else 2)  # a file, a directory
        await put(backend, "d/missing", b"x")
        await trio.sleep(1.1)
        assert await shell.exists("d/missing")
        await backend.remove([Key("d/missing")])


@pytest.mark.promise("S-name-17")
@pytest.mark.parametrize("count", [30, 1500])
async def test_a_name_that_was_missing_is_there_as_soon_as_it_is_made_here(
    backend, store, tmp_path, count
):
    await fill(backend, count, "d/")
    async with shell_on(store, tmp_path, "metadata_ttl=1h", "negative_ttl=1h") as shell:
        for name in ("file", "directory", "renamed", "link"):
            assert not await shell.exists(f"d/{name}")
        await shell.write("d/file", b"x")
        await shell.mkdir("d/directory")
        await shell.rename("d/f00000", "d/renamed")
        await shell.symlink("d/link", "file")
        for name in ("file", "directory", "renamed", "link"):
            assert await shell.exists(f"d/{name}")
        assert not await shell.exists("d/f00000")


@pytest.mark.promise("S-name-18")
@pytest.mark.parametrize(
    "error",
    [
        ThrottledError("503"),
        DeniedError("403"),
        AuthenticationError("401"),
        UnreachableError("no such host"),
        NotFoundError("no such bucket"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(("count", "operation"), [(30, "list"), (1500, "head"), (1500, "list")])
async def test_a_question_that_failed_is_no_answer(
    backend, store, tmp_path, error, count, operation
):
    await fill(backend, count, "d/")
    async with shell_on(store, tmp_path, "metadata_ttl=1h", "negative_ttl=1h") as shell:
        parent = await shell.node("d")
        if count == 1500:
            await shell.node("d/f00001")
        store.fail(operation, error)
        with pytest.raises(type(error)):
            await shell.fs.namespace.find(parent, "f00007")
        assert shell.fs.context.listings.absent_s(parent, "f00007") == 0
        assert (await shell.node("d/f00007")).size == 1


# How long the kernel may believe it


@pytest.mark.promise("S-name-17")
async def test_the_kernel_is_told_what_is_left_of_each_time_to_live(
    backend, tmp_path, virtual_time
):
    await fill(backend, 3, "d/")
    async with shell_on(backend, tmp_path, "metadata_ttl=10s", "negative_ttl=4s") as shell:
        listings = shell.fs.context.listings
        parent = await shell.node("d")
        node = await shell.node("d/f00000")
        assert listings.valid_s(node) == pytest.approx(10)
        assert listings.absent_s(parent, "missing") == pytest.approx(4)
        await trio.sleep(3)
        assert (await shell.node("d/f00000")) is node
        assert listings.valid_s(node) == pytest.approx(7)
        assert listings.absent_s(parent, "missing") == pytest.approx(1)
        await trio.sleep(6)
        assert listings.valid_s(node) == pytest.approx(1)
        assert listings.absent_s(parent, "missing") == 0
        assert not await shell.exists("d/missing")  # asks, for all names of the directory
        assert listings.absent_s(parent, "missing") == pytest.approx(4)
        await shell.unlink("d/f00001")
        assert listings.absent_s(parent, "f00001") == pytest.approx(4)


# Across restarts


@pytest.mark.promise("S-name-19")
async def test_names_and_attributes_are_not_asked_for_again_after_a_restart(
    backend, store, tmp_path
):
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        await shell.mkdir("d")
        for number in range(20):
            await shell.write(f"d/f{number}", b"x", mode=0o600)
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        assert len(await shell.ls("d")) == 20
        await shell.chmod("d/f3", 0o640)
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        assert await shell.mode("d/f3") == 0o640
        await shell.chmod("d/f3", 0o600)
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        assert len(await shell.ls("d")) == 20
    for _ in range(2):
        store.forget()
        async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
            start = len(store.calls)
            nodes = await shell.nodes("d")
            assert [node.attributes.mode & 0o777 for node in nodes] == [0o600] * 20
            assert await shell.exists("d/f7")
            assert len(store.calls) - start == 0


@pytest.mark.promise("S-name-19")
async def test_a_directory_of_many_pages_is_not_asked_for_again_after_a_restart(
    backend, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(listing, "KEPT_ENTRIES", 1500)
    await fill(backend, 4500, "d/")
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        assert len(await shell.ls("d")) == 4500
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        store.forget()
        assert len(await shell.ls("d")) == 4500
        assert store.count("list", "d/") == 0


@pytest.mark.promise("S-name-19")
@pytest.mark.parametrize("end", ["unmounted", "killed"])
async def test_own_changes_win_over_what_the_disk_has(store, tmp_path, end):
    for key in ("d/gone", "d/old", "d/replaced", "e/x", "moved/a", "moved/sub/b", "target/z"):
        await put(store._inner, key, b"x")
    directories = ("", "d", "e", "moved", "moved/sub")
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        for directory in (*directories, "target"):
            await shell.ls(directory)
        await shell.unlink("target/z")
        await shell.rmdir("target")
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        for directory in directories:
            await shell.ls(directory)
        await shell.unlink("d/gone")
        await shell.rename("d/old", "d/new")
        await shell.write("d/replaced", b"longer")
        await shell.write("d/made", b"x")
        await shell.rename("moved", "target")
        await shell.mkdir("moved")
        assert await shell.ls("target/sub") == ["b"]
        if end == "killed":
            shell.mount.disk.metadata.seal = lambda _value: None
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        assert await shell.ls("d") == ["made", "new", "replaced"]
        assert await shell.size("d/replaced") == 6
        assert await shell.read("d/replaced") == b"longer"
        assert await shell.ls() == ["d", "e", "moved", "target"]
        assert await shell.ls("moved") == []
        assert not await shell.exists("moved/sub")
        assert await shell.ls("target") == ["a", "sub"]
        assert await shell.ls("target/sub") == ["b"]
        assert await shell.read("target/sub/b") == b"x"


@pytest.mark.promise("S-name-19")
async def test_a_directory_made_again_does_not_show_what_was_in_the_one_before(store, tmp_path):
    await put(store._inner, "d/a", b"x")
    await put(store._inner, "d/sub/b", b"x")
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        await shell.ls("d")
        await shell.ls("d/sub")
        await shell.unlink("d/sub/b")
        await shell.rmdir("d/sub")
        await shell.unlink("d/a")
        await shell.rmdir("d")
        await shell.mkdir("d")
        await shell.mkdir("d/sub")
        assert await shell.ls("d") == ["sub"]
        assert await shell.ls("d/sub") == []


@pytest.mark.promise("S-name-19")
async def test_what_was_not_stored_yet_wins_over_what_the_disk_has(store, tmp_path):
    await put(store._inner, "d/a", b"x")
    async with shell_on(store, tmp_path, *HOUR, "fsync=local", **CACHE) as shell:
        assert await shell.ls("d") == ["a"]
        store.fail("write", ThrottledError("503"), times=1000)
        await shell.write("d/b", b"staged")
        shell.drain = trio.lowlevel.checkpoint  # it ends with bytes in the stage
    store.script.clear()
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        assert await shell.ls("d") == ["a", "b"]
        assert await shell.read("d/b") == b"staged"


# Bounded memory


class Endless(MemoryStore):
    """A bucket of directories `dN/` with so many names each, made up when they are listed."""

    def __init__(self, directories, names):
        super().__init__(features=replace(everything(), move=False))
        self.directories, self.names = directories, names
        self.listings = 0

    @override
    async def list(self, prefix, *, delimiter="", start_after=None, cursor=None, limit=1000):
        await trio.lowlevel.checkpoint()
        self.listings += 1
        first = int(cursor or 0)
        if not prefix:
            numbers = range(first, min(first + limit, self.directories))
            page = ListPage((), tuple(Key(f"d{number:07}/") for number in numbers), None)
            more = numbers.stop < self.directories
        elif prefix.count("/") == 1 and prefix.endswith("/"):
            numbers = range(first, min(first + limit, self.names))
            page = ListPage(
                tuple(self.info(f"{prefix}f{number:07}") for number in numbers), (), None
            )
            more = numbers.stop < self.names
        else:
            return ListPage((), (), None)
        return replace(page, cursor=str(numbers.stop) if more else None)

    @override
    async def head(self, key):
        await trio.lowlevel.checkpoint()
        if "/f" not in key:
            raise NotFoundError("none", key=key)
        return self.info(key)

    @staticmethod
    def info(key):
        return ObjectInfo(Key(key), 7, Version(f"version-of-{key}"), 1_700_000_000_000_000_000)


class Kernel:
    """Holds what it is told of, as the kernel's cache does, until it is made to forget it."""

    def __init__(self, shell, most):
        self.inodes = shell.fs.context.inodes
        self.shell = shell
        self.known = {}
        self.trimmer = Trimmer(self.inodes, most=most, forget=self.forget)

    def told(self, node):
        node.lookups += 1
        at = (node.parent.inode, node.name.encode())
        inode, count = self.known.get(at, (node.inode, 0))
        assert inode == node.inode
        self.known[at] = inode, count + 1

    def forget(self, directory, name):
        inode, count = self.known.pop((directory, name))
        self.inodes.forget(inode, count)

    async def ls(self, path):
        """Read a directory as the kernel does, with the attributes of each name."""
        fd = await self.shell.fs.reading.open(await self.shell.node(path))
        stream = self.shell.fs.reading.stream(fd)
        position = 0
        while (node := await stream.at(position)) is not None:
            position += 1
            self.told(node)
            if position % 10_000 == 0:
                await self.trimmer.trim()
        self.shell.fs.reading.close(fd)
        await self.trimmer.trim()
        return position


def live(kind):
    gc.collect()
    return sum(isinstance(one, kind) for one in gc.get_objects())


MOST = 10_000
MILLION = pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])


@pytest.mark.promise("S-name-15")
@pytest.mark.parametrize("count", [60_000, MILLION])
async def test_a_directory_of_a_million_names_is_read_in_bounded_memory(tmp_path, count):
    store = Endless(1, count)
    async with shell_on(store, tmp_path, "metadata_ttl=1h") as shell:
        kernel = Kernel(shell, MOST)
        nodes = live(Node)
        assert await kernel.ls("d0000000") == count
        assert store.listings <= count // 1000 + 10
        assert len(shell.fs.context.inodes) <= MOST + 10
        assert live(Node) - nodes <= MOST + 2000
        assert live(Entry) <= MOST + 35_000  # of the pages that were read last
        for number in range(0, count, count // 500):
            node = await shell.node(f"d0000000/f{number:07}")
            assert node.size == 7
            kernel.told(node)
        await kernel.trimmer.trim()
        assert len(shell.fs.context.inodes) <= MOST + 10


@pytest.mark.promise("S-name-15")
@pytest.mark.parametrize("count", [100_000, MILLION])
async def test_a_million_names_in_many_directories_are_visited_in_bounded_memory(
    tmp_path, count, monkeypatch
):
    monkeypatch.setattr(listing, "LISTED_ENTRIES", 20_000)
    each = 500
    store = Endless(count // each, each)
    async with shell_on(store, tmp_path, "metadata_ttl=1h") as shell:
        kernel = Kernel(shell, MOST)
        listings = shell.fs.context.listings
        for number in range(count // each):
            assert await kernel.ls(f"d{number:07}") == each
            assert listings.kept_entries <= 20_000
        known = count // each  # directories: the kernel keeps them, and so do we
        assert len(shell.fs.context.inodes) <= MOST + known + 10
        assert live(Entry) <= 20_000 + MOST + known
        assert store.listings <= count // each + 10
        store.listings = 0
        assert await kernel.ls(f"d{count // each - 1:07}") == each
        assert store.listings == 0  # the last ones are there


async def test_directories_without_names_count_too(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "LISTED_ENTRIES", 100 * LISTING_ENTRIES)
    async with shell_on(Endless(1000, 0), tmp_path, "metadata_ttl=1h") as shell:
        for number in range(1000):
            await shell.ls(f"d{number:07}")
        listed = [n for n in shell.fs.context.inodes if n.directory and n.directory.entries == {}]
        assert len(listed) <= 100
    assert LISTED_ENTRIES >= 20_000  # what one directory may have is never more than all may


async def test_attributes_changed_here_win_over_pages_from_before(store, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "LISTED_ENTRIES", 10)
    for number in range(5):
        await put(store._inner, f"d{number}/file", b"x")
    async with shell_on(store, tmp_path, *HOUR, **CACHE) as shell:
        for mode in (0o600, 0o640, 0o755):
            for number in range(5):
                await shell.chmod(f"d{number}/file", mode)
                await shell.chmod(f"d{number}", mode | 0o100)
            await shell.drain()
            for node in list(shell.fs.context.inodes):
                shell.fs.context.inodes.reap(node)
            for number in range(5):
                assert await shell.mode(f"d{number}/file") == mode
                assert await shell.mode(f"d{number}") == mode | 0o100
                assert [
                    node.attributes.mode & 0o777 for node in await shell.nodes(f"d{number}")
                ] == [mode]


async def test_what_was_let_go_shows_the_same_attributes_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "LISTED_ENTRIES", 50)
    async with shell_on(store, tmp_path, "metadata_ttl=1h") as shell:
        for number in range(20):
            await shell.mkdir(f"d{number}", 0o710)
            await shell.write(f"d{number}/file", b"x", mode=0o601)
    async with shell_on(store, tmp_path, "metadata_ttl=1h") as shell:
        readers = [await shell.fs.reading.open(await shell.node(f"d{n}")) for n in range(20)]
        for _ in range(2):
            for number in range(20):
                assert await shell.mode(f"d{number}") == 0o710
                assert await shell.mode(f"d{number}/file") == 0o601
        for reader in readers:
            node = await shell.fs.reading.stream(reader).at(0)
            assert node.attributes.mode & 0o777 == 0o601
            shell.fs.reading.close(reader)
        await shell.unlink("d3/file")
        await shell.drain()
        await put(store, "d3/file", b"another's")
    async with shell_on(store, tmp_path / "other") as shell:
        assert await shell.mode("d3/file") == 0o644
        assert await shell.mode("d4/file") == 0o601


async def test_names_made_here_are_forgotten_when_they_are_stored(store, tmp_path, virtual_time):
    async with shell_on(store, tmp_path, "metadata_ttl=5s") as shell:
        for number in range(300):
            await shell.write(f"f{number}", b"x")
        await shell.drain()
        await trio.sleep(120)
        assert await shell.exists("f0")
        root = await shell.node("")
        assert len(root.directory.changes) == 0
        assert len(shell.fs.context.inodes) <= 3


async def test_a_file_that_is_open_is_never_forgotten(backend, tmp_path):
    await fill(backend, 100, "d/")
    async with shell_on(backend, tmp_path) as shell:
        kernel = Kernel(shell, 0)
        fd = await shell.open("d/f00007", os.O_RDONLY)
        await kernel.ls("d")
        await kernel.trimmer.trim()
        assert (await shell.node("d/f00007")) is shell.handle(fd).node
        assert len(shell.fs.context.inodes) <= 4
        await shell.close(fd)
