"""The index of the SSD tier: an SQLite database. Blocking; one call at a time.

    file    number, identity (`FileVersion.identity`), unique
    chunk   file, number, sums, blocks, used, hot       32 blocks of a file

`sums` has 32 little-endian words of 4 bytes: the checksum of each block, 0 where there is none;
`blocks` counts the others. `used` is the time of the last use, counted in flushes of the index, and
`hot` tells that a chunk was used again later than it was fetched: a scan makes none. The format's
version is SQLite's `user_version`.

With synchronous=NORMAL a power cut may undo the last transactions, never tear one. A row that comes
back so is found out by its checksums.
"""

import sqlite3
import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from vfs.errors import MetadataError

INDEX_VERSION = 1
CHUNK_BLOCKS = 32
HOT_AFTER = 30
"""Flushes between two uses that are not one: a stream reads each block several times."""

_SCHEMA = """
DROP TABLE IF EXISTS about; DROP TABLE IF EXISTS chunk; DROP TABLE IF EXISTS file;
CREATE TABLE about (block_bytes INTEGER NOT NULL);
CREATE TABLE file (number INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL UNIQUE);
CREATE TABLE chunk (
    file INTEGER NOT NULL, number INTEGER NOT NULL, sums BLOB NOT NULL, blocks INTEGER NOT NULL,
    used INTEGER NOT NULL, hot INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (file, number)
) WITHOUT ROWID;
CREATE INDEX chunk_by_use ON chunk (hot, used, blocks);
"""


class ChunkId(NamedTuple):
    """Which 32 blocks of which file."""

    file: int
    number: int


ABSENT = 0
_WORDS = struct.Struct(f"<{CHUNK_BLOCKS}I")


class Chunk(NamedTuple):
    """What the index says of a chunk."""

    at: ChunkId
    sums: bytes
    blocks: int  # how many are there

    @classmethod
    def of(cls, at: ChunkId, sums: Sequence[int]) -> "Chunk":
        """Return a chunk with the checksums of its blocks, `ABSENT` where there is none."""
        words = [*sums, *[ABSENT] * (CHUNK_BLOCKS - len(sums))]
        return cls(at, _WORDS.pack(*words), CHUNK_BLOCKS - words.count(ABSENT))

    def words(self) -> tuple[int, ...]:
        """Return the checksums of all its blocks."""
        return _WORDS.unpack(self.sums)

    def gaps(self) -> list[range]:
        """Return the blocks of the file that are not there."""
        first = self.at.number * CHUNK_BLOCKS
        found: list[range] = []
        for absent, group in groupby(enumerate(self.words(), first), lambda one: one[1] == ABSENT):
            numbers = [number for number, _ in group]
            if absent:
                found.append(range(numbers[0], numbers[-1] + 1))
        return found


