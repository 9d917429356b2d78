"""Moving the bytes of one file: up into a store, down from it, or between stores.

An upload is visible when it is finished, and a downloaded file has its name when every byte is on
disk: whoever is interrupted leaves no half file under the real name.
"""

import os
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.cli.target import open_target
from vfs.errors import ConflictError
from vfs.layout.parts import check_size, ladder
from vfs.store.base import (
    COMMIT_ID,
    Body,
    BytesBody,
    ObjectInfo,
    Part,
    PartRules,
    Properties,
    Store,
    Upload,
)
from vfs.values import MIB, Key, Span

SINGLE_BYTES = 8 * MIB
"""Up to here one request does it."""

PART_BYTES = 16 * MIB
"""Enough to make a request's own cost small; grows where the number of parts would not do."""

PIECE_BYTES = 8 * MIB
"""One ranged read of a download."""

WORKERS = 8
"""Requests in flight: the memory of a copy is at most this many parts."""

ABORT_S = 10.0
"""What an interrupted upload may take to clean up after itself."""

T = TypeVar("T")
R = TypeVar("R")
Advance = Callable[[int], None]
"""Told how many more bytes have arrived."""


class FileBody(Body):
    """Some bytes of an open file."""

    def __init__(self, descriptor: int, span: Span) -> None:
        self._descriptor = descriptor
        self._start = span.start
        self.size = span.size

    @override
    def read_into(self, offset: int, buffer: memoryview) -> None:
        filled = 0
        while filled < buffer.nbytes:
            count = os.preadv(self._descriptor, [buffer[filled:]], self._start + offset + filled)
            if not count:
                raise ConflictError("the file became shorter while it was copied; copy it again")
            filled += count


async def upload_file(
    store: Store, path: Path, key: Key, advance: Advance, *, part_bytes: int | None = None
) -> ObjectInfo:
    """Store a local file as an object.

    Errors: ConflictError when the file changes meanwhile; OSError from reading; those of the store.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        size = before.st_size
        properties = Properties({COMMIT_ID: secrets.token_hex(16)})
        if size <= SINGLE_BYTES or not store.features.multipart:
            body = FileBody(descriptor, Span(0, size))
            info = await store.write(key, body, properties=properties)
            advance(size)
            return info

        cuts = plan_parts(size, store.features.parts, part_bytes)

        async def send(upload: Upload, number: int, span: Span) -> Part:
            part = await store.upload_part(upload, number, FileBody(descriptor, span))
            advance(span.size)
            return part

        def check() -> None:
            after = os.fstat(descriptor)
            if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
                raise ConflictError(f"{path} changed while it was copied; copy it again")

        return await _in_parts(store, key, cuts, send, properties, check)
    finally:
        os.close(descriptor)


async def copy_object(
    source: Store, info: ObjectInfo, target: Store, key: Key, advance: Advance, *, same: bool
) -> ObjectInfo:
    """Copy an object; inside one store without moving its bytes here, where the store can.

    Errors: StaleError when the source changes meanwhile; those of the stores.
    """
    whole = Span(0, info.size)
    features = target.features
    properties = Properties({**info.metadata, COMMIT_ID: secrets.token_hex(16)})
    if same and info.size <= features.parts.max_write_bytes:
        copied = await target.copy(info.pin, key, properties=properties)
        advance(info.size)
        return copied
    if info.size <= SINGLE_BYTES or not features.multipart:
        body = BytesBody(await source.read(info.pin, whole))
        copied = await target.write(key, body, properties=properties)
        advance(info.size)
        return copied

    cuts = plan_parts(info.size, features.parts)

    async def send(upload: Upload, number: int, span: Span) -> Part:
        if same and features.copy_part:
            part = await target.copy_part(upload, number, info.pin, span)
        else:
            body = BytesBody(await source.read(info.pin, span))
            part = await target.upload_part(upload, number, body)
        advance(span.size)
        return part

    return await _in_parts(target, key, cuts, send, properties, lambda: None)


async def _in_parts(
    store: Store,
    key: Key,
    cuts: list[tuple[int, Span]],
    send: Callable[[Upload, int, Span], Awaitable[Part]],
    properties: Properties,
    check: Callable[[], None],
) -> ObjectInfo:
    upload = await store.begin_upload(key, properties=properties)
    try:
        parts = await each(cuts, lambda cut: send(upload, *cut))
        check()
        return await store.finish_upload(upload, sorted(parts, key=lambda part: part.number))
    except BaseException:
        with trio.move_on_after(ABORT_S, shield=True):
            await store.abort_upload(upload)
        raise


def plan_parts(
    size: int, rules: PartRules, part_bytes: int | None = None
) -> list[tuple[int, Span]]:
    """Cut a file of known size into numbered parts of one size, within the store's rules."""
    check_size(size, rules)
    whole = Span(0, size)
    grid = ladder(rules, part_bytes=part_bytes or PART_BYTES, size=size)
    return [(number, span.clip(whole)) for number, span in grid.parts(whole)]


async def download_file(store: Store, info: ObjectInfo, path: Path, advance: Advance) -> None:
    """Write an object to a local file, device or pipe; see `open_target`.

    Errors: StaleError when the object changes meanwhile; those of `open_target` and of the store.
    """
    async with open_target(path, info.size) as target:
        # Where there are no offsets a piece waits for the one before it, which is always under way.
        turns: defaultdict[int, trio.Event] = defaultdict(trio.Event)
        turns[0].set()

        async def fetch(span: Span) -> None:
            buffer = bytearray(span.size)
            await store.read_into(info.pin, span, [memoryview(buffer)])
            if target.in_order:
                await turns[span.start].wait()
                del turns[span.start]
            await target.write(span.start, buffer)
            if target.in_order:
                turns[span.stop].set()
            advance(span.size)

        await each(Span(0, info.size).pieces(PIECE_BYTES), fetch)


async def each(items: Iterable[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
    """Do the work for every item, `WORKERS` at a time; the first failure ends all."""
    queue = iter(items)
    results: list[R] = []

    async def worker() -> None:
        results.extend([await work(item) for item in queue])

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(worker)
    return results
