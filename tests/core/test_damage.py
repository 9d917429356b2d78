"""Journals that a bad disk has damaged: never a crash, nothing invented, nothing made worse.

Every byte of a small stage is cut off or changed in one bit, and the stage is taken up as by the
next mount.
"""

import os
import random
import shutil

import pytest

from tests.support.leftovers import leave, look_at
from tests.support.tree import Shell, put, shell_on, tree_on
from vfs.errors import VfsError
from vfs.stage.budget import StageBudget
from vfs.stage.directory import Stage
from vfs.store.memory import MemoryStore, everything

BASE = random.Random(1).randbytes(400)
CHANGES = [(0, b"first"), (350, b"x" * 100), (0, b"THIRD")]


def versions():
    """Return what the file was at each of its syncs."""
    data, found = bytearray(BASE), [BASE]
    for offset, piece in CHANGES:
        data[offset : offset + len(piece)] = piece
        found.append(bytes(data))
    return found


async def scenario(shell: Shell) -> None:
    fd = await shell.open("a")
    for offset, piece in CHANGES:
        await shell.pwrite(fd, offset, piece)
        await shell.fsync(fd)
    await shell.chmod("b", 0o600)
    opened = await shell.open("c")
    await shell.unlink("c")
    assert opened


@pytest.fixture
def _quiet(expect_log):
    for known in ("upload of .* failed", "first sight of", "left alone"):
        expect_log(known, maybe=True)


@pytest.fixture
def _no_sync(monkeypatch):
    """Spend no time on the disk: there is no power cut here."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


@pytest.fixture
async def stage(backend, tmp_path, _quiet, _no_sync):
    """Leave a stage with a changed file, a changed mode and a removal that is not carried out."""
    for name in ("a", "b", "c"):
        await put(backend, name, BASE)
    return await leave(backend, tmp_path / "stage", scenario)


def damages(data: bytes, dice: random.Random):
    """Yield the data cut off at each byte, and with one bit of each byte changed."""
    for offset in range(len(data)):
        yield f"cut at {offset}", data[:offset]
        flipped = bytearray(data)
        flipped[offset] ^= 1 << dice.randrange(8)
        yield f"changed at {offset}", bytes(flipped)


async def test_a_damaged_journal_of_a_file_says_what_was_or_is_left_alone(stage, backend, caplog):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    (log,) = (stage / "files").glob("*.log")
    whole, bytes_then = log.read_bytes().rstrip(b"\0"), log.with_suffix("").read_bytes()
    refused = 0
    for what, torn in damages(whole, random.Random(seed)):
        log.write_bytes(torn)
        log.with_suffix("").write_bytes(bytes_then)
        before = look_at(stage / "files")
        caplog.clear()
        one = Stage(stage, backend.url, StageBudget(1 << 30, 1.0))
        one.open()
        found = await one.take_up()
        if one.damaged:
            refused += 1
            assert look_at(stage / "files") == before, f"{what}: what is refused is left as it was"
            assert str(log.with_suffix("")) in caplog.text, what
        for staged, state in found:
            assert state.key == "a", what
            data = bytearray(BASE[: state.extent.size].ljust(state.extent.size, b"\0"))
            for span in state.extent.dirty:
                await staged.read_into(span, memoryview(data)[span.start : span.stop])
            # Bytes that were written later lie in the same place: any that the file ever had.
            like = [one[: len(data)].ljust(len(data), b"\0") for one in versions()]
            assert len(data) in map(len, versions()), what
            assert all(byte in at for byte, *at in zip(data, *like, strict=True)), what
            staged.preserved = True  # for the next round
            staged.close()
        one.close()
    assert refused > len(whole) / 3, "damage before the last sync is told from a crash"


async def test_a_damaged_journal_of_names_invents_nothing(stage, backend, tmp_path):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    whole = (stage / "names.log").read_bytes().rstrip(b"\0")
    refused = 0
    everything_damaged = list(damages(whole, random.Random(seed)))
    for what, torn in everything_damaged[seed % 5 :: 5]:
        copy = tmp_path / "copy" / stage.name
        shutil.copytree(stage, copy)
        (copy / "names.log").write_bytes(torn)
        store = MemoryStore(features=everything())
        for name in ("a", "b", "c"):
            await put(store, name, BASE)
        try:
            async with tree_on(store, tmp_path / "copy", "fsync=local") as mount:
                shell = Shell(mount)
                names = await shell.ls()
                assert set(names) >= {"a", "b"}, what
                assert set(names) <= {"a", "b", "c"}, what
                assert await shell.mode("b") in (0o600, 0o644), what
                assert await shell.read("b") == BASE
        except VfsError as error:
            refused += 1
            assert "names.log" in error.message, what
            assert (copy / "names.log").read_bytes() == torn, what
        shutil.rmtree(tmp_path / "copy")
    assert refused


@pytest.mark.parametrize("data", [b"", b"vfs-log 1 stage\n", bytes(4096)])
async def test_a_file_that_was_promised_to_nobody_is_removed(stage, backend, tmp_path, data):
    (log,) = (stage / "files").glob("*.log")
    log.write_bytes(data)
    async with shell_on(backend, tmp_path / "stage") as shell:
        assert await shell.read("a") == BASE
    assert list((stage / "files").iterdir()) == []
