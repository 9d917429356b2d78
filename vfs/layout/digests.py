"""Keeps digests beside the files: one small object per file, written when there is time.

A digest that cannot be the object's metadata, because its leaves are known only when the object is
there, becomes `.vfs/digests/HASH` below the mounted prefix (`.vfs/sha256/HASH` on a directory),
HASH being that of the file's key. It names the version that it is of; for any other it does not
count. So nothing has to be exact here: what a crash, a full queue or another host keeps from being
written is unknown, and nobody ever waits for it.
"""

import hashlib
import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from vfs import names
from vfs.errors import (
    AuthenticationError,
    CorruptError,
    NotFoundError,
    StaleError,
    TransientError,
    VfsError,
)
from vfs.layout.base import FileVersion
from vfs.layout.digest import Digest, KeptDigest, decode, encode
from vfs.store.base import BytesBody, ObjectInfo, Store
from vfs.values import Key, Span

log = logging.getLogger(__name__)

PAUSE_S = 5.0
"""Between two rounds: a file that is synced often has one digest written for many commits."""
PAUSE_CAP_S = 60.0
LEAVES_PER_S = 1000
"""A digest is written at most so often that its leaves make this many a second: 75 KiB/s."""
DRAIN_S = 10.0
"""What an unmount spends on digests."""
KNOWN_LEAVES = 50_000
"""Digests kept in memory, for the next commit: about 15 MiB."""
PENDING_FILES = 10_000

DIGESTS = f"{names.OWN_DIRECTORY}/digests"
DIGESTS_OF_DIRECTORY = f"{names.OWN_DIRECTORY}/sha256"

_MOUNTED = Key("")


def directory_of(store: Store) -> str:
    """Return where digests lie, below the mounted prefix."""
    return f"{DIGESTS_OF_DIRECTORY if is_local(store) else DIGESTS}/"


def is_local(store: Store) -> bool:
    """Tell whether the store is a directory."""
    return store.url.startswith("file://")


def version_for(store: Store, file: FileVersion | ObjectInfo) -> str:
    """Return what a digest calls a version.

    Of a directory's files size and time, which a rename or a copy of the whole tree leaves as they
    are, unlike the version that guards a read.
    """
    if is_local(store):
        return f"{file.size}-{file.mtime_ns}"
    return file.pin.version


class DigestObjects:
    """The digests below one prefix of a store."""

    def __init__(self, store: Store, root: Key = _MOUNTED) -> None:
        """Take the mounted prefix: empty, or with a slash at its end."""
        self._store = store
        self._root = root

    def key_of(self, key: Key) -> Key:
        """Return the key of a file's digest; `key` is the file's in the store."""
        inside = key[len(self._root) :].encode("utf-8", "surrogatepass")
        return Key(f"{self._root}{directory_of(self._store)}{hashlib.sha256(inside).hexdigest()}")

    async def load(self, file: FileVersion | ObjectInfo) -> Digest | None:
        """Return the digest of a version, if there is one.

        Errors: those of `read`.
        """
        kept = await self.read(self.key_of(file.pin.key))
        inside = file.pin.key[len(self._root) :]
        if kept is None or (kept.key, kept.version) != (inside, version_for(self._store, file)):
            return None
        return kept.digest if kept.digest.size == file.size else None

    async def read(self, key: Key) -> KeptDigest | None:
        """Return what a digest object says; None for one that is gone or damaged.

        Errors: MetadataError for one of a newer version; those of the store.
        """
        try:
            info = await self._store.head(key)
            return decode(await self._store.read(info.pin, Span(0, info.size)))
        except (NotFoundError, StaleError) as error:
            if isinstance(error, NotFoundError) and not error.key:
                raise
        except CorruptError as error:
            log.info("digest %r: %s", key, error.message)
        return None

    async def save(self, file: FileVersion | ObjectInfo, digest: Digest) -> None:
        """Store the digest of a version.

        Errors: those of the store.
        """
        inside = Key(file.pin.key[len(self._root) :])
        kept = KeptDigest(inside, version_for(self._store, file), digest)
        body = await trio.to_thread.run_sync(encode, kept) if _is_large(digest) else encode(kept)
        await self._store.write(self.key_of(file.pin.key), BytesBody(body))

    async def remove(self, keys: Sequence[Key]) -> None:
        """Remove the digests of files."""
        await self._store.remove([self.key_of(key) for key in keys])


@dataclass(slots=True)
class _Pending:
    """What is to be done about one file's digest."""

    file: FileVersion | None  # None: it is to be removed
    digest: Digest
    base: FileVersion | None  # what its copied ranges come from
    due_s: float


