"""Small metadata on the local disk: listings and attribute objects, by key and expiry.

    CACHE_DIR/<name of the mount>/metadata/
        cache.db        SQLite, by diskcache: JSON and bytes, each with its key, compressed
        sealed          JSON: written when a mount has ended well, removed when one begins

A value counts only below its own key, with its checksum right, and never longer than it was given;
nothing is ever unpickled, and no file is opened or removed because the database names it. What a
mount that was killed has left is not believed: it may have changed what a value tells without
taking the value back.

Whatever fails here costs a request to the store and one line in the log.
"""

import json
import logging
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import diskcache
import trio
from pydantic import BaseModel, ValidationError
from typing_extensions import override

from vfs.cache.disk.health import is_damage, reason_of
from vfs.values import MIB

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
LIMIT_BYTES = 64 * MIB
_LARGEST_BYTES = 16 * MIB  # of one value, not compressed
_WAIT_S = 1.0  # for a lock that only a thread of ours can hold
_RAW = 1  # diskcache's mode of a value that stands in the database as it is

_ERRORS = (
    OSError,
    sqlite3.Error,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    zlib.error,
    diskcache.Timeout,
)
"""What a disk, or a database that somebody has damaged, makes diskcache raise."""

T = TypeVar("T")


class _Seal(BaseModel):
    version: int
    value: object


class BytesDisk(diskcache.Disk):
    """Keys are text and values bytes, both in the database itself; anything else is damage."""

    @override
    def put(self, key: object) -> tuple[object, bool]:
        if not isinstance(key, str):
            raise TypeError("a key is text")
        return key, True

    @override
    def get(self, key: object, raw: bool) -> object:
        if not isinstance(key, str) or not raw:
            raise ValueError("a key that is no text")
        return key

    @override
    def store(
        self, value: object, read: bool, key: object = None
    ) -> tuple[int, int, str | None, object]:
        if not isinstance(value, bytes) or read:
            raise TypeError("a value is bytes")
        return 0, _RAW, None, sqlite3.Binary(value)

    @override
    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:
        if mode != _RAW or filename is not None or not isinstance(value, bytes) or read:
            raise ValueError("a value that is no bytes")
        return value

    @override
    def remove(self, file_path: str) -> None:
        return  # no value has a file


class MetadataCache:
    """Values by key, while the directory is ours. A miss is None, whatever the reason."""

    def __init__(self, path: Path) -> None:
        self.found: object = None  # what the mount before had sealed the values with
        self._path = path
        self._cache: diskcache.Cache | None = None
        self._seal: object = None
        self._turn = trio.CapacityLimiter(1)

    @property
    def is_in_use(self) -> bool:
        """Whether anything is kept."""
        return self._cache is not None

    # Values

    async def get_json(self, key: str) -> object:
        """Return the JSON of a key."""
        data = await self._run(lambda cache: _get(cache, key))
        try:
            return None if data is None else json.loads(data)
        except ValueError as error:
            self._fail(error)
            return None

    async def put_json(self, key: str, value: object, lifetime_s: float) -> None:
        """Keep the JSON of a key for some time."""
        await self._run(lambda cache: _put(cache, key, json.dumps(value).encode(), lifetime_s))

    async def get_bytes(self, key: str) -> bytes | None:
        """Return the bytes of a key."""
        return await self._run(lambda cache: _get(cache, key))

    async def put_bytes(self, key: str, value: bytes, lifetime_s: float) -> None:
        """Keep the bytes of a key for some time."""
        await self._run(lambda cache: _put(cache, key, value, lifetime_s))

    async def _run(self, work: Callable[[diskcache.Cache], T]) -> T | None:
        cache = self._cache
        if cache is None:
            return None
        try:
            return await trio.to_thread.run_sync(work, cache, limiter=self._turn)
        except _ERRORS as error:
            if self._cache is cache:
                self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        """Do without from now on."""
        reason = reason_of(error)
        log.warning("%s fails (%s): names are asked of the store instead", self._path, reason)
        self.abandon()

    # Life

    def seal(self, value: object) -> None:
        """Say that all that is kept is right, as far as this JSON says; believed by the next mount.

        Call it when nothing is changed any more; `close` writes it.
        """
        self._seal = value

    def open(self) -> None:
        """Take the database over, or begin with an empty one. Blocking; the directory is ours."""
        self.found, self._seal = None, None
        try:
            self.found = self._unseal()
            if self.found is None:
                self._clear()
            try:
                self._cache = _connect(self._path)
            except _ERRORS as error:
                if not is_damage(error):
                    raise
                log.warning("%s cannot be read (%s): it starts empty", self._path, reason_of(error))
                self.found = None
                self._clear()
                self._cache = _connect(self._path)
        except _ERRORS as error:
            self._fail(error)

    def _unseal(self) -> object:
        """Return what the last mount has said of its values, once; None when it had no time to."""
        path = self._path / "sealed"
        try:
            said = json.loads(path.read_bytes())
        except (OSError, ValueError):
            said = None
        if said is not None:
            path.unlink()
            _sync(self._path)  # or a power cut brings it back
        try:
            seal = _Seal.model_validate(said)
        except ValidationError:
            return None
        return seal.value if seal.version == FORMAT_VERSION else None

    def _clear(self) -> None:
        for path in self._path.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def abandon(self) -> None:
        """Give the database up for the next one to begin anew."""
        self._cache = None

    def close(self) -> None:
        """Give the database up, sealed if it was said to be right. Blocking."""
        cache, self._cache = self._cache, None
        if cache is None:
            return
        try:
            cache.close()
            del cache  # with the connections of other threads
            if self._seal is not None:
                self._write_seal()
        except _ERRORS as error:
            log.debug("%s is not sealed: %s", self._path, reason_of(error))

    def _write_seal(self) -> None:
        for name in ("cache.db", "cache.db-wal"):
            with suppress(FileNotFoundError):
                _sync(self._path / name)
        fresh = self._path / "sealed.new"
        fresh.write_text(json.dumps({"version": FORMAT_VERSION, "value": self._seal}))
        _sync(fresh)
        fresh.replace(self._path / "sealed")
        _sync(self._path)


def _connect(path: Path) -> diskcache.Cache:
    return diskcache.Cache(
        str(path),
        timeout=_WAIT_S,
        disk=BytesDisk,
        size_limit=LIMIT_BYTES,
        eviction_policy="least-recently-stored",
        statistics=0,
        tag_index=0,
        sqlite_mmap_size=0,  # a bad disk would answer by SIGBUS
        sqlite_cache_size=512,  # pages, of each thread
    )


def _get(cache: diskcache.Cache, key: str) -> bytes | None:
    found = cache.get(_name(key))
    if not isinstance(found, bytes):
        return None
    inflate = zlib.decompressobj()
    data = inflate.decompress(found, _LARGEST_BYTES)
    if not inflate.eof:  # cut, or longer than anything of ours; the end has the checksum
        raise ValueError("a value is damaged")
    own = key.encode("utf-8", "surrogatepass") + b"\0"
    if not data.startswith(own):
        raise ValueError("a value belongs to another key")
    return data[len(own) :]


def _put(cache: diskcache.Cache, key: str, value: bytes, lifetime_s: float) -> None:
    data = key.encode("utf-8", "surrogatepass") + b"\0" + value
    if len(data) < _LARGEST_BYTES:
        cache.set(_name(key), zlib.compress(data, 1), expire=lifetime_s)


def _name(key: str) -> str:
    """Return a key as the database can hold it: text without NUL and lone surrogates."""
    return key.encode("utf-8", "surrogatepass").hex()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
