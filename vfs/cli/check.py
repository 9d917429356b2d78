"""Reading objects whole, to compare them with their digests and to make those that are missing.

However large what is read: a few ranges are in memory at one time, and nothing is kept of what was
compared but its digest until the object is done.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import trio

from vfs.cli.location import Location, is_own, walk
from vfs.errors import (
    AuthenticationError,
    CorruptError,
    DeniedError,
    MetadataError,
    NotFoundError,
    ReadOnlyError,
    StaleError,
    UnreachableError,
    VfsError,
)
from vfs.layout.digest import Digest, Leaf, is_sha256
from vfs.layout.digests import DigestObjects, directory_of
from vfs.layout.read_back import LEAVES_AT_ONCE, hash_span
from vfs.names import OWN_DIRECTORY
from vfs.store.base import SHA256, ObjectInfo, Store
from vfs.tasks import open_tasks
from vfs.values import MIB, Key, Span

OBJECTS_AT_ONCE = 8

LEAF_BYTES = 8 * MIB
"""Smallest leaf that is made of what nobody has hashed yet."""

LEAVES_OF_A_FILE = 4096
"""At most so many are made: a digest of some 300 KiB."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """What reading one object has shown."""

    key: Key
    status: str  # ok, filled, corrupt, unreadable
    size: int
    ranges: tuple[Span, ...] = ()  # corrupt ones
    error: VfsError | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One object to be read."""

    key: Key
    size: int
    roots: tuple[Key, ...]  # prefixes above it that hold digests, the innermost first


class Checker:
    """Reads objects and compares them."""

    def __init__(
        self,
        store: Store,
        default_root: Key | None,
        *,
        dry_run: bool,
        advance: Callable[[int], None],
    ) -> None:
        """Take where digests go that have no place yet; `advance` is told what was read.

        None: to the directory of the object.
        """
        self._store = store
        self.default_root = default_root
        self.dry_run = dry_run
        self._advance = advance
        self._streams = trio.CapacityLimiter(LEAVES_AT_ONCE)

    async def check(self, found: Found) -> Finding | None:
        """Read an object; once more when it changes meanwhile. None: it is gone.

        Errors: those that mean the store, not the object; DeniedError where a digest cannot be
        written.
        """
        try:
            return await self._check(found)
        except StaleError:
            try:
                return await self._check(found)
            except StaleError as error:
                return Finding(found.key, "unreadable", 0, error=error)

    async def _check(self, found: Found) -> Finding | None:
        size, done = 0, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._advance(count)

        try:
            info = await self._store.head(found.key)
            size = info.size
            digest, corrupt = await self._read(info, await self._known(info, found), advance)
        except StaleError:
            self._advance(-done)
            raise
        except (UnreachableError, AuthenticationError):
            raise
        except VfsError as error:
            if isinstance(error, NotFoundError):
                if not error.key:
                    raise
                return None
            return Finding(found.key, "unreadable", size, error=error)
        if corrupt:
            return Finding(found.key, "corrupt", size, ranges=tuple(corrupt))
        if digest is None:
            return Finding(found.key, "ok", size)
        if not self.dry_run:
            await self._save(info, digest, found)
        return Finding(found.key, "filled", size)

    async def _known(self, info: ObjectInfo, found: Found) -> Digest:
        """Return the digest that an object came with, as far as there is one."""
        whole = info.metadata.get(SHA256, "")
        if is_sha256(whole):
            return Digest.whole(info.size, whole)
        for root in found.roots:
            kept = await DigestObjects(self._store, root).load(info)
            if kept is not None:
                return kept
        return Digest.unknown(info.size)

    async def _read(
        self, info: ObjectInfo, digest: Digest, advance: Callable[[int], None]
    ) -> tuple[Digest | None, list[Span]]:
        """Return the digest that was completed, if it was not complete, and what is corrupt."""
        read: list[Leaf] = []
        corrupt: list[Span] = []

        async def compare(leaf: Leaf) -> None:
            async with self._streams:
                sha256 = await hash_span(self._store, info.pin, leaf.span, advance)
            if leaf.sha256 is None:
                read.append(Leaf(leaf.span, sha256))
            elif leaf.sha256 != sha256:
                corrupt.append(leaf.span)

        await spread(_cut(digest), compare, LEAVES_AT_ONCE)
        return digest.filled(read) if read else None, sorted(corrupt)

    async def _save(self, info: ObjectInfo, digest: Digest, found: Found) -> None:
        root = self.default_root
        if found.roots:
            root = found.roots[0]
        elif root is None:
            root = Key(info.key[: info.key.rfind("/") + 1])
        try:
            await DigestObjects(self._store, root).save(info, digest)
        except (DeniedError, ReadOnlyError) as error:
            raise type(error)(
                f"{error.message}; --dry-run verifies without keeping what was missing",
                key=info.key,
            ) from error


