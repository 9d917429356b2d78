"""Bytes and names of the local file system: what `os` lacks, and copying that keeps holes.

Nothing here knows keys or conditions. All of it blocks; all of it is called in worker threads.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from vfs.clock import wall_ns
from vfs.store.base import SHA256, Body
from vfs.store.zeros import ZEROS
from vfs.values import MIB, Span, Version

PIECE_BYTES = MIB
COPY_BYTES = 64 * MIB
"""One copy_file_range call: long enough to be cheap, short enough to notice a cancellation."""

_ZEROS = bytearray(ZEROS)  # of the type that it is compared with

_XATTR_PREFIX = "user.vfs."
_SHA256_OF = "sha256-of"  # the modification time, in ns, of the bytes that the sha256 is of

_RENAME_NOREPLACE = 1  # linux/fs.h
_FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
_FALLOC_FL_PUNCH_HOLE = 2

# preadv takes at most this many buffers (IOV_MAX, limits.h of Linux).
_BUFFERS_AT_ONCE = 1024

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.renameat2.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
]

_MISSING_CALL = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM}


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename_new(source_fd: int, source: bytes, target_fd: int, target: bytes) -> None:
    """Rename unless the target exists; plainly where the file system has no such call.

    Our own writers are kept out by the lock that the caller holds; the flag keeps out the others.
    """
    try:
        _check(_libc.renameat2(source_fd, source, target_fd, target, _RENAME_NOREPLACE))
    except OSError as error:
        if error.errno not in {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
            raise
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)


def fill_zeros(fd: int, span: Span) -> None:
    """Make a range read as zeros, without blocks where the file system can."""
    flags = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    try:
        _check(_libc.fallocate(fd, flags, span.start, span.size))
    except OSError as error:
        if error.errno not in _MISSING_CALL:
            raise
        for piece in span.pieces(PIECE_BYTES):
            write_all(fd, memoryview(ZEROS)[: piece.size], piece.start)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at an offset."""
    while data:
        done = os.pwrite(fd, data, offset)
        data, offset = data[done:], offset + done


def read_all(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Fill the buffers from an offset on; return how many bytes there were."""
    left = [buffer for buffer in buffers if buffer]
    total = 0
    while left:
        done = os.preadv(fd, left[:_BUFFERS_AT_ONCE], offset + total)
        if done == 0:
            break
        total += done
        while left and done >= left[0].nbytes:
            done -= left.pop(0).nbytes
        if done:
            left[0] = left[0][done:]
    return total


class Digest(Protocol):
    """What takes note of bytes that pass."""

    def update(self, data: memoryview, /) -> None:
        """Take note of bytes."""
        ...


def write_body(
    fd: int,
    body: Body,
    offset: int,
    pause: Callable[[], None],
    digest: Digest | None = None,
) -> None:
    """Write a body to a place in a file; whole pieces of zeros become holes.

    `pause` is called between pieces and may raise to give up; `digest` is fed all bytes.
    """
    buffer = bytearray(min(PIECE_BYTES, body.size))
    view = memoryview(buffer)
    for piece in Span(0, body.size).pieces(PIECE_BYTES):
        pause()
        if body.is_hole(piece):
            fill_zeros(fd, piece.shift(offset))
            if digest is not None:
                digest.update(memoryview(ZEROS)[: piece.size])
            continue
        body.read_into(piece.start, view[: piece.size])
        if digest is not None:
            digest.update(view[: piece.size])
        # Comparing costs 12 us per MiB; only whole pieces, which compare as one memcmp.
        if piece.size == PIECE_BYTES and buffer == _ZEROS:
            fill_zeros(fd, piece.shift(offset))
        else:
            write_all(fd, view[: piece.size], piece.start + offset)


def copy_span(
    source_fd: int, span: Span, target_fd: int, offset: int, pause: Callable[[], None]
) -> None:
    """Copy a range inside the kernel (by reference where it can); holes stay holes."""
    distance = offset - span.start
    position = span.start
    for data in _data_in(source_fd, span):
        if data.start > position:
            fill_zeros(target_fd, Span(position, data.start).shift(distance))
        for piece in data.pieces(COPY_BYTES):
            pause()
            _copy_piece(source_fd, piece, target_fd, piece.start + distance)
        position = data.stop
    if position < span.stop:
        fill_zeros(target_fd, Span(position, span.stop).shift(distance))


def _data_in(fd: int, span: Span) -> Iterator[Span]:
    position = span.start
    while position < span.stop:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno != errno.EINVAL:
                raise
            yield Span(position, span.stop)  # no such call here: all is data
            return
        if start >= span.stop:
            return
        stop = min(os.lseek(fd, start, os.SEEK_HOLE), span.stop)
        yield Span(start, stop)
        position = stop


def _copy_piece(source_fd: int, span: Span, target_fd: int, offset: int) -> None:
    position = span.start
    while position < span.stop:
        at = offset + position - span.start
        try:
            done = os.copy_file_range(source_fd, target_fd, span.stop - position, position, at)
        except OSError as error:
            if error.errno not in _MISSING_CALL:
                raise
            done = _copy_by_hand(source_fd, Span(position, span.stop), target_fd, at)
        if done == 0:
            raise OSError(errno.EIO, "the source ended early")
        position += done


def _copy_by_hand(source_fd: int, span: Span, target_fd: int, offset: int) -> int:
    data = os.pread(source_fd, min(span.size, PIECE_BYTES), span.start)
    write_all(target_fd, memoryview(data), offset)
    return len(data)


def set_metadata(fd: int, metadata: Mapping[str, str]) -> bool:
    """Keep user metadata as extended attributes; False where the file system has none."""
    try:
        for name, value in metadata.items():
            os.setxattr(fd, _XATTR_PREFIX + name, value.encode("utf-8", "surrogatepass"))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise
    return True


def clear_metadata(fd: int) -> None:
    """Remove what `set_metadata` kept."""
    for name in get_metadata(fd):
        os.removexattr(fd, _XATTR_PREFIX + name)


def get_metadata(fd: int) -> dict[str, str]:
    """Return the user metadata that is kept with an open file."""
    try:
        found = [name for name in os.listxattr(fd) if name.startswith(_XATTR_PREFIX)]
        metadata = {
            name.removeprefix(_XATTR_PREFIX): os.getxattr(fd, name).decode("utf-8", "replace")
            for name in found
        }
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENODATA}:
            return {}
        raise
    made_for = metadata.pop(_SHA256_OF, None)
    if SHA256 in metadata and made_for != str(os.fstat(fd).st_mtime_ns):
        # A program that writes in place leaves the digest of what was there before.
        del metadata[SHA256]
    return metadata


def bind_sha256(fd: int) -> None:
    """Let the digest in the metadata of a stamped file count for what it holds now, only."""
    if _XATTR_PREFIX + SHA256 in _list_attributes(fd):
        os.setxattr(fd, _XATTR_PREFIX + _SHA256_OF, str(os.fstat(fd).st_mtime_ns).encode())


def _list_attributes(fd: int) -> list[str]:
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def stamp(fd: int) -> None:
    """Give a finished temporary file a modification time of its own.

    Inode numbers are used again at once and the kernel's own times move in steps of some
    milliseconds: without this, two versions written quickly could look like one.
    """
    now = wall_ns()
    os.utime(fd, ns=(now, now))


def version_of(status: os.stat_result) -> Version:
    """Return the version of what was looked at; a directory's does not change with its entries."""
    if stat.S_ISDIR(status.st_mode):
        return Version(f"dir-{status.st_ino}")
    return Version(f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}")
