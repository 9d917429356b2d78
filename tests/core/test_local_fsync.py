"""fsync=local: what fsync and close acknowledged survives, whatever the store does meanwhile."""

import random

import pytest
import trio

from tests.support.power import power_switch
from tests.support.tree import Shell, get, keys, put, shell_on, tree_on
from vfs.errors import TransientError
from vfs.store.base import PartRules
from vfs.store.memory import MemoryStore, everything
from vfs.values import MIB

CHANGES = ("write", "copy", "begin_upload", "upload_part", "copy_part", "finish_upload")
LOCAL = ("fsync=local", "metadata_ttl=0")


async def killed(store, stage, scenario, *options):
    """Run a scenario on a mount that is killed at its end."""
    with trio.CancelScope() as scope:
        async with tree_on(store, stage, *options) as mount:
            await scenario(Shell(mount))
            scope.cancel()
            await trio.sleep_forever()


@pytest.fixture(params=["killed", "power cut"])
def crash(request, store, tmp_path):
    """Run a scenario with a store that is down, and crash; the store is up again then."""

    async def run(scenario, *options):
        down = [store.fail(op, TransientError("down"), times=0) for op in CHANGES]

        async def with_the_store_down(shell):
            for fault in down:
                fault.times = 1 << 30
            await scenario(shell)
            for fault in down:
                fault.times = 0

        with power_switch(tmp_path / "stage") as power:
            await killed(store, tmp_path / "stage", with_the_store_down, *(options or LOCAL))
        if request.param == "power cut":
            power.cut()

    return run


@pytest.fixture(autouse=True)
def _uploads_fail(expect_log):
    expect_log("upload of .* failed", maybe=True)
    expect_log("first sight of", maybe=True)


def next_mount(store, tmp_path):
    return shell_on(store, tmp_path / "stage", *LOCAL)


async def test_a_closed_file_is_there_after_a_crash(crash, store, backend, tmp_path):
    data = random.Random(1).randbytes(100_000)

    async def scenario(shell):
        await shell.write("a", data, mode=0o640)

    await crash(scenario)
    assert await get(backend, "a") is None
    async with next_mount(store, tmp_path) as shell:
        assert await shell.read("a") == data
        assert await shell.mode("a") == 0o640
    assert await get(backend, "a") == data
    assert list((tmp_path / "stage").rglob("files/*")) == []


async def test_an_empty_file_is_there_after_a_crash(crash, store, backend, tmp_path):
    await crash(lambda shell: shell.write("a", b""))
    async with next_mount(store, tmp_path) as shell:
        assert await shell.ls() == ["a"]
    assert await get(backend, "a") == b""


async def test_what_was_synced_in_a_large_file_is_there(crash, store, backend, tmp_path):
    base = random.Random(2).randbytes(20 * MIB)
    await put(backend, "a", base)

    async def scenario(shell):
        fd = await shell.open("a")
        await shell.pwrite(fd, 7 * MIB, b"one")
        await shell.pwrite(fd, 25 * MIB, b"far behind the end")
        await shell.fsync(fd)
        await shell.ftruncate(fd, 25 * MIB + 3)
        await shell.fsync(fd)

    await crash(scenario)
    want = base[: 7 * MIB] + b"one" + base[7 * MIB + 3 :] + bytes(5 * MIB) + b"far"
    async with next_mount(store, tmp_path) as shell:
        assert await shell.read("a") == want
    assert await get(backend, "a") == want


async def test_a_file_that_was_cut_after_its_sync_is_one_of_both(crash, store, backend, tmp_path):
    async def scenario(shell):
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"x" * 100)
        await shell.fsync(fd)
        await shell.ftruncate(fd, 40)
        await shell.pwrite(fd, 40, b"y" * 10)

    await crash(scenario)
    async with next_mount(store, tmp_path) as shell:
        found = await shell.read("a")
    assert found in (b"x" * 100, b"x" * 40, b"x" * 40 + b"y" * 10)


async def test_the_mode_that_an_open_file_was_given_between_two_changes_is_there(store, tmp_path):
    async def scenario(shell):
        fd = await shell.create("a", 0o600)
        await shell.pwrite(fd, 0, b"bytes")
        await shell.fsync(fd)
        await shell.drain()
        await shell.chmod("a", 0o640)
        await shell.ftruncate(fd, 2)

    await killed(store, tmp_path / "stage", scenario, *LOCAL)
    async with next_mount(store, tmp_path) as shell:
        assert await shell.read("a") == b"by"
        assert await shell.mode("a") == 0o640


