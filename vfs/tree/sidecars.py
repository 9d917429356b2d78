"""The sidecars of a mount: loaded with listings, changed in memory, uploaded in batches.

A change is journalled before fsync or close returns and uploaded later: one conditional PUT per
directory and shard at most once a second, at fsync of the directory and when unmounting. When
another host was faster, its entries are merged with ours, name by name.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from vfs import names
from vfs.cache.disk.metadata import MetadataCache
from vfs.errors import ConflictError, MetadataError, NotFoundError, StaleError
from vfs.stage.records import Value
from vfs.store.base import ABSENT, ANY, BytesBody, Condition, ObjectInfo, Store
from vfs.tasks import open_tasks
from vfs.tree.attributes import Attributes
from vfs.tree.sidecar import (
    SidecarEntry,
    decode_entry,
    decode_sidecar,
    encode_entry,
    encode_sidecar,
    merge,
    shard_count,
    shard_names,
    shard_of,
)
from vfs.values import Key, Span, Version

log = logging.getLogger(__name__)

MERGE_TRIES = 5
KEPT_S = 30 * 24 * 3600.0
"""How long the bytes of a version stay on the disk. They never change; only room is gained."""


@dataclass(slots=True)
class _Shard:
    version: Version
    entries: Mapping[str, SidecarEntry]


@dataclass(slots=True)
class Sidecar:
    """The attributes of one directory's names, as stored and as changed here."""

    directory: Key
    shards: dict[str, _Shard] = field(default_factory=dict[str, _Shard])  # by object name
    entries: dict[str, SidecarEntry] = field(default_factory=dict[str, SidecarEntry])
    pending: dict[str, SidecarEntry] = field(default_factory=dict[str, SidecarEntry])
    loaded_s: float = float("-inf")
    broken: str = ""  # why it cannot be read, and so not written either
    lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def is_loaded(self) -> bool:
        """Whether what is stored is known."""
        return self.loaded_s > float("-inf")

    def get(self, name: str) -> Attributes | None:
        """Return what is known of a name: our own pending change or what is stored, the newer."""
        entry, stored = self.pending.get(name), self.entries.get(name)
        if entry is None or (stored is not None and stored.sequence >= entry.sequence):
            entry = stored
        return entry.attributes if entry is not None else None


