"""What was persisted comes back from the journal and the staged file, byte for byte."""

import os
import random
import resource
import shutil

import pytest
import trio

from vfs.errors import VfsError
from vfs.layout.base import FileVersion
from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk
from vfs.stage.file import StagedFile
from vfs.stage.journal import Extent, StagedState
from vfs.stage.log import FileLog
from vfs.store.base import ObjectVersion
from vfs.values import KIB, MIB, Key, Span, Version

ABOUT = StagedState(Key("vm/disk"), None, None, Extent(0, 0))


@pytest.fixture
async def staged(tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    made = StagedFile(files / "one", StageBudget(64 * MIB, 1.0), 0, Disk())
    made.create()
    made.begin_log(ABOUT)
    yield made
    made.close()


def version_of(size):
    return FileVersion(ObjectVersion(Key("vm/disk"), Version("v2")), size, 7)


def after_a_crash(staged, tmp_path, boot=None):
    """Return what another process finds now: state and bytes."""
    copy = tmp_path / f"copy-{os.urandom(4).hex()}"
    shutil.copytree(staged.path.parent, copy)
    log = FileLog(copy / "one.log", boot)
    state = log.open()
    log.remove()
    return state, (copy / "one").read_bytes()


async def test_a_log_that_a_full_disk_did_not_take_leaves_nothing_behind(tmp_path):
    staged = StagedFile(tmp_path / "one", StageBudget(64 * MIB, 1.0), 0, Disk())
    staged.create()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # names are taken, bytes are not
    try:
        with pytest.raises(VfsError):
            staged.begin_log(ABOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    staged.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["one", "one.log"])
async def test_what_its_disk_does_not_let_go_of_fails_nobody(staged, name, expect_log):
    expect_log("one cannot be removed")
    stuck = staged.path.with_name(name)
    stuck.unlink()
    stuck.mkdir()
    await staged.write(0, b"bytes")
    staged.close()
    staged.close()
    assert name in os.listdir(staged.path.parent)


@pytest.mark.parametrize("waits", ["persist", "forget"])
async def test_nothing_is_closed_while_a_thread_uses_it(staged, waits):
    await staged.write(0, b"bytes")
    await staged.persist()
    await staged.write(0, b"BYTES")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(getattr(staged, waits))
        while not staged._holders:
            await trio.lowlevel.checkpoint()
        staged.close()
        assert staged.fd >= 0
    assert staged.fd < 0
    assert os.listdir(staged.path.parent) == []


REBOOTED = "another boot"


async def test_what_was_only_noted_survives_the_daemon_and_not_a_reboot(staged, tmp_path):
    await staged.write(0, b"bytes")
    staged.note()
    await staged.write(5, b" not noted")
    assert list(after_a_crash(staged, tmp_path)[0].extent.dirty) == [Span(0, 5)]
    state, _ = after_a_crash(staged, tmp_path, boot=REBOOTED)
    assert not state.extent.dirty
    assert state.is_stored


async def test_what_was_persisted_comes_back_and_nothing_else(staged, tmp_path):
    await staged.write(10, b"first")
    await staged.persist()
    await staged.write(100 * KIB, b"not yet")
    state, data = after_a_crash(staged, tmp_path, REBOOTED)
    assert state.key == "vm/disk"
    assert state.extent.size == 15
    assert list(state.extent.dirty) == [Span(0, 15)]
    assert list(state.extent.holes) == [Span(0, 10)]
    assert data[10:15] == b"first"
    await staged.persist()
    state, data = after_a_crash(staged, tmp_path, REBOOTED)
    assert state.extent == staged.extent
    assert data[100 * KIB :] == b"not yet"


async def test_persisting_what_is_persisted_writes_nothing(staged):
    await staged.write(0, b"bytes")
    await staged.persist()
    size = staged.log.path.stat().st_size
    await staged.persist()
    assert staged.log.path.stat().st_size == size


async def test_a_truncation_is_journalled_before_the_bytes_are_gone(staged, tmp_path):
    await staged.write(0, b"x" * 100)
    await staged.persist()
    await staged.truncate(40)
    await staged.truncate(80)
    state, _ = after_a_crash(staged, tmp_path, REBOOTED)
    assert state.extent.size == 40
    assert list(state.extent.dirty) == [Span(0, 40)]


async def test_a_disk_that_dropped_bytes_is_never_believed_again(staged, tmp_path, monkeypatch):
    """The page cache forgets what it could not write, and the next fdatasync says nothing of it."""
    await staged.write(0, b"one")
    await staged.persist()
    await staged.write(3, b"two")
    with monkeypatch.context() as patch:

        def broken(_fd):
            raise OSError(5, "Input/output error")

        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(VfsError, match="disk fails"):
            await staged.persist()
    with pytest.raises(VfsError, match="disk fails"):
        await staged.persist()
    state, data = after_a_crash(staged, tmp_path, REBOOTED)
    assert list(state.extent.dirty) == [Span(0, 3)]
    assert data[:3] == b"one"


async def test_space_that_a_restart_may_read_is_not_given_back(staged, tmp_path):
    data = random.Random(3).randbytes(256 * KIB)
    await staged.write(0, data)
    await staged.persist()
    await staged.freeze()
    staged.thaw(stored=version_of(len(data)))  # and the journal says so, but not on the disk
    staged.drop_clean()
    state, found = after_a_crash(staged, tmp_path)
    assert state.extent.dirty.covers(Span(0, len(data)))
    assert found == data


@pytest.mark.parametrize("seed", range(12))
async def test_any_history_comes_back(staged, tmp_path, seed):
    pick = random.Random(seed)
    for _ in range(60):
        match pick.choice(["write", "write", "write", "truncate", "persist"]):
            case "write":
                await staged.write(pick.randrange(60_000), pick.randbytes(pick.randrange(1, 5000)))
            case "truncate":
                await staged.truncate(pick.randrange(70_000))
            case "persist":
                await staged.persist()
    await staged.persist()
    state, data = after_a_crash(staged, tmp_path, REBOOTED)
    # Zeros that were overwritten and cut off again count as holes only in one of the two.
    assert state.extent.size == staged.size
    assert state.extent.base_size == staged.base_size
    assert state.extent.dirty == staged.dirty
    buffer = memoryview(bytearray(staged.size))
    if staged.size:
        await staged.read_into(Span(0, staged.size), buffer)
    assert data.ljust(staged.size, b"\0")[: staged.size] == bytes(buffer)


async def test_names_are_on_the_disk_before_a_journal_promises_their_bytes(staged, monkeypatch):
    """A power cut may leave a log that was not synced, and not the file that it tells of."""
    told = []

    def sync(path):
        told.append((path, b"synced" in staged.log.path.read_bytes()))

    monkeypatch.setattr("vfs.stage.records.sync_directory", sync)
    await staged.write(0, b"bytes")
    await staged.persist()
    assert told == [(staged.path.parent, False)]


async def test_a_journal_that_is_begun_during_a_truncation_tells_of_no_bytes_that_are_gone(
    tmp_path, monkeypatch
):
    staged = StagedFile(tmp_path / "one", StageBudget(64 * MIB, 1.0), 0, Disk())
    staged.create()
    await staged.write(0, b"x" * 100)
    cut = os.ftruncate

    def and_begin(fd, size):
        cut(fd, size)
        staged.begin_log(ABOUT)
        staged.note()

    monkeypatch.setattr(os, "ftruncate", and_begin)
    await staged.truncate(40)
    state = FileLog(staged.log.path).open()
    assert state.extent.dirty.minus(state.extent.holes).stop <= 40
    staged.close()
