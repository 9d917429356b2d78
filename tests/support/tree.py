"""A whole tree without a kernel: tree + file + stage + cache on a store of the test's choice."""

import os
import stat
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from vfs.cache.disk.tier import DiskTier, open_tier
from vfs.config import load_config
from vfs.daemon.assembly import Mount, open_tree
from vfs.errors import NotFoundError, StaleError, WrongKindError
from vfs.file.handles import Handle
from vfs.metrics import Metrics
from vfs.stage.budget import StageBudget
from vfs.stage.directory import Stage, stage_name
from vfs.store.base import ObjectInfo, Store
from vfs.tree.attributes import Attributes
from vfs.tree.context import Caller
from vfs.tree.metadata import AttributeChange
from vfs.tree.node import Node
from vfs.values import HandleId, Key, Span

CALLER = Caller(uid=1000, gid=1000, umask=0o022)
RDWR = os.O_RDWR


@asynccontextmanager
async def tree_on(
    store: Store,
    stage_dir: Path,
    *options: str,
    stage_bytes: int = 1 << 30,
    cache_bytes: int = 0,
) -> AsyncGenerator[Mount, None]:
    """Build what a mount of `store` would be, with its stage and its cache below `stage_dir`."""
    spec = load_config("mem://tree", ["memory=64M", *options], environ={})
    config = spec.config
    budget = StageBudget(stage_bytes, config.stage.stage_wait)
    stage = Stage(stage_dir / stage_name(store.url), store.url, budget)
    stage.open()
    try:
        async with AsyncExitStack() as stack:
            disk = None
            if cache_bytes:
                path, block = stage_dir / "cache", config.cache.block_size
                tier = DiskTier(path, store.url, cache_bytes, block)
                disk = await stack.enter_async_context(open_tier(tier))
            tree = open_tree(store, stage, config, Metrics(), disk)
            yield await stack.enter_async_context(tree)
    finally:
        stage.close()


@asynccontextmanager
async def shell_on(
    store: Store,
    stage_dir: Path,
    *options: str,
    stage_bytes: int = 1 << 30,
    cache_bytes: int = 0,
) -> AsyncGenerator["Shell", None]:
    """Build a tree and speak to it by paths; a clean end stores everything, as an unmount does."""
    sizes = {"stage_bytes": stage_bytes, "cache_bytes": cache_bytes}
    async with tree_on(store, stage_dir, *options, **sizes) as mount:
        shell = Shell(mount)
        yield shell
        await shell.drain()


