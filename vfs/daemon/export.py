"""Writing a staged file out as a local one: staged bytes over its base version, holes kept.

A file takes its name when every byte is on disk and was read back, and never the place of another
one. Where bytes of the base version cannot be had, nothing is put in their place: the file is
sparse there, and `NAME.spans.json` beside it says which bytes it has:

    {"version": 1, "size": BYTES, "spans": [[START, STOP], ...]}

Journals are not trusted with paths: below the target directory links are not followed.
"""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from vfs.daemon.leftovers import Leftover
from vfs.daemon.recovery import examine
from vfs.errors import ConfigError, CorruptError, ExistsError, StaleError, VfsError
from vfs.holes import is_zero
from vfs.layout.base import FileVersion
from vfs.names import encode
from vfs.spans import SpanSet
from vfs.stage.disk import read_exactly, stage_error, write_exactly
from vfs.store.base import Store
from vfs.tasks import open_tasks
from vfs.values import KIB, MIB, Key, Span

VERSION = 1
SPANS_SUFFIX = ".spans.json"

PIECE_BYTES = 8 * MIB
"""One ranged read of the base version."""
PIECES_AT_ONCE = 4

GRAIN_BYTES = 64 * KIB
"""Zeros of that length become holes."""

Advance = Callable[[int], None]
"""Told how many more bytes are written."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written out."""

    path: Path
    spans: Path | None = None  # beside it, where it is partial
    why: VfsError | None = None  # why it is


def target_of(directory: Path, key: Key) -> Path:
    """Return where a file goes; its key was checked when the journal was read."""
    return directory.joinpath(*map(os.fsdecode, map(encode, key.split("/"))))


def spans_path(path: Path) -> Path:
    """Return where the map of a partial file goes."""
    return path.with_name(path.name + SPANS_SUFFIX)


def check_targets(directory: Path, keys: Sequence[Key]) -> None:
    """Refuse before anything is written.

    Errors: ExistsError when a file is there already; ConfigError for two files of one name.
    """
    for key in keys:
        path = target_of(directory, key)
        if keys.count(key) > 1:
            raise ConfigError(
                f"two staged files are called {key}: name one of them by its id, which "
                "vfs recover --list --json shows"
            )
        for one in (path, spans_path(path)):
            if os.path.lexists(one):
                raise ExistsError(f"{one} is there already: move it away, or export elsewhere")


async def export(
    one: Leftover, store: Store | VfsError, directory: Path, advance: Advance = lambda _: None
) -> Exported:
    """Write one file out; where the base version cannot be had, what is staged alone.

    `store` may be the reason why there is none. The stage must be held meanwhile.
    Errors: ExistsError; ConfigError for a directory that is none; CorruptError when the file cannot
    be believed, or the disk does not give back what was written; VfsError when the stage's disk
    fails; OSError of the target. Then nothing has the name.
    """
    if one.state is None or one.key is None:
        raise one.error or CorruptError(f"{one.path} cannot be believed")
    dirty, holes = one.state.extent.dirty, one.state.extent.holes
    *folders, name = (encode(part) for part in one.key.split("/"))
    path = target_of(directory, one.key)
    with _opened_directory(directory, folders) as place, _opened(one.path) as source:
        whole = _Target(place, path, name, one.size, advance)
        with whole.made():
            await whole.copy(source, dirty.minus(holes))
            why = await _fetch_base(one, store, whole)
            if why is None:
                await whole.finish()
                return Exported(path)
        part = _Target(place, path, name, one.size, lambda _: None)
        beside = _Target(
            place, spans_path(path), name + os.fsencode(SPANS_SUFFIX), 0, lambda _: None
        )
        told = {"version": VERSION, "size": one.size, "spans": [[s.start, s.stop] for s in dirty]}
        with part.made(), beside.made():
            await part.copy(source, dirty.minus(holes))
            beside.append(json.dumps(told).encode() + b"\n")
            # The map first: a file without one would be taken for whole.
            await beside.finish()
            try:
                await part.finish()
            except BaseException:
                beside.take_back()
                raise
    return Exported(path, spans_path(path), why)


async def _fetch_base(one: Leftover, store: Store | VfsError, target: "_Target") -> VfsError | None:
    """Write what only the base version has; return why it cannot be had, if it cannot."""
    if not one.needs:
        return None
    if isinstance(store, VfsError):
        return store
    try:
        found = await examine(store, one)
        if found.base is None:
            return StaleError("somebody else has written it, and what it was made from is gone")
        await target.fetch(store, found.base, one.needs)
    except VfsError as error:
        return error
    return None