class Digests:
    """The digests of one mount: what is known, and what is to be written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._objects = DigestObjects(store)
        # By identity of the version, oldest first: a digest, and the base of its copied ranges.
        self._known: OrderedDict[str, tuple[Digest, FileVersion | None]] = OrderedDict()
        self._known_leaves = 0
        self._pending: OrderedDict[Key, _Pending] = OrderedDict()
        self._rest: dict[Key, float] = {}  # a large digest is not written again before
        self._round = trio.Lock()

    @property
    def pending(self) -> int:
        """Digests that are not written."""
        return len(self._pending)

    # What the layout tells, between two awaits

    def stored(
        self, file: FileVersion, digest: Digest, base: FileVersion | None, *, in_metadata: bool
    ) -> None:
        """Take note of a new version of a file, some of it copied from `base`."""
        known = self._known.get(base.identity) if base is not None else None
        if known is not None and digest.has_copies:
            digest, base = digest.over(known[0]), known[1]
        if not digest.has_copies:
            base = None
        self._remember(file, digest, base)
        if in_metadata:
            self._pending.pop(file.pin.key, None)
        elif base is not None or digest.is_known:
            self._queue(file.pin.key, _Pending(file, digest, base, self._due(file.pin.key)))

    def moved(self, old: FileVersion, new: FileVersion) -> None:
        """Take note of a file's new name and version."""
        self.stored(new, Digest.copied(new.size), old, in_metadata=False)

    def removed(self, key: Key) -> None:
        """Take note that a key has no digest any more."""
        self._queue(key, _Pending(None, Digest.unknown(0), None, 0.0))

    def _due(self, key: Key) -> float:
        return self._rest.get(key, 0.0)

    def _queue(self, key: Key, pending: _Pending) -> None:
        self._pending.pop(key, None)  # to the end: a new name comes before the end of the old one
        self._pending[key] = pending
        if len(self._pending) > PENDING_FILES:
            self._pending.popitem(last=False)

    def _remember(self, file: FileVersion, digest: Digest, base: FileVersion | None) -> None:
        replaced = self._known.pop(file.identity, None)
        if replaced is not None:
            self._known_leaves -= _weight(replaced[0])
        self._known[file.identity] = digest, base
        self._known_leaves += _weight(digest)
        while self._known_leaves > KNOWN_LEAVES and len(self._known) > 1:
            _, (oldest, _) = self._known.popitem(last=False)
            self._known_leaves -= _weight(oldest)

    # In the background

    async def run(self) -> None:
        """Write what is pending, for ever."""
        failures = 0
        while True:
            await trio.sleep(min(PAUSE_CAP_S, math.ldexp(PAUSE_S, min(failures, 10))))
            failures = 0 if await self._write_due(trio.current_time()) else failures + 1

    async def drain(self) -> None:
        """Write what is pending, as far as the store takes it at once."""
        with trio.move_on_after(DRAIN_S):
            await self._write_due(math.inf)
        if self._pending:
            log.info("%d digests are not written; vfs verify makes them anew", len(self._pending))

    async def _write_due(self, now_s: float) -> bool:
        """Do what is due; False when the store does not answer."""
        async with self._round:
            self._rest = {key: until for key, until in self._rest.items() if until > now_s}
            gone: list[tuple[Key, _Pending]] = []
            for key, pending in list(self._pending.items()):
                if self._pending.get(key) is not pending or pending.due_s > now_s:
                    continue
                if pending.file is None:
                    gone.append((key, pending))
                elif not await self._try(key, pending):
                    return False
            most = self._store.features.remove_max_keys
            for first in range(0, len(gone), most):
                if not await self._try_removal(gone[first : first + most]):
                    return False
            return True

    async def _try(self, key: Key, pending: _Pending) -> bool:
        """Write one digest; False when it is worth to try again later."""
        try:
            await self._write(pending)
        except (TransientError, AuthenticationError) as error:
            log.debug("digest of %r not written yet: %s", key, error.message)
            return False
        except VfsError as error:
            log.info("digest of %r not written: %s", key, error.message)
        except Exception:
            # A fault of ours costs a digest, never the mount.
            log.exception("digest of %r: unexpected error", key)
        self._done(key, pending)
        return True

    def _done(self, key: Key, pending: _Pending) -> None:
        if self._pending.get(key) is pending:
            del self._pending[key]

    async def _write(self, pending: _Pending) -> None:
        file, base = pending.file, pending.base
        if file is None:
            return
        if base is not None:
            # Only now: whoever commits does not wait for a digest to be read.
            digest = pending.digest.over(await self._digest_of(base))
            pending.digest, pending.base = digest, None
            self._remember(file, digest, None)
        if pending.digest.is_known:
            await self._objects.save(file, pending.digest)
            rest_s = len(pending.digest.leaves) / LEAVES_PER_S
            self._rest[file.pin.key] = trio.current_time() + rest_s

    async def _digest_of(self, file: FileVersion) -> Digest:
        known = self._known.get(file.identity)
        if known is not None and known[1] is None:
            return known[0]
        found = await self._objects.load(file) or Digest.unknown(file.size)
        # Whoever commits next may still refer to it, when its object is overwritten already.
        self._remember(file, found, None)
        return found

    async def _try_removal(self, gone: Sequence[tuple[Key, _Pending]]) -> bool:
        gone = [(key, one) for key, one in gone if self._pending.get(key) is one]
        try:
            if gone:
                await self._objects.remove([key for key, _ in gone])
        except (TransientError, AuthenticationError) as error:
            log.debug("%d digests not removed yet: %s", len(gone), error.message)
            return False
        except VfsError as error:
            log.info("%d digests not removed: %s", len(gone), error.message)
        for key, one in gone:
            self._done(key, one)
        return True


def _is_large(digest: Digest) -> bool:
    return len(digest.leaves) > 4 * LEAVES_PER_S  # more would hold the loop up for milliseconds


def _weight(digest: Digest) -> int:
    return 1 + len(digest.leaves)
