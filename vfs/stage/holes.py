"""Holes in local files: `fallocate` with modes, which Python's `os` does not have."""

import ctypes

from vfs.values import MIB, Span

# linux/falloc.h
_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02

HOLE_BYTES = 4096
"""Smaller holes save no block of any file system."""

_ZEROS = bytes(MIB)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def is_zero(data: bytes | memoryview) -> bool:
    """Tell whether all bytes are zeros: some 12 us a MiB, next to nothing when the first is not."""
    if not data or data[0] or data[-1]:
        return False
    view, zeros = memoryview(data), memoryview(_ZEROS)
    pieces = range(0, len(view), MIB)
    return all(view[at : at + MIB] == zeros[: len(view) - at] for at in pieces)


def punch_hole(fd: int, span: Span) -> bool:
    """Free the space of a span, which then reads as zeros; False where the file system cannot."""
    if not span:
        return True
    done: int = _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, span.start, span.size)
    return done == 0