class _Target:
    """A file on its way to its name."""

    def __init__(self, place: int, path: Path, name: bytes, size: int, advance: Advance) -> None:
        self._place = place  # descriptor of its directory
        self._path = path  # for messages
        self._name = name
        self._size = size
        self._advance = advance
        self._written: list[tuple[Span, bytes]] = []  # with the digest of the bytes
        self._fd = -1
        self._temporary = f".vfs-export-{secrets.token_hex(8)}.tmp"

    @contextmanager
    def made(self) -> Generator[None]:
        """Make it, without its name; what has none in the end is gone."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self._temporary, flags, 0o600, dir_fd=self._place)
        try:
            os.ftruncate(self._fd, self._size)
            yield
        finally:
            os.close(self._fd)
            with suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._place)

    async def copy(self, source: int, spans: SpanSet) -> None:
        """Write what is staged. Errors: VfsError when the stage's disk fails; OSError."""
        for piece in _pieces(spans):
            await trio.to_thread.run_sync(self._copy, source, piece)
            self._advance(piece.size)

    def _copy(self, source: int, piece: Span) -> None:
        data = bytearray(piece.size)
        try:
            read_exactly(source, piece.start, memoryview(data))
        except OSError as error:
            raise stage_error(error, self._path) from error
        self._write(piece, data)

    async def fetch(self, store: Store, base: FileVersion, spans: SpanSet) -> None:
        """Write what the base version has. Errors: those of the store; OSError."""
        todo = _pieces(spans)

        async def work() -> None:
            for piece in todo:
                data = bytearray(piece.size)
                await store.read_into(base.pin, piece, [memoryview(data)])
                await trio.to_thread.run_sync(self._write, piece, data)
                self._advance(piece.size)

        async with open_tasks() as nursery:
            for _ in range(PIECES_AT_ONCE):
                nursery.start_soon(work)

    def append(self, data: bytes) -> None:
        """Write at the end."""
        span = Span(self._size, self._size + len(data))
        self._size = span.stop
        self._write(span, data)

    def _write(self, span: Span, data: bytes | bytearray) -> None:
        view = memoryview(data)
        for part in Span(0, span.size).pieces(GRAIN_BYTES):
            piece = view[part.start : part.stop]
            if not is_zero(piece):  # else it is a hole already
                write_exactly(self._fd, span.start + part.start, piece)
        self._written.append((span, hashlib.sha256(data).digest()))

    async def finish(self) -> None:
        """Give it its name, when it is on disk and right.

        Errors: ExistsError; CorruptError; OSError.
        """
        await trio.to_thread.run_sync(self._finish)

    def _finish(self) -> None:
        os.fsync(self._fd)
        # What is read back must come from the disk.
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        check_written(self._fd, self._size, self._written, self._path)
        try:
            self._give_name()
        except FileExistsError:
            raise ExistsError(
                f"{self._path} is there already: move it away, or export elsewhere"
            ) from None
        os.fsync(self._place)

    def _give_name(self) -> None:
        place = self._place
        try:
            os.link(self._temporary, self._name, src_dir_fd=place, dst_dir_fd=place)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if self._name in {os.fsencode(name) for name in os.listdir(place)}:  # noqa: PTH208 - a descriptor
                raise FileExistsError from None
            os.rename(self._temporary, self._name, src_dir_fd=place, dst_dir_fd=place)

    def take_back(self) -> None:
        """Remove it again."""
        os.unlink(self._name, dir_fd=self._place)


_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
"""What link(2) says where there are no hard links: FAT, and our own mounts."""


def check_written(fd: int, size: int, written: Iterable[tuple[Span, bytes]], path: Path) -> None:
    """Read a file back. Blocking. Errors: CorruptError."""
    right = os.fstat(fd).st_size == size
    for span, digest in written:
        data = bytearray(span.size)
        read_exactly(fd, span.start, memoryview(data))
        right = right and hashlib.sha256(data).digest() == digest
    if not right:
        raise CorruptError(f"{path} does not read back as it was written: export to another disk")


def _pieces(spans: SpanSet) -> Iterator[Span]:
    for span in spans:
        yield from span.pieces(PIECE_BYTES)


@contextmanager
def _opened(path: Path) -> Generator[int]:
    """Open staged bytes; a file of nothing but holes may have none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _opened_directory(directory: Path, folders: Sequence[bytes]) -> Generator[int]:
    """Open a directory below another, made where it is missing; no link leads out of it."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for depth, folder in enumerate(folders):
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700, dir_fd=fd)
                os.fsync(fd)
            fd = _descend(fd, folder, directory.joinpath(*map(os.fsdecode, folders[: depth + 1])))
        yield fd
    finally:
        os.close(fd)


def _descend(fd: int, folder: bytes, path: Path) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        below = os.open(folder, flags, dir_fd=fd)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise ConfigError(
                f"{path} is a link or a file: export into another directory"
            ) from None
        raise
    os.close(fd)
    return below
