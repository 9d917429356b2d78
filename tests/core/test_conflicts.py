"""Two writers: one winner, and every byte of the loser kept apart."""

import os
import random
from dataclasses import replace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.faulty import FaultyStore
from tests.support.tree import get, keys, put, shell_on
from vfs.errors import ConflictError, StaleError, TransientError
from vfs.store.memory import MemoryStore, everything
from vfs.values import MIB, Key

TTL = "metadata_ttl=0"


async def copies(shell, store):
    await shell.conflicts()
    return [key for key in await keys(store) if ".conflict-" in key]


@pytest.mark.promise("S-write-6")
@pytest.mark.parametrize("size", [1000, 24 * MIB])
@pytest.mark.promise("S-write-5", "S-write-6")
async def test_the_loser_keeps_every_byte_it_wrote(store, tmp_path, expect_log, size):
    expect_log("was written by somebody else first")
    base = random.Random(1).randbytes(size)
    store._inner._features = replace(store.features, versions=True)
    await put(store, "a", base)
    async with (
        shell_on(store, tmp_path / "1", TTL) as one,
        shell_on(store, tmp_path / "2", TTL) as two,
    ):
        loser = await one.open("a")
        winner = await two.open("a")
        await one.pwrite(loser, 10, b"loser")
        await two.pwrite(winner, 0, b"winner")
        await two.close(winner)
        with pytest.raises(StaleError):
            await one.fsync(loser)
        for _ in range(2):
            with pytest.raises(StaleError):
                await one.pwrite(loser, 0, b"later")
            with pytest.raises(StaleError):
                await one.fsync(loser)
        (copy,) = await copies(one, store)
        assert await get(store, copy) == base[:10] + b"loser" + base[15:]
        assert await get(store, "a") == b"winner" + base[6:]
        with pytest.raises(StaleError):
            await one.close(loser)
        assert await one.read("a") == b"winner" + base[6:]
        assert sorted(await one.ls()) == sorted(["a", copy])
        assert one.staged_bytes == 0
    assert store._inner._bucket.uploads == {}


async def test_the_loser_of_a_new_name_keeps_its_file(backend, tmp_path, expect_log):
    expect_log("was written by somebody else first")
    async with (
        shell_on(backend, tmp_path / "1", TTL) as one,
        shell_on(backend, tmp_path / "2", TTL) as two,
    ):
        loser = await one.create("a")
        await one.pwrite(loser, 0, b"loser")
        await two.write("a", b"winner")
        with pytest.raises(StaleError):
            await one.close(loser)
        (copy,) = await copies(one, backend)
        assert await get(backend, copy) == b"loser"
        assert await one.read("a") == b"winner"


async def test_bytes_whose_base_is_gone_stay_in_the_stage(backend, tmp_path, expect_log):
    expect_log("its old version is gone")
    await put(backend, "a", os.urandom(20 * MIB))
    async with shell_on(backend, tmp_path, TTL) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 5 * MIB, b"loser")
        await put(backend, "a", b"theirs")
        with pytest.raises(StaleError):
            await shell.close(fd)
        await shell.conflicts()
        assert await keys(backend) == ["a"]
        assert await get(backend, "a") == b"theirs"
        (path,) = shell.mount.conflicts.partial
    with path.open("rb") as file:
        file.seek(5 * MIB)
        assert file.read(5) == b"loser"


async def test_a_conflict_found_when_nobody_has_the_file_open_loses_nothing(
    store, tmp_path, virtual_time, expect_log
):
    expect_log("upload of 'a' failed")
    expect_log("close of 'a'")
    expect_log("was written by somebody else first")
    async with shell_on(store, tmp_path, TTL) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"loser")
        store.fail("write", TransientError("down"), key="a", times=2)
        with pytest.raises(TransientError):
            await shell.close(fd)
        await put(store._inner, "a", b"winner")
        await trio.sleep(100)
        (copy,) = await copies(shell, store)
        assert await get(store, copy) == b"loser"
        assert await get(store, "a") == b"winner"
        assert await shell.read("a") == b"winner"
        assert shell.staged_bytes == 0


async def test_a_file_removed_by_another_host_while_written_is_kept_apart(
    backend, tmp_path, expect_log
):
    expect_log("was written by somebody else first")
    await put(backend, "a", b"base" * 100)
    async with shell_on(backend, tmp_path, TTL) as shell:
        fd = await shell.open("a")
        assert await shell.pread(fd, 0, 1) == b"b"
        await shell.pwrite(fd, 0, b"mine")
        await backend.remove([Key("a")])
        with pytest.raises(StaleError):
            await shell.close(fd)
        (copy,) = await copies(shell, backend)
        assert await get(backend, copy) == b"mine" + b"base" * 99
        assert not await shell.exists("a")


async def test_a_large_file_removed_by_another_host_is_no_endless_retry(
    backend, tmp_path, virtual_time, expect_log
):
    expect_log("its old version is gone")
    await put(backend, "a", os.urandom(20 * MIB))
    async with shell_on(backend, tmp_path, TTL) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 7, b"mine")
        await backend.remove([Key("a")])
        with pytest.raises(StaleError):
            await shell.fsync(fd)
        with pytest.raises(StaleError):
            await shell.close(fd)
        await shell.conflicts()
        assert await keys(backend) == []
    assert backend._bucket.uploads == {}


