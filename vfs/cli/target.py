"""Where a download goes on this machine: a file of its own, or into what stands there already.

A regular file takes its name when every byte is on disk, so whoever is interrupted leaves no half
file under the real name; a link stays a link, and what it points at is replaced. Devices, pipes and
open files of ours (/dev/stdout) cannot be replaced: the bytes go into them as they come, and stay
there when the rest does not come.
"""

import errno
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from vfs.errors import (
    BusyError,
    CorruptError,
    FullError,
    IsDirectoryError,
    NotFoundError,
    UnsupportedError,
)

MAX_LINKS = 40
"""As many as the kernel follows, path_resolution(7)."""

_UNSYNCABLE = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EROFS})
"""What fsync says of pipes, terminals and the like, fsync(2)."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something open that takes the bytes of one download."""

    path: Path  # as it was given
    descriptor: int
    in_order: bool  # there are no offsets: each byte must come after the one before it

    async def write(self, offset: int, data: bytearray) -> None:
        """Write all of the data; `offset` counts from the start of the download."""
        view = memoryview(data)
        with _named(self.path):
            while view:
                if self.in_order:
                    # A pipe that nobody reads blocks for ever. The thread that is left behind does
                    # this one call at most: the number may be another file's by then.
                    count = await trio.to_thread.run_sync(
                        os.write, self.descriptor, view, abandon_on_cancel=True
                    )
                else:
                    count = await trio.to_thread.run_sync(os.pwrite, self.descriptor, view, offset)
                view, offset = view[count:], offset + count

    async def sync(self) -> None:
        """Return when the bytes are on disk, where there is one."""
        with _named(self.path):
            try:
                await trio.to_thread.run_sync(os.fsync, self.descriptor)
            except OSError as error:
                if not self.in_order or error.errno not in _UNSYNCABLE:
                    raise


def check_place(path: Path, *, directory: bool) -> None:
    """Refuse a place in a directory that is not there; `directory` if it must be one itself.

    Errors: NotFoundError.
    """
    missing = path if directory else path.parent
    if not missing.is_dir():
        raise NotFoundError(f"{missing}: no such directory; create it first")


@asynccontextmanager
async def open_target(path: Path, size: int) -> AsyncGenerator[Target]:
    """Open what `size` bytes are to be written into; leaving the block makes them last.

    Errors: NotFoundError for a link that leads nowhere; FullError, BusyError for a device;
    IsDirectoryError, UnsupportedError for what takes no bytes; OSError.
    Cancellation: nothing is left of a regular file.
    """
    found = _look(path)
    if (own := own_descriptor(path)) is not None:
        with _named(path):
            opened = os.dup(own)  # opened anew it would begin at its start again
        async with _opened(Target(path, opened, in_order=True)) as target:
            yield target
    elif found is None or stat.S_ISREG(found.st_mode):
        with _new_file(path, found) as descriptor:
            target = Target(path, descriptor, in_order=False)
            with _named(path):
                os.truncate(descriptor, size)
            yield target
            await target.sync()
            if os.fstat(descriptor).st_size != size:
                raise CorruptError(f"{path} does not have the size that was written")
    elif stat.S_ISBLK(found.st_mode):
        async with _opened(Target(path, _open_device(path, size), in_order=False)) as target:
            yield target
    elif stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode):
        flags = os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC
        # A pipe is open when somebody reads it.
        opened = await trio.to_thread.run_sync(os.open, path, flags, abandon_on_cancel=True)
        async with _opened(Target(path, opened, in_order=True)) as target:
            yield target
    elif stat.S_ISDIR(found.st_mode):
        raise IsDirectoryError(f"{path} is a directory; a file cannot take its place")
    else:
        raise UnsupportedError(f"{path} is neither a file, a device nor a pipe; nothing is written")


@asynccontextmanager
async def _opened(target: Target) -> AsyncGenerator[Target]:
    try:
        yield target
        await target.sync()
    finally:
        os.close(target.descriptor)


def _look(path: Path) -> os.stat_result | None:
    """Return what is there, None for nothing; links are followed."""
    try:
        return path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise NotFoundError(
                f"{path} is a link to {path.readlink()}, which is not there; remove the link, or"
                " create what it points at"
            ) from None
        return None


def own_descriptor(path: Path) -> int | None:
    """Return the number of the open file of ours that a path stands for, as /dev/stdout does."""
    for _ in range(MAX_LINKS):
        directory = os.path.realpath(path.parent)
        if directory == f"/proc/{os.getpid()}/fd" and path.name.isdecimal():
            return int(path.name)
        try:
            path = Path(directory, path.readlink())
        except OSError:
            return None
    return None


def _open_device(path: Path, size: int) -> int:
    try:
        # Without O_CREAT this refuses a device that is mounted or part of another one, open(2).
        descriptor = os.open(path, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise BusyError(
            f"{path} is in use, mounted or part of another device; free it first"
        ) from None
    capacity = os.lseek(descriptor, 0, os.SEEK_END)
    if capacity < size:
        os.close(descriptor)
        raise FullError(
            f"{path} is too small: it has {capacity} bytes, {size} are to be written; nothing is"
            " changed"
        )
    return descriptor


@contextmanager
def _new_file(path: Path, old: os.stat_result | None) -> Generator[int]:
    """Open a file that takes the name of `path` at the end, and mode and owner of what is there."""
    real = Path(os.path.realpath(path))
    with _named(path):
        if old is not None:
            if not os.path.samestat(real.stat(), old):  # a name in /proc of somebody's open file
                raise UnsupportedError(f"{path} has no name of its own that could be replaced")
            if not os.access(real, os.W_OK):  # as cp; to replace it needs the directory alone
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        temporary = real.with_name(f".{real.name[:200]}.vfs-{secrets.token_hex(4)}.tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o666 if old is None else 0o600)
    try:
        yield descriptor
        with _named(path):
            if old is not None:
                # Some file systems know neither; others may not give files away.
                with suppress(OSError):
                    os.fchown(descriptor, old.st_uid, old.st_gid)
                with suppress(OSError):
                    os.fchmod(descriptor, old.st_mode & 0o777)
            temporary.replace(real)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    # The name must be as lasting as the bytes.
    directory = os.open(real.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def _named(path: Path) -> Generator[None]:
    """Give an OSError the name that the user knows."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        raise OSError(number, error.strerror or os.strerror(number), str(path)) from error
