"""Open files of the tree: open, read, write, flush, fsync, release, truncate."""

import logging
import os
import stat
from dataclasses import replace

from vfs.errors import (
    BadHandleError,
    InvalidError,
    IsDirectoryError,
    StaleError,
    VfsError,
)
from vfs.file.content import Content
from vfs.file.handles import Handle, HandleTable
from vfs.tasks import open_tasks
from vfs.tree.context import Caller, Context
from vfs.tree.listing import directory_of
from vfs.tree.namespace import Namespace
from vfs.tree.node import Node
from vfs.values import HandleId, Span

log = logging.getLogger(__name__)


class Files:
    """Operations on open files."""

    def __init__(self, context: Context, namespace: Namespace) -> None:
        self._context = context
        self._namespace = namespace
        self.handles: HandleTable[Handle[Node]] = HandleTable()

    async def create(
        self, parent: Node, name: str, mode: int, flags: int, caller: Caller
    ) -> tuple[Node, HandleId]:
        """Make a file and open it. Errors: ExistsError, those of names that cannot be made."""
        kind = stat.S_IFREG | stat.S_IMODE(mode)
        if flags & os.O_EXCL:
            node = await self._namespace.create(parent, name, kind, caller)
            return node, self._open(node, flags, made=True)
        made = await self._namespace.create_unless_known(parent, name, kind, caller)
        if made is not None:
            return made, self._open(made, flags, made=True)
        # The kernel believed it missing; another host has made it meanwhile.
        found = await self._namespace.lookup(parent, name)
        return found, await self.open(found, flags & ~os.O_CREAT)

    async def open(self, node: Node, flags: int) -> HandleId:
        """Open a file. Errors: IsDirectoryError, ReadOnlyError, StaleError (look it up again)."""
        if node.is_directory:
            raise IsDirectoryError("is a directory", key=node.key)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if writes or flags & os.O_TRUNC:
            self._context.check_writable()
        await node.settled()
        await self._revalidate(node)
        if writes and node.content is not None:
            refused = self._context.committer.refusal(node.content)
            if refused is not None:  # nothing more is taken that could not be stored either
                raise refused.with_traceback(None)
        handle = self._open(node, flags)
        if flags & os.O_TRUNC and node.size:
            try:
                await self.truncate(node, 0)
            except VfsError:
                self._close(handle)
                raise
        return handle

    async def _revalidate(self, node: Node) -> None:
        """Make sure that what is opened is what the name means now (close-to-open).

        StaleError makes the kernel look the name up again, and the program never hears of it.
        """
        content = node.content
        if node.parent is None or (content is not None and content.discarded):
            return  # unlinked here: only /proc/PID/fd still leads to it
        if not node.detached:
            if content is not None and content.needs_commit:
                return
            found = await self._context.listings.find(node.parent, node.name)
            # The kernel must have the size of a new version before it lets anybody read or append.
            if found is node and not node.renewed:
                return
        raise StaleError("another host has replaced the file", key=node.key)

    def _open(self, node: Node, flags: int, *, made: bool = False) -> HandleId:
        access = flags & os.O_ACCMODE
        handle = Handle(
            node,
            reads=access in (os.O_RDONLY, os.O_RDWR),
            writes=access in (os.O_WRONLY, os.O_RDWR),
            made=made,
        )
        content = self._context.content(node)
        content.handles += 1
        content.writers += handle.writes
        self._context.fetcher.readers += handle.reads
        return self.handles.add(handle)

    def keeps_pages(self, node: Node) -> bool:
        """Tell whether the kernel's pages are right, and note which version it has from now."""
        content = self._context.content(node)
        now = content.base.identity if content.base is not None else ""
        kept = node.pages_of == now or content.needs_commit
        node.pages_of = now
        return kept

    async def read(self, number: HandleId, offset: int, size: int) -> bytes | memoryview:
        """Return bytes, fewer only at the end of the file.

        Shape: a memoryview is valid until the caller's next await.
        """
        handle = self.handles.get(number)
        content = self._context.content(handle.node)
        span = Span(offset, offset + size)
        handle.history = content.read_ahead(span, handle.history)
        try:
            return await content.read(span)
        except StaleError:
            self._doubt(handle.node)
            raise

    def _doubt(self, node: Node) -> None:
        """Let the next open ask the store, which has another version than the one last seen."""
        node.checked_s = float("-inf")
        if node.parent is not None:
            directory = directory_of(node.parent)
            self._context.listings.doubt(node.parent)
            change = directory.changes.get(node.name)
            if change is not None and change.node is node and not change.pending:
                del directory.changes[node.name]

    async def write(self, number: HandleId, offset: int, data: bytes) -> int:
        """Write bytes and return how many. Errors: FullError, TooLargeError, StaleError."""
        handle = self.handles.get(number)
        if not handle.writes:
            raise BadHandleError("the file is not open for writing", key=handle.node.key)
        node = handle.node
        content = self._context.content(node)
        count = await content.write(offset, data)
        self._written(node, content)
        self._context.committer.send_ahead(content, Span(offset, offset + count))
        return count

    def _written(self, node: Node, content: Content) -> None:
        now = self._context.wall_ns()
        node.attributes = replace(node.attributes, mtime_ns=now, ctime_ns=now)
        if not content.discarded:
            self._context.committer.note(content)

    async def truncate(self, node: Node, size: int) -> bool:
        """Set a file's size; False when there is nothing to be stored for it.

        Errors: IsDirectoryError, TooLargeError, InvalidError.
        """
        if node.is_directory:
            raise IsDirectoryError("is a directory", key=node.key)
        if node.attributes.kind != stat.S_IFREG:
            raise InvalidError("not a regular file", key=node.key)
        self._context.check_writable()
        content = self._context.content(node)
        content.handles += 1  # its staged bytes stay, whichever commit ends meanwhile
        try:
            if content.size != size:
                await content.truncate(size)
        except VfsError:
            content.handles -= 1
            self._namespace.let_go(node)
            raise
        content.handles -= 1
        if not content.needs_commit and not content.discarded:
            self._namespace.let_go(node)
            return False
        self._written(node, content)
        return True

    async def flush(self, number: HandleId) -> None:
        """Store what the file holds, as every close of a descriptor asks."""
        handle = self.handles.get(number)
        if handle.writes or handle.made:
            await self.store(handle.node)

    async def fsync(self, number: HandleId) -> None:
        """Store what the file holds, whoever wrote it."""
        await self.store(self.handles.get(number).node)

    def is_written(self, node: Node) -> bool:
        """Tell whether somebody has a file open for writing, and will store it when closing."""
        return node.content is not None and node.content.writers > 0

    async def store(self, node: Node) -> None:
        """Return when a file is as safe as fsync and close promise.

        Errors: StaleError when another host won; any store error: then it stays staged.
        """
        content = node.content
        if content is None or content.discarded:
            return
        await self._context.committer.keep(content)
        await self._context.journal.sync()

    async def release(self, number: HandleId) -> None:
        """Close the last descriptor of a handle. Never fails: what fails is logged and kept."""
        handle = self.handles.pop(number)
        node = handle.node
        content = self._context.content(node)
        self._context.fetcher.readers -= handle.reads
        try:
            if (handle.writes or handle.made) and content.needs_commit:
                # Written by mmap after the last flush; the answer to this reaches nobody.
                await self.store(node)
        except VfsError as error:
            log.warning("close of %r: %s", node.key, error.message)
        finally:
            content.handles -= 1
            content.writers -= handle.writes
        if handle.writes and not content.writers and content.needs_commit:
            self._context.committer.start(content)  # nobody waits for it with fsync=local
        await self._let_go(node, content)

    async def _let_go(self, node: Node, content: Content) -> None:
        if content.handles:
            return
        await self._namespace.graves.last_close(node)
        if node.content is content:
            self._namespace.let_go(node)
        if content.discarded:
            content.release_stage()

    def _close(self, number: HandleId) -> None:
        handle = self.handles.pop(number)
        content = self._context.content(handle.node)
        content.handles -= 1
        content.writers -= handle.writes
        self._context.fetcher.readers -= handle.reads
        self._namespace.let_go(handle.node)

    async def close_all(self) -> None:
        """Release what the kernel has not, after an unmount by force."""
        async with open_tasks() as nursery:
            for number in self.handles.numbers():
                nursery.start_soon(self.release, number)
