"""Pages of listings: each is asked for once, however many read the directory.

The last few pages of large directories stay in memory, so that readers side by side share them. On
the disk pages outlive the process, where `metadata_ttl` is long enough to gain by it. A page tells
when the store was asked for it, and who wants a younger one asks.

A page knows nothing of what this mount has changed later: names, which the tree lays over it until
`metadata_ttl` has passed, attributes, and directories that were made, removed or renamed, below
which no older page counts. All are written beside the pages when the mount ends, for the next one;
when it had no time for that no page of it is believed.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import trio
from pydantic import BaseModel, ConfigDict, ValidationError

from vfs import names
from vfs.cache.disk.metadata import MetadataCache
from vfs.clock import WallClock
from vfs.layout.base import DirectoryPage, Entry, FileVersion, Layout
from vfs.store.base import ObjectInfo, ObjectVersion
from vfs.tree.flights import Flights
from vfs.values import Key, Version

RECENT_PAGES = 32
"""Kept in memory: of 1000 names some 0.5 MB each. More than `KEPT_ENTRIES` takes to find out that
a directory is too large."""
LASTING_TTL_S = 10.0
"""A shorter `metadata_ttl` is over before a restart has gained by it: nothing is written then."""

PRUNE_NOTES = 1_000
"""Changes are looked through when there are so many more."""

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A page, and when the store was asked for it."""

    page: DirectoryPage
    asked_s: float


class _File(NamedTuple):
    name: str
    size: int
    version: str
    version_id: str | None
    mtime_ns: int


class _Page(BaseModel):
    """A page as it is kept on the disk."""

    model_config = ConfigDict(extra="forbid")

    asked_ns: int  # wall clock
    files: list[_File]
    directories: list[str]
    sidecars: list[_File]
    hidden: int
    exists: bool
    marker: bool
    cursor: str | None


class _Changes(BaseModel):
    """What a mount has changed, and when: wall clock, ns."""

    model_config = ConfigDict(extra="forbid")

    at_ns: int  # when this was written: all of it, and all pages, are older
    names: dict[Key, int]  # in these directories
    trees: dict[Key, int]  # these directories with all that is below


