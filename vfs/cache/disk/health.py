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


class Health:
    """What happened to the disk lately."""

    errors = (OSError, sqlite3.Error)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._retry_s = 0.0
        self._full_until_s = -math.inf
        self._failed_reads = 0
        self._told = ""  # the last message about a failure

    def opened(self) -> None:
        """Take note that the directory is in use."""
        self._failed_reads = 0
        if self._told:
            log.info("the cache directory %s is in use again", self._path)
        self._told = ""

    def failed(self, error: Exception) -> None:
        """Take note that the disk is left alone from now on."""
        self._retry_s = trio.current_time() + RETRY_S
        self._tell(
            f"the cache directory {self._path} fails ({_reason(error)}): it is not used for now,"
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
        """Tell of a block that is not what was written."""
        log.warning("the cache has a damaged block of %r: it is fetched again", key)

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


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
