"""Where keys are in a directory: one open directory at a time, never through a symbolic link.

Every component is opened relative to the one before with O_NOFOLLOW, so that nothing below the root
can lead out of it, whoever renames or links things meanwhile. The root stays open: were its file
system unmounted, an empty mount point must not be mistaken for an empty store.

The write lock (`.vfs/lock`) makes condition and effect one step, also between daemons that share
the directory. It is held for a look and a rename, never while bytes are written or synced.
"""

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vfs import names
from vfs.errors import InvalidNameError, NameTooLongError
from vfs.store.backend.local_errors import refusal
from vfs.values import Key

TEMPORARY = Key(f"{names.OWN_DIRECTORY}/tmp/")  # noqa: S108 - below the root, not the host's

MAX_KEY_BYTES = 4095
"""PATH_MAX of Linux without its NUL: nothing else could reach what is deeper."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO that has just taken the file's place must not hold a thread for ever.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


@dataclass(frozen=True, slots=True)
class Place:
    """A name in an open directory."""

    fd: int
    name: bytes

    def status(self) -> os.stat_result | None:
        """Look without following; None where nothing is."""
        try:
            return os.stat(self.name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None


class Tree:
    """The open directory behind a `file://` URL."""

    def __init__(self, root: Path, url: str) -> None:
        self._root = root
        self._url = url
        self._root_fd: int | None = None
        self._opening = threading.Lock()
        self._writing = threading.Lock()
        self.locks_between_processes = True

    def close(self) -> None:
        """Close the root."""
        with self._opening:
            if self._root_fd is not None:
                os.close(self._root_fd)
                self._root_fd = None

    def root_fd(self) -> int:
        """Return the root's descriptor, which stays this tree's."""
        with self._opening:
            if self._root_fd is None:
                self._root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return self._root_fd

    def components(self, key: str, operation: str) -> list[bytes]:
        """Return the names on the way to a key.

        Errors: InvalidNameError, NameTooLongError for keys that no path can stand for.
        """
        parts = key.removesuffix("/").split("/")
        if len(key) > MAX_KEY_BYTES or len(names.encode(key)) > MAX_KEY_BYTES:
            why = f"a path of more than {MAX_KEY_BYTES} bytes"
            raise refusal(NameTooLongError, operation, self._url, key, why)
        for part in parts:
            if names.is_name(part):
                continue
            if len(names.encode(part)) > names.NAME_MAX_BYTES:
                why = f"a name of more than {names.NAME_MAX_BYTES} bytes"
                raise refusal(NameTooLongError, operation, self._url, key, why)
            why = f"{part!r} cannot be a file name"
            raise refusal(InvalidNameError, operation, self._url, key, why)
        return [names.encode(part) for part in parts]

    def open_directory(self, path: Sequence[bytes], *, create: bool = False) -> int:
        """Open a directory below the root; the caller closes it."""
        fd = os.open(".", _DIRECTORY, dir_fd=self.root_fd())
        try:
            for name in path:
                inner = _step(fd, name, create=create)
                os.close(fd)
                fd = inner
        except BaseException:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def parent(
        self, key: Key, operation: str, *, create: bool = False
    ) -> Generator[Place, None, None]:
        """Open the directory that holds a key's last name."""
        *path, name = self.components(key, operation)
        fd = self.open_directory(path, create=create)
        try:
            yield Place(fd, name)
        finally:
            os.close(fd)

    @contextmanager
    def opened(
        self, key: Key, operation: str
    ) -> Generator[tuple[int, os.stat_result] | None, None, None]:
        """Open the file or directory of a key for reading; None where there is none."""
        path = self.components(key, operation)
        try:
            fd = self._open_entry(path, want_directory=key.endswith("/"))
        except OSError as error:
            if error.errno not in _GONE:
                raise
            yield None
            return
        try:
            status = os.fstat(fd)
            fits = stat.S_ISDIR if key.endswith("/") else stat.S_ISREG
            yield (fd, status) if fits(status.st_mode) else None
        finally:
            os.close(fd)

    def _open_entry(self, path: Sequence[bytes], *, want_directory: bool) -> int:
        fd = self.open_directory(path[:-1])
        try:
            if want_directory:
                return os.open(path[-1], _DIRECTORY, dir_fd=fd)
            # Look before opening: to open a device can have effects of its own.
            if not stat.S_ISREG(os.stat(path[-1], dir_fd=fd, follow_symlinks=False).st_mode):
                raise FileNotFoundError(errno.ENOENT, "no regular file")
            return os.open(path[-1], _READ, dir_fd=fd)
        finally:
            os.close(fd)

    @contextmanager
    def write_lock(self) -> Generator[None, None, None]:
        """Keep every other writer of this directory out."""
        with self._writing:
            with self.parent(Key(f"{names.OWN_DIRECTORY}/lock"), "lock", create=True) as place:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(place.name, flags, 0o666, dir_fd=place.fd)
            try:
                self._lock(fd)
                yield
            finally:
                os.close(fd)  # this also unlocks

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}:
                raise
            self.locks_between_processes = False


def is_gone(error: OSError) -> bool:
    """Tell whether an error means that there is no such object (what is hidden is not there)."""
    return error.errno in _GONE


def _step(fd: int, name: bytes, *, create: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=fd)
    except FileNotFoundError:
        if not create:
            raise
    try:
        os.mkdir(name, dir_fd=fd)
        os.fsync(fd)
    except FileExistsError:
        pass  # somebody else was faster
    return os.open(name, _DIRECTORY, dir_fd=fd)
