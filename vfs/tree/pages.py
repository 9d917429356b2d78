"""Pages of listings: each is asked for once, however many read the directory.

The last few pages of large directories stay in memory, so that readers side by side share them. On
the disk pages outlive the process, where `metadata_ttl` is long enough to gain by it. A page tells
when the store was asked for it, and who wants a younger one asks.

A page knows nothing of what this mount has changed later: names, which the tree lays over it until
`metadata_ttl` has passed, and directories that were made, removed or renamed, below which no older
page counts. Both are written beside the pages when the mount ends, for the next one; when it had no
time for that no page of it is believed.
"""

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
        self._trees: dict[Key, float] = {}  # when they were made, removed or renamed here
        self._found: object = None
        self._earlier = _Changes(names={}, trees={})

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
        listed = await self._recall(at)
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
        asked_s = self._since_start(page.asked_ns)
        # A clock that was set back makes it a page of the future: nobody knows how old it is.
        if asked_s > trio.current_time() or asked_s <= self._voided_earlier_s(at[0]):
            return None
        return Listed(_decode(at[0], page), asked_s)

    async def _remember(self, at: tuple[Key, str], listed: Listed) -> None:
        kept = self._lasting
        if kept is not None and kept.is_in_use:
            page = _encode(listed.page, self._wall(listed.asked_s))
            await kept.put_json(_key(at), page.model_dump(), self._ttl_s)

    def _wall(self, time_s: float) -> int:
        return self._wall_ns() - int((trio.current_time() - time_s) * _NS)

    def _since_start(self, time_ns: int) -> float:
        return trio.current_time() - (self._wall_ns() - time_ns) / _NS

    # What makes pages wrong

    def void(self, directory: Key) -> None:
        """Believe no page of a directory, or of one below it, that was asked for before now."""
        now = trio.current_time()
        # Older pages are of no use to anybody.
        self._trees = {key: at for key, at in self._trees.items() if now - at < self._ttl_s}
        self._trees[directory] = now
        prefix = names.as_prefix(directory)
        for at in list(self._recent):
            if at[0] == directory or at[0].startswith(prefix):
                del self._recent[at]

    def _voided_s(self, directory: Key) -> float:
        """Return when the last change was made here that makes older pages of a directory wrong."""
        if not self._trees:
            return float("-inf")
        return max(self._trees.get(above, float("-inf")) for above in _above(directory))

    def _voided_earlier_s(self, directory: Key) -> float:
        """Return the same of earlier mounts."""
        earlier = self._changes_found()
        times = [earlier.names.get(directory), *map(earlier.trees.get, _above(directory))]
        return max((self._since_start(at) for at in times if at is not None), default=float("-inf"))

    def _changes_found(self) -> _Changes:
        found = self._kept.found if self._kept is not None else None
        if found is not self._found:
            self._found = found
            try:
                self._earlier = _Changes.model_validate(found)
            except ValidationError:
                now = self._wall_ns()  # nothing is believed
                self._earlier = _Changes(names={}, trees={Key(""): now})
        return self._earlier

    def seal(self, changed: Mapping[Key, float]) -> None:
        """Let the next mount believe the pages on the disk, but for what was changed, and when."""
        if self._kept is None:
            return
        oldest = self._wall(trio.current_time() - self._ttl_s)
        earlier = self._changes_found()
        in_names = earlier.names | {key: self._wall(at) for key, at in changed.items()}
        trees = earlier.trees | {key: self._wall(at) for key, at in self._trees.items()}
        self._kept.seal(
            {
                "names": {key: at for key, at in in_names.items() if at > oldest},
                "trees": {key: at for key, at in trees.items() if at > oldest},
            }
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
