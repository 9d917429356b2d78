"""Rename: at every moment a file is under at least one of its two names.

One atomic request where the store has it. Elsewhere a small clean file is copied, verified and
removed under conditions, with the intent journalled first. A large or dirty one is answered at
once: its content keeps reading from the old key and commits to the new one, and the old key is
removed after that. Directories: `vfs.tree.rename_directory`.
"""

from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace

import trio

from vfs import names
from vfs.errors import (
    BusyError,
    ExistsError,
    InvalidError,
    IsDirectoryError,
    NotFoundError,
    VfsError,
    WrongKindError,
)
from vfs.file.content import Content
from vfs.layout.base import Entry, FileVersion
from vfs.spans import EMPTY
from vfs.stage.file import StagedFile
from vfs.stage.records import file_record
from vfs.tree.context import Context
from vfs.tree.listing import directory_of
from vfs.tree.namespace import Namespace
from vfs.tree.node import Move, Node
from vfs.tree.rename_directory import DirectoryRename
from vfs.tree.rename_tree import find_landed
from vfs.tree.sidecar import attributes_value
from vfs.values import GIB, Key

NOREPLACE = 1  # RENAME_NOREPLACE, linux/fs.h
COPIED_AT_ONCE_BYTES = 1 * GIB
"""Up to here a rename waits for its copy; the kernel locks both directories meanwhile."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file goes."""

    parent: Node
    name: str
    target: Node | None  # the file that is replaced
    content: Content | None  # of that
    over: tuple[StagedFile, ...]  # what was written there: from the rename on it is nobody's

    @property
    def key(self) -> Key:
        return names.child(self.parent.key, self.name)

    @property
    def replaces(self) -> FileVersion | None:
        """What the store has there now: what was unlinked there may go between two awaits."""
        if self.content is not None:
            return self.content.replaces
        if self.target is not None:
            return self.target.file
        return directory_of(self.parent).buried(self.name)


