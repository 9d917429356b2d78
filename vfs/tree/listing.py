"""What a name is now: own changes first, then a fresh listing, then a question to the store.

The first look-up in a directory lists it: one request answers that look-up and all others for
`metadata_ttl`, and brings the versions of the attribute sidecars along. A directory with more than
a page of names is asked name by name, unless it has just been listed whole for `ls`.

Memory is bounded: of all listings those stay that were taken last, and none of a directory that is
larger than `KEPT_ENTRIES`.
"""

import logging
import math
from collections import OrderedDict
from dataclasses import replace
from functools import partial

import trio

from vfs import names
from vfs.errors import WrongKindError
from vfs.layout.base import DirectoryPage, Entry, FileVersion
from vfs.store.base import ObjectInfo
from vfs.tree.attributes import Attributes, Defaults, effective
from vfs.tree.flights import Flights
from vfs.tree.node import Directory, Inodes, Node
from vfs.tree.pages import Pages
from vfs.tree.sidecars import Sidecars
from vfs.values import Inode, Key

log = logging.getLogger(__name__)

KEPT_ENTRIES = 20_000
"""Largest listing that is kept: some 10 MB. A larger directory is streamed."""
LISTED_ENTRIES = 60_000
"""Names in all listings that are kept, with their attributes: some 25 MB."""
LISTING_ENTRIES = 8
"""What a listing takes up besides its names, in names."""
MISSING_NAMES = 10_000
"""Names of large directories of which it is known that they are not there."""
SWEEP_S = 60.0
"""How often changes that count no more are looked for."""


