"""Holes in local files: `fallocate` with modes, which Python's `os` does not have."""

import ctypes

from vfs.values import Span

# linux/falloc.h
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, span: Span) -> bool:
    """Free the space of a span, which then reads as zeros; False where the file system cannot."""
    if not span:
        return True
    done: int = _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, span.start, span.size)
    return done == 0
