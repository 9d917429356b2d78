"""The pyfuse3 adapter: each operation decodes, calls the tree, encodes."""

import errno
from collections.abc import Sequence

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)
from typing_extensions import override

from vfs import names
from vfs.fuse.convert import (
    access_mode,
    attribute_change,
    caller,
    entry_attributes,
    no_entry,
    reply,
)
from vfs.tree.filesystem import FileSystem
from vfs.tree.node import Node
from vfs.values import HandleId, Inode


class Operations(pyfuse3.Operations):
    """What the kernel asks of a mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, fs: FileSystem) -> None:
        super().__init__()
        self._fs = fs

    def _node(self, inode: InodeT) -> Node:
        return self._fs.context.inodes.get(Inode(inode))

    def _entry(self, node: Node) -> EntryAttributes:
        listings = self._fs.context.listings
        name_s = listings.valid_s(node)
        # What is open keeps its version, whatever becomes of the name.
        is_open = node.content is not None and node.content.handles > 0
        return entry_attributes(node, name_s, listings.ttl_s if is_open else name_s)

    def _told(self, node: Node) -> EntryAttributes:
        node.renewed = False
        return self._entry(node)

    def _found(self, node: Node) -> EntryAttributes:
        node.lookups += 1  # the kernel counts this answer too and forgets it one day
        return self._told(node)

    @override
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        async with reply("lookup"):
            parent, wanted = self._node(parent_inode), names.decode(name)
            node = await self._fs.namespace.find(parent, wanted)
            if node is None:
                return no_entry(self._fs.context.listings.absent_s(parent, wanted))
            return self._found(node)

    @override
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self._fs.context.inodes.forget(Inode(inode), count)

    @override
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        async with reply("getattr"):
            return self._told(await self._fs.metadata.get(self._node(inode)))

    @override
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        async with reply("setattr"):
            node = self._node(inode)
            change = attribute_change(fields, attr)
            await self._fs.metadata.set(node, change, has_handle=fh is not None)
            return self._told(node)

    @override
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        async with reply("readlink"):
            return FileNameT(await self._fs.namespace.readlink(self._node(inode)))

    @override
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        async with reply("mknod"):
            parent, new = self._node(parent_inode), names.decode(name)
            made = self._fs.namespace.make_node(parent, new, mode, rdev, caller(ctx))
            return self._found(await made)

    @override
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        async with reply("mkdir"):
            parent, new = self._node(parent_inode), names.decode(name)
            return self._found(await self._fs.namespace.mkdir(parent, new, mode, caller(ctx)))

    @override
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        async with reply("unlink"):
            await self._fs.namespace.unlink(self._node(parent_inode), names.decode(name))

    @override
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        async with reply("rmdir"):
            await self._fs.namespace.rmdir(self._node(parent_inode), names.decode(name))

    @override
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        async with reply("symlink"):
            parent, new = self._node(parent_inode), names.decode(name)
            return self._found(await self._fs.namespace.symlink(parent, new, target, caller(ctx)))

    @override
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        async with reply("rename"):
            old, new = self._node(parent_inode_old), self._node(parent_inode_new)
            source, target = names.decode(name_old), names.decode(name_new)
            await self._fs.rename.rename(old, source, new, target, flags)

    @override
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        async with reply("link"):
            self._fs.namespace.link()
        raise pyfuse3.FUSEError(errno.EPERM)

    @override
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        async with reply("create"):
            parent, new = self._node(parent_inode), names.decode(name)
            made = self._fs.files.create(parent, new, mode, access_mode(flags), caller(ctx))
            node, handle = await made
            return self._opened(node, handle), self._found(node)

    @override
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        async with reply("open"):
            node = self._node(inode)
            return self._opened(node, await self._fs.files.open(node, access_mode(flags)))

    def _opened(self, node: Node, handle: HandleId) -> FileInfo:
        return FileInfo(fh=FileHandleT(handle), keep_cache=self._fs.files.keeps_pages(node))

    @override
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]  # any buffer is replied
        async with reply("read"):
            return await self._fs.files.read(HandleId(fh), off, size)

    @override
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        async with reply("write"):
            return await self._fs.files.write(HandleId(fh), off, buf)

    @override
    async def flush(self, fh: FileHandleT) -> None:
        async with reply("flush"):
            await self._fs.files.flush(HandleId(fh))

    @override
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        async with reply("fsync"):
            await self._fs.files.fsync(HandleId(fh))

    @override
    async def release(self, fh: FileHandleT) -> None:
        async with reply("release"):
            await self._fs.files.release(HandleId(fh))

    @override
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        async with reply("opendir"):
            return FileHandleT(await self._fs.reading.open(self._node(inode)))

    @override
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        async with reply("readdir"):
            stream = self._fs.reading.stream(HandleId(fh))
            position = start_id
            while (node := await stream.at(position)) is not None:
                position += 1
                name = FileNameT(names.encode(node.name))
                if not pyfuse3.readdir_reply(token, name, self._entry(node), position):
                    break
                node.lookups += 1

    @override
    async def releasedir(self, fh: FileHandleT) -> None:
        async with reply("releasedir"):
            self._fs.reading.close(HandleId(fh))

    @override
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        async with reply("fsyncdir"):
            await self._fs.reading.sync(HandleId(fh))

    @override
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        space = self._fs.metadata.statfs()
        out = StatvfsData()
        out.f_bsize = out.f_frsize = space.block_bytes
        out.f_blocks = space.blocks
        out.f_bfree = out.f_bavail = space.free_blocks
        out.f_files = out.f_ffree = out.f_favail = space.names
        out.f_namemax = names.NAME_MAX_BYTES
        return out

    @override
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True  # the kernel checks with default_permissions; without, the mount is one user's

    @override
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        # ENOSYS, once, stops the kernel from asking for security.capability before every write.
        if not self._fs.context.keep_xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        async with reply("getxattr"):
            return self._fs.metadata.get_xattr(self._node(inode), names.decode(name))

    @override
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        if not self._fs.context.keep_xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        async with reply("listxattr"):
            found = self._fs.metadata.list_xattrs(self._node(inode))
            return [XAttrNameT(names.encode(name)) for name in found]

    @override
    async def setxattr(
        self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext
    ) -> None:
        if not self._fs.context.keep_xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        async with reply("setxattr"):
            await self._fs.metadata.set_xattr(self._node(inode), names.decode(name), value)

    @override
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        if not self._fs.context.keep_xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        async with reply("removexattr"):
            await self._fs.metadata.remove_xattr(self._node(inode), names.decode(name))
