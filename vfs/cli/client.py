"""The commands' side of the control socket: find the daemon of a mount point and talk to it.

One JSON object a line. A request names its version and verb; the daemon answers with any number of
`{"progress": {...}}` lines and then one `{"ok": true, ...}` or `{"ok": false, "exit": N, "message":
...}`. Plain blocking sockets: a command has nothing else to do meanwhile.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from vfs.errors import MetadataError, NotFoundError, UnreachableError, VfsError
from vfs.runtime import (
    EXIT_FAILED,
    VERSION,
    ExitError,
    Record,
    list_records,
    read_record,
    real_mountpoint,
    record_path,
    runtime_directory,
    socket_path,
)

Fields = Mapping[str, object]
NO_FIELDS: Fields = MappingProxyType({})

ANSWER_S = 10.0
"""Longest that a healthy daemon takes for a question; design: `status` answers within 1 s."""

_MAX_LINE_BYTES = 16 << 20


class Patience:
    """How long to wait: in total, and while nothing moves; None is without limit."""

    def __init__(
        self,
        *,
        total_s: float | None = None,
        stall_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._deadline = None if total_s is None else clock() + total_s
        self._stall_s = stall_s
        self._moved_at = clock()
        self._seen: object = None

    def moved(self, measure: object) -> None:
        """Take note of how far things are; the stall begins anew when that has changed."""
        if measure != self._seen:
            self._seen = measure
            self._moved_at = self._clock()

    def allow(self, stall_s: float) -> None:
        """Change how long nothing may move."""
        self._stall_s = stall_s

    def left_s(self) -> float | None:
        """Return the seconds that are left, 0 when patience has run out."""
        limits = [] if self._deadline is None else [self._deadline]
        if self._stall_s is not None:
            limits.append(self._moved_at + self._stall_s)
        return max(0.0, min(limits) - self._clock()) if limits else None


def ask(
    path: Path,
    verb: str,
    arguments: Fields = NO_FIELDS,
    *,
    patience: Patience | None = None,
    progress: Callable[[Fields], None] = lambda _: None,
) -> Fields:
    """Ask the daemon behind a socket and return its answer.

    Errors: UnreachableError when nobody listens, or hangs up; TimeoutError when `patience` has run
    out; ExitError for a failure that the daemon reports; MetadataError for anything else it says.
    """
    patience = patience or Patience(total_s=ANSWER_S)
    request = {"version": VERSION, "verb": verb, **arguments}
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:  # a timeout as well
            reason = error.strerror or "timed out"
            raise UnreachableError(f"no daemon answers at {path}: {reason}") from error
        for line in _lines(connection, patience):
            answer = _decode(line)
            told = answer.get("progress")
            if not isinstance(told, dict):
                return _checked(answer)
            progress(cast("Fields", told))
    raise UnreachableError(f"the daemon at {path} ended before it had answered")


def _lines(connection: socket.socket, patience: Patience) -> Iterator[bytes]:
    pending = b""
    while len(pending) <= _MAX_LINE_BYTES:
        left_s = patience.left_s()
        if left_s == 0:
            raise TimeoutError
        connection.settimeout(left_s)
        try:
            received = connection.recv(1 << 16)
        except ConnectionError:
            return
        if not received:
            return
        *lines, pending = (pending + received).split(b"\n")
        yield from lines
    raise MetadataError("the daemon's answer is too long; are daemon and command of one version?")


def _decode(line: bytes) -> dict[str, object]:
    try:
        found: object = json.loads(line)
    except ValueError as error:
        raise MetadataError("the daemon's answer is not JSON") from error
    if not isinstance(found, dict):
        raise MetadataError("the daemon's answer is not a JSON object")
    return cast("dict[str, object]", found)


def _checked(answer: dict[str, object]) -> Fields:
    if answer.get("ok") is True:
        return answer
    code = answer.get("exit")
    message = str(answer.get("message") or "the daemon could not do it and did not say why")
    raise ExitError(message, code if isinstance(code, int) else EXIT_FAILED)


def number(fields: Fields, name: str) -> int:
    """Return a whole number of an answer, 0 where it has none."""
    value = fields.get(name)
    return int(value) if isinstance(value, int | float) else 0


def directories() -> list[Path]:
    """Return where daemons that this user may talk to have their sockets."""
    own = runtime_directory()
    if os.getuid() != 0:
        return [own]
    # Root serves everybody, but believes only what a directory's own user has put there.
    others = [*Path("/run/user").glob("[0-9]*/vfs"), *Path("/tmp").glob("vfs-[0-9]*")]  # noqa: S108
    return [own, *(path for path in others if _is_owned(path))]


def _is_owned(directory: Path) -> bool:
    uid = directory.parent.name if directory.name == "vfs" else directory.name.removeprefix("vfs-")
    try:
        found = directory.lstat()
    except OSError:
        return False
    return uid.isdecimal() and found.st_uid == int(uid) and not found.st_mode & 0o022


def all_mounts() -> list[tuple[Record, Path]]:
    """Return every daemon's record with its socket."""
    found = [
        (record, socket_path(directory, Path(record.mountpoint)))
        for directory in directories()
        for record in list_records(directory)
    ]
    return sorted(found, key=lambda entry: entry[0].mountpoint)


def find_mount(mountpoint: Path) -> tuple[Record, Path]:
    """Return the record and the socket of one mount point, given by its real path.

    Errors: NotFoundError when no daemon has ever been there.
    """
    for directory in directories():
        try:
            record = read_record(record_path(directory, mountpoint))
        except FileNotFoundError:
            continue
        except (OSError, VfsError):
            continue
        return record, socket_path(directory, mountpoint)
    raise NotFoundError(f"{mountpoint} is not a mount point of vfs")


def find_mount_of(path: Path) -> tuple[Record, Path, str | None]:
    """Return the mount that holds a path, and the path inside it; None for all of it.

    Errors: NotFoundError.
    """
    real = real_mountpoint(path)
    inside = [
        entry
        for entry in all_mounts()
        if real == Path(entry[0].mountpoint) or Path(entry[0].mountpoint) in real.parents
    ]
    if not inside:
        raise NotFoundError(f"{path} is not on a mount of vfs; vfs status lists them")
    record, control = max(inside, key=lambda entry: len(entry[0].mountpoint))
    relative = real.relative_to(record.mountpoint)
    return record, control, None if relative == Path() else str(relative)