class Listings:
    """Names of directories, as the store and this mount's own changes make them."""

    def __init__(
        self,
        pages: Pages,
        inodes: Inodes,
        sidecars: Sidecars,
        defaults: Defaults,
        *,
        ttl_s: float,
        negative_ttl_s: float,
    ) -> None:
        self._layout = pages.layout
        self._inodes = inodes
        self._sidecars = sidecars
        self._defaults = defaults
        self.pages = pages
        self.ttl_s = ttl_s
        self.negative_ttl_s = negative_ttl_s
        self._loads: Flights[tuple[Inode, bool, float], None] = Flights()
        self._finds: Flights[tuple[Inode, str], tuple[Entry | None, float]] = Flights()
        self._kept: OrderedDict[Inode, tuple[Node, int]] = OrderedDict()  # listings and sizes
        self.kept_entries = 0  # names in them, each with its listing's share
        self._missing: OrderedDict[tuple[Inode, str], float] = OrderedDict()  # when it was asked
        self._swept_s = -math.inf

    def own(self, parent: Node, name: str, asked_s: float = math.inf) -> tuple[bool, Node | None]:
        """Return whether our own change decides a name, and the node that it gives it.

        It does so over any answer to what was asked at `asked_s`, before the store had the change.
        """
        directory = directory_of(parent)
        change = directory.changes.get(name)
        if change is None:
            return False, None
        if change.pending or change.at_s > asked_s:
            return True, change.node
        if trio.current_time() - change.at_s >= self.ttl_s:
            del directory.changes[name]
            return False, None
        return True, change.node

    def valid_s(self, node: Node) -> float:
        """Return for how long the kernel may believe that a name is this node.

        What is not known anew each time counts from when the store was asked: never more than
        `metadata_ttl` in all.
        """
        if node.parent is None or node.detached or self._is_dirty(node):
            return self.ttl_s
        change = directory_of(node.parent).changes.get(node.name)
        if change is not None and change.pending:
            return self.ttl_s
        since_s = node.checked_s if change is None else max(node.checked_s, change.at_s)
        return min(max(self.ttl_s - (trio.current_time() - since_s), 0.0), self.ttl_s)

    def absent_s(self, parent: Node, name: str) -> float:
        """Return for how long the kernel may believe that there is no such name.

        Never more than `negative_ttl` after the store was asked.
        """
        directory = directory_of(parent)
        change = directory.changes.get(name)
        listed_s = directory.listed_s if directory.entries is not None else -math.inf
        since_s = max(listed_s, self._missing.get((parent.inode, name), -math.inf))
        if change is not None:
            since_s = trio.current_time() if change.pending else change.at_s
        most_s = min(self.negative_ttl_s, self.ttl_s)
        return min(max(most_s - (trio.current_time() - since_s), 0.0), most_s)

    async def find(self, parent: Node, name: str, *, max_age_s: float | None = None) -> Node | None:
        """Return the node of a name, made or brought up to date; None when there is no such name.

        `max_age_s` bounds how old the answer may be; the default is `metadata_ttl`.
        """
        self._sweep()
        decided, node = self.own(parent, name)
        if decided:
            return node
        age = self.ttl_s if max_age_s is None else max_age_s
        known = directory_of(parent).children.get(name)
        if known is not None and trio.current_time() - known.checked_s < age:
            return known
        asked_s = trio.current_time()
        entry = await self._entry(parent, name, age)
        decided, node = self.own(parent, name, asked_s)  # changed while we asked?
        if decided:
            return node
        if entry is None:
            gone = directory_of(parent).children.get(name)
            if gone is not None and self._is_dirty(gone):
                return gone  # its commit finds out
            if gone is not None:
                gone.detach()
            return None
        listed_s = directory_of(parent).listed_s if self._is_listed(parent, entry) else asked_s
        return self.reconcile(parent, entry, listed_s)

    @staticmethod
    def _is_listed(parent: Node, entry: Entry) -> bool:
        """Tell whether an entry comes from the listing that is kept, and is as old as that."""
        entries = directory_of(parent).entries
        return entries is not None and entries.get(entry.name) is entry

    async def _entry(self, parent: Node, name: str, age_s: float) -> Entry | None:
        directory = directory_of(parent)
        if not directory.large:
            await self.load(parent, age_s, whole=False)
        if self._is_fresh(directory, age_s):
            found = self._listed(directory, name)
            if found is None and not self._is_fresh(directory, min(age_s, self.negative_ttl_s)):
                await self.load(parent, min(age_s, self.negative_ttl_s), whole=False)
                found = self._listed(directory, name)
            if found is not None or directory.entries is not None:
                return found
        return await self._find(parent, name, age_s)

    async def _find(self, parent: Node, name: str, age_s: float) -> Entry | None:
        """Ask the store for one name, once however many want it; what is missing is remembered."""
        at, directory = (parent.inode, name), directory_of(parent)
        since_s = trio.current_time() - min(age_s, self.negative_ttl_s)
        if self._missing.get(at, -math.inf) > max(since_s, directory.doubted_s):
            return None
        while True:
            (entry, asked_s), mine = await self._finds.join(at, partial(self._ask, parent, name))
            if mine or asked_s > max(since_s, directory.doubted_s):
                break
        self._missing.pop(at, None)
        if entry is None:
            self._missing[at] = asked_s
            if len(self._missing) > MISSING_NAMES:
                self._missing.popitem(last=False)
            return None
        # Last of all: nobody may let go of the attributes before they are used.
        await self._sidecars.refresh(parent.key, age_s)
        return entry

    async def _ask(self, parent: Node, name: str) -> tuple[Entry | None, float]:
        """Return what the store has of a name, and when it was asked."""
        asked_s = trio.current_time()
        return await self._layout.find(names.child(parent.key, name)), asked_s

    @staticmethod
    def _is_fresh(directory: Directory, age_s: float) -> bool:
        age = trio.current_time() - directory.listed_s
        return directory.entries is not None and age < age_s

    @staticmethod
    def _listed(directory: Directory, name: str) -> Entry | None:
        return directory.entries.get(name) if directory.entries is not None else None

    async def ask(self, parent: Node, name: str) -> Node | None:
        """Return the node of a name, asking the store for it alone and now."""
        decided, node = self.own(parent, name)
        if decided:
            return node
        asked_s = trio.current_time()
        entry = await self._layout.find(names.child(parent.key, name))
        self._missing.pop((parent.inode, name), None)
        if entry is not None:
            await self._sidecars.refresh(parent.key, self.ttl_s)
        decided, node = self.own(parent, name, asked_s)
        if decided or entry is None:
            return node
        return self.reconcile(parent, entry)

    async def load(self, parent: Node, age_s: float, *, whole: bool) -> None:
        """List a directory unless the last listing is young enough; once for all who want it.

        Without `whole` only the first page; a directory that has more is marked as large.
        """
        directory = directory_of(parent)
        since_s = trio.current_time() - age_s
        while not self._is_loaded(directory, since_s, whole=whole):
            work = partial(self._load, parent, max(since_s, directory.doubted_s), whole=whole)
            _, mine = await self._loads.join((parent.inode, whole, age_s), work)
            if mine:
                return

    @staticmethod
    def _is_loaded(directory: Directory, since_s: float, *, whole: bool) -> bool:
        if directory.listed_s <= since_s:
            return False
        return directory.entries is not None or (directory.huge if whole else directory.large)

    async def _load(self, parent: Node, since_s: float, *, whole: bool) -> None:
        directory = directory_of(parent)
        doubts = directory.doubts
        entries: dict[str, Entry] = {}
        sidecars: list[ObjectInfo] = []
        hidden, marker, cursor, asked_s = 0, False, None, math.inf
        while True:
            listed = await self.pages.page(parent.key, cursor, since_s)
            asked_s, page = min(asked_s, listed.asked_s), listed.page
            hidden += page.hidden
            marker |= page.marker
            self._take(page, entries, sidecars)
            cursor = page.cursor
            if cursor is None or not whole or len(entries) > KEPT_ENTRIES:
                break
        if cursor is None:
            await self._sidecars.adopt(parent.key, sidecars, asked_s)
        # No await from here on: the listing and what is told of it change together.
        directory.has_marker |= marker
        directory.large = cursor is not None or len(entries) > KEPT_ENTRIES // 20
        directory.huge = cursor is not None and whole
        directory.entries = None
        if directory.doubts != doubts:
            return  # it may be from before what it is doubted for
        directory.listed_s = asked_s
        if cursor is None:
            directory.entries = entries
            self._report_hidden(parent, directory, hidden)
        self._keep(parent, len(entries) if cursor is None else 0)

    def _keep(self, parent: Node, count: int) -> None:
        """Take note of a listing, and let go of those that were taken first."""
        self._let_go(parent.inode)
        count += LISTING_ENTRIES + len(self._sidecars.of(parent.key).entries)
        self._kept[parent.inode] = parent, count
        self.kept_entries += count
        for inode, (node, _) in list(self._kept.items()):
            if self.kept_entries <= LISTED_ENTRIES:
                break
            directory = directory_of(node)
            if node is parent or directory.streams:
                continue
            directory.entries, directory.listed_s = None, -math.inf
            self._sidecars.let_go(node.key)
            self._let_go(inode)

    def _let_go(self, inode: Inode) -> None:
        _, count = self._kept.pop(inode, (None, 0))
        self.kept_entries -= count

    def _sweep(self) -> None:
        """Forget changes that count no more, and nodes that only they have kept."""
        now = trio.current_time()
        if now - self._swept_s < SWEEP_S:
            return
        self._swept_s = now
        for node in self._inodes.changed():
            directory = directory_of(node)
            if directory.streams:
                continue  # a reader tells by them what it has passed
            for name, change in list(directory.changes.items()):
                if not change.pending and now - change.at_s >= self.ttl_s:
                    del directory.changes[name]
                    if change.node is not None:
                        self._inodes.reap(change.node)
            self._inodes.reap(node)

    def doubt(self, parent: Node) -> None:
        """Let the next look-up in a directory ask the store."""
        directory_of(parent).forget_listing()
        self.pages.touch(parent.key)

    def void(self, directory: Key) -> None:
        """Believe no listing of a directory that was made, removed or renamed, nor below it."""
        self.pages.void(directory)

    def seal(self) -> None:
        """Let the next mount believe what is kept on the disk, but for what was changed here."""
        now = trio.current_time()
        self.pages.seal(
            {
                node.key: max(
                    now if change.pending else change.at_s
                    for change in directory_of(node).changes.values()
                )
                for node in self._inodes.changed()
            }
        )

    @staticmethod
    def _take(page: DirectoryPage, entries: dict[str, Entry], sidecars: list[ObjectInfo]) -> None:
        for entry in page.entries:
            if entry.is_directory or entry.name not in entries:
                entries[entry.name] = entry  # a directory shadows a file of the same name
        sidecars += page.sidecars

    @staticmethod
    def _report_hidden(parent: Node, directory: Directory, hidden: int) -> None:
        if hidden and hidden != directory.hidden:
            log.info("%r: %d keys cannot be file names and are hidden", parent.key, hidden)
        directory.hidden = hidden

    def reconcile(self, parent: Node, entry: Entry, seen_s: float | None = None) -> Node:
        """Return the node of what the store showed at `seen_s` (now, when it is left out).

        The inode stays while it is the same file, and what is known of it from later on stands.
        """
        known = directory_of(parent).children.get(entry.name)
        if known is not None and seen_s is not None and known.checked_s > seen_s:
            return known
        node = self._reconcile(parent, entry)
        node.checked_s = trio.current_time() if seen_s is None else seen_s
        return node

    def _reconcile(self, parent: Node, entry: Entry) -> Node:
        sidecar = self._sidecars.of(parent.key)
        attributes = effective(sidecar.get(entry.name), entry.file, self._defaults)
        node = directory_of(parent).children.get(entry.name)
        if node is not None and self._is_dirty(node):
            return node  # whether the store shows our own commit or another's, the commit finds out
        if node is not None and (node.is_directory == entry.is_directory):
            if self._same(node, entry.file):
                node.attributes = self._newest(node, attributes)
                return node
            if not (node.content is not None and node.content.handles):
                # Replaced by another host and open nowhere: the same inode shows the new content.
                node.file = entry.file
                node.content = None
                node.attributes = attributes
                node.renewed = True
                return node
        return self._inodes.add(parent, entry.name, attributes, entry.file)

    @staticmethod
    def _is_dirty(node: Node) -> bool:
        return node.content is not None and node.content.needs_commit

    @staticmethod
    def _same(node: Node, file: FileVersion | None) -> bool:
        if node.file is None or file is None:
            return node.is_directory
        return node.file.pin.version == file.pin.version

    @staticmethod
    def _newest(node: Node, attributes: Attributes) -> Attributes:
        if node.content is not None and node.content.needs_commit:
            return node.attributes
        own = node.attributes
        if node.is_directory and attributes.ctime_ns < own.ctime_ns:
            # Times of our own changes in it are nowhere in the store; all else is.
            return replace(attributes, mtime_ns=own.mtime_ns, ctime_ns=own.ctime_ns)
        return attributes


def directory_of(node: Node) -> Directory:
    """Return what is known of a directory's names. Errors: WrongKindError."""
    if node.directory is None:
        raise WrongKindError("not a directory", key=node.key)
    return node.directory
