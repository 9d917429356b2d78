"""The directory of the SSD tier: owned by one daemon, and in step with its index. Blocking.

Whatever is wrong with what lies there is no reason to fail: the tier holds nothing that the store
does not have. An index that cannot be read is made anew, with everything removed; only a newer
format is left alone.
"""

import logging
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from vfs.cache.disk.data import DataFile
from vfs.cache.disk.health import is_damage, reason_of
from vfs.cache.disk.index import CHUNK_BLOCKS, Index
from vfs.errors import DeniedError, UnsupportedError
from vfs.holes import punch_hole
from vfs.ownership import own
from vfs.values import Span

log = logging.getLogger(__name__)

DIRECTORY_VERSION = 1
_OWNER_ONLY = 0o700
INDEX_ERRORS = (sqlite3.Error, ValueError, TypeError, OverflowError)
"""What reading a damaged index may raise."""
_SECTOR_BYTES = 512  # st_blocks counts in these


class CacheDirectory:
    """The tier's files, while we own them."""

    def __init__(self, path: Path, url: str, block_bytes: int) -> None:
        self.path = path
        self.block_bytes = block_bytes
        self._url = url
        self._data = path / "data"
        self.metadata = path / "metadata"
        self._lock_fd = -1
        self._index: Index | None = None

    @property
    def index(self) -> Index:
        """The open index."""
        if self._index is None:
            raise sqlite3.ProgrammingError("the index is closed")
        return self._index

    def open(self, *, anew: bool = False) -> int:
        """Take the directory over; return how many blocks it holds, none if it is made anew.

        Errors: BusyError with the owner's pid; DeniedError for a directory that is not ours;
        MetadataError for a newer format; UnsupportedError where parts of files cannot be freed;
        OSError, sqlite3.Error when the disk fails.
        """
        try:
            self._make()
            self._lock_fd = own(
                self.path,
                self._url,
                DIRECTORY_VERSION,
                what="the cache",
                remedy="only one mount can keep it; give this one another cache_dir",
            )
            return self._open_index(anew=anew)
        except BaseException:
            self.close()
            raise

    def _make(self) -> None:
        self.path.parent.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
        for made in (self.path, self._data, self.metadata):
            with suppress(FileExistsError):
                made.mkdir(mode=_OWNER_ONLY)
            found = made.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise DeniedError(
                    f"the cache directory {made} is no directory of this user: what another can"
                    " change must not be served; remove it or choose another with cache_dir"
                )
            made.chmod(_OWNER_ONLY)

    def _open_index(self, *, anew: bool) -> int:
        self._check_holes()
        if anew:
            self.clear()
            return 0
        path = self.path / "index.db"
        try:
            self._index = Index(path, self.block_bytes)
            return self._reconcile()
        except INDEX_ERRORS as error:
            if not is_damage(error):
                raise
            reason = reason_of(error)
            log.warning("the cache index %s cannot be used (%s): it starts empty", path, reason)
        self.clear()
        return 0

    def _check_holes(self) -> None:
        """Make sure that eviction can free parts of files."""
        path = self._data / "holes"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, b"x", 0)
            if not punch_hole(fd, Span(0, self.block_bytes)):
                raise UnsupportedError(
                    f"the file system of the cache directory {self.path} cannot free parts of"
                    " files: choose another with cache_dir"
                )
        finally:
            os.close(fd)
            path.unlink()

    def clear(self) -> None:
        """Remove everything and begin with an empty index."""
        if self._index is not None:
            self._index.close()
            self._index = None
        for name in ("index.db", "index.db-wal", "index.db-shm"):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self._data)
        self._data.mkdir(mode=_OWNER_ONLY)
        self._index = Index(self.path / "index.db", self.block_bytes)

    def _reconcile(self) -> int:
        """Free what a crash left in the data files and not in the index; return blocks indexed."""
        known = self.index.files()
        for path in self._data.iterdir():
            number = int(path.name) if path.name.isdecimal() else -1
            if number not in known:
                path.unlink()
        for number, blocks in list(known.items()):
            try:
                used = self.data_path(number).stat().st_blocks * _SECTOR_BYTES
            except FileNotFoundError:
                used = 0
            if not blocks or not used:
                self.remove(number)
                del known[number]
            elif _may_have_more(used, blocks, self.block_bytes):
                self._trim(number)
        return sum(known.values())

    def _trim(self, number: int) -> None:
        """Free all of a data file but the blocks that are in the index."""
        chunks = self.index.chunks(number)
        data = self.open_data(number)
        try:
            at = 0
            for chunk in chunks:
                first = chunk.at.number * CHUNK_BLOCKS
                self.punch(data, [range(at, first), *chunk.gaps()])
                at = first + CHUNK_BLOCKS
            data.cut(at * self.block_bytes)
        finally:
            data.close()

    def punch(self, data: DataFile, gaps: Iterable[range]) -> None:
        """Give back the space of blocks."""
        for gap in gaps:
            data.punch(Span(gap.start * self.block_bytes, gap.stop * self.block_bytes))

    def data_path(self, number: int) -> Path:
        """Return where a file's blocks lie."""
        return self._data / str(number)

    def open_data(self, number: int) -> DataFile:
        """Open a file's blocks, made when there are none. Errors: OSError."""
        return DataFile(self.data_path(number))

    def remove(self, number: int) -> None:
        """Forget a file with all its blocks."""
        self.index.forget(number)
        self.data_path(number).unlink(missing_ok=True)

    def close(self) -> None:
        """Give the directory up."""
        if self._index is not None:
            with suppress(sqlite3.Error):
                self._index.close()
            self._index = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


def _may_have_more(used_bytes: int, blocks: int, block_bytes: int) -> bool:
    """Tell whether a data file may have blocks that are not in the index.

    As many bytes may still be others. But of thousands of small files, of which the last block is
    less than one, not each is looked into.
    """
    indexed = blocks * block_bytes
    return used_bytes > indexed or (used_bytes < indexed and blocks > CHUNK_BLOCKS)
