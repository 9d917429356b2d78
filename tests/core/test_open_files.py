"""Open files: when bytes become objects, what they cost, what is read meanwhile."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.faulty import FaultyStore
from tests.support.tree import get, keys, put, shell_on
from vfs.errors import (
    DeniedError,
    ExistsError,
    FullError,
    StaleError,
    TooLargeError,
    TransientError,
    VfsError,
)
from vfs.store.base import ABSENT, PartRules
from vfs.store.memory import MemoryStore, everything
from vfs.values import MIB


@pytest.mark.promise("S-write-3")
async def test_what_is_closed_is_an_object(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"hello")
        assert await get(store, "a") == b"hello"
        assert await shell.read("a") == b"hello"


@pytest.mark.promise("S-write-3")
async def test_a_flush_with_nothing_dirty_costs_no_request(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"hello")
        fd = await shell.open("a")
        await shell.pread(fd, 0, 5)
        store.forget()
        await shell.fs.files.flush(fd)
        await shell.fsync(fd)
        await shell.close(fd)
        assert store.calls == []


@pytest.mark.promise("S-name-1")
async def test_a_new_empty_file_becomes_an_object_at_its_first_flush(store, tmp_path):
    seen = []
    inner_write = store._inner.write

    async def write(key, body, *, condition, properties):
        seen.append((key, condition))
        return await inner_write(key, body, condition=condition, properties=properties)

    store._inner.write = write
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("new")
        assert await get(store, "new") is None
        assert await shell.ls() == ["new"]
        await shell.fs.files.flush(fd)
        assert await get(store, "new") == b""
        await shell.close(fd)
    assert ("new", ABSENT) in seen


@pytest.mark.promise("S-name-1")
async def test_exclusive_creation_asks_the_store_and_not_its_memory(store, tmp_path):
    async with shell_on(store, tmp_path, "metadata_ttl=1h", "negative_ttl=1h") as shell:
        assert not await shell.exists("lock")
        await put(store, "lock", b"theirs")
        with pytest.raises(ExistsError):
            await shell.create("lock", flags=os.O_RDWR | os.O_EXCL)


async def test_creating_a_file_costs_few_requests(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        for number in range(30):
            await shell.write(f"warm-{number}", b"x")
        store.forget()
        await shell.write("one", b"x")
        assert len(store.calls) <= 4, [call.operation for call in store.calls]


@pytest.mark.promise("S-read-3")
async def test_a_reader_that_opens_after_a_close_sees_what_was_closed(backend, tmp_path):
    async with (
        shell_on(backend, tmp_path / "1", "metadata_ttl=0") as one,
        shell_on(backend, tmp_path / "2", "metadata_ttl=0") as two,
    ):
        await one.write("a", b"first")
        assert await two.read("a") == b"first"
        await one.write("a", b"second!")
        assert await two.read("a") == b"second!"
        assert await two.size("a") == 7


@pytest.mark.promise("S-read-1")
@pytest.mark.promise("S-read-1", "S-read-2")
async def test_an_open_reader_never_sees_a_mixture_of_two_versions(backend, tmp_path):
    old, new = os.urandom(3 * MIB), os.urandom(3 * MIB)
    await put(backend, "a", old)
    async with shell_on(backend, tmp_path, "metadata_ttl=0") as shell:
        fd = await shell.open("a", os.O_RDONLY)
        assert await shell.pread(fd, 0, 4096) == old[:4096]
        await put(backend, "a", new)
        got = []
        for at in range(0, 3 * MIB, MIB):
            try:
                got.append((at, await shell.pread(fd, at, MIB)))
            except StaleError:
                continue
        for at, data in got:
            assert data == old[at : at + MIB]
        await shell.fs.files.release(fd)
        assert await shell.read("a") == new


async def test_bytes_are_appended_past_the_end_and_holes_read_zeros(store, tmp_path):
    await put(store, "a", b"base")
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 10, b"end")
        assert await shell.all(fd) == b"base" + bytes(6) + b"end"
        await shell.close(fd)
        assert await get(store, "a") == b"base" + bytes(6) + b"end"


@pytest.mark.promise("S-write-12")
async def test_a_file_truncated_and_extended_reads_zeros(store, tmp_path):
    await put(store, "a", b"x" * 100)
    async with shell_on(store, tmp_path) as shell:
        await shell.truncate("a", 10)
        assert await get(store, "a") == b"x" * 10
        await shell.truncate("a", 50)
        assert await get(store, "a") == b"x" * 10 + bytes(40)
        assert await shell.read("a") == b"x" * 10 + bytes(40)


@pytest.mark.promise("S-write-13")
async def test_a_size_that_no_object_can_have_is_refused_at_once(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        with pytest.raises(TooLargeError):
            await shell.ftruncate(fd, 6 << 40)
        with pytest.raises(TooLargeError):
            await shell.pwrite(fd, 6 << 40, b"x")
        await shell.close(fd)


async def test_an_empty_write_changes_nothing(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 100, b"")
        assert await shell.size("a") == 0
        await shell.close(fd)


@pytest.mark.promise("S-write-8")
async def test_a_delta_uploads_only_the_parts_that_changed(store, tmp_path):
    size = 64 * MIB
    base = random.Random(1).randbytes(size)
    await put(store, "img", base)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("img")
        store.forget()
        await shell.pwrite(fd, 20 * MIB + 5, b"changed")
        await shell.fsync(fd)
        sent = sum(call.size for call in store.asked("upload_part"))
        assert sent == 5 * MIB
        assert store.count("copy_part") >= 1
        assert sum(call.size for call in store.asked("read")) <= 6 * MIB
        await shell.close(fd)
        expected = bytearray(base)
        expected[20 * MIB + 5 : 20 * MIB + 12] = b"changed"
        assert await get(store, "img") == bytes(expected)
        assert await shell.read("img") == bytes(expected)


async def test_a_second_delta_starts_from_the_first(store, tmp_path):
    base = random.Random(1).randbytes(32 * MIB)
    await put(store, "img", base)
    expected = bytearray(base)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("img")
        for round_ in range(4):
            store.forget()
            at = round_ * 7 * MIB
            await shell.pwrite(fd, at, b"v%d" % round_)
            expected[at : at + 2] = b"v%d" % round_
            await shell.fsync(fd)
            assert sum(call.size for call in store.asked("upload_part")) <= 10 * MIB
        await shell.close(fd)
    assert await get(store, "img") == bytes(expected)


async def test_parts_sent_ahead_are_not_sent_again_by_the_commit(store, tmp_path):
    data = os.urandom(40 * MIB)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("img")
        for at in range(0, len(data), MIB):
            await shell.pwrite(fd, at, data[at : at + MIB])
        await shell.close(fd)
        assert sum(call.size for call in store.asked("upload_part")) == len(data)
    assert await get(store, "img") == data


async def test_parts_still_on_their_way_when_the_commit_begins_are_waited_for(store, tmp_path):
    data = os.urandom(60 * MIB)
    gate = store.block("upload_part", times=3)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("img")
        for at in range(0, len(data), MIB):
            await shell.pwrite(fd, at, data[at : at + MIB])
        async with trio.open_nursery() as commit:
            commit.start_soon(shell.fsync, fd)
            await wait_all_tasks_blocked()
            gate.release()
        await shell.close(fd)
        assert sum(call.size for call in store.asked("upload_part")) == len(data)
        assert await get(store, "img") == data


async def test_parts_that_wait_for_their_turn_never_disturb_a_commit(store, tmp_path):
    """More parts than may be in flight; the file is closed and written again meanwhile."""
    data = bytearray(os.urandom(120 * MIB))
    for _ in range(40):
        store.delay("upload_part", 0.01)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("img")
        for at in range(0, len(data), MIB):
            await shell.pwrite(fd, at, bytes(data[at : at + MIB]))
        for at in (0, 50 * MIB, 119 * MIB):
            data[at : at + 3] = b"new"
            await shell.pwrite(fd, at, b"new")
        await shell.fsync(fd)
        assert await get(store, "img") == bytes(data)
        await shell.pwrite(fd, 7, b"again")
        data[7:12] = b"again"
        await shell.close(fd)
        assert await get(store, "img") == bytes(data)
    assert store._inner._bucket.uploads == {}


async def test_a_part_that_changes_after_it_was_sent_is_sent_again(store, tmp_path):
    data = bytearray(os.urandom(15 * MIB))
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("img")
        for at in range(0, len(data), MIB):
            await shell.pwrite(fd, at, bytes(data[at : at + MIB]))
        await wait_all_tasks_blocked()
        await shell.pwrite(fd, 6 * MIB, b"header")
        data[6 * MIB : 6 * MIB + 6] = b"header"
        await shell.close(fd)
    assert await get(store, "img") == bytes(data)
    assert sum(call.size for call in store.asked("upload_part")) == 20 * MIB


async def test_writes_during_a_commit_are_the_next_version(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"one" * 1000)
        gate = store.block("write", key="a")
        async with trio.open_nursery() as commit:
            commit.start_soon(shell.fsync, fd)
            await gate.reached.wait()
            await shell.pwrite(fd, 0, b"TWO")
            await shell.pwrite(fd, 5000, b"end")
            assert (await shell.pread(fd, 0, 6)) == b"TWOone"
            gate.release()
        assert await get(store, "a") == b"one" * 1000
        await shell.close(fd)
        assert await get(store, "a") == b"TWO" + b"one" * 999 + bytes(2000) + b"end"


@pytest.mark.promise("S-write-4")
async def test_a_commit_holds_one_moment_of_the_file_whatever_is_written_meanwhile(store, tmp_path):
    """Clean bytes of a part, not fetched yet, are overwritten while the commit runs."""
    base = random.Random(3).randbytes(12 * MIB)
    await put(store, "img", base)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("img")
        await shell.pwrite(fd, 0, b"first")
        gate = store.block("read", key="img")
        async with trio.open_nursery() as commit:
            commit.start_soon(shell.fsync, fd)
            await gate.reached.wait()
            await shell.pwrite(fd, 2 * MIB, b"second")
            gate.release()
        expected = bytearray(base)
        expected[:5] = b"first"
        assert await get(store, "img") == bytes(expected)
        await shell.close(fd)
        expected[2 * MIB : 2 * MIB + 6] = b"second"
        assert await get(store, "img") == bytes(expected)


@pytest.mark.promise("S-read-1")
async def test_reads_and_writes_at_once_agree(store, tmp_path):
    pick = random.Random(9)
    model = bytearray(pick.randbytes(6 * MIB))
    await put(store, "img", bytes(model))
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("img")
        async with trio.open_nursery() as nursery:

            async def sync():
                for _ in range(5):
                    await shell.fsync(fd)

            nursery.start_soon(sync)
            for _ in range(150):
                at = pick.randrange(6 * MIB)
                if pick.random() < 0.5:
                    data = pick.randbytes(pick.choice([1, 4096, 200_000]))
                    await shell.pwrite(fd, at, data)
                    model.extend(bytes(max(0, at + len(data) - len(model))))
                    model[at : at + len(data)] = data
                else:
                    assert await shell.pread(fd, at, 300_000) == model[at : at + 300_000]
        await shell.close(fd)
    assert await get(store, "img") == bytes(model)


# Failures


@pytest.mark.promise("S-write-7")
async def test_a_store_that_is_down_fails_fsync_and_loses_nothing(
    store, tmp_path, virtual_time, expect_log
):
    expect_log("upload of 'a' failed")
    store.fail("write", TransientError("down"), key="a", times=3)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"precious")
        with pytest.raises(TransientError, match="down"):
            await shell.fsync(fd)
        assert await shell.all(fd) == b"precious"
        assert shell.fs.context.committer.failing == 1
        await trio.sleep(600)
        assert await get(store, "a") == b"precious"
        await shell.close(fd)  # the error was reported: nothing is wrong any more
        assert await shell.read("a") == b"precious"


@pytest.mark.promise("S-write-7")
async def test_every_failed_fsync_is_told_and_a_close_too(
    store, tmp_path, virtual_time, expect_log
):
    expect_log("upload of 'a' failed")
    store.fail("write", TransientError("down"), key="a", times=20)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"precious")
        for _ in range(2):
            with pytest.raises(TransientError):
                await shell.fsync(fd)
        expect_log("close of 'a'")
        with pytest.raises(TransientError):
            await shell.close(fd)
        assert await shell.read("a") == b"precious"
        await trio.sleep(3600)
        assert await get(store, "a") == b"precious"


async def test_a_file_that_the_store_denies_is_not_opened_for_writing(
    store, tmp_path, virtual_time, expect_log
):
    expect_log("upload of 'a' failed")
    async with shell_on(store, tmp_path) as shell:
        store.fail("write", DeniedError("the object is locked"), key="a", times=3)
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"x")
        for _ in range(2):
            with pytest.raises(DeniedError, match="locked"):
                await shell.fsync(fd)
        with pytest.raises(DeniedError, match="locked"):
            await shell.open("a")
        assert await shell.read("a") == b"x"
        await shell.write("b", b"another file is none of its business")
        await trio.sleep(100)
        await shell.close(await shell.open("a"))
        await shell.close(fd)


async def test_a_store_that_hangs_fails_fsync_after_the_time_limit(store, tmp_path, virtual_time):
    gate = store.block("write", key="a")
    async with shell_on(store, tmp_path, "stage_wait=60s") as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"precious")
        began = trio.current_time()
        with pytest.raises(TransientError, match="nothing has moved for 60 s"):
            await shell.fsync(fd)
        assert 60 <= trio.current_time() - began <= 62
        gate.release()
        await wait_all_tasks_blocked()
        await shell.close(fd)
        assert await get(store, "a") == b"precious"


@pytest.mark.parametrize("operation", ["write", "finish_upload"])
async def test_a_commit_whose_reply_was_lost_is_no_conflict(
    store, tmp_path, virtual_time, expect_log, operation
):
    expect_log("failed")
    size = 100 if operation == "write" else 20 * MIB
    data = bytearray(os.urandom(size))
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, bytes(data))
        store.lose_reply(operation, key="a")
        with pytest.raises(TransientError):
            await shell.fsync(fd)
        await shell.pwrite(fd, 3, b"more")
        data[3:7] = b"more"
        assert await shell.all(fd) == data
        await trio.sleep(100)
        await shell.close(fd)
        assert await shell.read("a") == data
        assert await keys(store) == ["a"]
        assert shell.mount.conflicts.count == 0


async def test_a_lost_reply_to_a_delta_is_no_conflict(store, tmp_path, virtual_time, expect_log):
    expect_log("failed")
    data = bytearray(os.urandom(30 * MIB))
    await put(store, "a", bytes(data))
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 3 * MIB, b"delta")
        data[3 * MIB : 3 * MIB + 5] = b"delta"
        store.lose_reply("finish_upload", key="a")
        with pytest.raises(TransientError):
            await shell.fsync(fd)
        assert await shell.pread(fd, 20 * MIB, 4096) == data[20 * MIB : 20 * MIB + 4096]
        await trio.sleep(100)
        await shell.close(fd)
        assert await get(store, "a") == data
        assert shell.mount.conflicts.count == 0


@pytest.mark.promise("S-write-9")
async def test_a_full_stage_makes_the_writer_wait_for_uploads(store, tmp_path, virtual_time):
    data = os.urandom(40 * MIB)
    async with shell_on(store, tmp_path, stage_bytes=12 * MIB) as shell:
        fd = await shell.create("img")
        for at in range(0, len(data), MIB):
            await shell.pwrite(fd, at, data[at : at + MIB])
            assert shell.staged_bytes <= 12 * MIB + 16 * MIB
        await shell.close(fd)
    assert await get(store, "img") == data


async def test_many_files_share_a_small_stage(store, tmp_path, virtual_time):
    async with shell_on(store, tmp_path, stage_bytes=6 * MIB) as shell:

        async def write(name):
            fd = await shell.create(name)
            for at in range(6):
                await shell.pwrite(fd, at * MIB, bytes([at]) * MIB)
            await shell.close(fd)

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(write, f"f{number}")
        assert shell.staged_bytes == 0
    for number in range(8):
        assert await get(store, f"f{number}") == b"".join(bytes([at]) * MIB for at in range(6))


@pytest.mark.promise("S-write-9")
async def test_a_full_stage_that_does_not_drain_is_enospc(
    store, tmp_path, virtual_time, expect_log
):
    expect_log("failed")
    store.fail("", TransientError("down"), times=10_000)
    store.script[-1].operation = "write"
    store.fail("begin_upload", TransientError("down"), times=10_000)
    async with shell_on(store, tmp_path, "stage_wait=60s", stage_bytes=4 * MIB) as shell:
        fd = await shell.create("a")
        data = os.urandom(3 * MIB)
        await shell.pwrite(fd, 0, data)
        began = trio.current_time()
        with pytest.raises(FullError):
            await shell.pwrite(fd, 3 * MIB, os.urandom(2 * MIB))
        assert 60 <= trio.current_time() - began <= 130
        assert await shell.pread(fd, 0, 10) == data[:10]
        store.script.clear()
        with pytest.raises(TransientError):  # told once
            await shell.fsync(fd)
        await shell.close(fd)
        assert await get(store, "a") == data


async def test_draining_a_store_that_is_down_does_not_spin(
    store, tmp_path, virtual_time, expect_log
):
    expect_log("failed")
    store.fail("write", TransientError("down"), key="a", times=10)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"x")
        expect_log("close of")
        await shell.fs.files.release(fd)
        began = trio.current_time()
        await shell.drain()
        assert trio.current_time() - began > 30, "ten attempts take their pauses"
        assert await get(store, "a") == b"x"


async def test_closed_files_hold_neither_stage_nor_descriptors(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        before = _open_descriptors()
        for number in range(50):
            await shell.write(f"f{number}", b"x" * 5000)
            await shell.read(f"f{number}")
        assert shell.staged_bytes == 0
        assert _open_descriptors() <= before + 2
        assert len(shell.fs.files.handles) == 0


async def test_a_store_without_multipart_gets_whole_objects(tmp_path):
    features = replace(everything(), multipart=False, copy_part=False, move=False)
    store = FaultyStore(MemoryStore(features=features))
    data = os.urandom(20 * MIB)
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", data)
        fd = await shell.open("a")
        await shell.pwrite(fd, 5, b"12345")
        await shell.close(fd)
    assert await get(store, "a") == data[:5] + b"12345" + data[10:]


@pytest.mark.parametrize("equal", [False, True])
async def test_small_part_rules_are_obeyed(tmp_path, equal):
    rules = PartRules(
        min_bytes=1024,
        max_bytes=1 << 20,
        max_parts=64,
        max_object_bytes=1 << 25,
        max_write_bytes=4096,
        equal_parts=equal,
    )
    store = FaultyStore(MemoryStore(features=replace(everything(rules), move=False)))
    pick = random.Random(2)
    model = bytearray()
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        for _ in range(60):
            at = pick.randrange(0, 8 * MIB)
            data = pick.randbytes(pick.choice([10, 5000, 600_000]))
            await shell.pwrite(fd, at, data)
            model.extend(bytes(max(0, at + len(data) - len(model))))
            model[at : at + len(data)] = data
            if pick.random() < 0.3:
                await shell.fsync(fd)
                assert await get(store, "a") == bytes(model)
        await shell.close(fd)
    assert await get(store, "a") == bytes(model)


async def test_an_upload_that_was_aborted_behind_our_back_is_begun_anew(store, tmp_path):
    data = os.urandom(20 * MIB)
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        for at in range(0, len(data), MIB):
            await shell.pwrite(fd, at, data[at : at + MIB])
        await wait_all_tasks_blocked()
        assert store._inner._bucket.uploads
        store._inner._bucket.uploads.clear()
        await shell.close(fd)
    assert await get(store, "a") == data


@pytest.mark.promise("S-mount-6")
async def test_an_unexpected_fault_of_ours_ends_no_mount(store, tmp_path, virtual_time, expect_log):
    expect_log("failed unexpectedly")
    expect_log("upload of 'a' failed")
    store.fail("write", ZeroDivisionError("bug"), key="a")
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("a")
        with pytest.raises(VfsError, match="unexpected"):
            await shell.fsync(fd)
        await trio.sleep(10)
        await shell.close(fd)
        assert await get(store, "a") == b""


def _open_descriptors():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_an_upload_that_moves_is_waited_for_however_long_it_takes(
    store, tmp_path, virtual_time
):
    async with shell_on(store, tmp_path, "stage_wait=5s", "part_size=5M") as shell:
        fd = await shell.create("a")
        store.fail("begin_upload", TransientError("not yet"), times=1)  # so no part goes ahead
        for piece in range(100):
            await shell.pwrite(fd, piece * MIB, bytes([1 + piece]) * MIB)
        store.delay("upload_part", seconds=4, times=1000)
        began = trio.current_time()
        await shell.close(fd)
        assert trio.current_time() - began >= 8


async def test_a_file_that_was_made_for_reading_only_is_stored_too(store, backend, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.create("lock", flags=os.O_RDONLY)
        await shell.close(fd)
        assert await get(backend, "lock") == b""
