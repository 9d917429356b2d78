"""What a name is now: own changes first, then a fresh listing, then a question to the store.

The first look-up in a directory lists it: one request answers that look-up and all others for
`metadata_ttl`, and brings the versions of the attribute sidecars along. A directory with more than
a page of names is asked name by name, unless it has just been listed whole for `ls`.
"""

import logging
import math
from dataclasses import replace

import trio

from vfs import names
from vfs.errors import WrongKindError
from vfs.layout.base import DirectoryPage, Entry, FileVersion, Layout
from vfs.store.base import ObjectInfo
from vfs.tree.attributes import Attributes, Defaults, effective
from vfs.tree.node import Directory, Inodes, Node
from vfs.tree.sidecars import Sidecars

log = logging.getLogger(__name__)

KEPT_ENTRIES = 20_000
"""Largest listing that is kept: some 10 MB. A larger directory is streamed."""


class Listings:
    """Names of directories, as the store and this mount's own changes make them."""

    def __init__(
        self,
        layout: Layout,
        inodes: Inodes,
        sidecars: Sidecars,
        defaults: Defaults,
        *,
        ttl_s: float,
        negative_ttl_s: float,
    ) -> None:
        self._layout = layout
        self._inodes = inodes
        self._sidecars = sidecars
        self._defaults = defaults
        self.ttl_s = ttl_s
        self.negative_ttl_s = negative_ttl_s

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

    async def find(self, parent: Node, name: str, *, max_age_s: float | None = None) -> Node | None:
        """Return the node of a name, made or brought up to date; None when there is no such name.

        `max_age_s` bounds how old the answer may be; the default is `metadata_ttl`.
        """
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
        listed_s = directory_of(parent).listed_s if self._is_listed(parent, entry) else None
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
        await self._sidecars.refresh(parent.key, age_s)
        return await self._layout.find(names.child(parent.key, name))

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
        if entry is not None:
            await self._sidecars.refresh(parent.key, self.ttl_s)
        decided, node = self.own(parent, name, asked_s)
        if decided or entry is None:
            return node
        return self.reconcile(parent, entry)

    async def load(self, parent: Node, age_s: float, *, whole: bool) -> None:
        """List a directory unless the last listing is young enough.

        Without `whole` only the first page; a directory that has more is marked as large.
        """
        directory = directory_of(parent)
        async with directory.lock:
            fresh = trio.current_time() - directory.listed_s < age_s
            if fresh and directory.entries is not None:
                return
            began = trio.current_time()
            entries: dict[str, Entry] = {}
            sidecars: list[ObjectInfo] = []
            hidden = 0
            page = await self._layout.list(parent.key)
            while True:
                hidden += page.hidden
                directory.has_marker |= page.marker
                self._take(page, entries, sidecars)
                if page.cursor is None or not whole or len(entries) > KEPT_ENTRIES:
                    break
                page = await self._layout.list(parent.key, page.cursor)
            directory.large = page.cursor is not None or len(entries) > KEPT_ENTRIES // 20
            if page.cursor is None:
                await self._sidecars.adopt(parent.key, sidecars, began)
                directory.entries, directory.listed_s = entries, began
                self._report_hidden(parent, directory, hidden)
            else:
                directory.entries = None

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