class Rename:
    """The rename operation."""

    def __init__(self, context: Context, namespace: Namespace) -> None:
        self._context = context
        self._namespace = namespace
        self._directories = DirectoryRename(context, namespace)

    async def rename(
        self, parent: Node, name: str, target_parent: Node, target_name: str, flags: int
    ) -> None:
        """Rename a file or a directory, replacing a file or an empty directory.

        Errors: ExistsError with NOREPLACE; InvalidError for other flags and for a directory into
        itself; IsDirectoryError, WrongKindError, NotEmptyError; NotFoundError.
        """
        context = self._context
        context.check_writable()
        if flags & ~NOREPLACE:
            raise InvalidError("only RENAME_NOREPLACE is possible")
        names.check_new(target_name)
        await parent.settled()
        await target_parent.settled()
        await target_parent.vacated(target_name)
        context.layout.check_key(names.child(target_parent.key, target_name))
        for key in (names.child(parent.key, name), names.child(target_parent.key, target_name)):
            await self._namespace.doubts.settle(key)
        node = await self._namespace.lookup(parent, name)
        target = await context.listings.ask(target_parent, target_name)
        if target is node:
            return
        if target is not None and flags & NOREPLACE:
            raise ExistsError("the new name exists", key=target.key)
        self._check_kinds(node, target, target_parent)
        if node.is_directory:
            await self._directories.rename(node, target_parent, target_name, target)
        else:
            await self._rename_file(node, target_parent, target_name, target)
        context.touch_directory(parent)
        context.touch_directory(target_parent)
        await context.journal.sync()

    @staticmethod
    def _check_kinds(node: Node, target: Node | None, target_parent: Node) -> None:
        if target_parent.detached:
            raise NotFoundError("the target directory is gone", key=target_parent.key)
        if target is not None and node.is_directory and not target.is_directory:
            raise WrongKindError("not a directory", key=target.key)
        if target is not None and target.is_directory and not node.is_directory:
            raise IsDirectoryError("is a directory", key=target.key)
        above: Node | None = target_parent
        while above is not None:
            if above is node:
                raise InvalidError("a directory cannot be moved into itself", key=node.key)
            above = above.parent

    # Files

    async def _rename_file(self, node: Node, parent: Node, name: str, target: Node | None) -> None:
        context = self._context
        if node.parent is None:
            raise BusyError("the root has no name")
        await self._namespace.keep_directory(node.parent)
        content = context.content(node)
        try:
            leaving = directory_of(parent).leaving.get(name)
            if node.move is not None and leaving is not None and leaving is not node.move:
                # It is to wait for another file, and others may wait for it: first it is stored,
                # or all would wait in a circle.
                await context.committer.store(content)
            async with content.commits:  # no version may go to the old key any more
                await content.settle()
                await content.finish_move()
                if context.committer.local and content.needs_commit:
                    # What it replaces may have been promised: never under no name after a crash.
                    await content.persist()
                place = await self._give_up(parent, name, target)
                try:
                    await self._move(node, content, place)
                except VfsError:
                    if target is not None and target.content is not None:
                        self._namespace.take_back(target.content)
                    raise
            if target is not None:
                self._namespace.let_go(target)
        finally:
            self._namespace.let_go(node)

    async def _move(self, node: Node, content: Content, place: _Place) -> None:
        source = node.file
        if (
            source is None
            or content.needs_commit
            or directory_of(place.parent).gate(place.name) is not None
            or not self._quick(source)
        ):
            await self._move_later(node, content, place)
        else:
            await self._move_now(node, content, source, place)

    async def _move_now(
        self, node: Node, content: Content, source: FileVersion, place: _Place
    ) -> None:
        context = self._context
        number = self._decide(node, source, place)
        await context.journal.sync()
        atomic, old_parent, old_name = context.layout.moves_files, node.parent, node.name
        if old_parent is None:
            return
        buried, grave = directory_of(place.parent).tombstones.get(place.name), None
        async with AsyncExitStack() as held:
            if buried is not None:
                await held.enter_async_context(buried.lock)
            moved = await self._bring(source, content, place, number)
            # No await from here on: the tree changes as a whole.
            self._hang(node, place, moved)
        context.forget_name(old_parent, old_name, pending=not atomic)
        context.note_attributes(node)
        if not atomic:
            # It takes the place of the decision that tells what was staged for the new name.
            over = tuple(staged.path.name for staged in place.over)
            grave = self._namespace.graves.dig(
                old_parent, old_name, source, over=over, number=number
            )
        await self._replace(content, place)
        if buried is not None:
            await context.journal.sync()  # else a restart might take the copy for what was there
        if grave is not None:
            await self._namespace.graves.clear(node, grave)
        else:
            await context.journal.done(number)

    async def _bring(
        self, source: FileVersion, content: Content, place: _Place, number: int
    ) -> FileVersion:
        """Store a file under its new name, the old one left where nothing moves it."""
        layout = self._context.layout
        try:
            move = layout.move if layout.moves_files else layout.copy
            return await move(source, place.key, replaces=place.replaces)
        except VfsError:
            landed, is_known = None, False
            with suppress(VfsError):
                landed = await find_landed(layout, source, place.key, place.replaces)
                is_known = True
            if landed is not None:
                return landed
            if is_known or layout.moves_files or place.replaces is not None:
                await self._context.journal.undecide(number)
            else:
                self._namespace.doubts.note(place.parent, place.name, source, content, number)
                with suppress(VfsError):  # of the stage's disk
                    await self._context.journal.sync()
            raise

    async def _replace(self, content: Content, place: _Place) -> None:
        """Let what was begun for the old place go, and what was staged for the new one."""
        content.journal.retarget(*place.over)
        await content.retarget()
        await content.journal.sync()
        target, grave = place.target, None
        if target is not None and target.move is not None:
            grave = await self._namespace.end_move(target.move, target)
            await self._context.journal.sync()  # before nothing leads to its old name any more
        for staged in place.over:
            await staged.forget()
        if target is not None and grave is not None:
            await self._namespace.graves.clear(target, grave)

    def _quick(self, file: FileVersion) -> bool:
        return self._context.layout.moves_directories or file.size <= COPIED_AT_ONCE_BYTES

    def _decide(self, node: Node, source: FileVersion, place: _Place) -> int:
        """Queue the decision, in the place of an earlier one that is not carried out."""
        version = place.replaces.pin.version if place.replaces is not None else None
        return self._context.journal.note(
            "move",
            {
                "file": file_record(source),
                "target": place.key,
                "replaces": version,
                "entry": attributes_value(node.attributes),
                "over": [staged.path.name for staged in place.over],
            },
            node.move.number if node.move is not None else None,
        )

    async def _give_up(self, parent: Node, name: str, target: Node | None) -> _Place:
        """Let the unsaved changes of what is replaced go; return where the file goes."""
        if target is None:
            return _Place(parent, name, None, None, ())
        content = target.content
        if content is None:
            return _Place(parent, name, target, None, ())
        content.discarded = True
        try:
            cancelled = await self._context.committer.cancel(content)
            await self._namespace.finish_move(content)
            if cancelled:
                content.replaces = await self._namespace.standing(target, content)
                if target.move is None:
                    target.file = content.replaces
        except VfsError:
            self._namespace.take_back(content)
            raise
        await content.retarget()
        over = () if content.staged is None else (content.staged,)
        return _Place(parent, name, target, content, over)

    def _hang(self, node: Node, place: _Place, file: FileVersion | None) -> None:
        """Give a node its new place and, when it is stored there, its new version."""
        context, parent, name = self._context, place.parent, place.name
        context.inodes.move(node, parent, name)
        node.file = file
        directory = directory_of(parent)
        directory.note(name, node, pending=file is None)
        if file is not None:
            context.replace_buried(directory, name)
        if directory.entries is not None and file is not None:
            directory.entries[name] = Entry(name, file)
        now = context.wall_ns()
        version = file.pin.version if file is not None else node.attributes.version
        node.attributes = replace(node.attributes, ctime_ns=now, version=version)
        content = node.content
        if content is not None and file is not None:
            if content.base is not None:
                context.fetcher.hand_over(content.base, file, EMPTY)
            content.base = content.replaces = file

    async def _move_later(self, node: Node, content: Content, place: _Place) -> None:
        """Answer at once: the content commits to the new key, then the old key is removed."""
        context, source = self._context, node.file
        old_parent, old_name = node.parent, node.name
        if old_parent is None:
            return
        # First: a restart that knows no more than this takes it back.
        grave = self._namespace.graves.dig_replaced(old_parent, old_name, node, content)
        number = self._decide(node, source, place) if source is not None else 0
        await context.journal.sync()
        # No await from here on: the tree changes as a whole.
        fresh = source is not None and node.move is None
        if source is not None and fresh:
            node.move = Move(old_parent, old_name, source, content, number, trio.Event())
            directory_of(old_parent).leaving[old_name] = node.move
            content.moved_from = source
            content.after_move = lambda: self._namespace.moved(node)
        leaving = directory_of(place.parent).leaving.get(place.name)
        content.gate = directory_of(place.parent).gate(place.name)
        content.replaces = place.replaces
        content.changed()
        self._hang(node, place, None)
        node.file = source
        context.forget_name(old_parent, old_name, pending=fresh or grave is not None)
        if leaving is not None and leaving is node.move:  # back to where its bytes still are
            content.replaces, content.gate = leaving.file, None
            content.moved_from = content.after_move = None
            await self._namespace.moved(node)
        await self._replace(content, place)
        if grave is not None:
            await self._namespace.graves.clear(node, grave)
        context.committer.start(content)