class Index:
    """An open index. Errors of every call: sqlite3.Error."""

    def __init__(self, path: Path, block_bytes: int) -> None:
        """Open or make it.

        Errors: MetadataError for a newer format; sqlite3.DatabaseError for what is no index, or one
        of blocks of another size.
        """
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._prepare(path, block_bytes)
            newest = self._one("SELECT coalesce(max(used), 0) FROM chunk")
        except BaseException:
            self._db.close()
            raise
        self.now = newest + 1  # in flushes

    def _prepare(self, path: Path, block_bytes: int) -> None:
        version = self._one("PRAGMA user_version")
        if version > INDEX_VERSION:
            raise MetadataError(
                f"the cache index {path} has format version {version}; this program reads"
                f" {INDEX_VERSION}: use the newer vfs that wrote it, or another cache_dir"
            )
        if version == 0:
            self._db.executescript(_SCHEMA)
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute("INSERT INTO about VALUES (?)", (block_bytes,))
                self._db.execute(f"PRAGMA user_version = {INDEX_VERSION}")
        elif self._one("SELECT block_bytes FROM about") != block_bytes:
            raise sqlite3.DatabaseError("an index of blocks of another size")

    def _one(self, question: str, *values: str | int) -> int:
        found: tuple[int] | None = self._db.execute(question, values).fetchone()
        if found is None:
            raise sqlite3.DatabaseError("an index that misses rows")
        return found[0]

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def find(self, identity: str) -> int | None:
        """Return the number of a file."""
        row: tuple[int] | None = self._db.execute(
            "SELECT number FROM file WHERE identity = ?", (identity,)
        ).fetchone()
        return row[0] if row else None

    def add(self, identity: str) -> int:
        """Take up a file and return its number, which no file had before."""
        with closing(self._db.cursor()) as cursor:
            cursor.execute("INSERT INTO file (identity) VALUES (?)", (identity,))
            return int(cursor.lastrowid or 0)

    def rename(self, number: int, identity: str) -> dict[int, int]:
        """Let a file be another version; return the blocks of those it replaces, by number."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            gone: dict[int, int] = dict(
                self._db.execute(
                    "SELECT file.number, coalesce(sum(blocks), 0) FROM file LEFT JOIN chunk"
                    " ON chunk.file = file.number WHERE identity = ? AND file.number != ?"
                    " GROUP BY file.number",
                    (identity, number),
                )
            )
            for other in gone:
                self._forget(other)
            self._db.execute("UPDATE file SET identity = ? WHERE number = ?", (identity, number))
        return gone

    def forget(self, number: int) -> None:
        """Forget a file with all its blocks."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            self._forget(number)

    def _forget(self, number: int) -> None:
        self._db.execute("DELETE FROM chunk WHERE file = ?", (number,))
        self._db.execute("DELETE FROM file WHERE number = ?", (number,))

    def files(self) -> dict[int, int]:
        """Return how many blocks each file has, by its number."""
        return dict(
            self._db.execute(
                "SELECT file.number, coalesce(sum(blocks), 0) FROM file"
                " LEFT JOIN chunk ON chunk.file = file.number GROUP BY file.number"
            )
        )

    def chunks(self, number: int) -> list[Chunk]:
        """Return the chunks of a file."""
        rows = self._db.execute(
            "SELECT number, sums, blocks FROM chunk WHERE file = ? ORDER BY number", (number,)
        )
        return [Chunk(ChunkId(number, at), sums, blocks) for at, sums, blocks in rows]

    def flush(self, changed: Iterable[Chunk], used: Iterable[ChunkId]) -> None:
        """Record chunks that have changed, and which were read, in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            self._db.executemany(
                "INSERT INTO chunk (file, number, sums, blocks, used) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET sums = excluded.sums, blocks = excluded.blocks",
                ((*chunk.at, chunk.sums, chunk.blocks, self.now) for chunk in changed),
            )
            self._db.executemany(
                "UPDATE chunk SET hot = hot OR used < ?, used = ? WHERE file = ? AND number = ?",
                ((self.now - HOT_AFTER, self.now, *at) for at in used),
            )
            self._db.execute("DELETE FROM chunk WHERE blocks = 0")
        self.now += 1

    def coldest(self, count: int, keep_cold: int) -> list[Chunk]:
        """Return chunks to evict: those used once, unless they have less than `keep_cold` blocks.

        The oldest first. So a scan does not displace what is used again and again, and what was
        hot long ago still makes room for what is new.
        """
        cold = self._one("SELECT coalesce(sum(blocks), 0) FROM chunk WHERE hot = 0")
        order = "hot" if cold > keep_cold else "hot DESC"
        rows = self._db.execute(
            f"SELECT file, number, sums, blocks FROM chunk ORDER BY {order}, used LIMIT ?",  # noqa: S608 - one of two words
            (count,),
        )
        return [Chunk(ChunkId(file, at), sums, blocks) for file, at, sums, blocks in rows]

    def is_empty(self, number: int) -> bool:
        """Tell whether a file has no blocks."""
        return not self._one("SELECT count(*) FROM chunk WHERE file = ?", number)

    def drop(self, chunks: Iterable[ChunkId]) -> None:
        """Forget chunks, in one transaction."""
        gone = list(chunks)
        self._db.execute("BEGIN IMMEDIATE")
        with self._db:
            self._db.executemany("DELETE FROM chunk WHERE file = ? AND number = ?", gone)
