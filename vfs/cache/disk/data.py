"""One data file of the SSD tier. Blocking.

Blocks are read and written past the page cache, straight into the frames of the RAM tier: the
kernel keeps the pages of the mount itself already, and a second copy of everything costs three
times the CPU (docs/performance.md). Small random reads go through the page cache, which then serves
them again without a thread.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vfs.holes import punch_hole
from vfs.values import Span

ALIGNMENT = 4096
"""Of offsets, sizes and buffers past the page cache, on every disk that there is."""


_MAX_BUFFERS = 1024  # IOV_MAX of Linux


def aligned(size: int) -> int:
    """Return a size rounded up to what can be read and written past the page cache."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class DataFile:
    """A sparse file of blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._direct = _open(path)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # for small reads
            with suppress(OSError):  # not every file system takes advice
                os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_RANDOM)
        except OSError:
            os.close(self._direct)
            raise

    def close(self) -> None:
        """Close it: who comes later gets EBADF, and never the file that has its numbers then."""
        direct, self._direct = self._direct, -1
        fd, self.fd = self.fd, -1
        os.close(direct)
        os.close(fd)

    def read(self, offset: int, views: Sequence[memoryview]) -> int:
        """Fill aligned buffers; return how many bytes there were. Errors: OSError."""
        left = list(views)
        done = 0
        while left:
            count = os.preadv(self._direct, left[:_MAX_BUFFERS], offset + done)
            if count == 0:
                break
            done += count
            left = _after(left, count)
        return done

    def write(self, offset: int, views: Sequence[memoryview]) -> None:
        """Write aligned buffers. Errors: OSError."""
        left = list(views)
        while left:
            count = os.pwritev(self._direct, left[:_MAX_BUFFERS], offset)
            offset += count
            left = _after(left, count)

    def cut(self, size: int) -> None:
        """Free everything from `size` on. Errors: OSError."""
        os.ftruncate(self._direct, size)

    def punch(self, span: Span) -> bool:
        """Give the space of a span back; False where the file system cannot."""
        return punch_hole(self._direct, span)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: a file system that has only the page cache
            raise
    return os.open(path, flags, 0o600)


def _after(views: list[memoryview], count: int) -> list[memoryview]:
    """Return what is left of buffers whose first bytes are done."""
    for number, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[number + 1 :]]
        count -= len(view)
    return []
