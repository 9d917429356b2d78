"""Attributes of nodes: getattr, setattr, extended attributes, statfs."""

import errno
import stat
from dataclasses import dataclass, replace

from vfs.errors import InvalidError, StaleError, UnsupportedError, VfsError
from vfs.tree.context import Context
from vfs.tree.files import Files
from vfs.tree.node import Node

STATFS_BLOCK_BYTES = 4096
XATTR_MAX_BYTES = 64 << 10
"""Of one value: the kernel's own limit (XATTR_SIZE_MAX)."""
XATTRS_MAX_BYTES = 64 << 10
"""Of all names and values of a file: they share a sidecar with the whole directory."""


class NoAttributeError(VfsError):
    """ENODATA: the extended attribute is not there."""

    errno = errno.ENODATA
    code = "NO_ATTRIBUTE"


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """What a setattr asks for; None leaves a field as it is."""

    mode: int | None = None  # permission bits
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Space:
    """What statfs answers; stores have no size of their own, so it is made up and never full."""

    block_bytes: int
    blocks: int
    free_blocks: int
    names: int


class Metadata:
    """Operations on attributes."""

    def __init__(self, context: Context, files: Files) -> None:
        self._context = context
        self._files = files

    async def get(self, node: Node) -> Node:
        """Bring a node's attributes up to date, as far as the name is not open.

        Errors: StaleError when the name means another file by now.
        """
        content = node.content
        if node.detached or node.parent is None or (content is not None and content.handles):
            return node
        if self._context.listings.own(node.parent, node.name) == (True, node):
            await node.parent.settled()  # what a directory itself is does not change by its rename
        else:
            await node.settled()
        found = await self._context.listings.find(node.parent, node.name)
        if found is not node:
            raise StaleError("another host has removed or replaced it", key=node.key)
        return node

    async def set(self, node: Node, change: AttributeChange, *, has_handle: bool) -> None:
        """Change attributes; a size that nobody has open for writing is stored before this returns.

        The kernel truncates for open(O_TRUNC) without naming the handle that it has just opened:
        storing an empty version then would show it to other hosts, and for nothing.
        """
        context = self._context
        context.check_writable()
        await node.settled()
        stored = change.size is None or await self._files.truncate(node, change.size)
        before = node.attributes
        now = context.wall_ns()
        if not stored and change.mtime_ns is None:  # it had that size: only its time is new
            change = replace(change, mtime_ns=now)
        mode = before.mode if change.mode is None else before.kind | stat.S_IMODE(change.mode)
        node.attributes = replace(
            before,
            mode=mode,
            uid=before.uid if change.uid is None else change.uid,
            gid=before.gid if change.gid is None else change.gid,
            mtime_ns=before.mtime_ns if change.mtime_ns is None else change.mtime_ns,
            ctime_ns=now,
        )
        if change.atime_ns is not None:
            node.atime_ns = change.atime_ns
        if change.size is not None and not has_handle and not self._files.is_written(node):
            await self._files.store(node)
        if not self._only_in_memory(change):
            await self._keep(node)

    @staticmethod
    def _only_in_memory(change: AttributeChange) -> bool:
        kept = (change.mode, change.uid, change.gid, change.mtime_ns)
        return all(field is None for field in kept)

    async def _keep(self, node: Node) -> None:
        """Journal a node's attributes; those of a file never stored go with its first commit."""
        if node.detached:
            return
        content = node.content
        if content is not None and content.needs_commit:
            await content.describe(stored=node.file is not None)
        elif content is not None:  # what is written to it next goes behind what is staged
            await content.journal.describe()
        if node.file is None and not node.is_directory:
            return
        self._context.keep_attributes(node)
        await self._context.journal.sync()

    def _check_xattrs(self) -> None:
        if not self._context.keep_xattrs:
            raise UnsupportedError("extended attributes are off: mount with the option xattr")

    def get_xattr(self, node: Node, name: str) -> bytes:
        """Return an extended attribute. Errors: NoAttributeError, UnsupportedError."""
        self._check_xattrs()
        try:
            return node.attributes.xattrs[name]
        except KeyError:
            raise NoAttributeError(f"no attribute {name!r}", key=node.key) from None

    def list_xattrs(self, node: Node) -> list[str]:
        """Return the names of the extended attributes."""
        self._check_xattrs()
        return sorted(node.attributes.xattrs)

    async def set_xattr(self, node: Node, name: str, value: bytes) -> None:
        """Set an extended attribute of the user namespace. Errors: UnsupportedError."""
        self._check_xattrs()
        self._context.check_writable()
        if not name.startswith(("user.", "trusted.")):
            raise UnsupportedError(f"only user.* attributes are kept, not {name!r}", key=node.key)
        xattrs = {**node.attributes.xattrs, name: value}
        total = sum(len(key) + len(kept) for key, kept in xattrs.items())
        if len(value) > XATTR_MAX_BYTES or total > XATTRS_MAX_BYTES:
            raise InvalidError("extended attributes are limited to 64 KiB a file", key=node.key)
        await self._set_xattrs(node, xattrs)

    async def remove_xattr(self, node: Node, name: str) -> None:
        """Remove an extended attribute. Errors: NoAttributeError."""
        self.get_xattr(node, name)
        self._context.check_writable()
        xattrs = dict(node.attributes.xattrs)
        del xattrs[name]
        await self._set_xattrs(node, xattrs)

    async def _set_xattrs(self, node: Node, xattrs: dict[str, bytes]) -> None:
        node.attributes = replace(node.attributes, xattrs=xattrs, ctime_ns=self._context.wall_ns())
        await self._keep(node)

    def statfs(self) -> Space:
        """Return the made-up size of the file system; local, never zero free."""
        blocks = self._context.statfs_bytes // STATFS_BLOCK_BYTES
        return Space(STATFS_BLOCK_BYTES, blocks, blocks, 1 << 32)
