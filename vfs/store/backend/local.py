"""A directory as a store: `file:///dir`, on any POSIX file system, also NFS and CIFS.

Keys are paths (`local_tree`), a directory `a` is the marker object `a/`, and whatever is no regular
file or directory is hidden. What is written goes to a temporary file below `.vfs/tmp/` and is
renamed into place (`local_files`); a crash leaves the old object or the new one, and perhaps a
temporary file, which is left to its owner.

The version of a file is its inode, size and both times: every writer of ours makes a new inode, and
what other programs change in place shows by the times, as finely as the kernel keeps them. User
metadata are extended attributes (`user.vfs.NAME`).
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.errors import (
    DeniedError,
    InvalidError,
    NotFoundError,
    ReadOnlyError,
    VfsError,
    WrongKindError,
)
from vfs.store.backend import local_disk
from vfs.store.backend._threads import Threads, run_blocking
from vfs.store.backend.local_errors import refusal, translated
from vfs.store.backend.local_files import Files
from vfs.store.backend.local_list import Lister
from vfs.store.backend.local_tree import MAX_KEY_BYTES, TEMPORARY, Place, Tree
from vfs.store.backend.local_upload import PartGoneError, Places, Uploads
from vfs.store.base import (
    ANY,
    PLAIN_PROPERTIES,
    Body,
    Condition,
    Features,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    Part,
    PartRules,
    Properties,
    Store,
    Upload,
)
from vfs.store.zeros import zeros_digest
from vfs.values import Key, Span, Version

T = TypeVar("T")

_LARGEST = (1 << 63) - 1  # off_t; the file system's own limit comes first, as EFBIG

_FEATURES = Features(
    write_if_absent=True,
    write_if_version=True,
    finish_if_absent=True,
    finish_if_version=True,
    copy_if_absent=True,
    copy_if_version=True,
    copy_pins_source=True,
    copy_part_pins_source=True,
    remove_if_version=True,
    multipart=True,
    copy_part=True,
    sparse=True,
    move=True,
    remove_max_keys=1000,
    max_key_bytes=MAX_KEY_BYTES,  # each component is checked by itself
    parts=PartRules(
        min_bytes=1,
        max_bytes=_LARGEST,
        max_parts=1_000_000,
        max_object_bytes=_LARGEST,
        max_write_bytes=_LARGEST,
    ),
)

_pause = trio.from_thread.check_cancelled


class LocalStore(Store):
    """Objects as files below one directory."""

    def __init__(self, root: Path) -> None:
        self.url = root.as_uri()
        self._root = root
        self._tree = Tree(root, self.url)
        self._files = Files(self._tree, self.url)
        self._lister = Lister(self._tree, self.url)
        self._uploads = Uploads()
        self._threads = Threads()
        self._features = _FEATURES

    @property
    @override
    def features(self) -> Features:
        return self._features

    @override
    async def probe(self, *, write: bool, known: Features | None = None) -> Features:
        self._features = await self._run(
            "probe", Key(""), self._threads.control, lambda: self._look(write=write)
        )
        return self._features

    @override
    async def head(self, key: Key) -> ObjectInfo:
        return await self._run(
            "head", key, self._threads.control, lambda: self._files.describe(key)
        )

    @override
    async def list(
        self,
        prefix: Key,
        *,
        delimiter: str = "",
        start_after: Key | None = None,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        return await self._run(
            "list",
            prefix,
            self._threads.control,
            lambda: self._lister.page(prefix, delimiter, start_after or "", cursor, limit),
        )

    @override
    async def read_into(
        self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]
    ) -> None:
        await self._run(
            "read",
            source.key,
            self._threads.reads,
            lambda: self._files.read_into(source, span, buffers),
        )

    @override
    async def write(
        self,
        key: Key,
        body: Body,
        *,
        condition: Condition = ANY,
        properties: Properties = PLAIN_PROPERTIES,
    ) -> ObjectInfo:
        return await self._run(
            "write",
            key,
            self._threads.writes,
            lambda: self._files.write(key, body, condition, properties, _pause),
        )

    @override
    async def copy(
        self,
        source: ObjectVersion,
        target: Key,
        *,
        condition: Condition = ANY,
        properties: Properties | None = None,
    ) -> ObjectInfo:
        return await self._run(
            "copy",
            target,
            self._threads.writes,
            lambda: self._files.copy(source, target, condition, properties, _pause),
        )

    @override
    async def remove(self, keys: Sequence[Key], *, if_version: Version | None = None) -> None:
        if len(keys) > self._features.remove_max_keys or (if_version and len(keys) != 1):
            raise self._error(InvalidError, "remove", keys[0], f"not {len(keys)} keys in one call")
        await self._run(
            "remove",
            keys[0] if len(keys) == 1 else Key(""),
            self._threads.control,
            lambda: self._files.remove(keys, if_version),
        )

    @override
    async def move(
        self, source: ObjectVersion, target: Key, *, condition: Condition = ANY
    ) -> ObjectInfo:
        return await self._run(
            "move",
            target,
            self._threads.control,
            lambda: self._files.move(source, target, condition),
        )

    @override
    async def begin_upload(self, key: Key, *, properties: Properties = PLAIN_PROPERTIES) -> Upload:
        return await self._run(
            "begin_upload", key, self._threads.control, lambda: self._begin(key, properties)
        )

    @override
    async def upload_part(
        self, upload: Upload, number: int, body: Body, *, offset: int | None = None
    ) -> Part:
        def fill(fd: int, places: Places, start: int) -> str:
            whole = Span(0, body.size)
            if body.is_hole(whole):  # a terabyte of it takes no time
                local_disk.fill_zeros(fd, whole.shift(start))
                return zeros_digest(body.size)
            digest = hashlib.sha256()
            local_disk.write_body(fd, body, start, partial(_pause_part, places), digest)
            return digest.hexdigest()

        work = partial(self._place, "upload_part", upload, (number, offset, body.size), fill)
        return await self._run("upload_part", upload.key, self._threads.writes, work)

    @override
    async def copy_part(
        self,
        upload: Upload,
        number: int,
        source: ObjectVersion,
        span: Span,
        *,
        offset: int | None = None,
    ) -> Part:
        def fill(fd: int, places: Places, start: int) -> None:
            with self._files.source(source, "copy_part") as source_fd:
                pause = partial(_pause_part, places)
                local_disk.copy_span(source_fd, span, fd, start, pause)
                self._files.check_source(source, "copy_part", source_fd)

        work = partial(self._place, "copy_part", upload, (number, offset, span.size), fill)
        return await self._run("copy_part", upload.key, self._threads.writes, work)

    @override
    async def finish_upload(
        self, upload: Upload, parts: Sequence[Part], *, condition: Condition = ANY
    ) -> ObjectInfo:
        return await self._run(
            "finish_upload",
            upload.key,
            self._threads.writes,
            lambda: self._finish(upload, parts, condition),
        )

    @override
    async def abort_upload(self, upload: Upload) -> None:
        await self._run(
            "abort_upload", upload.key, self._threads.control, lambda: self._abort(upload)
        )

    @override
    async def aclose(self) -> None:
        await trio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        self._lister.close()
        self._tree.close()

    async def _run(
        self, operation: str, key: Key, limiter: trio.CapacityLimiter, work: Callable[[], T]
    ) -> T:
        def guarded() -> T:
            with translated(operation, self.url, key):
                return work()

        return await run_blocking(limiter, guarded)

    def _begin(self, key: Key, properties: Properties) -> Upload:
        self._tree.components(key, "begin_upload")
        if key.endswith("/"):
            raise self._error(InvalidError, "begin_upload", key, "a directory has no bytes")
        upload_id = secrets.token_hex(16)
        with self._files.temporary(f"upload-{upload_id}") as (_, fd):
            local_disk.set_metadata(fd, properties.metadata)
        return Upload(key, upload_id, properties.commit_id)

    @contextmanager
    def _opened(self, operation: str, upload: Upload) -> Generator[tuple[Place, int], None, None]:
        try:
            with self._tree.parent(_temporary_name(upload), operation) as place:
                fd = os.open(place.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.fd)
                try:
                    yield place, fd
                finally:
                    os.close(fd)
        except (FileNotFoundError, PartGoneError) as error:
            why = str(error) if isinstance(error, PartGoneError) else "the upload is gone"
            raise self._error(NotFoundError, operation, upload.key, why) from error

    def _place(
        self,
        operation: str,
        upload: Upload,
        part: tuple[int, int | None, int],
        fill: Callable[[int, Places, int], str | None],
    ) -> Part:
        number, offset, size = part
        if offset is None:
            why = "a directory stores parts at their place: the offset is needed"
            raise self._error(InvalidError, operation, upload.key, why)
        if not 1 <= number <= self._features.parts.max_parts:
            why = f"part number {number} is not in 1..{self._features.parts.max_parts}"
            raise self._error(InvalidError, operation, upload.key, why)
        # In this order: once an upload is over, its file is not found under its name any more.
        places = self._uploads.places(upload.upload_id)
        with (
            self._opened(operation, upload) as (_, fd),
            places.writing(Span(offset, offset + size)) as tag,
        ):
            sha256 = fill(fd, places, offset)
        return Part(number, tag, size, sha256)

    def _finish(self, upload: Upload, parts: Sequence[Part], condition: Condition) -> ObjectInfo:
        places = self._uploads.places(upload.upload_id)
        with self._opened("finish_upload", upload) as (place, fd), places.finishing():
            try:
                size = places.total(parts)
            except ValueError as error:
                raise self._error(InvalidError, "finish_upload", upload.key, str(error)) from error
            made = (place, fd, size)
            info = self._files.publish("finish_upload", made, upload.key, condition, None)
        self._uploads.forget(upload.upload_id)
        return info

    def _abort(self, upload: Upload) -> None:
        with suppress(PartGoneError):
            self._files.remove([_temporary_name(upload)], None)
            self._uploads.places(upload.upload_id).abort()
            self._uploads.forget(upload.upload_id)

    def _look(self, *, write: bool) -> Features:
        """Check the directory, as `Store.probe` says."""
        self._check_root(write=write)
        if not write:
            return replace(self._features, metadata=_lists_attributes(self._tree.root_fd()))
        name = f"probe-{secrets.token_hex(16)}"
        with self._files.temporary(name) as (_, fd):
            metadata = local_disk.set_metadata(fd, {"probe": "1"})
        self._files.remove([Key(TEMPORARY + name)], None)
        # Without locks another daemon could come between a look and a rename; a rename that
        # refuses to replace needs none.
        locks = self._tree.locks_between_processes
        return replace(
            self._features,
            metadata=metadata,
            write_if_version=locks,
            finish_if_version=locks,
            copy_if_version=locks,
            remove_if_version=locks,
        )

    def _check_root(self, *, write: bool) -> None:
        try:
            mode = self._root.stat().st_mode
        except FileNotFoundError as error:
            why = "the directory does not exist; create it, or mount what it is on"
            raise self._error(NotFoundError, "probe", Key(""), why) from error
        if not stat.S_ISDIR(mode):
            raise self._error(WrongKindError, "probe", Key(""), "it is not a directory")
        if not os.access(self._root, os.R_OK | os.X_OK):
            why = "it cannot be read; grant this user read and search permission"
            raise self._error(DeniedError, "probe", Key(""), why)
        if write and os.statvfs(self._root).f_flag & os.ST_RDONLY:
            why = "its file system is read-only; mount with -o ro"
            raise self._error(ReadOnlyError, "probe", Key(""), why)
        if write and not os.access(self._root, os.W_OK):
            why = "it cannot be written; grant this user write permission or mount with -o ro"
            raise self._error(DeniedError, "probe", Key(""), why)

    def _error(self, kind: type[VfsError], operation: str, key: Key, why: str) -> VfsError:
        return refusal(kind, operation, self.url, key, why)


def _pause_part(places: Places) -> None:
    _pause()
    places.check()


def _temporary_name(upload: Upload) -> Key:
    """Return where an upload's bytes are; an id that cannot be ours is that of no upload."""
    if re.fullmatch(r"[0-9a-f]{32}", upload.upload_id) is None:
        raise PartGoneError("the upload is not of this store")
    return Key(f"{TEMPORARY}upload-{upload.upload_id}")


def _lists_attributes(fd: int) -> bool:
    try:
        os.listxattr(fd)
    except OSError:
        return False
    return True
