"""Rename of a directory: one atomic request where the store has it, else file by file.

What is dirty below is stored first, and until the rename is over nothing below gets a new version:
whoever opens, looks up or changes something there waits. The decision is journalled before the
first file moves; a restart finishes it (`vfs.tree.recovery`), an error ends it where it is.
"""

from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

import trio

from vfs import names
from vfs.errors import BusyError, VfsError
from vfs.file.content import Content
from vfs.layout.base import Entry, FileVersion
from vfs.spans import EMPTY
from vfs.stage.records import Value
from vfs.tree.attributes import Attributes
from vfs.tree.context import Context
from vfs.tree.listing import directory_of
from vfs.tree.namespace import Namespace
from vfs.tree.node import Grave, Node
from vfs.tree.rename_tree import Moves, check_keys, move_tree, move_whole
from vfs.tree.sidecar import attributes_value
from vfs.values import Key


@contextmanager
def _moving(node: Node) -> Generator[None]:
    """Let what is done below a directory wait until its keys are others."""
    directory, over = directory_of(node), trio.Event()
    directory.moving = over
    try:
        yield
    finally:
        directory.moving = None
        over.set()


class DirectoryRename:
    """The part of the rename operation that directories need."""

    def __init__(self, context: Context, namespace: Namespace) -> None:
        self._context = context
        self._namespace = namespace

    async def rename(self, node: Node, parent: Node, name: str, target: Node | None) -> None:
        """Rename a directory; `target` is an empty one that it replaces. Errors: NotEmptyError."""
        context = self._context
        await self._prepare(node, parent, name, target)
        source_key, target_key = node.key, names.child(parent.key, name)
        async with AsyncExitStack() as held:
            held.enter_context(_moving(node))
            for content in self._contents(node):  # no version may go to an old key any more
                await held.enter_async_context(content.commits)
                await content.settle()
            number = await self._begin(node, target_key, target)
            moves = Moves()
            try:
                if target is not None:  # the attributes in there are those of names that are gone
                    await context.sidecars.remove_all(target_key)
                    context.journal.append(context.sidecars.forget(target_key))
                await self._move(source_key, target_key, moves)
            except VfsError:
                self._follow(source_key, target_key, moves)
                await self._stop(node, parent, name, moves, number)
                raise
            self._follow(source_key, target_key, moves)
            self._rehang(node, parent, name, moves)
            for content in self._contents(node):
                await content.retarget()
        await context.journal.done(number)

    async def _prepare(self, node: Node, parent: Node, name: str, target: Node | None) -> None:
        """Refuse what cannot be done, and store what is dirty below."""
        context, graves = self._context, self._namespace.graves
        if node.parent is None:
            raise BusyError("the root has no name")
        for one in (node, target):
            if one is not None:
                await one.settled_below()
        await check_keys(context, node.key, names.child(parent.key, name))
        if not context.layout.moves_directories:
            await graves.vacate(node.key)
        await self._namespace.keep_directory(node.parent)
        if target is not None:
            await self._namespace.check_empty(target)
            await self._namespace.let_leave(target)
            await graves.vacate(target.key)
        await node.settled_below()
        await self._store_below(node)
        for sidecar in context.sidecars.below(node.key):
            await context.sidecars.upload(sidecar.directory)

    @staticmethod
    def _contents(node: Node) -> list[Content]:
        return [below.content for below in node.below() if below.content is not None]

    async def _store_below(self, node: Node) -> None:
        """Store what is dirty below a directory, also what is only leaving it."""
        committer = self._context.committer
        for below in node.below():
            if below.content is not None and below.content.needs_commit:
                await committer.store(below.content)
            if below.directory is not None:
                await self._namespace.let_leave(below)

    async def _begin(self, node: Node, key: Key, target: Node | None) -> int:
        fields: dict[str, Value] = {
            "source": node.key,
            "target": key,
            "entry": attributes_value(node.attributes),
        }
        kept = self._kept(target) if target is not None else None
        if kept is not None:
            fields["replaced"] = attributes_value(kept)
        return await self._context.journal.begin("move_directory", fields)

    def _kept(self, directory: Node) -> Attributes | None:
        """Return the attributes of a directory as its sidecar has them."""
        key = directory.parent.key if directory.parent is not None else directory.key
        return self._context.sidecars.of(key).get(directory.name)

    async def _move(self, source: Key, target: Key, moves: Moves) -> None:
        """Move what the store has."""
        if self._context.layout.moves_directories:
            await move_whole(self._context, source, target)
        else:
            await move_tree(self._context, source, target, moves)

    def _follow(self, source: Key, target: Key, moves: Moves) -> None:
        """Let what waits for its last close be found where it was taken."""
        taken = None if self._context.layout.moves_directories else moves.done
        self._namespace.graves.follow(source, target, taken)

    async def _stop(self, node: Node, parent: Node, name: str, moves: Moves, number: int) -> None:
        """Let each file go on under the name that it has, where only some of them have moved."""
        namespace, source = self._namespace, node.key
        for below in (parent, *node.below()):
            if below.directory is not None:
                below.directory.forget_listing()
        contents: list[Content] = []
        graves: list[tuple[Node, Grave]] = []
        for key, (old, new) in moves.done.items():
            here, there, last = self._way(node, parent, name, key[len(source) + 1 :])
            moved = directory_of(here).children.get(last)
            if moved is not None:
                self._hang_file(moved, there, old, new)
            if old in moves.left:
                moved = moved or self._context.listings.reconcile(there, Entry(last, new))
                graves.append((moved, namespace.graves.dig(here, last, old)))
            if moved is not None and moved.content is not None:
                contents.append(moved.content)
            self._context.forget_name(here, last, pending=old in moves.left)
        for file in moves.unsure:
            here, there, last = self._way(node, parent, name, file.pin.key[len(source) + 1 :])
            one = directory_of(here).children.get(last)
            one = one or self._context.listings.reconcile(here, Entry(last, file))
            namespace.doubts.note(there, last, file, self._context.content(one))
        await self._context.journal.undecide(number)
        for content in contents:
            await content.retarget()
        for moved, grave in graves:
            namespace.graves.clear_later(moved, grave)

    def _way(self, node: Node, parent: Node, name: str, path: str) -> tuple[Node, Node, str]:
        """Return the directories in which a file was and is now, as nodes, and its own name."""
        here, there = node, self._directory(parent, name, node)
        *between, last = path.split("/")
        for part in between:
            here = self._directory(here, part, None)
            there = self._directory(there, part, here)
        return here, there, last

    def _directory(self, parent: Node, name: str, like: Node | None) -> Node:
        """Return the node of a directory that the store has, be it since a moment ago."""
        context = self._context
        known = directory_of(parent).children.get(name)
        if known is not None and known.is_directory:
            return known
        attributes = context.defaults.directory() if like is None else like.attributes
        made = context.inodes.add(parent, name, attributes, None)
        if like is not None:
            directory_of(made).has_marker = True
            directory_of(parent).note(name, made, pending=False)
            context.note_attributes(made)
        return made

    def _hang_file(self, node: Node, parent: Node, old: FileVersion, new: FileVersion) -> None:
        """Hang one file elsewhere that has moved. No await: the tree changes as a whole."""
        self._context.inodes.move(node, parent, node.name)
        directory_of(parent).note(node.name, node, pending=False)
        self._renew(node, old, new)

    def _rehang(self, node: Node, parent: Node, name: str, moves: Moves) -> None:
        """Hang a moved directory elsewhere. No await: the tree changes as a whole."""
        context = self._context
        source, old_parent, old_name = node.key, node.parent, node.name
        if old_parent is None:
            return
        context.journal.append(context.sidecars.forget(source))
        context.inodes.move(node, parent, name)
        for below in node.below():
            self._rekey(below, source, node.key, moves)
        node.attributes = replace(node.attributes, ctime_ns=context.wall_ns())
        directory = directory_of(parent)
        directory.note(name, node, pending=False)
        if directory.entries is not None:
            directory.entries[name] = Entry(name, None)
        context.forget_name(old_parent, old_name, pending=False)
        context.note_attributes(node)

    def _rekey(self, node: Node, source: Key, target: Key, moves: Moves) -> None:
        """Let a node below a moved directory know where its object lies now."""
        if node.directory is not None:
            node.directory.forget_listing()
            return
        old = node.file
        if old is None:
            if node.content is not None:
                node.content.journal.retarget()
            return
        key = Key(target + old.pin.key[len(source) :])
        as_it_was = old, replace(old, pin=replace(old.pin, key=key, version_id=None))
        self._renew(node, *moves.done.get(old.pin.key, as_it_was))

    def _renew(self, node: Node, old: FileVersion, new: FileVersion) -> None:
        """Let a file know what has become of its version."""
        if node.file is None or node.file.identity != old.identity:
            # Another host has replaced it before it was moved: who has it open keeps what it was.
            directory_of(node.parent or node).changes.pop(node.name, None)
            node.detach()
            return
        node.file = new
        node.attributes = replace(node.attributes, version=new.pin.version)
        content = node.content
        if content is not None:
            if content.base is not None:
                self._context.fetcher.hand_over(content.base, new, EMPTY)
            content.base = content.replaces = new
            content.journal.retarget()