async def test_a_renamed_file_has_its_new_name(crash, store, backend, tmp_path):
    await put(backend, "old", b"before")

    async def scenario(shell):
        fd = await shell.open("old")
        await shell.pwrite(fd, 2, b"after that")
        await shell.fsync(fd)
        await shell.rename("old", "new")

    await crash(scenario)
    async with next_mount(store, tmp_path) as shell:
        assert await shell.ls() == ["new"]
        assert await shell.read("new") == b"beafter that"
    assert await keys(backend) == ["new"]


async def test_a_file_replaced_by_a_rename_is_gone(crash, store, backend, tmp_path):
    async def scenario(shell):
        await shell.write("a", b"the old one")
        await shell.write("a.new", b"the new one")
        await shell.rename("a.new", "a")

    await crash(scenario)
    async with next_mount(store, tmp_path) as shell:
        assert await shell.ls() == ["a"]
        assert await shell.read("a") == b"the new one"
    assert await keys(backend) == ["a"]


async def test_a_removed_file_does_not_come_back(crash, store, backend, tmp_path):
    async def scenario(shell):
        await shell.write("a", b"bytes")
        await shell.unlink("a")

    await crash(scenario)
    async with next_mount(store, tmp_path) as shell:
        assert await shell.ls() == []
    assert await keys(backend) == []


async def test_another_hosts_version_wins_and_nothing_is_lost(
    crash, store, backend, tmp_path, expect_log
):
    expect_log("was written by somebody else first")
    await put(backend, "a", b"base")

    async def scenario(shell):
        await shell.write("a", b"ours")

    await crash(scenario)
    await put(backend, "a", b"theirs")
    async with next_mount(store, tmp_path) as shell:
        await shell.drain()
        (copy,) = [name for name in await shell.ls() if ".conflict-" in name]
        assert await shell.read(copy) == b"ours"
        assert await shell.read("a") == b"theirs"
    async with next_mount(store, tmp_path) as shell:
        assert len(await shell.ls()) == 2


async def test_a_mount_that_finds_the_store_down_still_shows_the_file(
    crash, store, backend, tmp_path
):
    await crash(lambda shell: shell.write("d.img", b"bytes"))
    async with tree_on(store, tmp_path / "stage", *LOCAL) as mount:
        shell = Shell(mount)
        assert await shell.read("d.img") == b"bytes"
        await shell.drain()


async def test_a_part_that_was_sent_is_not_believed_when_its_bytes_were_changed(tmp_path):
    """What a restart shows is what it stores, also of bytes that were written a moment ago."""
    rules = PartRules(1024, 16 << 10, 200, 3 << 20, 4096)
    store = MemoryStore(features=everything(rules))

    async def scenario(shell):
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"o" * 20_000)
        shell.fs.context.committer.dirty[0].journal.note()
        while not shell.fs.context.committer.dirty[0].next.sent_bytes:
            await trio.sleep(0.001)
        await shell.pwrite(fd, 200, b"new")

    await killed(store, tmp_path / "stage", scenario)
    async with shell_on(store, tmp_path / "stage") as shell:
        shown = await shell.read("a")
        await shell.drain()
        assert await get(store, "a") == shown


async def test_a_rename_that_was_answered_with_an_error_is_not_carried_out_later(
    store, tmp_path, expect_log
):
    expect_log("only in part", maybe=True)

    async def scenario(shell):
        await shell.mkdir("d")
        await shell.write("d/a", b"bytes")
        await shell.write("b", b"bytes")
        await shell.drain()
        for old, new in [("d", "e"), ("b", "c")]:
            fault = store.fail("copy", TransientError("down"), times=10)
            with pytest.raises(TransientError):
                await shell.rename(old, new)
            fault.times = 0

    with power_switch(tmp_path / "stage") as power:
        await killed(store, tmp_path / "stage", scenario)
    power.cut()
    async with shell_on(store, tmp_path / "stage") as shell:
        assert await shell.ls("d") == ["a"]
        assert await shell.read("b") == b"bytes"
        assert not await shell.exists("c")
