"""What commands and daemons share: where they meet, and how a failure becomes an exit code.

Each mount has a control socket and, beside it, one JSON file that says whose it is:

    ID.sock    UNIX stream socket that the daemon listens on
    ID.json    {"version": 1, "mountpoint", "url", "pid", "started", "stage"}

where ID is the first 16 hex digits of the SHA-256 of the mount point's real path. The JSON file
outlives a daemon that was killed, which is how `vfs status` knows that a mount is dead.
"""

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from vfs.errors import (
    AuthenticationError,
    ConfigError,
    ConflictError,
    CorruptError,
    DeniedError,
    ExistsError,
    InvalidNameError,
    MetadataError,
    NotFoundError,
    QuotaError,
    ReadOnlyError,
    RetainedError,
    StaleError,
    TransientError,
    VfsError,
)

VERSION = 1

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_DENIED = 4
EXIT_UNREACHABLE = 5
EXIT_CORRUPT = 6
EXIT_CONFLICT = 7
EXIT_DIRTY = 8

_EXITS: tuple[tuple[type[VfsError], int], ...] = (
    (ConfigError, EXIT_USAGE),
    (InvalidNameError, EXIT_USAGE),
    (NotFoundError, EXIT_NOT_FOUND),
    (DeniedError, EXIT_DENIED),
    (AuthenticationError, EXIT_DENIED),
    (RetainedError, EXIT_DENIED),
    (ReadOnlyError, EXIT_DENIED),
    (QuotaError, EXIT_DENIED),
    (TransientError, EXIT_UNREACHABLE),
    (CorruptError, EXIT_CORRUPT),
    (MetadataError, EXIT_CORRUPT),
    (ConflictError, EXIT_CONFLICT),
    (StaleError, EXIT_CONFLICT),
    (ExistsError, EXIT_CONFLICT),
)


class ExitError(VfsError):
    """A failure whose exit code is known already: a daemon's answer, data that is still dirty."""

    code = "EXIT"

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code(error: VfsError) -> int:
    """Return the exit code of a failure: the one table for commands and the control socket."""
    if isinstance(error, ExitError):
        return error.exit_code
    return next((code for kind, code in _EXITS if isinstance(error, kind)), EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Record:
    """What a daemon writes about itself beside its socket."""

    mountpoint: str
    url: str
    pid: int
    started: str  # RFC 3339, UTC
    stage: str = ""  # directory of what was not uploaded yet; for the message when the daemon died


def runtime_directory(environ: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """Return where this user's sockets are; nothing is created."""
    environ = os.environ if environ is None else environ
    uid = os.getuid() if uid is None else uid
    if uid == 0:
        return Path("/run/vfs")  # XDG_RUNTIME_DIR may still be that of the user who called sudo
    if base := environ.get("XDG_RUNTIME_DIR"):
        return Path(base, "vfs")
    return Path("/tmp", f"vfs-{uid}")  # noqa: S108 - checked when made


def make_runtime_directory(directory: Path) -> None:
    """Create the directory for us alone, or check that it is.

    Errors: ConfigError when it is a link, belongs to somebody else or is open to others.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    # In /tmp anybody can be first; a socket in a directory of theirs would answer to them.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(
            f"{directory} is not our own directory: remove it, or set XDG_RUNTIME_DIR"
        )
    if found.st_mode & 0o077:
        directory.chmod(0o700)


def mount_id(mountpoint: Path) -> str:
    """Return the name under which a mount point's files stand in the runtime directory.

    The path must be the real one: to resolve it here would be to look at a mount that may hang.
    """
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16]


def real_mountpoint(mountpoint: Path) -> Path:
    """Return the path without links; a dead mount stands for itself."""
    return Path(os.path.realpath(mountpoint))


def socket_path(directory: Path, mountpoint: Path) -> Path:
    """Return the control socket of a mount point."""
    return directory / f"{mount_id(mountpoint)}.sock"


def record_path(directory: Path, mountpoint: Path) -> Path:
    """Return the file that says whose the socket is."""
    return directory / f"{mount_id(mountpoint)}.json"


def write_record(directory: Path, record: Record) -> Path:
    """Write a daemon's record so that a reader sees all of it or nothing."""
    path = record_path(directory, Path(record.mountpoint))
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"version": VERSION, **asdict(record)}) + "\n")
    temporary.replace(path)
    return path


def read_record(path: Path) -> Record:
    """Read one record.

    Errors: MetadataError when it is not one, or is of a newer version; OSError from the file.
    """
    try:
        found: object = json.loads(path.read_text())
    except ValueError as error:
        raise MetadataError(f"{path} is not a record of a mount") from error
    fields = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    match fields:
        case {"version": int(version)} if version > VERSION:
            raise MetadataError(f"{path} was written by a newer vfs (version {version})")
        case {"version": int(), "mountpoint": str(mountpoint), "url": str(url), "pid": int(pid)}:
            started, stage = str(fields.get("started", "")), str(fields.get("stage", ""))
            return Record(mountpoint, url, pid, started, stage)
        case _:
            raise MetadataError(f"{path} is not a record of a mount")


def list_records(directory: Path) -> list[Record]:
    """Return the records of all mounts, by mount point; what cannot be read is left out."""
    found: list[Record] = []
    try:
        paths = sorted(directory.glob("*.json"))
    except OSError:
        return []
    for path in paths:
        try:
            found.append(read_record(path))
        except (OSError, VfsError):  # gone since, or not ours to understand
            continue
    return sorted(found, key=lambda record: record.mountpoint)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # "pid (name) state ...": the name may hold anything, also parentheses.
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}
