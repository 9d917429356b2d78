"""What downloads are written into: files, links, devices, pipes, and what takes no bytes.

Devices have names of the test's own: code that replaced one would not take the machine's along.
"""

import os
import socket
import subprocess
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.support.faulty import FaultyStore
from vfs.cli import transfer
from vfs.cli.target import check_place, own_descriptor
from vfs.cli.transfer import download_file
from vfs.errors import (
    BusyError,
    FullError,
    IsDirectoryError,
    NotFoundError,
    UnreachableError,
    UnsupportedError,
)
from vfs.store.base import BytesBody
from vfs.store.memory import MemoryStore
from vfs.values import KIB, MIB, Key

KEY = Key("disk.img")
DATA = os.urandom(MIB + 5)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(transfer, "PIECE_BYTES", 16 * KIB)


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


async def download(store, path, data=DATA):
    info = await store.write(KEY, BytesBody(data))
    await download_file(store, info, path, lambda _: None)


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


# --- files and links ----------------------------------------------------------------------------


async def test_a_link_is_kept_and_the_file_behind_it_replaced(store, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("old")
    (tmp_path / "middle").symlink_to("real/file")
    (tmp_path / "link").symlink_to(tmp_path / "middle")
    await download(store, tmp_path / "link")
    assert (tmp_path / "link").readlink() == tmp_path / "middle"
    assert (tmp_path / "middle").is_symlink()
    assert (tmp_path / "real/file").read_bytes() == DATA
    assert (names(tmp_path), names(tmp_path / "real")) == (["link", "middle", "real"], ["file"])


async def test_a_download_that_fails_leaves_the_file_behind_a_link(store, tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    store.fail("read", UnreachableError("gone"))
    with pytest.raises(ExceptionGroup):
        await download(store, tmp_path / "link")
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file", "link"]


async def test_a_link_that_leads_nowhere_is_refused(store, tmp_path):
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(NotFoundError, match=r"is a link to nothing, which is not there"):
        await download(store, tmp_path / "link")
    assert names(tmp_path) == ["link"]


async def test_a_file_keeps_its_mode_and_owner(store, tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    if os.getuid() == 0:
        os.chown(path, 12, 34)
    before = path.stat()
    await download(store, path)
    after = path.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everything")
async def test_a_file_that_we_may_not_write_is_not_replaced(store, tmp_path):
    (tmp_path / "file").touch(0o444)
    with pytest.raises(PermissionError, match="file"):
        await download(store, tmp_path / "file")


async def test_what_takes_no_bytes_is_refused(store, tmp_path):
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    for name, error in (("directory", IsDirectoryError), ("socket", UnsupportedError)):
        with pytest.raises(error, match=name):
            await download(store, tmp_path / name)
    assert (tmp_path / "socket").is_socket()
    assert names(tmp_path) == ["directory", "socket"]


@pytest.mark.parametrize("name", ["none/file", "file/file"])
def test_a_directory_that_is_not_there_is_not_made(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="no such directory; create it first"):
        check_place(tmp_path / name, directory=False)
    with pytest.raises(NotFoundError, match="no such directory"):
        check_place(tmp_path / "new", directory=True)
    check_place(tmp_path / "new", directory=False)


# --- pipes and character devices ----------------------------------------------------------------


async def test_a_pipe_gets_the_bytes_in_their_order(store, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = bytearray()

    def read():
        with (tmp_path / "pipe").open("rb") as stream:
            found.extend(stream.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, read)
        await download(store, tmp_path / "pipe")
    assert found == DATA
    assert (tmp_path / "pipe").is_fifo()


async def test_the_last_piece_waits_for_the_first(store, tmp_path):
    reading, writing = os.pipe()
    gate = store.block("read")  # the first piece; the others come before it
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download, store, Path(f"/dev/fd/{writing}"), DATA[: 32 * KIB])
        await gate.reached.wait()
        await trio.testing.wait_all_tasks_blocked()
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        gate.release()
    assert os.read(reading, 64 * KIB) == DATA[: 32 * KIB]
    os.close(reading)
    os.close(writing)


async def test_a_pipe_that_nobody_reads_can_be_interrupted(store, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download, store, tmp_path / "pipe")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    # Let the thread go that still waits for somebody to read.
    os.close(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK))


def node(path, like):
    """Make a device node of our own for a device of the machine's."""
    found = os.stat(like)
    try:
        os.mknod(path, found.st_mode, found.st_rdev)
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError as error:
        pytest.skip(f"no device nodes here: {error}")
    return path


async def test_a_character_device_stays_one(store, tmp_path):
    device = node(tmp_path / "null", os.devnull)
    (tmp_path / "link").symlink_to(device)
    await download(store, tmp_path / "link")
    assert (tmp_path / "link").readlink() == device
    assert device.is_char_device()


async def test_a_device_without_room_is_named(store, tmp_path):
    device = node(tmp_path / "full", "/dev/full")
    with pytest.raises(ExceptionGroup) as caught:
        await download(store, device)
    assert caught.group_contains(OSError, match=f"No space left on device: '{device}'")


async def test_an_open_file_of_ours_is_written_from_where_it_stands(store, tmp_path):
    with (tmp_path / "log").open("wb+", buffering=0) as stream:
        stream.write(b"before")
        await download(store, Path(f"/proc/self/fd/{stream.fileno()}"))
        stream.write(b"after")
    assert (tmp_path / "log").read_bytes() == b"before" + DATA + b"after"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/dev/stdout", 1),
        ("/dev/fd/7", 7),
        ("/proc/self/fd/1", 1),
        ("/dev/null", None),
        ("/dev/fd/x", None),
        ("/tmp", None),
    ],
)
def test_our_own_descriptors_are_known_by_their_names(path, number):
    assert own_descriptor(Path(path)) == number


# --- block devices ------------------------------------------------------------------------------


@pytest.fixture
def device(tmp_path):
    """A block device of 1 MiB and 512 bytes, all ones."""
    image = tmp_path / "device.img"
    image.write_bytes(b"\xff" * (MIB + 512))
    made = subprocess.run(
        ["losetup", "--find", "--show", image], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    loop = made.stdout.strip()
    try:
        yield node(tmp_path / "device", loop)
    finally:
        subprocess.run(["losetup", "-d", loop], check=True)


async def test_a_block_device_is_written_from_its_start_and_stays_one(store, device, tmp_path):
    (tmp_path / "link").symlink_to(device)
    await download(store, tmp_path / "link")
    assert device.is_block_device()
    assert (tmp_path / "link").readlink() == device
    with device.open("rb") as stream:
        assert stream.read() == DATA + b"\xff" * 507
    # What was written is on the disk and not in the device's cache alone.
    assert (tmp_path / "device.img").read_bytes()[: len(DATA)] == DATA


async def test_a_block_device_that_is_too_small_is_not_touched(store, device):
    with pytest.raises(FullError, match=r"is too small: it has 1049088 bytes, 1049089 are to be"):
        await download(store, device, bytes(MIB + 513))
    assert not store.count("read")
    with device.open("rb") as stream:
        assert set(stream.read()) == {0xFF}


async def test_a_block_device_in_use_is_refused(store, device):
    holder = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(BusyError, match="is in use"):
            await download(store, device)
    finally:
        os.close(holder)
