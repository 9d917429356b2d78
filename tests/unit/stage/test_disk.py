"""The stage's disk is used in place while it is quick, and from threads while it is not."""

import os
import threading

import pytest

from vfs.stage import disk
from vfs.stage.disk import INLINE_BYTES, SLOW_S, WARY_S, Disk


class SlowClock:
    """A clock that a test moves, and that moves by itself while the disk works."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.work_s = 0.0
        self._asked = 0

    def __call__(self) -> float:
        self._asked += 1
        return self.now_s


@pytest.fixture
def used(tmp_path, monkeypatch):
    """Yield a disk, its clock, a descriptor, and the threads that wrote."""
    clock = SlowClock()
    threads = []

    def write(fd, offset, data):
        threads.append(threading.current_thread() is threading.main_thread())
        clock.now_s += clock.work_s
        os.pwrite(fd, data, offset)

    monkeypatch.setattr(disk, "write_exactly", write)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield Disk(clock), clock, fd, threads
    os.close(fd)


async def test_what_is_written_is_read(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        for size in (1, INLINE_BYTES, INLINE_BYTES + 1):
            data = os.urandom(size)
            buffer = memoryview(bytearray(size + 3))
            await Disk().write(fd, 5, data)
            os.ftruncate(fd, 5 + size)
            await Disk().read(fd, 5, buffer)
            assert bytes(buffer) == data + b"\0\0\0"
    finally:
        os.close(fd)


async def test_a_quick_disk_is_written_in_place_up_to_a_mebibyte(used):
    quick, _, fd, in_loop = used
    await quick.write(fd, 0, bytes(INLINE_BYTES))
    await quick.write(fd, 0, bytes(INLINE_BYTES + 1))
    assert in_loop == [True, False]


async def test_a_slow_disk_is_left_to_threads_for_a_while(used):
    slow, clock, fd, in_loop = used
    clock.work_s = 2 * SLOW_S
    await slow.write(fd, 0, b"x")
    await slow.write(fd, 0, b"x")
    clock.now_s += WARY_S
    clock.work_s = 0.0
    await slow.write(fd, 0, b"x")
    await slow.write(fd, 0, b"x")
    assert in_loop == [True, False, True, True]
