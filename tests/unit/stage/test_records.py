"""The log of small records: whatever a crash or a bad disk does to it, nothing is invented."""

import errno
import os
import random

import pytest
import trio
import trio.testing

from vfs.errors import CorruptError, MetadataError, VfsError
from vfs.stage.records import RecordLog, decode_record, encode_record, read_log

RECORDS = [{"op": "a", "id": n, "name": "n" * n, "deep": {"x": [1, None, "é"]}} for n in range(12)]


async def write_log(path, records=RECORDS):
    log = RecordLog(path, "names")
    log.open()
    for record in records:
        log.append(record)
    await log.sync()
    log.close()
    return path.read_bytes()


def reopen(path):
    log = RecordLog(path, "names")
    try:
        return log.open(), log
    finally:
        log.close()


async def test_synced_records_are_read_back(tmp_path):
    await write_log(tmp_path / "log")
    records, log = reopen(tmp_path / "log")
    assert records == RECORDS
    assert log.damaged_bytes == 0


async def test_a_log_cut_at_any_byte_keeps_every_whole_record(tmp_path):
    path = tmp_path / "log"
    data = await write_log(path)
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for size in range(len(data)):
        path.write_bytes(data[:size])
        records, _ = reopen(path)
        whole = max(sum(end <= size for end in ends) - 1, 0)
        assert records == RECORDS[:whole]
        # What is appended next stands behind a valid beginning.
        again = RecordLog(path, "names")
        again.open()
        again.append({"op": "next"})
        await again.sync()
        again.close()
        assert reopen(path)[0] == [*RECORDS[:whole], {"op": "next"}]


@pytest.mark.parametrize("seed", range(3))
async def test_a_flipped_bit_anywhere_never_crashes_and_never_invents(tmp_path, seed):
    pick = random.Random(seed)
    path = tmp_path / "log"
    data = bytearray(await write_log(path, RECORDS[:6]))
    for offset in range(len(data)):
        bit = 1 << pick.randrange(8)
        data[offset] ^= bit
        path.write_bytes(data)
        try:
            records, _ = reopen(path)
        except VfsError:
            assert offset < data.index(b"\n") + 1, "only the header can be refused"
            assert path.read_bytes() == data, "a refused log is left untouched"
        else:
            assert records == RECORDS[: len(records)]
        data[offset] ^= bit


async def test_garbage_of_any_kind_never_crashes(tmp_path):
    pick = random.Random(5)
    head = b"vfs-log 1 names\n"
    for size in range(300):
        path = tmp_path / "log"
        path.write_bytes(head + pick.randbytes(size))
        assert reopen(path)[0] == []


async def test_a_valid_checksum_over_something_else_than_a_record_counts_as_damage():
    import zlib  # noqa: PLC0415

    for text in (b"[1]", b"null", b'"x"', b"{", b"\xff"):
        assert decode_record(b"%08x %s" % (zlib.crc32(text), text)) is None
    line = encode_record({"op": "x"})
    assert b"\n" not in line[:-1]
    assert decode_record(line[:-1]) == {"op": "x"}


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"vfs-log 2 names\n", MetadataError),
        (b"vfs-log 1 files\n", CorruptError),
        (b"something else\n", CorruptError),
        (b"\n", CorruptError),
    ],
)
async def test_a_log_that_is_not_ours_or_newer_is_refused_and_left_alone(tmp_path, head, error):
    path = tmp_path / "log"
    path.write_bytes(head)
    with pytest.raises(error):
        reopen(path)
    assert path.read_bytes() == head


async def test_what_follows_a_damaged_record_does_not_count(tmp_path):
    path = tmp_path / "log"
    data = await write_log(path)
    lines = data.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"00000000 {}\n", *lines[5:]]))
    records, log = reopen(path)
    assert records == RECORDS[:3]
    assert log.damaged_bytes > 0
    assert path.read_bytes() == b"".join(lines[:4])


