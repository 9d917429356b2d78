"""Reads and writes of the stage's files: in place while the disk is quick, else in threads.

Most of them end in the page cache after some 70 us a MiB. A hop to a thread costs as much, and
requests that queue for a thread hold their bytes meanwhile: a hundred writers, two hundred MiB. But
a disk that must be waited for (a read from the platter, a writer that the kernel slows down because
too much is unwritten) must not hold up the loop: once it was slow, threads wait for it for a while.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import trio

from vfs.errors import FullError, VfsError
from vfs.values import MIB

INLINE_BYTES = 1 * MIB
SLOW_S = 0.005
"""A page cache takes a MiB in a tenth of that, also on a busy machine."""

WARY_S = 1.0
"""How long threads are used after a slow one: the loop is held up once in so long at most."""


def read_exactly(fd: int, offset: int, buffer: memoryview) -> None:
    """Fill the buffer; what lies past the end of the file reads as zeros. Blocking."""
    done = 0
    while done < buffer.nbytes:
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if count == 0:
            buffer[done:] = bytes(buffer.nbytes - done)
            return
        done += count


def write_exactly(fd: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of the data. Blocking."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


class Disk:
    """The file system of a stage, as quick as it was lately."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._wary_until_s = float("-inf")

    async def read(self, fd: int, offset: int, buffer: memoryview) -> None:
        """Fill the buffer, as `read_exactly` does. Errors: OSError."""
        if self._waits_for(buffer.nbytes):
            await trio.to_thread.run_sync(read_exactly, fd, offset, buffer)
        else:
            started = self._now()
            read_exactly(fd, offset, buffer)
            self._took(started)

    async def write(self, fd: int, offset: int, data: bytes | memoryview) -> None:
        """Write all of the data. Errors: OSError."""
        if self._waits_for(len(data)):
            await trio.to_thread.run_sync(write_exactly, fd, offset, data)
        else:
            started = self._now()
            write_exactly(fd, offset, data)
            self._took(started)

    def _waits_for(self, size: int) -> bool:
        return size > INLINE_BYTES or self._now() < self._wary_until_s

    def _took(self, started_s: float) -> None:
        now = self._now()
        if now - started_s > SLOW_S:
            self._wary_until_s = now + WARY_S


def stage_error(error: OSError, path: Path) -> VfsError:
    """Return what a failure of the stage's own disk means to a caller."""
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return FullError(
            f"the disk of the stage is full: free space on the file system of {path.parent}",
            detail=str(error),
        )
    return VfsError(f"the stage's disk fails at {path}: {error.strerror}", detail=str(error))
