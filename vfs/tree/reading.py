"""Reading directories: a stream of names at positions that stay put while the directory changes.

A listing that fits in memory is taken whole, so a name that is both a file and a directory shows
once. A larger one streams page by page; positions count names from the beginning, and going back
restarts it.
"""

from collections.abc import AsyncIterator, Mapping

import trio

from vfs.file.handles import HandleTable
from vfs.layout.base import Entry
from vfs.tree.context import Context
from vfs.tree.listing import directory_of
from vfs.tree.node import Node
from vfs.values import HandleId


class DirectoryStream:
    """One open directory."""

    def __init__(self, context: Context, node: Node) -> None:
        self._context = context
        self.node = node
        self._items: list[Entry | Node] = []
        self._first = 0  # position of the first item
        self._pages: AsyncIterator[list[Entry | Node]] | None = None
        self._ended = False
        self._seen_s = float("-inf")  # when the store was asked for the items
        self._lock = trio.Lock()

    async def at(self, position: int) -> Node | None:
        """Return the node at a position; None past the end."""
        async with self._lock:
            if position < self._first or self._pages is None:
                self._restart()
            while position >= self._first + len(self._items) and not self._ended:
                await self._next_page()
            index = position - self._first
            if index >= len(self._items):
                return None
            item = self._items[index]
        if isinstance(item, Node):
            return item
        listings = self._context.listings
        _, own = listings.own(self.node, item.name, self._seen_s)  # since the page was read
        return own or listings.reconcile(self.node, item, self._seen_s)

    def _restart(self) -> None:
        self._items, self._first, self._ended = [], 0, False
        self._pages = self._stream()

    async def _next_page(self) -> None:
        if self._pages is None:
            return
        try:
            page = await anext(self._pages)
        except StopAsyncIteration:
            self._ended = True
            return
        self._first += len(self._items)
        self._items = page

    async def _stream(self) -> AsyncIterator[list[Entry | Node]]:
        context, node = self._context, self.node
        directory = directory_of(node)
        if node.detached:
            return
        await node.settled()
        began_s = trio.current_time()
        # What is pending now may be stored while we read, behind the page that would show it.
        made = {
            name: one.node for name, one in directory.changes.items() if one.node and one.pending
        }
        seen: set[str] = set()
        await context.listings.load(node, context.listings.ttl_s, whole=True)
        if directory.entries is not None:
            self._seen_s = directory.listed_s
            shown = self._overlay(list(directory.entries.values()), made, seen)
            yield shown + self._rest(made, seen, began_s)
            return
        await context.sidecars.refresh(node.key, context.listings.ttl_s)
        cursor: str | None = None
        since_s = max(began_s - context.listings.ttl_s, directory.doubted_s)
        while True:
            listed = await context.listings.pages.page(node.key, cursor, since_s)
            self._seen_s = listed.asked_s
            yield self._overlay(list(listed.page.entries), made, seen)
            cursor = listed.page.cursor
            if cursor is None:
                break
        yield self._rest(made, seen, began_s)

    def _overlay(
        self, entries: list[Entry], made: Mapping[str, Node], seen: set[str]
    ) -> list[Entry | Node]:
        """Replace what our own changes decide; note of our own names which were met."""
        shown: list[Entry | Node] = []
        for entry in entries:
            decided, own = self._context.listings.own(self.node, entry.name, self._seen_s)
            if decided or entry.name in made:
                seen.add(entry.name)
            if not decided:
                shown.append(entry)
            elif own is not None:
                shown.append(own)
        return shown

    def _rest(self, made: Mapping[str, Node], seen: set[str], began_s: float) -> list[Entry | Node]:
        """Return our own names that the listing did not show."""
        out: list[Entry | Node] = []
        changes = list(directory_of(self.node).changes)
        for name in (*made, *(name for name in changes if name not in made)):
            if name in seen:
                continue
            decided, own = self._context.listings.own(self.node, name, began_s)
            if decided and own is not None:
                out.append(own)
            elif not decided and (node := made.get(name)) and self._is_here(node, name):
                out.append(Entry(name, node.file))
        return out

    def _is_here(self, node: Node, name: str) -> bool:
        return not node.detached and node.parent is self.node and node.name == name


class Reading:
    """Open directories."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._streams: HandleTable[DirectoryStream] = HandleTable()

    async def open(self, node: Node) -> HandleId:
        """Open a directory. Errors: WrongKindError."""
        directory_of(node).streams += 1
        return self._streams.add(DirectoryStream(self._context, node))

    async def sync(self, number: HandleId) -> None:
        """Store the attributes of a directory's names."""
        context = self._context
        stream = self._streams.get(number)
        await context.journal.sync()
        await context.sidecars.upload(stream.node.key)

    def stream(self, number: HandleId) -> DirectoryStream:
        """Return an open directory."""
        return self._streams.get(number)

    def close(self, number: HandleId) -> None:
        """Close a directory."""
        directory_of(self._streams.pop(number).node).streams -= 1
