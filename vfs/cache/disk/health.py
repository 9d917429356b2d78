"""Whether the cache's disk is to be used: decided here, and told in one line each time."""

import errno
import logging
import math
import sqlite3
from pathlib import Path

import trio

from vfs.errors import VfsError
from vfs.values import MIB

log = logging.getLogger(__name__)

RETRY_S = 60.0
"""How long a disk that failed, or was full, is left alone."""
READ_FAILURES = 3
"""So many failed reads, and the disk is left alone: one may be a bad place."""
BACKLOG_BYTES = 32 * MIB
"""Blocks that wait to be written, in frames that nobody else can have meanwhile."""

_PASSING = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_MISUSE,
)
"""Result codes that say nothing of the index itself (www.sqlite.org/rescode.html)."""


class Health:
    """What happened to the disk lately."""

    errors = (OSError, sqlite3.Error, ValueError, TypeError, OverflowError)
    """What a disk, or an index that somebody has damaged, may raise."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._retry_s = 0.0
        self._full_until_s = -math.inf
        self._failed_reads = 0
        self._told = ""  # the last message about a failure
        self._damaged = 0  # blocks
        self._told_damage_s = -math.inf
        self.is_damaged = False  # the index cannot be trusted: everything is to be made anew

    def opened(self) -> None:
        """Take note that the directory is in use."""
        self._failed_reads = 0
        if self._told:
            log.info("the cache directory %s is in use again", self._path)
        self._told = ""

    def failed(self, error: Exception) -> None:
        """Take note that the disk is left alone from now on."""
        self.is_damaged = is_damage(error)
        self._retry_s = trio.current_time() + RETRY_S
        self._tell(
            f"the cache directory {self._path} fails ({reason_of(error)}): it is not used for now,"
            " everything is read from the store"
        )

    def refused(self, error: VfsError, *, retry: bool) -> None:
        """Take note that the directory is not ours to use, perhaps only for now."""
        self._retry_s = trio.current_time() + RETRY_S if retry else math.inf
        self._tell(f"{error.message}; this mount reads without a cache on disk")

    def _tell(self, message: str) -> None:
        if message != self._told:
            log.warning("%s", message)
            self._told = message

    def may_retry(self) -> bool:
        """Tell whether it is time to try the directory again."""
        return trio.current_time() >= self._retry_s

    def is_bad_after_read(self, error: OSError) -> bool:
        """Count a failed read; tell whether the disk is to be left alone."""
        self._failed_reads += 1
        return self._failed_reads >= READ_FAILURES

    def damaged(self, key: str) -> None:
        """Tell of a block that is not what was written; of many, in one line a minute."""
        self._damaged += 1
        now = trio.current_time()
        if now - self._told_damage_s >= RETRY_S:
            log.warning(
                "the cache has damaged blocks, %d so far, the latest of %r: they are fetched again",
                self._damaged,
                key,
            )
            self._told_damage_s = now

    def is_full(self, error: Exception) -> bool:
        """Tell whether the disk had no room, which is no failure; nothing is kept for a while."""
        if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return False
        self.full()
        return True

    def full(self) -> None:
        """Take note that there is no room."""
        now = trio.current_time()
        if now >= self._full_until_s:
            log.warning(
                "the disk of the cache directory %s is full: nothing more is kept there for now",
                self._path,
            )
        self._full_until_s = now + RETRY_S

    def may_fill(self, backlog_bytes: int, size: int) -> bool:
        """Tell whether blocks are to be written."""
        return backlog_bytes + size <= BACKLOG_BYTES and trio.current_time() >= self._full_until_s


def is_damage(error: Exception) -> bool:
    """Tell damage of the index from a disk that is full, read-only, gone or fails."""
    if isinstance(error, OSError):
        return False
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return not isinstance(code, int) or code & 0xFF not in _PASSING


def reason_of(error: Exception) -> str:
    """Return what to tell of an error, in one line whatever a damaged index makes SQLite say."""
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return "".join(char if char.isprintable() else "?" for char in said)
