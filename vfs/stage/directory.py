"""The stage directory of one mount: who owns it, its budget, its files and its journal of names.

    STAGE_DIR/<name of the mount>/
        owner           JSON: version, url, pid, host; locked with flock by the living owner
        names.log       what was decided about names and is not in the store yet
        files/          one sparse file for each file with staged bytes

One daemon owns a directory: the lock decides, the pid in it is for the message.
"""

import fcntl
import hashlib
import itertools
import json
import os
import re
import socket
from pathlib import Path
from typing import cast
from weakref import WeakSet

from vfs.errors import BusyError, DeniedError, FullError, MetadataError
from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk, stage_error
from vfs.stage.file import StagedFile
from vfs.stage.records import RecordLog
from vfs.values import MIB

STAGE_VERSION = 1
SMALLEST_BYTES = 64 * MIB


def stage_name(url: str) -> str:
    """Return the directory name for a URL: readable, and distinct for distinct URLs."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[:60]
    return f"{words}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


class Stage:
    """Local space for what is not stored yet."""

    def __init__(self, path: Path, url: str, budget: StageBudget) -> None:
        self.path = path
        self.budget = budget
        self._disk = Disk()
        self.names = RecordLog(path / "names.log", "names")
        self._url = url
        self._lock_fd = -1
        self._files = path / "files"
        self._serial = itertools.count()
        self._prefix = os.urandom(6).hex()
        self._staged: WeakSet[StagedFile] = WeakSet()

    def open(self) -> None:
        """Take the directory over. Blocking.

        Errors: DeniedError, FullError, BusyError with the owner's pid, MetadataError for a newer
        format.
        """
        try:
            self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
        except PermissionError as error:
            raise DeniedError(
                f"the stage directory {self.path} is not writable: choose another with stage_dir",
                detail=str(error),
            ) from error
        except OSError as error:
            failure = stage_error(error, self.path)
            raise type(failure)(
                f"the stage directory {self.path} cannot be used ({error.strerror}): free space "
                "there or choose another with stage_dir",
                detail=str(error),
            ) from error

    def _take_lock(self) -> None:
        fd = os.open(self.path / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(fd, 4096, 0)
            os.close(fd)
            raise BusyError(
                f"the stage {self.path} is in use by process {_pid(text)}: another mount of "
                "the same URL; unmount it first"
            ) from None
        text = os.pread(fd, 4096, 0)
        if text.strip():
            version = _field(text, "version")
            if isinstance(version, int) and version > STAGE_VERSION:
                os.close(fd)
                raise MetadataError(
                    f"the stage {self.path} has format version {version}; this program reads "
                    f"{STAGE_VERSION}: use the newer vfs that wrote it"
                )
        owner = {
            "version": STAGE_VERSION,
            "url": self._url,
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
        os.pwrite(fd, json.dumps(owner).encode() + b"\n", 0)
        os.ftruncate(fd, len(json.dumps(owner)) + 1)
        os.fdatasync(fd)
        self._lock_fd = fd

    def leftovers(self) -> list[Path]:
        """Return staged files of an earlier owner that was killed."""
        return sorted(self._files.iterdir())

    async def new_file(self, base_size: int) -> StagedFile:
        """Make an empty staged file over a base of that size."""
        path = self._files / f"{self._prefix}-{next(self._serial):06d}"
        try:
            staged = StagedFile(path, self.budget, base_size, self._disk)
        except OSError as error:
            raise stage_error(error, path) from error
        self._staged.add(staged)
        return staged

    def drop_clean(self) -> None:
        """Give back the space of all bytes that the store has."""
        for staged in list(self._staged):
            staged.drop_clean()

    async def sync_names(self) -> None:
        """Return when all records of the names' journal are durable.

        Errors: FullError, VfsError when the disk fails; the records stay queued.
        """
        try:
            await self.names.sync()
        except OSError as error:
            raise stage_error(error, self.path) from error

    def close(self) -> None:
        """Give the directory up."""
        self.names.close()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def default_limit(path: Path) -> int:
    """Return 20 % of what is free where the stage lies, leaving 5 % of the disk free. Blocking."""
    while not path.exists():
        path = path.parent
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    floor = disk.f_blocks * disk.f_frsize // 20
    limit = min(free // 5, free - floor)
    if limit < SMALLEST_BYTES:
        raise FullError(
            f"the disk of the stage directory {path} is full: {free // MIB} MiB free; free space "
            "or choose another with stage_dir"
        )
    return limit


def _field(text: bytes, name: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return None
    return cast("dict[str, object]", value).get(name) if isinstance(value, dict) else None


def _pid(text: bytes) -> str:
    return str(_field(text, "pid") or "unknown")
