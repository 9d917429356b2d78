"""The stage directory of one mount: who owns it, its budget, its files and its journal of names.

    STAGE_DIR/<name of the mount>/
        owner           JSON: version, url, pid, host; locked with flock by the living owner
        names.log       what was decided about names and is not in the store yet
        files/X         a sparse file with the staged bytes of one file
        files/X.log     its journal: which file it is, and which bytes count

One daemon owns a directory: the lock decides, the pid in it is for the message.
"""

import hashlib
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

import trio

from vfs.errors import DeniedError, FullError, VfsError
from vfs.ownership import own
from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk, stage_error
from vfs.stage.file import StagedFile
from vfs.stage.journal import StagedState
from vfs.stage.log import LOG_SUFFIX, log_path
from vfs.stage.records import Record, RecordLog, sync_directory
from vfs.store.base import Upload
from vfs.values import MIB

log = logging.getLogger(__name__)

STAGE_VERSION = 1
SMALLEST_BYTES = 128 * MIB
"""The reserve of `vfs.stage.config`, and as much to write into."""


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
        self.damaged: list[Path] = []  # staged files that could not be taken up
        self.uploads: set[Upload | None] = set()  # of the files that were taken up

    def open(self) -> None:
        """Take the directory over. Blocking.

        Errors: DeniedError, FullError, BusyError with the owner's pid, MetadataError for a newer
        format.
        """
        try:
            self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
            for made in (self.path, self.path.parent, self.path.parent.parent):
                with suppress(PermissionError):  # of a parent that is not ours
                    sync_directory(made)  # or a power cut takes the stage with all that is in it
            self._lock_fd = own(
                self.path,
                self._url,
                STAGE_VERSION,
                what="the stage",
                remedy="another mount of the same URL; unmount it first",
            )
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

    async def take_up(self) -> list[tuple[StagedFile, StagedState]]:
        """Open what an earlier owner has left and the store may not have.

        What was promised to nobody is removed, and what cannot be understood is left alone and
        told.
        """
        found: list[tuple[StagedFile, StagedState]] = []
        for path in sorted(self._files.iterdir()):
            if path.suffix == LOG_SUFFIX:
                one = await self._reopen(path.with_suffix(""))
                if one is not None:
                    found.append(one)
            elif path.suffix or not log_path(path).exists():
                # Half of a log that was being rewritten, or bytes that no journal knows.
                path.unlink()
        self._staged.update(staged for staged, _ in found)
        self.uploads.update(state.upload for _, state in found)
        return found

    async def _reopen(self, path: Path) -> tuple[StagedFile, StagedState] | None:
        staged = StagedFile(path, self.budget, 0, self._disk)
        try:
            state = await trio.to_thread.run_sync(staged.reopen)
        except VfsError as error:
            log.warning("staged bytes cannot be taken up, left alone: %s", error.message)
            self._leave_alone(staged)
            return None
        except OSError as error:
            log.warning("%s cannot be opened, left alone: %s", path, error.strerror)
            self._leave_alone(staged)
            return None
        if state is None or state.is_stored:
            staged.discard()
            return None
        staged.charge()
        return staged, state

    def _leave_alone(self, staged: StagedFile) -> None:
        staged.leave()
        self.damaged.append(staged.path)

    async def new_file(self, base_size: int) -> StagedFile:
        """Make an empty staged file over a base of that size."""
        path = self._files / f"{self._prefix}-{next(self._serial):06d}"
        try:
            staged = StagedFile(path, self.budget, base_size, self._disk)
            staged.create()
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

    async def rewrite_names(self, records: Callable[[], Iterable[Record] | None]) -> None:
        """Replace the names' journal, as `RecordLog.rewrite` does.

        Errors: FullError, VfsError when the disk fails; the old journal stands.
        """
        try:
            await self.names.rewrite(records)
        except OSError as error:
            raise stage_error(error, self.path) from error

    def close(self) -> None:
        """Give the directory up; what is staged stays for the next owner."""
        for staged in list(self._staged):
            staged.leave()
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