async def test_callers_that_sync_together_share_one_write(tmp_path, monkeypatch):
    writes = []
    sync = os.fdatasync
    log = RecordLog(tmp_path / "log", "names")
    log.open()
    monkeypatch.setattr(os, "fdatasync", lambda fd: (writes.append(fd), sync(fd)))

    async def one(number):
        log.append({"id": number})
        await log.sync()

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(one, number)
    assert len(writes) <= 3
    log.close()
    assert len(reopen(tmp_path / "log")[0]) == 100


async def test_a_record_that_the_disk_refused_is_written_by_the_next_sync(tmp_path, monkeypatch):
    log = RecordLog(tmp_path / "log", "names")
    log.open()
    real = os.pwrite

    def half_and_fail(fd, data, offset):
        real(fd, bytes(data)[:7], offset)
        raise OSError(errno.ENOSPC, "no space")

    log.append({"id": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half_and_fail)
        with pytest.raises(OSError, match="no space"):
            await log.sync()
    log.append({"id": 2})
    await log.sync()
    log.close()
    assert reopen(tmp_path / "log")[0] == [{"id": 1}, {"id": 2}]


async def test_rewriting_replaces_the_whole_log_and_loses_nothing_that_comes_later(tmp_path):
    path = tmp_path / "log"
    await write_log(path)
    log = RecordLog(path, "names")
    log.open()
    log.append({"about": "old"})
    await log.rewrite(lambda: [{"id": 1}])
    log.append({"id": 2})
    await log.sync()
    log.close()
    assert reopen(path)[0] == [{"id": 1}, {"id": 2}]
    assert not list(tmp_path.glob("*.new"))


async def test_what_is_appended_while_a_rewrite_waits_is_kept(tmp_path):
    path = tmp_path / "log"
    log = RecordLog(path, "names")
    log.open()
    records = [{"id": 1}]
    async with trio.open_nursery() as nursery, log._lock:  # as by a sync under way
        nursery.start_soon(log.rewrite, lambda: list(records))
        await trio.testing.wait_all_tasks_blocked()
        records.append({"id": 2})
        log.append({"id": 2})
    log.close()
    assert reopen(path)[0] == [{"id": 1}, {"id": 2}]


async def test_a_rewrite_that_fails_leaves_the_log_and_what_is_queued(tmp_path, monkeypatch):
    path = tmp_path / "log"
    log = RecordLog(path, "names")
    log.open()
    log.append({"id": 1})
    await log.sync()
    log.append({"id": 2})
    with monkeypatch.context() as patch:
        patch.setattr(RecordLog, "_replace", lambda *_: os.stat("/nowhere/at/all"))
        with pytest.raises(OSError, match="nowhere"):
            await log.rewrite(lambda: [{"id": 3}])
    await log.sync()
    log.close()
    assert reopen(path)[0] == [{"id": 1}, {"id": 2}]


async def test_a_rewrite_that_is_cancelled_leaves_what_is_queued(tmp_path):
    path = tmp_path / "log"
    log = RecordLog(path, "names")
    log.open()
    log.append({"id": 1})
    with trio.CancelScope() as scope:

        def records():
            scope.cancel()
            return [{"id": 3}]

        await log.rewrite(records)
    await log.sync()
    log.close()
    assert reopen(path)[0] == [{"id": 1}]


async def test_a_rewritten_log_whose_name_is_not_on_the_disk_is_gone_on_with(tmp_path, monkeypatch):
    path = tmp_path / "log"
    log = RecordLog(path, "names")
    log.open()
    with monkeypatch.context() as patch:
        patch.setattr("vfs.stage.records.sync_directory", lambda _: os.stat("/nowhere/at/all"))
        await log.rewrite(lambda: [{"id": 1}])
        with pytest.raises(OSError, match="nowhere"):
            await log.sync()
        log.append({"id": 2})
        with pytest.raises(OSError, match="nowhere"):
            await log.sync()
    await log.sync()
    log.close()
    assert reopen(path)[0] == [{"id": 1}, {"id": 2}]


def test_a_log_of_nothing_but_a_header_has_no_records(tmp_path):
    assert read_log(b"vfs-log 1 names\n", "names", tmp_path) == ([], 16)