class Pages:
    """The listings of a mount, page by page."""

    def __init__(
        self, layout: Layout, kept: MetadataCache | None, *, ttl_s: float, wall_ns: WallClock
    ) -> None:
        self.layout = layout
        self._kept = kept
        self._ttl_s = ttl_s
        self._wall_ns = wall_ns
        self._recent: OrderedDict[tuple[Key, str], Listed] = OrderedDict()
        self._flights: Flights[tuple[Key, str], Listed] = Flights()
        self._names: dict[Key, float] = {}  # when something in them was changed here
        self._trees: dict[Key, float] = {}  # when they were made, removed or renamed here
        self._found: object = None
        self._earlier = _Changes(at_ns=0, names={}, trees={})
        # One relation for the whole mount: a clock that is set changes no order.
        self._began_ns, self._began_s = wall_ns(), trio.current_time()

    async def page(self, directory: Key, cursor: str | None, since_s: float) -> Listed:
        """Return a page that the store was asked for later than `since_s`. Errors: of the store."""
        since_s = max(since_s, self._voided_s(directory))
        at = directory, cursor or ""
        while True:
            recent = self._recent.get(at)
            if recent is not None and recent.asked_s > since_s:
                self._recent.move_to_end(at)
                return recent
            listed, mine = await self._flights.join(at, lambda: self._get(at, since_s))
            if mine or listed.asked_s > since_s:
                return listed

    async def _get(self, at: tuple[Key, str], since_s: float) -> Listed:
        directory, cursor = at
        listed = await self._recall(at) if since_s < trio.current_time() else None
        if listed is None or listed.asked_s <= since_s:
            asked_s = trio.current_time()
            page = await self.layout.list(directory, cursor or None)
            listed = Listed(page, asked_s)
            await self._remember(at, listed)
        if cursor or listed.page.cursor is not None:
            self._recent[at] = listed
            self._recent.move_to_end(at)
            while len(self._recent) > RECENT_PAGES:
                self._recent.popitem(last=False)
        return listed

    # On the disk

    @property
    def _lasting(self) -> MetadataCache | None:
        return self._kept if self._ttl_s >= LASTING_TTL_S else None

    async def _recall(self, at: tuple[Key, str]) -> Listed | None:
        kept = self._lasting
        found = await kept.get_json(_key(at)) if kept is not None else None
        if found is None:
            return None
        try:
            page = _Page.model_validate(found)
        except ValidationError:
            return None
        now_s, asked_s = trio.current_time(), self._clock(page.asked_ns)
        # A clock that was set back makes it a page of the future: nobody knows how old it is.
        if asked_s > now_s or asked_s <= self._voided_earlier_s(at[0]):
            return None
        # While the machine slept only the wall clock went on.
        asked_s = min(asked_s, now_s - (self._wall_ns() - page.asked_ns) / _NS)
        return Listed(_decode(at[0], page), asked_s)

    async def _remember(self, at: tuple[Key, str], listed: Listed) -> None:
        kept = self._lasting
        if kept is not None and kept.is_in_use:
            page = _encode(listed.page, self._wall(listed.asked_s))
            await kept.put_json(_key(at), page.model_dump(), self._ttl_s)

    def _wall(self, time_s: float) -> int:
        return self._began_ns + int((time_s - self._began_s) * _NS)

    def _clock(self, time_ns: int) -> float:
        return self._began_s + (time_ns - self._began_ns) / _NS

    # What makes pages wrong

    def touch(self, directory: Key) -> None:
        """Believe no page of a directory that was asked for before now."""
        self._names = self._note(self._names, directory)
        for at in [at for at in self._recent if at[0] == directory]:
            del self._recent[at]

    def void(self, directory: Key) -> None:
        """Believe no page of a directory, nor of one above or below it, asked for before now."""
        self.touch(Key(directory.rpartition("/")[0]))
        self._trees = self._note(self._trees, directory)
        prefix = names.as_prefix(directory)
        for at in list(self._recent):
            if at[0] == directory or at[0].startswith(prefix):
                del self._recent[at]

    def _note(self, times: dict[Key, float], directory: Key) -> dict[Key, float]:
        now = trio.current_time()
        times[directory] = now
        if len(times) % PRUNE_NOTES == 0:  # older pages are of no use to anybody
            return {key: at for key, at in times.items() if now - at < self._ttl_s}
        return times

    def _voided_s(self, directory: Key) -> float:
        """Return when the last change was made here that makes older pages of a directory wrong."""
        changed_s = self._names.get(directory, -math.inf)
        if not self._trees:
            return changed_s
        above = (self._trees.get(key, -math.inf) for key in _above(directory))
        return max(changed_s, *above)

    def _voided_earlier_s(self, directory: Key) -> float:
        """Return the same of earlier mounts."""
        earlier = self._changes_found()
        times = [earlier.names.get(directory), *map(earlier.trees.get, _above(directory))]
        return max((self._clock(at) for at in times if at is not None), default=-math.inf)

    def _changes_found(self) -> _Changes:
        found = self._kept.found if self._kept is not None else None
        if found is not self._found:
            self._found = found
            try:
                earlier = _Changes.model_validate(found)
            except ValidationError:  # nothing is believed
                earlier = _Changes(at_ns=0, names={}, trees={Key(""): self._wall_ns()})
            if earlier.at_ns > self._began_ns:  # a clock was set back: no order is known
                earlier.trees[Key("")] = earlier.at_ns
            self._earlier = earlier
        return self._earlier

    def seal(self, changed: Mapping[Key, float]) -> None:
        """Let the next mount believe the pages on the disk, but for what was changed, and when."""
        if self._kept is None:
            return
        now_s = trio.current_time()
        # Of changes before that nothing is known any more; a longer `metadata_ttl` would ask.
        oldest = self._wall(now_s - self._ttl_s)
        earlier = self._changes_found()
        here = (*self._names.items(), *changed.items())
        in_names, trees = dict(earlier.names), {Key(""): oldest}
        for key, at_s in here:
            in_names[key] = max(self._wall(at_s), in_names.get(key, 0))
        for key, at in (
            *earlier.trees.items(),
            *((k, self._wall(t)) for k, t in self._trees.items()),
        ):
            trees[key] = max(at, trees.get(key, 0))
        self._kept.seal(
            _Changes(
                at_ns=self._wall(now_s),
                names={key: at for key, at in in_names.items() if at > oldest},
                trees={key: at for key, at in trees.items() if at >= oldest},
            ).model_dump()
        )


def _above(directory: Key) -> list[Key]:
    """Return the keys of a directory and of all above it."""
    keys = [Key("")]
    at = directory.find("/")
    while at >= 0:
        keys.append(Key(directory[:at]))
        at = directory.find("/", at + 1)
    return [*keys, directory]


def _key(at: tuple[Key, str]) -> str:
    return "\0".join(("page", *at))


def _encode(page: DirectoryPage, asked_ns: int) -> _Page:
    files = [(entry.name, entry.file) for entry in page.entries if entry.file is not None]
    return _Page.model_construct(
        asked_ns=asked_ns,
        files=[
            _File(name, file.size, file.pin.version, file.pin.version_id, file.mtime_ns)
            for name, file in files
        ],
        directories=[entry.name for entry in page.entries if entry.file is None],
        sidecars=[
            _File(one.key.rpartition("/")[2], one.size, one.version, one.version_id, one.mtime_ns)
            for one in page.sidecars
        ],
        hidden=page.hidden,
        exists=page.exists,
        marker=page.marker,
        cursor=page.cursor,
    )


def _decode(directory: Key, page: _Page) -> DirectoryPage:
    files = [
        Entry(
            one.name,
            FileVersion(
                ObjectVersion(
                    names.child(directory, one.name), Version(one.version), one.version_id
                ),
                one.size,
                one.mtime_ns,
            ),
        )
        for one in page.files
    ]
    return DirectoryPage(
        entries=(*files, *(Entry(name, None) for name in page.directories)),
        sidecars=tuple(
            ObjectInfo(
                names.child(directory, one.name),
                one.size,
                Version(one.version),
                one.mtime_ns,
                version_id=one.version_id,
            )
            for one in page.sidecars
        ),
        hidden=page.hidden,
        exists=page.exists,
        marker=page.marker,
        cursor=page.cursor,
    )