class Sidecars:
    """All sidecars that are in memory, by directory key."""

    def __init__(
        self,
        store: Store,
        *,
        enabled: bool,
        read_only: bool,
        kept: MetadataCache | None = None,
    ) -> None:
        self._store = store
        self._kept = kept
        self._enabled = enabled
        self._read_only = read_only
        self._known: dict[Key, Sidecar] = {}
        self._sequence = 0
        # Called with a directory when the attributes in it are changed, here and then in the store.
        self.on_changed: Callable[[Key], None] = lambda _directory: None
        # Called with a directory and the highest sequence of its changes that are stored.
        self.on_stored: Callable[[Key, int], None] = lambda _directory, _sequence: None

    def of(self, directory: Key) -> Sidecar:
        """Return the sidecar of a directory, loaded or not."""
        found = self._known.get(directory)
        if found is None:
            found = self._known[directory] = Sidecar(directory)
        return found

    @property
    def pending(self) -> list[Sidecar]:
        """Sidecars with changes that are not uploaded."""
        return [one for one in self._known.values() if one.pending]

    # Loading

    async def refresh(self, directory: Key, max_age_s: float) -> Sidecar:
        """Make sure that a directory's attributes are no older than that; one listing and GETs."""
        sidecar = self.of(directory)
        if not self._enabled:
            return sidecar
        async with sidecar.lock:
            if trio.current_time() - sidecar.loaded_s >= max_age_s:
                began = trio.current_time()
                prefix = Key(names.as_prefix(directory) + names.SIDECAR_PREFIX)
                found: list[ObjectInfo] = []
                cursor: str | None = None
                while True:
                    page = await self._store.list(prefix, delimiter="/", cursor=cursor)
                    found += page.objects
                    cursor = page.cursor
                    if cursor is None:
                        break
                await self._load(sidecar, found, began)
        return sidecar

    async def adopt(self, directory: Key, found: Sequence[ObjectInfo], began_s: float) -> Sidecar:
        """Load what a listing of the whole directory has shown."""
        sidecar = self.of(directory)
        if self._enabled:
            async with sidecar.lock:
                await self._load(sidecar, found, began_s)
        return sidecar

    async def _load(self, sidecar: Sidecar, found: Sequence[ObjectInfo], began_s: float) -> None:
        shards: dict[str, _Shard] = {}
        missing: list[ObjectInfo] = []
        for info in found:
            name = info.key.rpartition("/")[2]
            known = sidecar.shards.get(name)
            if known is not None and known.version == info.version:
                shards[name] = known
            else:
                missing.append(info)
        broken: list[str] = []

        async def fetch(info: ObjectInfo) -> None:
            shard = await self._fetch(info, broken)
            if shard is not None:
                shards[info.key.rpartition("/")[2]] = shard

        async with open_tasks() as nursery:
            for info in missing:
                nursery.start_soon(fetch, info)
        if broken and not sidecar.broken:
            log.error("attributes of %r cannot be read: %s", sidecar.directory, broken[0])
        sidecar.broken = broken[0] if broken else ""
        if missing or shards.keys() != sidecar.shards.keys():
            sidecar.shards = shards
            sidecar.entries = merge(shard.entries for shard in shards.values())
            seen = (entry.sequence for entry in sidecar.entries.values())
            self._sequence = max(self._sequence, *seen, 0)
        sidecar.loaded_s = began_s

    async def _fetch(self, info: ObjectInfo, broken: list[str]) -> _Shard | None:
        for _ in range(MERGE_TRIES):
            try:
                return _Shard(info.version, decode_sidecar(await self._read(info)))
            except StaleError:
                try:
                    info = await self._store.head(info.key)
                except NotFoundError:
                    return None
            except MetadataError as error:
                broken.append(error.message)
                return None
        raise StaleError("the attributes change faster than they can be read", key=info.key)

    async def _read(self, info: ObjectInfo) -> bytes:
        """Return the bytes of one version, from the disk if they are there."""
        key = f"object\0{info.key}\0{info.version}"
        data = await self._kept.get_bytes(key) if self._kept is not None else None
        if data is None or len(data) != info.size:
            data = await self._store.read(info.pin, Span(0, info.size))
            if self._kept is not None:
                await self._kept.put_bytes(key, data, KEPT_S)
        return data

    def let_go(self, directory: Key) -> None:
        """Drop what can be loaded again."""
        found = self._known.get(directory)
        if found is None or found.pending or found.broken or found.lock.statistics().locked:
            return
        del self._known[directory]

    # Changing

    def change(
        self, directory: Key, name: str, attributes: Attributes | None
    ) -> dict[str, Value] | None:
        """Set a name's attributes and return the record to journal; None where none are kept.

        Errors: MetadataError where the stored sidecar cannot be understood.
        """
        if not self._enabled or self._read_only:
            return None
        sidecar = self.of(directory)
        if sidecar.broken:
            raise MetadataError(f"attributes cannot be changed: {sidecar.broken}", key=directory)
        self._sequence += 1  # above every number seen: see _load and replay
        entry = SidecarEntry(self._sequence, attributes)
        sidecar.pending[name] = entry
        self.on_changed(directory)
        return self._record(directory, name, entry)

    @staticmethod
    def _record(directory: Key, name: str, entry: SidecarEntry) -> dict[str, Value]:
        value: Value = encode_entry(entry)  # type: ignore[assignment]  # JSON values by construction
        return {"op": "attributes", "dir": directory, "name": name, "entry": value}

    def replay(self, record: Mapping[str, Value]) -> None:
        """Take a journalled change up again after a restart."""
        entry = decode_entry(record["entry"])
        sidecar = self.of(Key(str(record["dir"])))
        sidecar.pending[str(record["name"])] = entry
        self._sequence = max(self._sequence, entry.sequence)

    def replay_stored(self, directory: Key, sequence: int) -> None:
        """Forget the replayed changes of a directory that had been stored."""
        sidecar = self.of(directory)
        for name, entry in list(sidecar.pending.items()):
            if entry.sequence <= sequence:
                del sidecar.pending[name]

    def records(self) -> list[dict[str, Value]]:
        """Return the records of everything that is pending, for a compacted journal."""
        return [
            self._record(sidecar.directory, name, entry)
            for sidecar in self.pending
            for name, entry in sidecar.pending.items()
        ]

    def below(self, directory: Key) -> list[Sidecar]:
        """Return the sidecars in memory of a directory and all below it."""
        prefix = names.as_prefix(directory)
        return [
            one
            for key, one in list(self._known.items())
            if key == directory or key.startswith(prefix)
        ]

    def forget(self, directory: Key) -> dict[str, Value]:
        """Drop what is known of a directory that is gone and of all below; return the record."""
        for sidecar in self.below(directory):
            self._known.pop(sidecar.directory, None)
        return {"op": "gone", "dir": directory}

    def take(self, directory: Key) -> dict[str, SidecarEntry]:
        """Return all entries of a directory and forget them, for one that moves elsewhere."""
        sidecar = self._known.get(directory)
        if sidecar is None:
            return {}
        taken = merge([sidecar.entries, sidecar.pending])
        # Still known: who removes the directory must find an upload that is under way.
        sidecar.shards, sidecar.entries, sidecar.pending = {}, {}, {}
        sidecar.loaded_s = float("-inf")
        return taken

    # Uploading

    async def upload(self, directory: Key) -> None:
        """Store the pending changes of a directory.

        Errors: any store error; the changes stay pending.
        """
        for _ in range(MERGE_TRIES):
            sidecar = self._known.get(directory)
            if sidecar is None or not sidecar.pending:
                return
            if sidecar.loaded_s == float("-inf"):
                await self.refresh(directory, 0)
            async with sidecar.lock:
                # While waiting, the directory may have gone or somebody else have stored this.
                if self._known.get(directory) is not sidecar or not sidecar.pending:
                    continue
                try:
                    await self._upload(sidecar)
                except (ConflictError, StaleError, NotFoundError):
                    sidecar.loaded_s = float("-inf")  # another host was faster: merge and try again
                else:
                    return
        raise ConflictError("the attributes change faster than they can be written", key=directory)

    async def _upload(self, sidecar: Sidecar) -> None:
        if sidecar.broken:
            raise MetadataError(
                f"attributes cannot be stored: {sidecar.broken}", key=sidecar.directory
            )
        changes = dict(sidecar.pending)
        merged = merge([sidecar.entries, changes])
        alive = {name: entry for name, entry in merged.items() if entry.attributes is not None}
        if alive or sidecar.shards:  # else an empty object would make a directory of nothing
            sidecar.shards = await self._write_shards(sidecar, alive, changes)
        # No await from here on: what is stored and what is pending change together.
        self.on_changed(sidecar.directory)
        sidecar.entries = alive
        for name, entry in changes.items():
            if sidecar.pending.get(name) is entry:
                del sidecar.pending[name]
        highest = max(entry.sequence for entry in changes.values())
        if all(entry.sequence > highest for entry in sidecar.pending.values()):
            self.on_stored(sidecar.directory, highest)

    async def _write_shards(
        self,
        sidecar: Sidecar,
        alive: Mapping[str, SidecarEntry],
        changes: Mapping[str, SidecarEntry],
    ) -> dict[str, _Shard]:
        """Write the shards that differ and return all that there are then."""
        count = max(shard_count(len(alive)), len(sidecar.shards))
        # A count that is no power of two means that shards of two layouts are there: a split that
        # was interrupted. Writing all shards of the finer one completes it.
        while count & (count - 1):
            count += 1
        wanted = shard_names(count)
        split = set(wanted) != set(sidecar.shards)
        dirty = set(range(count)) if split else {shard_of(name, count) for name in changes}
        parts: list[dict[str, SidecarEntry]] = [{} for _ in range(count)]
        for name, entry in alive.items():
            parts[shard_of(name, count)][name] = entry
        shards = {name: shard for name, shard in sidecar.shards.items() if name in wanted}
        for shard in sorted(dirty):
            name = wanted[shard]
            known = shards.get(name)
            version = await self._put(sidecar.directory, name, parts[shard], count, known)
            shards[name] = _Shard(version, parts[shard])
        for name, old in sidecar.shards.items():
            if name not in wanted:
                await self._remove(sidecar.directory, name, old)
        return shards

    async def _put(
        self,
        directory: Key,
        name: str,
        entries: Mapping[str, SidecarEntry],
        count: int,
        known: _Shard | None,
    ) -> Version:
        key = names.child(directory, name)
        features = self._store.features
        condition: Condition = ANY
        if known is None and features.write_if_absent:
            condition = ABSENT
        elif known is not None and features.write_if_version:
            condition = Condition(if_version=known.version)
        elif known is not None and (await self._store.head(key)).version != known.version:
            raise ConflictError("another host has changed the attributes", key=key)
        info = await self._store.write(
            key, BytesBody(encode_sidecar(entries, count)), condition=condition
        )
        return info.version

    async def _remove(self, directory: Key, name: str, shard: _Shard) -> None:
        key = names.child(directory, name)
        conditional = self._store.features.remove_if_version
        await self._store.remove([key], if_version=shard.version if conditional else None)

    async def remove_all(self, directory: Key) -> None:
        """Remove a directory's sidecars, because the directory goes away."""
        prefix = Key(names.as_prefix(directory) + names.SIDECAR_PREFIX)
        sidecar = self.of(directory)
        async with sidecar.lock:  # an upload under way would bring the directory back
            page = await self._store.list(prefix, delimiter="/")
            for info in page.objects:
                await self._store.remove([info.key])
            sidecar.shards, sidecar.entries, sidecar.pending = {}, {}, {}
