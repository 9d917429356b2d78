"""Names: look up, create, remove.

Every change is visible to this mount at once, through the parent's `changes`, and durable when the
call returns or, for files, at the first flush. Removing a file that is open hides the name at once;
its object goes with the last handle, and only if nobody has replaced it by then.
"""

import logging
import stat
from contextlib import suppress
from dataclasses import replace

from vfs import names
from vfs.errors import (
    ExistsError,
    InvalidError,
    IsDirectoryError,
    NameTooLongError,
    NotEmptyError,
    NotFoundError,
    NotPermittedError,
    TransientError,
    VfsError,
    WrongKindError,
)
from vfs.file.content import Content
from vfs.layout.base import Entry, FileVersion
from vfs.tree.context import Caller, Context
from vfs.tree.doubts import Doubts
from vfs.tree.graves import Graves
from vfs.tree.listing import directory_of
from vfs.tree.node import Grave, Move, Node

log = logging.getLogger(__name__)

SYMLINK_MAX_BYTES = 4095
"""PATH_MAX less its NUL: the kernel refuses longer targets."""


class Namespace:
    """Operations on names."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.graves = Graves(context)
        self.doubts = Doubts(context)

    async def find(self, parent: Node, name: str) -> Node | None:
        """Return the node of a name, None when there is none. Errors: NameTooLongError."""
        if names.is_reserved(name) or not names.is_name(name):
            if len(names.encode(name)) > names.NAME_MAX_BYTES:
                names.check_new(name)
            return None
        await parent.settled()
        return await self._context.listings.find(parent, name)

    async def lookup(self, parent: Node, name: str) -> Node:
        """Return the node of a name. Errors: NotFoundError, NameTooLongError."""
        node = await self.find(parent, name)
        if node is None:
            raise NotFoundError("no such name", key=names.child(parent.key, name))
        return node

    async def _must_be_free(self, parent: Node, name: str) -> None:
        """Prepare to make a name. Errors: ExistsError, and those of names that cannot be made."""
        context = self._context
        await parent.settled()
        await parent.vacated(name)
        self._check_makeable(parent, name)
        # Asked anew: an answer from memory must not hide what another host has made.
        if await context.listings.ask(parent, name) is not None:
            raise ExistsError("the name exists", key=names.child(parent.key, name))

    def _check_makeable(self, parent: Node, name: str) -> None:
        self._context.check_writable()
        names.check_new(name)
        self._context.layout.check_key(names.child(parent.key, name))
        if parent.detached:
            raise NotFoundError("the directory is gone", key=parent.key)

    def _born(self, parent: Node, name: str, node: Node, *, pending: bool) -> None:
        """Make a new name visible."""
        directory = directory_of(parent)
        directory.note(name, node, pending=pending)
        if directory.entries is not None and not pending:
            directory.entries[name] = Entry(name, node.file)
        self._context.touch_directory(parent)

    async def create(self, parent: Node, name: str, mode: int, caller: Caller) -> Node:
        """Make an empty file; it becomes an object at its first flush. Errors: ExistsError."""
        await self._must_be_free(parent, name)
        return self._new_file(parent, name, mode, caller)

    async def create_unless_known(
        self, parent: Node, name: str, mode: int, caller: Caller
    ) -> Node | None:
        """Make an empty file where no name is known, without asking the store once more.

        The first commit has the condition that nothing is there, so another host's file of that
        name is a conflict, not a loss. None when the name is known after all.
        """
        await parent.settled()
        await parent.vacated(name)
        self._check_makeable(parent, name)
        if await self._context.listings.find(parent, name) is not None:
            return None
        return self._new_file(parent, name, mode, caller)

    def _new_file(self, parent: Node, name: str, mode: int, caller: Caller) -> Node:
        context = self._context
        attributes = context.new_attributes(parent, mode, caller)
        node = context.inodes.add(parent, name, attributes, None)
        content = context.content(node)
        # An object of an unlinked file may still be there, waiting for its last close.
        content.replaces = directory_of(parent).buried(name)
        gate = directory_of(parent).gate(name)
        content.gate = gate if gate is not None else content.gate
        content.changed()
        context.committer.note(content)
        self._born(parent, name, node, pending=True)
        return node

    async def make_node(
        self, parent: Node, name: str, mode: int, rdev: int, caller: Caller
    ) -> Node:
        """Make a file, FIFO, socket or device by mknod; stored at once."""
        await self._must_be_free(parent, name)
        node = self._new_file(parent, name, mode, caller)
        node.attributes = replace(node.attributes, rdev=rdev)
        await self._store_new(parent, name, node)
        return node

    async def symlink(self, parent: Node, name: str, target: bytes, caller: Caller) -> Node:
        """Make a symbolic link; the target is also its object's content."""
        if len(target) > SYMLINK_MAX_BYTES:
            raise NameTooLongError("the target of a symbolic link is 4095 bytes at most")
        await self._must_be_free(parent, name)
        node = self._new_file(parent, name, stat.S_IFLNK | 0o777, caller)
        await self._context.content(node).write(0, target)
        node.attributes = replace(node.attributes, target=names.decode(target))
        await self._store_new(parent, name, node)
        return node

    async def _store_new(self, parent: Node, name: str, node: Node) -> None:
        context = self._context
        content = context.content(node)
        try:
            if node.attributes.kind != stat.S_IFREG:  # a file to whoever sees only its object
                await content.persist()
            await context.committer.store(content)
            await context.journal.sync()
        except TransientError:
            raise  # it may be there: it is stored in the end, as what cannot be closed is
        except VfsError:
            content.discarded = True
            await context.committer.cancel(content)
            directory = directory_of(parent)
            directory.changes.pop(name, None)
            if name in directory.tombstones or name in directory.leaving:
                directory.note(name, None, pending=True)
            node.detach()
            with suppress(VfsError):
                await content.journal.forget()
            raise
        finally:
            self.let_go(node)

    def let_go(self, node: Node) -> None:
        """Drop the content of a file that nobody has open when the store has it all."""
        content = node.content
        if content is not None and content.has_steps:  # whoever has cancelled its commits
            self._context.committer.start(content)
        if content is None or content.handles:
            return
        if content.discarded or not content.needs_commit:
            content.release_stage()
        if not content.needs_commit:
            node.content = None
            self._context.inodes.reap(node)

    async def mkdir(self, parent: Node, name: str, mode: int, caller: Caller) -> Node:
        """Make a directory."""
        context = self._context
        await self._must_be_free(parent, name)
        key = names.child(parent.key, name)
        # Else it could be made, but neither described nor removed again.
        context.layout.check_key(names.child(key, names.LONGEST_SIDECAR))
        await context.layout.make_directory(key)
        context.listings.void(key)
        attributes = context.new_attributes(parent, stat.S_IFDIR | stat.S_IMODE(mode), caller)
        node = context.inodes.add(parent, name, attributes, None)
        directory = directory_of(node)
        directory.has_marker = True
        self._born(parent, name, node, pending=False)
        context.note_attributes(node)
        await context.journal.sync()
        return node

    async def rmdir(self, parent: Node, name: str) -> None:
        """Remove an empty directory. Errors: NotEmptyError, WrongKindError, NotFoundError."""
        context = self._context
        context.check_writable()
        await parent.settled()
        node = await self.lookup(parent, name)
        if not node.is_directory:
            raise WrongKindError("not a directory", key=node.key)
        await node.settled_below()
        await self.check_empty(node)
        await self.doubts.settle(node.key)
        await self.let_leave(node)
        await self.remove_directory(node)
        context.listings.void(node.key)
        context.drop_attributes(parent, name)
        directory_of(parent).note(name, None, pending=False)
        node.detach()
        context.touch_directory(parent)
        await context.journal.sync()

    async def let_leave(self, node: Node) -> None:
        """Store what was renamed out of a directory that goes.

        Its object still lies in there: the directory would be there again, and with it a file
        whose removal takes what the renamed one is made from.
        """
        for move in list(directory_of(node).leaving.values()):
            await self._context.committer.store(move.content)
            await move.over.wait()

    async def check_empty(self, node: Node) -> None:
        """Refuse a directory that has names. Errors: NotEmptyError."""
        directory = directory_of(node)
        self._removed_here(node)
        await self._context.listings.load(node, 0, whole=False)
        removed = self._removed_here(node)  # a commit may have made one anew meanwhile
        if directory.entries is None or set(directory.entries) - removed or directory.hidden:
            raise NotEmptyError("the directory is not empty", key=node.key)

    def _removed_here(self, node: Node) -> set[str]:
        """Return the names that we have removed. Errors: NotEmptyError when we have made one."""
        removed: set[str] = set()
        for name in list(directory_of(node).changes):
            decided, child = self._context.listings.own(node, name)
            if decided and child is not None:
                raise NotEmptyError("the directory is not empty", key=node.key)
            if decided:
                removed.add(name)
        return removed

    async def remove_directory(self, node: Node) -> None:
        """Remove what a directory has in the store: its sidecars, then its marker."""
        context = self._context
        await self.graves.vacate(node.key)
        await context.sidecars.remove_all(node.key)
        context.journal.append(context.sidecars.forget(node.key))
        await context.layout.remove_directory(node.key)

    async def unlink(self, parent: Node, name: str) -> None:
        """Remove a file's name. Errors: IsDirectoryError, NotFoundError."""
        context = self._context
        context.check_writable()
        await parent.settled()
        node = await self.lookup(parent, name)
        if node.is_directory:
            raise IsDirectoryError("is a directory", key=node.key)
        await self.doubts.settle(node.key)
        await self.keep_directory(parent)
        graves: list[Grave] = []
        if node.content is not None:
            graves = await self._bury(parent, name, node, node.content)
        elif node.file is not None:
            # Whoever removes a name means whatever it stands for by now.
            await context.layout.remove(node.file, whichever=True)
        directory = directory_of(parent)
        directory.note(name, None, pending=name in directory.tombstones)
        if directory.entries is not None:
            directory.entries.pop(name, None)
        node.detach()
        node.attributes = replace(node.attributes, ctime_ns=context.wall_ns())
        context.drop_attributes(parent, name)
        context.touch_directory(parent)
        if node.content is not None:
            await node.content.journal.forget()
        await context.journal.sync()
        for grave in graves:
            content = node.content
            if content is not None and content.handles and content.base == grave.file:
                await self.graves.keep(node, grave)
            else:
                await self.graves.clear(node, grave)
        self.let_go(node)

    async def _bury(self, parent: Node, name: str, node: Node, content: Content) -> list[Grave]:
        """Decide that the objects of a file go, and what is staged of it; durable on return."""
        context, graves = self._context, list[Grave]()
        content.discarded = True
        try:
            file = node.file
            moving = node.move is not None
            if await context.committer.cancel(content) or moving:
                await self.finish_move(content)
                file = await self.standing(node, content)
            await content.retarget()
            # The last decision is the one that ends the staged file: with the others alone a
            # restart takes it up, and them back.
            if file is not None and not self.graves.holds(parent, name, file):
                over = () if node.move is not None else self._staged(content)
                graves.append(
                    self.graves.dig(parent, name, file, over=over, aside=content.handles > 0)
                )
            if node.move is not None:
                graves.append(await self.end_move(node.move, node, over=self._staged(content)))
            await context.journal.sync()
        except VfsError:
            self.take_back(content)
            raise
        return graves

    @staticmethod
    async def finish_move(content: Content) -> None:
        """Let the old name of a file go that is stored under its new one, before that goes, too.

        Perhaps it is gone already and nobody was told: a new file of that name must not expect it.
        """
        async with content.commits:
            await content.finish_move()

    async def standing(self, node: Node, content: Content) -> FileVersion | None:
        """Return what the store has of a file whose commit was cancelled: it may have landed."""
        if content.is_gated:
            return None  # what is there belongs to another file, and nothing was sent yet
        entry = await self._context.layout.find(node.key)
        return entry.file if entry is not None else None

    @staticmethod
    def _staged(content: Content) -> tuple[str, ...]:
        staged = content.staged
        return () if staged is None or not staged.log.begun else (staged.path.name,)

    def take_back(self, content: Content) -> None:
        """Let a content live on whose removal has failed."""
        content.take_back()
        if content.needs_commit:
            self._context.committer.start(content)

    async def end_move(self, move: Move, node: Node, *, over: tuple[str, ...] = ()) -> Grave:
        """Give up the old name of a rename whose file goes before the new name was stored.

        Decided with the next sync of the journal.
        """
        move.content.moved_from = move.content.after_move = None
        node.move = None
        grave = self.graves.dig(move.parent, move.name, move.file, over=over, number=move.number)
        heir = self.graves.inherit(move.parent, move.name, None, move.file)
        if heir is not None:
            await heir.retarget()
        directory_of(move.parent).leaving.pop(move.name, None)
        move.over.set()
        return grave

    async def moved(self, node: Node) -> None:
        """Note that a file's old name, from before a rename, is nobody's any more."""
        move, node.move = node.move, None
        if move is None:
            return
        directory = directory_of(move.parent)
        directory.leaving.pop(move.name, None)
        change = directory.changes.get(move.name)
        if change is not None and change.node is None:
            directory.note(move.name, None, pending=False)
        move.over.set()
        await self._context.journal.done(move.number)

    async def keep_directory(self, parent: Node) -> None:
        """Make sure that a directory stays when its last child goes."""
        directory = directory_of(parent)
        if parent.parent is None or directory.has_marker:
            return
        await self._context.layout.make_directory(parent.key)
        directory.has_marker = True

    def link(self) -> None:
        """Refuse hard links. Errors: NotPermittedError."""
        raise NotPermittedError("hard links are not possible on object stores")

    async def readlink(self, node: Node) -> bytes:
        """Return a symlink's target. Errors: InvalidError."""
        if node.attributes.target is None:
            raise InvalidError("not a symbolic link", key=node.key)
        return names.encode(node.attributes.target)