class Shell:
    """Path-wise operations on a tree, as a program would make them through the kernel."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.fs = mount.fs

    async def node(self, path: str) -> Node:
        node = self.fs.context.inodes.root
        for part in filter(None, path.split("/")):
            node = await self.fs.namespace.lookup(node, part)
        return node

    async def _parent(self, path: str) -> tuple[Node, str]:
        directory, _, name = path.rpartition("/")
        parent = await self.node(directory)
        if not parent.is_directory:
            raise WrongKindError("not a directory", key=parent.key)
        return parent, name

    async def exists(self, path: str) -> bool:
        try:
            await self.node(path)
        except NotFoundError:
            return False
        return True

    async def stat(self, path: str) -> Attributes:
        node = await self.node(path)
        await self.fs.metadata.get(node)
        return node.attributes

    async def size(self, path: str) -> int:
        return (await self.node(path)).size

    # Files

    async def create(self, path: str, mode: int = 0o644, flags: int = RDWR) -> HandleId:
        parent, name = await self._parent(path)
        made = self.fs.files.create(parent, name, mode, flags | os.O_EXCL, CALLER)
        return (await made)[1]

    async def open(self, path: str, flags: int = RDWR) -> HandleId:
        """Open as the kernel does: what is stale is looked up once more, and so is told anew."""
        try:
            return await self.fs.files.open(await self.node(path), flags)
        except StaleError:
            node = await self.node(path)
            node.renewed = False
            return await self.fs.files.open(node, flags)

    def handle(self, fd: HandleId) -> Handle[Node]:
        return self.fs.files.handles.get(fd)

    async def pwrite(self, fd: HandleId, offset: int, data: bytes) -> None:
        assert await self.fs.files.write(fd, offset, data) == len(data)

    async def pread(self, fd: HandleId, offset: int, size: int) -> bytes:
        return bytes(await self.fs.files.read(fd, offset, size))

    async def all(self, fd: HandleId) -> bytes:
        out = bytearray()
        while data := await self.pread(fd, len(out), 1 << 20):
            out += data
        return bytes(out)

    async def fsync(self, fd: HandleId) -> None:
        await self.fs.files.fsync(fd)

    async def close(self, fd: HandleId) -> None:
        """Close as the kernel does: the error of the flush is the program's, then a release."""
        try:
            await self.fs.files.flush(fd)
        finally:
            await self.fs.files.release(fd)

    async def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Make or replace a whole file, as a shell's `>` does."""
        fd = (
            await self.open(path, os.O_RDWR | os.O_TRUNC)
            if await self.exists(path)
            else await self.create(path, mode)
        )
        for piece in Span(0, len(data)).pieces(1 << 20):
            await self.pwrite(fd, piece.start, data[piece.start : piece.stop])
        await self.close(fd)

    async def read(self, path: str) -> bytes:
        fd = await self.open(path, os.O_RDONLY)
        try:
            return await self.all(fd)
        finally:
            await self.fs.files.release(fd)

    async def truncate(self, path: str, size: int) -> None:
        change = AttributeChange(size=size)
        await self.fs.metadata.set(await self.node(path), change, has_handle=False)

    async def ftruncate(self, fd: HandleId, size: int) -> None:
        node = self.handle(fd).node
        await self.fs.metadata.set(node, AttributeChange(size=size), has_handle=True)

    # Names and attributes

    async def ls(self, path: str = "") -> list[str]:
        return [node.name for node in await self.nodes(path)]

    async def nodes(self, path: str = "") -> list[Node]:
        fd = await self.fs.reading.open(await self.node(path))
        stream = self.fs.reading.stream(fd)
        found: list[Node] = []
        while (node := await stream.at(len(found))) is not None:
            found.append(node)
        self.fs.reading.close(fd)
        return sorted(found, key=lambda node: node.name)

    async def mkdir(self, path: str, mode: int = 0o755) -> None:
        await self.fs.namespace.mkdir(*await self._parent(path), mode, CALLER)

    async def rmdir(self, path: str) -> None:
        await self.fs.namespace.rmdir(*await self._parent(path))

    async def unlink(self, path: str) -> None:
        await self.fs.namespace.unlink(*await self._parent(path))

    async def symlink(self, path: str, target: str) -> None:
        await self.fs.namespace.symlink(*await self._parent(path), target.encode(), CALLER)

    async def readlink(self, path: str) -> str:
        return (await self.fs.namespace.readlink(await self.node(path))).decode()

    async def rename(self, old: str, new: str, flags: int = 0) -> None:
        old_parent, old_name = await self._parent(old)
        new_parent, new_name = await self._parent(new)
        await self.fs.rename.rename(old_parent, old_name, new_parent, new_name, flags)

    async def setattr(self, path: str, **fields: int) -> None:
        change = AttributeChange(**fields)
        await self.fs.metadata.set(await self.node(path), change, has_handle=False)

    async def chmod(self, path: str, mode: int) -> None:
        await self.setattr(path, mode=mode)

    async def mode(self, path: str) -> int:
        return stat.S_IMODE((await self.stat(path)).mode)

    # The mount as a whole

    async def drain(self) -> None:
        """Store everything, as an unmount does."""
        context = self.fs.context
        await context.committer.drain()
        await self.conflicts()
        for sidecar in context.sidecars.pending:
            await context.sidecars.upload(sidecar.directory)
        await self.mount.uploads.abort_due(all_of_them=True)
        await context.journal.settle(1 << 20)

    async def conflicts(self) -> None:
        """Return when conflict copies are made."""
        while self.mount.conflicts.active:
            await trio.sleep(0.01)

    @property
    def staged_bytes(self) -> int:
        return self.fs.context.stage.budget.used_bytes


async def put(store: Store, key: str, data: bytes) -> ObjectInfo:
    """Write an object behind the mount's back."""
    from vfs.store.base import BytesBody  # noqa: PLC0415

    return await store.write(Key(key), BytesBody(data))


async def get(store: Store, key: str) -> bytes | None:
    """Return an object's bytes as any other tool sees them."""
    try:
        info = await store.head(Key(key))
    except NotFoundError:
        return None
    return await store.read(info.pin, Span(0, info.size))


async def keys(store: Store, prefix: str = "", *, own: bool = False) -> list[str]:
    """Return all keys; our own objects only when asked for."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await store.list(Key(prefix), cursor=cursor)
        found += [info.key for info in page.objects]
        cursor = page.cursor
        if cursor is None:
            break
    return [key for key in found if own or ".vfs" not in key]
