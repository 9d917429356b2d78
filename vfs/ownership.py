"""Who owns a directory of ours: `owner`, a JSON file that its living owner keeps locked.

    {"version": 1, "url": "...", "pid": 4711, "host": "..."}

The lock decides (flock, which ends with the process); the pid is for the message.
"""

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import cast

from vfs.errors import BusyError, MetadataError


def own(directory: Path, url: str, version: int, *, what: str, remedy: str) -> int:
    """Take a directory over; return the descriptor that keeps it until it is closed. Blocking.

    `version` is that of the directory's format; `what` and `remedy` are for messages.
    Errors: BusyError with the owner's pid; MetadataError for a newer format; OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(directory / "owner", flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _check_version(fd, version, f"{what} {directory}")
        host = socket.gethostname()
        owner = {"version": version, "url": url, "pid": os.getpid(), "host": host}
        line = json.dumps(owner).encode() + b"\n"
        os.pwrite(fd, line, 0)
        os.ftruncate(fd, len(line))
        os.fdatasync(fd)
    except BlockingIOError:
        pid = field_of(os.pread(fd, 4096, 0), "pid") or "unknown"
        os.close(fd)
        raise BusyError(f"{what} {directory} is in use by process {pid}: {remedy}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_version(fd: int, version: int, what: str) -> None:
    found = field_of(os.pread(fd, 4096, 0), "version")
    if isinstance(found, int) and found > version:
        raise MetadataError(
            f"{what} has format version {found}; this program reads {version}: use the newer vfs"
            " that wrote it"
        )


def field_of(text: bytes, name: str) -> object:
    """Return a field of an owner's file; None where there is none."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return None
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None
