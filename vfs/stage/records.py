r"""An append-only log of small records that survives a crash at any byte.

    vfs-log 1 <kind>\n                      the header: format version and what the records are
    about <crc32 of the JSON, 8 hex digits> <JSON>\n

A record counts only when its line is whole and its checksum right; reading stops at the first that
is not, because what follows it was written later. A log of a newer version is refused and left
untouched. `sync` is a group commit: callers that wait at the same time share one write and one
fdatasync.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import trio

from vfs.errors import CorruptError, MetadataError
from vfs.layout.base import FileVersion
from vfs.store.base import ObjectVersion
from vfs.values import Key, Version

LOG_VERSION = 1

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]
Record = Mapping[str, Value]


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

    Errors: MetadataError for a newer version, CorruptError when the header is not one.
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
            break
        records.append(record)
        position = end + 1
    return records, position


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
        self._pending: list[bytes] = []
        self._queued = 0  # records appended
        self._synced = 0  # of those, durable
        self._lock = trio.Lock()
        self.damaged_bytes = 0  # found behind the last valid record when it was opened
        self._fd = -1
        self.size = 0

    def open(self) -> list[dict[str, Value]]:
        """Open or create the log and return its records; a damaged end is cut off. Blocking."""
        header = b"vfs-log %d %s\n" % (LOG_VERSION, self._kind.encode("ascii"))
        data = self._path.read_bytes() if self._path.exists() else b""
        # A crash while the file was created can leave less than a header: nothing was in it yet.
        fresh = header.startswith(data)
        records, valid = ([], len(header)) if fresh else read_log(data, self._kind, self._path)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if fresh:
            os.pwrite(self._fd, header, 0)
        elif valid < len(data):
            self.damaged_bytes = len(data) - valid
            os.ftruncate(self._fd, valid)
        os.fdatasync(self._fd)
        sync_directory(self._path.parent)
        self.size = valid
        return records

    def append(self, record: Record) -> None:
        """Queue a record for the next sync."""
        self._pending.append(encode_record(record))
        self._queued += 1

    async def sync(self) -> None:
        """Return when everything appended before the call is on the disk.

        Errors: OSError of the disk; the records stay queued for the next call.
        """
        goal = self._queued
        while self._synced < goal:
            async with self._lock:
                if self._synced >= goal:
                    return
                lines, upto = self._pending, self._queued
                self._pending = []
                try:
                    await trio.to_thread.run_sync(self._write, b"".join(lines))
                except OSError:
                    self._pending = lines + self._pending
                    raise
                self._synced = upto

    def _write(self, data: bytes) -> None:
        view, offset = memoryview(data), self.size
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done
        os.fdatasync(self._fd)
        self.size = offset

    async def rewrite(self, records: Callable[[], Iterable[Record]]) -> None:
        """Replace the whole log, atomically, by shorter records that say the same.

        Shape: `records` is called when nothing else is being written, and must tell all that was
        appended until then. Errors: OSError of the disk; the old log stands.
        """
        async with self._lock:
            header = b"vfs-log %d %s\n" % (LOG_VERSION, self._kind.encode("ascii"))
            data = header + b"".join(encode_record(record) for record in records())
            lines, upto = self._pending, self._queued
            self._pending = []
            try:
                await trio.to_thread.run_sync(self._replace, data)
            except OSError:
                self._pending = lines + self._pending
                raise
            self._synced = max(self._synced, upto)

    def _replace(self, data: bytes) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        os.fdatasync(fd)
        fresh.replace(self._path)
        sync_directory(self._path.parent)
        os.close(self._fd)
        self._fd, self.size = fd, len(data)

    def close(self) -> None:
        """Close the file; what was appended and not synced is lost."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
