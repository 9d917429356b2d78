"""Directories as the store and this mount's own changes make them."""

import pytest
import trio

from tests.support.tree import get, keys, put, shell_on
from vfs.errors import NotFoundError, StaleError
from vfs.store.base import BytesBody
from vfs.values import Key

TTL = "metadata_ttl=0"


async def fill(backend, count, prefix=""):
    for number in range(count):
        await backend.write(Key(f"{prefix}f{number:05}"), BytesBody(b"x"))


@pytest.mark.promise("S-name-15")
async def test_ten_thousand_names_are_listed_in_few_requests(backend, store, tmp_path):
    await fill(backend, 10_000)
    async with shell_on(store, tmp_path) as shell:
        store.forget()
        nodes = await shell.nodes()
        assert len({node.name for node in nodes}) == 10_000
        for node in nodes:  # ls -l
            await shell.fs.metadata.get(node)
        assert len(store.calls) <= 20


async def test_ten_thousand_names_made_here_are_listed_in_few_requests(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        todo = iter(range(10_000))

        async def work():
            for number in todo:
                await shell.close(await shell.create(f"f{number:05}", mode=0o640))

        async with trio.open_nursery() as nursery:
            for _ in range(50):  # so that they share the syncs of the journal
                nursery.start_soon(work)
        assert len(store.calls) <= 10_000 * 4
        await shell.drain()
        store.forget()
        assert len(await shell.nodes()) == 10_000
        assert len(store.calls) <= 20
    async with shell_on(store, tmp_path / "other") as shell:
        store.forget()
        nodes = await shell.nodes()
        assert [node.attributes.mode & 0o777 for node in nodes] == [0o640] * 10_000
        for node in nodes:
            await shell.fs.metadata.get(node)
        assert len(store.calls) <= 20


async def test_a_directory_too_large_to_keep_is_streamed(backend, store, tmp_path, monkeypatch):
    from vfs.tree import listing  # noqa: PLC0415

    monkeypatch.setattr(listing, "KEPT_ENTRIES", 1500)
    await fill(backend, 4500)
    async with shell_on(store, tmp_path) as shell:
        await shell.write("f00017", b"mine")
        await shell.unlink("f00018")
        await shell.write("new", b"new")
        names = await shell.ls()
        assert len(names) == len(set(names)) == 4500
        assert "new" in names
        assert "f00018" not in names
        assert await shell.read("f00017") == b"mine"


async def test_a_listing_keeps_its_place_while_names_come_and_go(backend, tmp_path):
    await fill(backend, 50)
    async with shell_on(backend, tmp_path) as shell:
        fd = await shell.fs.reading.open(await shell.node(""))
        stream = shell.fs.reading.stream(fd)
        seen = []
        position = 0
        while (node := await stream.at(position)) is not None:
            seen.append(node.name)
            position += 1
            if node.name.startswith("f") and int(node.name[1:]) % 2:
                await shell.unlink(node.name)  # rm -r removes while it reads
            if position == 10:
                await shell.write("made-meanwhile", b"")
        assert set(seen) >= {f"f{number:05}" for number in range(50)}
        assert len(seen) == len(set(seen))
        assert await stream.at(0) is not None  # rewinddir
        shell.fs.reading.close(fd)
        assert len(await shell.ls()) == 26


@pytest.mark.parametrize(
    "key",
    ["a//b", "/abs", "x/./y", "x/../y", "..", ".", "z\0z", "n" * 300, "p/\U0010ff41q"],
    ids=repr,
)
@pytest.mark.promise("S-name-10")
async def test_keys_that_cannot_be_names_are_hidden_and_harm_nobody(backend, store, tmp_path, key):
    await put(backend, "ok/fine", b"x")
    await put(backend, key, b"odd")
    async with shell_on(store, tmp_path, TTL) as shell:
        seen = []

        async def walk(path):
            for name in await shell.ls(path):
                full = f"{path}/{name}" if path else name
                seen.append(full)
                if (await shell.node(full)).is_directory:
                    await walk(full)
                else:
                    await shell.read(full)

        await walk("")
        assert "ok/fine" in seen
        assert not any(part in {"", ".", ".."} for path in seen for part in path.split("/"))
        assert all(len(part) < 256 and "\0" not in part for p in seen for part in p.split("/"))
        for part in ("", ".", "..", "n" * 200):
            with pytest.raises(NotFoundError):
                await shell.fs.namespace.lookup(await shell.node(""), part)
    assert await get(backend, key) == b"odd"


@pytest.mark.promise("S-name-9")
async def test_names_of_any_bytes_work(backend, store, tmp_path):
    from vfs import names  # noqa: PLC0415

    odd = [names.decode(raw) for raw in (b"caf\xe9", b"\xff\xfe", b"a\nb", "日本".encode(), b"%41")]
    async with shell_on(store, tmp_path) as shell:
        for name in odd:
            await shell.write(name, name.encode("utf-8", "surrogatepass"), mode=0o600)
            await shell.mkdir(f"d-{name}")
    async with shell_on(store, tmp_path / "other") as shell:
        assert sorted(await shell.ls()) == sorted([*odd, *(f"d-{name}" for name in odd)])
        for name in odd:
            assert await shell.read(name) == name.encode("utf-8", "surrogatepass")
            assert await shell.mode(name) == 0o600


@pytest.mark.promise("S-name-14")
async def test_our_own_objects_are_invisible_at_every_depth(backend, store, tmp_path):
    for key in (".vfs/tmp/x", "d/.vfs/y", "d/file"):
        await put(backend, key, b"")
    async with shell_on(store, tmp_path, TTL) as shell:
        assert await shell.ls() == ["d"]
        assert await shell.ls("d") == ["file"]
        for path in (".vfs", "d/.vfs", ".vfs.attrs"):
            assert not await shell.exists(path)


@pytest.mark.promise("S-name-11")
async def test_a_directory_shadows_a_file_of_its_name_until_its_last_child_goes(backend, tmp_path):
    await put(backend, "a", b"file")
    await put(backend, "a/child", b"x")
    async with shell_on(backend, tmp_path, TTL) as shell:
        (node,) = await shell.nodes()
        assert (node.name, node.is_directory) == ("a", True)
        assert (await shell.node("a")).is_directory
        await backend.remove([Key("a/child")])
        assert await shell.read("a") == b"file"


async def test_what_another_host_makes_and_removes_shows_after_the_time_to_live(
    store, tmp_path, virtual_time
):
    await put(store._inner, "a", b"x")
    async with shell_on(store, tmp_path, "metadata_ttl=5s", "negative_ttl=1s") as shell:
        assert await shell.ls() == ["a"]
        assert not await shell.exists("b")
        await put(store._inner, "b", b"y")
        await store._inner.remove([Key("a")])
        await trio.sleep(6)
        assert await shell.ls() == ["b"]
        assert await shell.read("b") == b"y"
        assert not await shell.exists("a")


async def test_looking_up_many_names_of_a_directory_costs_one_listing(backend, store, tmp_path):
    await fill(backend, 200, "d/")
    async with shell_on(store, tmp_path) as shell:
        store.forget()
        for number in range(200):
            await shell.node(f"d/f{number:05}")
            assert not await shell.exists(f"d/missing{number}")
        assert len(store.calls) <= 5


@pytest.mark.promise("S-name-12")
async def test_our_own_changes_win_over_a_listing_that_is_behind(store, tmp_path, virtual_time):
    """A store whose listings are late must not take away what was just written."""
    async with shell_on(store, tmp_path, "metadata_ttl=5s") as shell:
        await shell.write("old", b"x")
        real = store._inner.list
        stale = await real(Key(""), delimiter="/")

        async def late(prefix, **options):
            return (
                stale
                if prefix == "" and not options.get("cursor")
                else await real(prefix, **options)
            )

        store._inner.list = late
        await shell.write("new", b"y")
        await shell.unlink("old")
        assert await shell.ls() == ["new"]
        assert await shell.read("new") == b"y"
        await trio.sleep(2)
        assert await shell.ls() == ["new"]
        store._inner.list = real
        await trio.sleep(60)
        assert await shell.ls() == ["new"]


@pytest.mark.parametrize("look", ["ls", "exists"])
async def test_a_listing_that_began_before_a_commit_does_not_hide_the_file(store, tmp_path, look):
    async with shell_on(store, tmp_path, TTL, "negative_ttl=0") as shell:
        await shell.write("other", b"x")
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"x")
        late = store.hold_answer("list", key="")
        found = []

        async def ask():
            found.append(await shell.ls() if look == "ls" else await shell.stat("other"))
            found.append(await shell.exists("a"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await late.reached.wait()
            await shell.close(fd)
            late.release()
        assert found[-1]
        if look == "ls":
            assert found[0] == ["a", "other"]


async def test_a_file_stored_while_a_large_directory_is_read_is_shown(
    backend, store, tmp_path, monkeypatch, virtual_time
):
    from vfs.tree import listing  # noqa: PLC0415

    monkeypatch.setattr(listing, "KEPT_ENTRIES", 1500)
    await fill(backend, 4500)
    async with shell_on(store, tmp_path, "metadata_ttl=5s") as shell:
        fd = await shell.create("a")
        removed = await shell.create("b")
        await shell.pwrite(fd, 0, b"x")
        stream = shell.fs.reading.stream(await shell.fs.reading.open(await shell.node("")))
        names = [(await stream.at(position)).name for position in range(2000)]
        await shell.close(fd)
        await shell.close(removed)
        await trio.sleep(60)
        await shell.unlink("b")
        await trio.sleep(60)
        assert await shell.exists("a")
        position = len(names)
        while (node := await stream.at(position)) is not None:
            names.append(node.name)
            position += 1
        assert len(names) == len(set(names)) == 4501
        assert "a" in names


async def test_a_pending_name_never_expires(store, tmp_path, virtual_time):
    async with shell_on(store, tmp_path, "metadata_ttl=1s") as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"x")
        await put(store._inner, "b", b"x")
        gone = await shell.open("b")
        await shell.unlink("b")
        await trio.sleep(1000)
        assert await shell.ls() == ["a"]
        assert await shell.exists("a")
        assert not await shell.exists("b")
        await shell.close(gone)
        await shell.close(fd)


async def test_a_directory_removed_by_another_host_is_gone(backend, tmp_path):
    await put(backend, "d/", b"")
    async with shell_on(backend, tmp_path, TTL) as shell:
        node = await shell.node("d")
        await backend.remove([Key("d/")])
        with pytest.raises((StaleError, NotFoundError)):
            await shell.fs.metadata.get(node)
        assert not await shell.exists("d")
        assert await shell.ls() == []


async def test_a_node_keeps_its_inode_while_it_is_the_same_file_and_over_a_remount(
    backend, tmp_path
):
    await put(backend, "d/a", b"x")
    numbers = set()
    for stage in ("1", "2"):
        async with shell_on(backend, tmp_path / stage, TTL) as shell:
            node = await shell.node("d/a")
            node.lookups += 1
            numbers.add(node.inode)
            await shell.chmod("d/a", 0o600)
            await shell.ls("d")
            numbers.add((await shell.node("d/a")).inode)
    assert len(numbers) == 1


async def test_forgotten_nodes_are_dropped(backend, tmp_path):
    await fill(backend, 500, "d/")
    async with shell_on(backend, tmp_path, TTL) as shell:
        nodes = await shell.nodes("d")
        for node in nodes:
            node.lookups += 1
        assert len(shell.fs.context.inodes) >= 500
        for node in nodes:
            shell.fs.context.inodes.forget(node.inode, 1)
        assert len(shell.fs.context.inodes) <= 2


async def test_making_a_directory_is_durable_at_once(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        assert await keys(store) == ["d/"]
        assert await shell.ls("d") == []


@pytest.mark.parametrize("later_s", [0, 60])
async def test_what_was_stored_after_its_page_was_read_is_not_shown_as_it_was(
    store, tmp_path, virtual_time, later_s
):
    async with shell_on(store, tmp_path, "metadata_ttl=5s", "fsync=local") as shell:
        await shell.write("a", b"a")
        await shell.write("b", b"old")
        await shell.drain()
        await trio.sleep(60)
        fd = await shell.open("b")
        await shell.pwrite(fd, 0, b"new")
        number = await shell.fs.reading.open(await shell.node(""))
        stream = shell.fs.reading.stream(number)
        assert (await stream.at(0)).name == "a"
        await shell.drain()
        await shell.close(fd)
        await trio.sleep(later_s)
        assert await shell.read("b") == b"new"
        assert (await stream.at(1)).name == "b"
        assert await shell.read("b") == b"new"
