"""`vfs warm` and `vfs evict`: fill and empty the SSD tier, path by path."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import trio

from vfs import names
from vfs.cache.disk.tier import DiskTier
from vfs.control import Fields, Progress
from vfs.daemon.assembly import Mount
from vfs.errors import FullError, InvalidError, NotFoundError, UnsupportedError, WrongKindError
from vfs.layout.base import FileVersion
from vfs.tasks import open_tasks
from vfs.tree.node import Node
from vfs.tree.reading import DirectoryStream
from vfs.values import MIB, Span

PROGRESS_S = 0.5
REQUESTS = 16
"""Fetches at once: half of what the RAM tier of a small mount holds, at most."""


@dataclass(slots=True)
class _Count:
    """How far a request is."""

    files: int = 0
    total_bytes: int = 0
    done_bytes: int = 0
    moved_bytes: int = 0  # fetched, or given back

    def fields(self) -> dict[str, object]:
        return {
            "files": self.files,
            "total_bytes": self.total_bytes,
            "done_bytes": self.done_bytes,
            "moved_bytes": self.moved_bytes,
        }


class Warming:
    """The verbs that fill and empty the cache of one mount."""

    def __init__(self, mount: Mount) -> None:
        self._fs = mount.fs
        self._fetcher = mount.fs.context.fetcher

    async def warm(self, request: Fields, progress: Progress) -> Fields:
        """Fetch what the disk does not have of the files at and below some paths.

        Errors: UnsupportedError, FullError when it cannot fit, NotFoundError, store errors.
        """
        disk = self._disk("nothing can be warmed")
        wanted = _wanted(request)
        count = _Count()
        files = [file async for file in self._files(request)]
        count.files = len(files)
        spans = [(file, wanted.clip(Span(0, file.size))) for file in files]
        count.total_bytes = sum(span.size for _, span in spans)
        if count.total_bytes > disk.limit_bytes:
            raise FullError(
                f"{count.total_bytes // MIB} MiB do not fit into the cache of"
                f" {disk.limit_bytes // MIB} MiB: raise cache_size, or warm less"
            )
        await self._telling(progress, count, lambda: self._fetch(spans, count))
        await self._check(disk, spans)
        return count.fields()

    async def evict(self, request: Fields, progress: Progress) -> Fields:
        """Give back the blocks of the files at and below some paths. Errors: NotFoundError."""
        disk, count = self._fetcher.disk, _Count()

        async def run() -> None:
            async for file in self._files(request):
                self._fetcher.forget(file)
                freed = await disk.forget(file) if disk is not None else 0
                count.moved_bytes += freed
                count.files += 1

        await self._telling(progress, count, run)
        return count.fields()

    def _disk(self, consequence: str) -> DiskTier:
        disk = self._fetcher.disk
        if disk is None or not disk.is_in_use:
            raise UnsupportedError(
                f"this mount keeps nothing on disk, so {consequence}: set cache_size, or see its"
                " log for what is wrong with the cache directory"
            )
        return disk

    async def _fetch(self, spans: list[tuple[FileVersion, Span]], count: _Count) -> None:
        size = self._fetcher.block_bytes
        most = self._fetcher.request_blocks
        turns = trio.Semaphore(REQUESTS)

        async def fetch(file: FileVersion, blocks: range) -> None:
            try:
                fetched = await self._fetcher.to_disk(file, blocks)
                count.moved_bytes += fetched
                count.done_bytes += min(blocks.stop * size, file.size) - blocks.start * size
            finally:
                turns.release()

        async with open_tasks() as nursery:
            for file, span in spans:
                stop = -(-span.stop // size)
                for first in range(span.start // size, stop, most):
                    await turns.acquire()
                    nursery.start_soon(fetch, file, range(first, min(first + most, stop)))

    async def _check(self, disk: DiskTier, spans: list[tuple[FileVersion, Span]]) -> None:
        """Errors: FullError when not everything is there."""
        size = self._fetcher.block_bytes
        missing = 0
        for file, span in spans:
            blocks = range(span.start // size, -(-span.stop // size))
            missing += sum(len(run) for run in await disk.missing(file, blocks) if blocks)
        if missing:
            raise FullError(
                f"{missing * size // MIB} MiB were not kept: the disk of the cache is full, fails,"
                " or others needed its room; see the log of the mount"
            )

    async def _telling(
        self, progress: Progress, count: _Count, work: Callable[[], Awaitable[None]]
    ) -> None:
        async def tell() -> None:
            while True:
                await trio.sleep(PROGRESS_S)
                await progress(count.fields())

        async with open_tasks() as nursery:
            nursery.start_soon(tell)
            await work()
            nursery.cancel_scope.cancel()

    # Which files

    async def _files(self, request: Fields) -> AsyncIterator[FileVersion]:
        given = request.get("paths")
        if not isinstance(given, list):
            raise InvalidError("warm and evict want paths")
        for path in cast("list[object]", given):
            node = await self._find(str(path))
            async for file in self._below(node):
                yield file

    async def _find(self, path: str) -> Node:
        node = self._fs.context.inodes.root
        try:
            for name in filter(None, names.path_key(path).split("/")):
                node = await self._fs.namespace.lookup(node, name)
        except (NotFoundError, WrongKindError):
            raise NotFoundError(f"{path}: no such file or directory") from None
        return node

    async def _below(self, node: Node) -> AsyncIterator[FileVersion]:
        todo = [node]
        while todo:
            node = todo.pop()
            if not node.is_directory:
                file = node.content.base if node.content is not None else node.file
                if file is not None and file.size:
                    yield file
                continue
            stream = DirectoryStream(self._fs.context, node)
            position = 0
            while (child := await stream.at(position)) is not None:
                position += 1
                todo.append(child)


def _wanted(request: Fields) -> Span:
    """Return the bytes of each file that are asked for."""
    start, length = request.get("offset"), request.get("length")
    first = start if isinstance(start, int) else 0
    return Span(first, first + length if isinstance(length, int) else 1 << 62)