async def _cut(digest: Digest) -> AsyncIterator[Leaf]:
    """Yield the leaves to be read: what is unknown in pieces that become leaves."""
    most = -(-digest.size // LEAVES_OF_A_FILE // MIB) * MIB
    for leaf in digest.leaves:
        if leaf.sha256 is not None:
            yield leaf
            continue
        for piece in leaf.span.pieces(max(LEAF_BYTES, most)):
            yield Leaf(piece)


async def spread(
    items: AsyncIterator[T], work: Callable[[T], Awaitable[None]], workers: int
) -> None:
    """Do the work for every item, some at a time; the first failure ends all."""
    send, receive = trio.open_memory_channel[T](0)

    async def worker() -> None:
        async for item in receive:
            await work(item)

    async with open_tasks() as nursery, send:
        for _ in range(workers):
            nursery.start_soon(worker)
        async for item in items:
            await send.send(item)


@dataclass(slots=True)
class _Level:
    prefix: Key
    has_digests: bool | None = None  # None: not known yet


class Objects:
    """The objects of a place, in the order of their keys, with where their digests may lie."""

    def __init__(self, store: Store, where: Location) -> None:
        self._store = store
        self._where = where
        self._inside = directory_of(store)
        self._levels: list[_Level] = []
        self.roots: list[Key] = []  # that hold digests of this place only
        self.exists = False  # something is there, be it nothing to read

    async def single(self) -> Found | None:
        """Return the object of that very key, if there is one."""
        where = self._where
        if not where.key or where.directory:
            return None
        try:
            info = await self._store.head(where.key)
        except NotFoundError as error:
            if not error.key:
                raise
            return None
        return Found(info.key, info.size, await self._roots_of(info.key, walked=False))

    async def below(self) -> AsyncIterator[Found]:
        """Yield what is below."""
        prefix = self._where.prefix
        await self._roots_of(prefix, walked=False)
        async for entry in walk(self._store, prefix):
            self.exists = True
            if not isinstance(entry, ObjectInfo) or entry.key.endswith("/"):
                continue
            if not is_own(entry.key, prefix):
                roots = await self._roots_of(entry.key, walked=True)
                yield Found(entry.key, entry.size, roots)
            elif self._inside in entry.key[len(prefix) :]:
                self._descend(entry.key)
                self._note(Key(entry.key[: entry.key.index(self._inside, len(prefix))]))

    def _descend(self, key: Key) -> None:
        """Let the levels be those of the directories above a key."""
        while self._levels and not key.startswith(self._levels[-1].prefix):
            self._levels.pop()
        if not self._levels:
            self._levels.append(_Level(Key("")))
        position = len(self._levels[-1].prefix)
        while (slash := key.find("/", position)) >= 0:
            position = slash + 1
            self._levels.append(_Level(Key(key[:position])))

    def _note(self, root: Key) -> None:
        for level in self._levels:
            if level.prefix == root and not level.has_digests:
                self._decide(level, has_digests=True)

    def _decide(self, level: _Level, *, has_digests: bool) -> None:
        level.has_digests = has_digests
        if has_digests and level.prefix.startswith(self._where.prefix):
            self.roots.append(level.prefix)

    async def _roots_of(self, key: Key, *, walked: bool) -> tuple[Key, ...]:
        self._descend(key)
        for level in self._levels:
            if level.has_digests is None:
                # The walk has passed the place where they would be.
                passed = walked and key[len(level.prefix) :] > f"{OWN_DIRECTORY}/"
                self._decide(level, has_digests=not passed and await self._ask(level.prefix))
        return tuple(level.prefix for level in reversed(self._levels) if level.has_digests)

    async def _ask(self, prefix: Key) -> bool:
        try:
            page = await self._store.list(Key(prefix + self._inside), limit=1)
            while not page.objects and page.cursor is not None:
                page = await self._store.list(
                    Key(prefix + self._inside), limit=1, cursor=page.cursor
                )
        except DeniedError:
            return False  # above what these credentials may see
        return bool(page.objects)


async def remove_orphans(store: Store, root: Key) -> int:
    """Remove the digests below a prefix whose files are gone; return how many.

    Errors: those of the store.
    """
    objects = DigestObjects(store, root)
    count = 0

    async def digests() -> AsyncIterator[Key]:
        async for entry in walk(store, Key(root + directory_of(store))):
            if isinstance(entry, ObjectInfo) and not entry.key.endswith("/"):
                yield entry.key

    async def look(key: Key) -> None:
        nonlocal count
        try:
            kept = await objects.read(key)
        except MetadataError:
            return  # of a newer version: not ours to judge
        file = None if kept is None else Key(root + kept.key)
        if file is None or objects.key_of(file) != key:
            return
        try:
            await store.head(file)
        except NotFoundError as error:
            if not error.key:
                raise
            await store.remove([key])
            count += 1

    await spread(digests(), look, OBJECTS_AT_ONCE)
    return count


def corrupt_error(url: str, finding: Finding) -> CorruptError:
    """Return the error that a corrupt object is."""
    ranges = ", ".join(f"{span.start}-{span.stop}" for span in finding.ranges[:4])
    more = f" and {len(finding.ranges) - 4} more" if len(finding.ranges) > 4 else ""  # noqa: PLR2004
    return CorruptError(
        f"{url}: bytes {ranges}{more} are not those that were stored", key=finding.key
    )
