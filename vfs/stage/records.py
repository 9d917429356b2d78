r"""An append-only log of small records that survives a crash at any byte.

    vfs-log 1 <kind>\n                      the header: format version and what the records are
    <crc32 of the JSON, 8 hex digits> <JSON>\n     a record

A record counts only when its line is whole and its checksum right. Reading stops at the first that
is not: a crash leaves any mixture behind what was synced. Each sync begins with a mark of what was
on the disk before it, `{"durable": bytes}`; damage before that is no crash, and the log is refused:
who has lost a record in the middle would believe what is not so. A log of a newer version is
refused and left untouched. Zeros may stand behind the last record.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import trio

from vfs.errors import CorruptError, MetadataError
from vfs.layout.base import FileVersion
from vfs.store.base import ObjectVersion
from vfs.values import KIB, Key, Version

LOG_VERSION = 1
MOST_ROOM_BYTES = 256 * KIB
"""Zeros that are written behind the last record, for records to come."""

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]
Record = Mapping[str, Value]
Shorter = Callable[[list[dict[str, Value]]], Iterable[Record]]


_MARK = "durable"


def encode_record(record: Record) -> bytes:
    """Return one line of the log."""
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=True).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def decode_record(line: bytes) -> dict[str, Value] | None:
    """Return the record of a line without its newline; None when it is damaged."""
    checksum, _, text = line.partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text) or len(checksum) != 8:  # noqa: PLR2004
            return None
        record: Value = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read_log(data: bytes, kind: str, path: Path) -> tuple[list[dict[str, Value]], int]:
    """Return the valid records of a log and the length of its valid beginning in bytes.

    Errors: MetadataError for a newer version; CorruptError when the header is not one, or a record
    is damaged that had been synced.
    """
    head, newline, _ = data.partition(b"\n")
    words = head.split(b" ")
    if not newline or len(words) != 3 or words[0] != b"vfs-log":  # noqa: PLR2004
        raise CorruptError(f"{path} does not begin like a log of vfs")
    if words[1] != b"%d" % LOG_VERSION:
        raise MetadataError(
            f"{path} has format version {words[1].decode('ascii', 'replace')}; this program reads "
            f"{LOG_VERSION}: use the newer vfs that wrote it"
        )
    if words[2] != kind.encode("ascii"):
        raise CorruptError(
            f"{path} is a log of another kind: {words[2].decode('ascii', 'replace')}"
        )
    records: list[dict[str, Value]] = []
    position = len(head) + 1
    while (end := data.find(b"\n", position)) >= 0:
        record = decode_record(data[position:end])
        if record is None:
            _check_unsynced(position, data[end + 1 :], path)
            break
        if _MARK not in record:
            records.append(record)
        position = end + 1
    return records, position


def _check_unsynced(position: int, rest: bytes, path: Path) -> None:
    for line in rest.split(b"\n"):
        record = decode_record(line)
        if record is not None and _MARK in record and number(record, _MARK) > position:
            raise CorruptError(f"{path} is damaged at byte {position}, before its end")


def text(record: Record, name: str) -> str:
    """Return a field that is a text. Errors: KeyError, TypeError."""
    value = record[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} is a text")
    return value


def number(record: Record, name: str, *, signed: bool = False) -> int:
    """Return a field that is a whole number. Errors: KeyError, TypeError."""
    value = record[name]
    if not isinstance(value, int) or isinstance(value, bool) or (value < 0 and not signed):
        raise TypeError(f"{name} is a number")
    return value


def file_record(file: FileVersion) -> dict[str, Value]:
    """Return a file version as JSON values."""
    return {
        "key": file.pin.key,
        "version": file.pin.version,
        "version_id": file.pin.version_id,
        "size": file.size,
        "mtime_ns": file.mtime_ns,
    }


def file_of(record: Record) -> FileVersion:
    """Return the file version of its JSON values. Errors: KeyError, TypeError."""
    version_id = None if record.get("version_id") is None else text(record, "version_id")
    pin = ObjectVersion(Key(text(record, "key")), Version(text(record, "version")), version_id)
    return FileVersion(pin, number(record, "size"), number(record, "mtime_ns", signed=True))


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class RecordLog:
    """One log file, open for appending."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path = path
        self._kind = kind
        self._header = b"vfs-log %d %s\n" % (LOG_VERSION, kind.encode("ascii"))
        self._pending: list[bytes] = []
        self._written: list[bytes] = []  # in the page cache, behind what is on the disk
        self._durable_size = 0  # bytes on the disk
        self._filled = 0  # bytes of the file, zeros at its end included
        self._writing = False  # a thread writes: what comes now goes behind it
        self._queued = 0  # records appended
        self._synced = 0  # of those, durable
        self._lock = trio.Lock()
        self.damaged_bytes = 0  # found behind the last valid record when it was opened
        self._fd = -1
        self._named = False  # the directory entry is on the disk
        self.size = 0

    def open(self, *, durable: bool = True) -> list[dict[str, Value]]:
        """Open or create the log and return its records; a damaged end is cut off. Blocking.

        Not `durable`: quick, and a power cut may lose the file itself until the first sync.
        """
        header = self._header
        data = self._path.read_bytes().rstrip(b"\0") if self._path.exists() else b""
        # A crash while the file was created can leave less than a header: nothing was in it yet.
        fresh = header.startswith(data)
        records, valid = ([], len(header)) if fresh else read_log(data, self._kind, self._path)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if fresh:
            os.pwrite(self._fd, header, 0)
        else:
            self.damaged_bytes = len(data) - valid
            os.ftruncate(self._fd, valid)
        self._named = durable
        if durable:
            os.fdatasync(self._fd)
            sync_directory(self._path.parent)
        self.size = self._durable_size = self._filled = valid
        return records

    def append(self, record: Record) -> None:
        """Queue a record for the next sync."""
        self._pending.append(encode_record(record))
        self._queued += 1

    def flush(self) -> None:
        """Hand what was appended to the kernel: it survives this process, not the machine.

        Errors: OSError of the disk; the records stay queued.
        """
        if self._pending and not self._writing:
            self._write(self._pending)
            self._written += self._pending
            self._pending = []

    async def sync(self) -> None:
        """Return when everything appended before the call is on the disk.

        Callers that wait at the same time share one write and one fdatasync. Errors: OSError of the
        disk; the records stay queued for the next call.
        """
        goal = self._queued
        while self._synced < goal or not self._named:
            async with self._lock:
                if self._synced >= goal and self._named:
                    return
                await self._sync([], None)

    async def sync_behind(self, first: Callable[[], None], last: Record) -> None:
        """Call `first` in a thread, then sync all that was appended, and `last` behind it.

        Errors: those of `first`, and OSError of the disk; then `last` was not appended.
        """
        async with self._lock:
            await self._sync([encode_record(last)], first)

    async def _sync(self, behind: list[bytes], first: Callable[[], None] | None) -> None:
        lines, upto = self._pending, self._queued
        self._pending, self._writing = [], True
        try:
            await trio.to_thread.run_sync(self._write_durably, [*lines, *behind], first)
        except BaseException:
            # The kernel may have dropped what it could not write: all of it once more.
            self._pending = [*self._written, *lines, *self._pending]
            self._written, self.size = [], self._durable_size
            raise
        finally:
            self._writing = False
        self._written, self._durable_size = [], self.size
        self._synced = upto
        self.flush()

    def _write_durably(self, lines: list[bytes], first: Callable[[], None] | None) -> None:
        if first is not None:
            first()
        if not self._named:
            # Before what is written below: it may promise a file beside the log, and be read
            # without having been synced.
            sync_directory(self._path.parent)
            self._named = True
        if lines and self._durable_size > len(self._header):
            lines = [encode_record({_MARK: self._durable_size}), *lines]
        self._write(lines)
        if self.size > self._filled:
            # A file that grows costs its file system a commit of its own at each sync.
            room = min(max(self.size, 4 * KIB), MOST_ROOM_BYTES)
            os.pwrite(self._fd, bytes(room), self.size)
            self._filled = self.size + room
        os.fdatasync(self._fd)

    def _write(self, lines: list[bytes]) -> None:
        view, offset = memoryview(b"".join(lines)), self.size
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done
        self.size = offset

    async def rewrite(self, records: Callable[[], Iterable[Record] | None]) -> None:
        """Replace the whole log, atomically, by shorter records that say the same.

        Shape: `records` is called when nothing else is being written, and must tell all that was
        appended until then; None leaves the log as it is. Errors: OSError of the disk; the old log
        stands.
        """
        async with self._lock:
            told = records()
            if told is None:
                return
            data = self._header + b"".join(encode_record(record) for record in told)
            lines, upto = self._pending, self._queued
            self._pending, self._writing = [], True
            try:
                await trio.to_thread.run_sync(self._replace, data)
            except BaseException:  # cancelled before it has begun, too
                self._pending = lines + self._pending
                raise
            finally:
                self._writing = False
            self._written, self._durable_size, self._filled = [], self.size, self.size
            self._synced = max(self._synced, upto)
            self.flush()

    async def shorten(self, shorter: Shorter, ready: Callable[[], bool]) -> None:
        """Replace the whole log, atomically, by what `shorter` makes of its records in a thread.

        Shape: `ready` is called when nothing is being written; what is appended after it comes
        behind. Errors: OSError of the disk; the old log stands.
        """
        async with self._lock:
            self.flush()
            if not ready():
                return
            upto, self._writing = self._queued, True
            try:
                await trio.to_thread.run_sync(self._shorten, shorter)
            finally:
                self._writing = False
            self._written, self._durable_size, self._filled = [], self.size, self.size
            self._synced = max(self._synced, upto)
            self.flush()

    def _shorten(self, shorter: Shorter) -> None:
        data = os.pread(self._fd, self.size, 0)
        records, _ = read_log(data, self._kind, self._path)
        self._replace(self._header + b"".join(encode_record(one) for one in shorter(records)))

    def _replace(self, data: bytes) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        os.fdatasync(fd)
        fresh.replace(self._path)
        # At once: the old file has no name any more, whatever the disk says to the next line.
        os.close(self._fd)
        self._fd, self.size, self._named = fd, len(data), False
        self._durable_size = self._filled = self.size
        with suppress(OSError):  # both logs say the same; the next sync tries it again, and tells
            sync_directory(self._path.parent)
            self._named = True

    def close(self) -> None:
        """Close the file; what was appended and not synced is lost."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
