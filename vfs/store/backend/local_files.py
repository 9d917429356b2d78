"""What the local store does to files and directories; everything here blocks a worker thread.

The one pattern: make ready under a temporary name, then, under the write lock, look at the
condition and rename; then sync the directory. Order matters: bytes before the name, the name before
the answer.
"""

import errno
import itertools
import os
import secrets
import stat
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from vfs.errors import (
    ConflictError,
    CorruptError,
    DeniedError,
    InvalidError,
    IsDirectoryError,
    NotFoundError,
    StaleError,
    VfsError,
    WrongKindError,
)
from vfs.store.backend import local_disk
from vfs.store.backend.local_disk import version_of
from vfs.store.backend.local_errors import refusal
from vfs.store.backend.local_tree import TEMPORARY, Place, Tree, is_gone
from vfs.store.base import (
    NO_METADATA,
    Body,
    Condition,
    ObjectInfo,
    ObjectVersion,
    Properties,
)
from vfs.values import Key, Span, Version

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Files:
    """Objects as files below one tree."""

    def __init__(self, tree: Tree, url: str) -> None:
        self._tree = tree
        self._url = url

    def describe(self, key: Key) -> ObjectInfo:
        """Return what `Store.head` returns."""
        with self._tree.opened(key, "head") as found:
            if found is None:
                raise self._error(NotFoundError, "head", key, "there is no such file")
            fd, status = found
            return _info(key, status, local_disk.get_metadata(fd))

    @contextmanager
    def source(self, source: ObjectVersion, operation: str) -> Generator[int, None, None]:
        """Open the very version; `check_source` tells whether it still was that one after reading.

        Errors: NotFoundError, StaleError.
        """
        with self._tree.opened(source.key, operation) as found:
            if found is None:
                raise self._error(NotFoundError, operation, source.key, "there is no such file")
            self.check_source(source, operation, found[0])
            yield found[0]

    def check_source(self, source: ObjectVersion, operation: str, fd: int) -> None:
        """Make sure that no other program has written the open file in place.

        Errors: StaleError.
        """
        if version_of(os.fstat(fd)) != source.version:
            raise self._error(StaleError, operation, source.key, "the file has changed")

    def read_into(self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers with a span of one version."""
        try:
            with self.source(source, "read") as fd:
                count = local_disk.read_all(fd, buffers, span.start)
                self.check_source(source, "read", fd)
        except NotFoundError as error:
            raise self._error(StaleError, "read", source.key, "the file is gone") from error
        if count != span.size:
            why = f"{count} bytes where {span.size} were to be"
            raise self._error(CorruptError, "read", source.key, why)

    @contextmanager
    def temporary(self, name: str) -> Generator[tuple[Place, int], None, None]:
        """Make a temporary file; it is removed when the block fails."""
        with self._tree.parent(Key(TEMPORARY + name), "write", create=True) as place:
            fd = os.open(place.name, _CREATE, 0o666, dir_fd=place.fd)
            try:
                yield place, fd
            except BaseException:
                with suppress(OSError):
                    os.unlink(place.name, dir_fd=place.fd)
                raise
            finally:
                os.close(fd)

    def write(
        self,
        key: Key,
        body: Body,
        condition: Condition,
        properties: Properties,
        pause: Callable[[], None],
    ) -> ObjectInfo:
        """Store a whole object."""
        if key.endswith("/"):
            if body.size:
                raise self._error(IsDirectoryError, "write", key, "a directory has no bytes")
            return self.make_directory("write", key, condition, properties.metadata)
        self._tree.components(key, "write")  # refuse a bad key before a byte is written
        with self.temporary(f"write-{secrets.token_hex(16)}") as (place, fd):
            local_disk.write_body(fd, body, 0, pause)
            return self.publish("write", (place, fd, body.size), key, condition, properties)

    def copy(
        self,
        source: ObjectVersion,
        target: Key,
        condition: Condition,
        properties: Properties | None,
        pause: Callable[[], None],
    ) -> ObjectInfo:
        """Copy a whole object; its holes stay holes."""
        if source.key.endswith("/") != target.endswith("/"):
            raise self._error(InvalidError, "copy", target, "a directory copies to a directory")
        self._tree.components(target, "copy")
        with self.source(source, "copy") as source_fd:
            kept = properties or Properties(local_disk.get_metadata(source_fd))
            if target.endswith("/"):
                return self.make_directory("copy", target, condition, kept.metadata)
            size = os.fstat(source_fd).st_size
            with self.temporary(f"copy-{secrets.token_hex(16)}") as (place, fd):
                local_disk.copy_span(source_fd, Span(0, size), fd, 0, pause)
                self.check_source(source, "copy", source_fd)
                return self.publish("copy", (place, fd, size), target, condition, kept)

    def publish(
        self,
        operation: str,
        made: tuple[Place, int, int],
        key: Key,
        condition: Condition,
        properties: Properties | None,
    ) -> ObjectInfo:
        """Give a temporary file (place, descriptor, size) its name, if the condition holds."""
        temporary, fd, size = made
        os.ftruncate(fd, size)
        if properties is not None:
            local_disk.set_metadata(fd, properties.metadata)
        local_disk.stamp(fd)
        local_disk.bind_sha256(fd)
        os.fsync(fd)
        metadata = local_disk.get_metadata(fd)
        with ExitStack() as stack:
            with self._tree.write_lock():
                # Created under the lock: a directory that is being removed must not be used.
                opening = self._tree.parent(key, operation, create=True)
                place = stack.enter_context(opening)
                self._check_file(operation, key, place.status(), condition)
                self._rename(operation, temporary, place, key, condition)
                info = _info(key, os.fstat(fd), metadata)
            self._settle(operation, place.fd, key)
        return info

    def make_directory(
        self, operation: str, key: Key, condition: Condition, metadata: Mapping[str, str]
    ) -> ObjectInfo:
        """Make a directory; one that is there is fine without a condition."""
        with ExitStack() as stack:
            with self._tree.write_lock():
                opening = self._tree.parent(key, operation, create=True)
                place = stack.enter_context(opening)
                status = place.status()
                self._check_directory(operation, key, status, condition)
                if status is None:
                    os.mkdir(place.name, dir_fd=place.fd)
                with self._tree.opened(key, operation) as found:
                    if found is None:
                        raise self._error(NotFoundError, operation, key, "it was removed")
                    local_disk.clear_metadata(found[0])
                    local_disk.set_metadata(found[0], metadata)
                    info = _info(key, found[1], local_disk.get_metadata(found[0]))
            self._settle(operation, place.fd, key)
        return info

    def remove(self, keys: Sequence[Key], if_version: Version | None) -> None:
        """Remove files and empty directories; what is not there is fine."""
        for _, group in itertools.groupby(keys, _directory_of):
            self._remove_from(list(group), if_version)

    def _remove_from(self, keys: Sequence[Key], if_version: Version | None) -> None:
        path = self._tree.components(keys[0], "remove")[:-1]
        try:
            fd = self._tree.open_directory(path)
        except OSError as error:
            if path and is_gone(error):
                return
            raise
        try:
            with self._tree.write_lock():
                for key in keys:
                    name = self._tree.components(key, "remove")[-1]
                    self._remove_one(Place(fd, name), key, if_version)
            self._settle("remove", fd, keys[0])
        finally:
            os.close(fd)

    def _remove_one(self, place: Place, key: Key, if_version: Version | None) -> None:
        status = place.status()
        kind = stat.S_ISDIR if key.endswith("/") else stat.S_ISREG
        if status is None or not kind(status.st_mode):
            return
        if if_version is not None and version_of(status) != if_version:
            raise self._error(ConflictError, "remove", key, "somebody else has changed it")
        if key.endswith("/"):
            os.rmdir(place.name, dir_fd=place.fd)
        else:
            os.unlink(place.name, dir_fd=place.fd)

    def move(self, source: ObjectVersion, target: Key, condition: Condition) -> ObjectInfo:
        """Rename a file or a directory."""
        is_directory = source.key.endswith("/")
        if is_directory != target.endswith("/"):
            raise self._error(InvalidError, "move", target, "a directory moves to a directory")
        with ExitStack() as stack:
            with self._tree.write_lock():
                origin = self._origin(source, stack)
                opening = self._tree.parent(target, "move", create=True)
                place = stack.enter_context(opening)
                check = self._check_directory if is_directory else self._check_file
                check("move", target, place.status(), condition)
                self._rename("move", origin, place, target, condition)
                info = self.describe(target)
            self._settle("move", place.fd, target)
            self._settle("move", origin.fd, source.key)
        return info

    def _origin(self, source: ObjectVersion, stack: ExitStack) -> Place:
        status = None
        try:
            place = stack.enter_context(self._tree.parent(source.key, "move"))
            status = place.status()
        except OSError as error:
            if not is_gone(error):
                raise
            raise self._error(NotFoundError, "move", source.key, "it is not there") from error
        kind = stat.S_ISDIR if source.key.endswith("/") else stat.S_ISREG
        if status is None or not kind(status.st_mode):
            raise self._error(NotFoundError, "move", source.key, "it is not there")
        if stat.S_ISREG(status.st_mode) and version_of(status) != source.version:
            raise self._error(StaleError, "move", source.key, "the file has changed")
        return place

    def _check_file(
        self, operation: str, key: Key, status: os.stat_result | None, condition: Condition
    ) -> None:
        if status is not None and stat.S_ISDIR(status.st_mode):
            raise self._error(IsDirectoryError, operation, key, "it is a directory")
        if status is not None and not stat.S_ISREG(status.st_mode):
            why = "something that is no regular file has that name"
            raise self._error(DeniedError, operation, key, why)
        self._check(operation, key, status, condition)

    def _check_directory(
        self, operation: str, key: Key, status: os.stat_result | None, condition: Condition
    ) -> None:
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise self._error(WrongKindError, operation, key, "it is a file")
        self._check(operation, key, status, condition)

    def _check(
        self, operation: str, key: Key, status: os.stat_result | None, condition: Condition
    ) -> None:
        if condition.if_absent and status is not None:
            raise self._error(ConflictError, operation, key, "it is there already")
        wanted = condition.if_version
        if wanted is not None and (status is None or version_of(status) != wanted):
            raise self._error(ConflictError, operation, key, "somebody else has changed it")

    def _rename(
        self, operation: str, source: Place, target: Place, key: Key, condition: Condition
    ) -> None:
        if not condition.if_absent:
            os.rename(source.name, target.name, src_dir_fd=source.fd, dst_dir_fd=target.fd)
            return
        try:
            local_disk.rename_new(source.fd, source.name, target.fd, target.name)
        except FileExistsError as error:
            raise self._error(ConflictError, operation, key, "it is there already") from error

    def _settle(self, operation: str, fd: int, key: Key) -> None:
        """Sync a directory. The change is made: what fails now must not be tried again."""
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
                return  # this file system syncs no directories
            why = f"done, but not safely on disk: {os.strerror(error.errno or errno.EIO)}"
            raise self._error(VfsError, operation, key, why) from error

    def _error(self, kind: type[VfsError], operation: str, key: Key, why: str) -> VfsError:
        return refusal(kind, operation, self._url, key, why)


def _directory_of(key: Key) -> str:
    return key.removesuffix("/").rpartition("/")[0]


def _info(
    key: Key, status: os.stat_result, metadata: Mapping[str, str] = NO_METADATA
) -> ObjectInfo:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return ObjectInfo(key, size, version_of(status), status.st_mtime_ns, metadata=metadata)
