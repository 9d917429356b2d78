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
from vfs.layout.base import Entry
from vfs.spans import EMPTY
from vfs.stage.records import Value
from vfs.tree.context import Context
from vfs.tree.listing import directory_of
from vfs.tree.namespace import Namespace
from vfs.tree.node import Node
from vfs.tree.rename_tree import Moves, check_keys, move_tree
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
        if node.parent is None:
            raise BusyError("the root has no name")
        await check_keys(context, node.key, names.child(parent.key, name))
        if not context.layout.moves_directories:
            await self._namespace.graves.vacate(node.key)
        await self._namespace.keep_directory(node.parent)
        if target is not None:
            await self._namespace.check_empty(target)
            await self._namespace.remove_directory(target)
            target.detach()
        for below in node.below():
            await below.settled()
        await self._store_below(node)
        source_key, target_key = node.key, names.child(parent.key, name)
        for sidecar in context.sidecars.below(source_key):
            await context.sidecars.upload(sidecar.directory)
        async with AsyncExitStack() as held:
            held.enter_context(_moving(node))
            for content in self._contents(node):  # no version may go to an old key any more
                await held.enter_async_context(content.commits)
                await content.settle()
            number = await self._begin(node, source_key, target_key)
            moves: Moves = {}
            try:
                await self._move(source_key, target_key, moves)
            except VfsError:
                self._follow(source_key, target_key, moves)
                await context.journal.undecide(number)
                self._forget_moved(node, moves)
                directory_of(parent).forget_listing()
                raise
            self._follow(source_key, target_key, moves)
            self._rehang(node, parent, name, moves)
            for content in self._contents(node):
                await content.retarget()
        await context.journal.done(number)

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
                for move in list(below.directory.leaving.values()):
                    await committer.store(move.content)
                    await move.over.wait()

    async def _begin(self, node: Node, source: Key, target: Key) -> int:
        entry = attributes_value(node.attributes)
        fields: dict[str, Value] = {"source": source, "target": target, "entry": entry}
        return await self._context.journal.begin("move_directory", fields)

    async def _move(self, source: Key, target: Key, moves: Moves) -> None:
        """Move what the store has."""
        layout = self._context.layout
        if layout.moves_directories:
            await layout.move_directory(source, target)
        else:
            await move_tree(self._context, source, target, moves)

    def _follow(self, source: Key, target: Key, moves: Moves) -> None:
        """Let what waits for its last close be found where it was taken."""
        taken = None if self._context.layout.moves_directories else moves
        self._namespace.graves.follow(source, target, taken)

    @staticmethod
    def _forget_moved(node: Node, moves: Moves) -> None:
        """Let a directory show what a failed rename has left of it."""
        for below in list(node.below()):
            if below.directory is not None:
                below.directory.forget_listing()
            elif below.parent is not None and below.key in moves:
                directory_of(below.parent).changes.pop(below.name, None)
                below.detach()

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
        _, new = moves.get(old.pin.key) or (
            old,
            replace(old, pin=replace(old.pin, key=key, version_id=None)),
        )
        node.file = new
        node.attributes = replace(node.attributes, version=new.pin.version)
        if node.content is not None:
            if node.content.base is not None:
                self._context.fetcher.hand_over(node.content.base, new, EMPTY)
            node.content.base = node.content.replaces = new
            node.content.journal.retarget()