async def test_a_dirty_file_is_not_replaced_by_what_a_listing_shows(store, tmp_path):
    """A listing that races with our own commit shows the new version before we know of it."""
    await put(store, "a", b"old")
    async with shell_on(store, tmp_path, TTL) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"new")
        inode = (await shell.node("a")).inode
        real = store._inner.write
        reached, go_on = trio.Event(), trio.Event()

        async def write(key, body, **options):
            info = await real(key, body, **options)
            if key == "a":
                reached.set()
                await go_on.wait()
            return info

        store._inner.write = write
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.fsync, fd)
            await reached.wait()
            assert await shell.ls() == ["a"]
            assert (await shell.node("a")).inode == inode
            go_on.set()
        await shell.pwrite(fd, 3, b"er")
        await shell.rename("a", "b")
        await shell.close(fd)
        assert await shell.ls() == ["b"]
        assert await shell.read("b") == b"newer"
    assert await keys(store) == ["b"]


@pytest.mark.promise("S-name-12")
async def test_a_dirty_file_stays_visible_when_a_listing_does_not_show_it(store, tmp_path):
    await put(store, "a", b"old")
    async with shell_on(store, tmp_path, TTL) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"new")
        assert await shell.exists("a")
        assert (await shell.node("a")) is shell.handle(fd).node
        await shell.close(fd)


async def test_a_renamed_file_that_loses_its_new_name_stands_under_the_old_one(
    backend, tmp_path, expect_log
):
    expect_log("was written by somebody else first")
    await put(backend, "a", b"base")
    store = FaultyStore(backend)
    async with shell_on(store, tmp_path, TTL) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"mine")
        gate = store.block("write", key="b")
        await shell.rename("a", "b")
        await gate.reached.wait()
        await put(backend, "b", b"theirs")
        gate.release()
        with pytest.raises(StaleError):
            await shell.close(fd)
        (copy,) = await copies(shell, backend)
        assert await shell.ls() == sorted(["a", "b", copy])
        assert await shell.read("a") == b"base"
        assert await shell.read("b") == b"theirs"
        assert await shell.read(copy) == b"mine"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.promise("S-write-4")
async def test_two_hosts_that_race_never_make_a_mixture(tmp_path, expect_log, seed):
    expect_log("was written by somebody else first")
    pick = random.Random(seed)
    backend = MemoryStore(features=replace(everything(versions=True), move=False))
    versions = {pick.randbytes(12 * MIB)}
    await put(backend, "a", next(iter(versions)))
    kept = []

    async def host(number):
        store = FaultyStore(backend)
        for _ in range(200):
            store.delay("", pick.choice([0, 0.001]))
        async with shell_on(store, tmp_path / f"{number}", TTL) as shell:
            for round_ in range(4):
                fd = await shell.open("a")
                try:
                    before = await shell.all(fd)
                    mark = b"host %d round %d" % (number, round_)
                    at = pick.randrange(11 * MIB)
                    await shell.pwrite(fd, at, mark)
                    mine = before[:at] + mark + before[at + len(mark) :]
                    kept.append(mine)
                    await shell.fsync(fd)
                    versions.add(mine)
                except (StaleError, ConflictError):
                    pass
                finally:
                    await shell.fs.files.release(fd)
            await copies(shell, backend)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(host, 1)
        nursery.start_soon(host, 2)
    final = await get(backend, "a")
    assert final in versions
    stored = {await get(backend, key) for key in await keys(backend)}
    for old in backend._bucket.older["a"].values():
        stored.add(old.data)
    for mine in kept:
        assert mine in stored, "bytes that were written are nowhere"
    assert backend._bucket.uploads == {}


async def test_a_store_that_checks_no_condition_is_looked_at_before_and_after(tmp_path, expect_log):
    expect_log("was written by somebody else first")
    features = replace(
        everything(),
        write_if_absent=False,
        write_if_version=False,
        finish_if_absent=False,
        finish_if_version=False,
        copy_if_absent=False,
        copy_if_version=False,
        copy_pins_source=False,
        copy_part_pins_source=False,
        remove_if_version=False,
        move=False,
    )
    store = FaultyStore(MemoryStore(features=features))
    async with shell_on(store, tmp_path, TTL) as shell:
        await shell.write("a", b"one")
        await shell.write("a", b"two")
        await shell.rename("a", "b")
        await shell.write("big", os.urandom(20 * MIB))
        fd = await shell.open("big")
        await shell.pwrite(fd, 0, b"delta")
        await shell.close(fd)
        await shell.unlink("big")
        assert await get(store, "b") == b"two"
        fd = await shell.open("b")
        await shell.pwrite(fd, 0, b"123")
        await put(store._inner, "b", b"theirs")
        with pytest.raises(StaleError):
            await shell.close(fd)
        (copy,) = await copies(shell, store)
        assert await get(store, copy) == b"123"
        assert await get(store, "b") == b"theirs"
        await wait_all_tasks_blocked()
