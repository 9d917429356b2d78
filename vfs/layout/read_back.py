"""Reads what is stored, piece by piece, to compare it with its digest."""

import hashlib
import logging
from collections.abc import Callable

import trio

from vfs.errors import CorruptError, StaleError
from vfs.layout.base import FileVersion
from vfs.layout.digest import Digest, Leaf
from vfs.store.base import ObjectVersion, Store
from vfs.tasks import open_tasks
from vfs.values import MIB, Span

log = logging.getLogger(__name__)

PIECE_BYTES = 2 * MIB
"""One ranged read."""

LEAVES_AT_ONCE = 8
"""Leaves read at one time: each with one piece being hashed and one on its way, 32 MiB in all."""


async def hash_span(
    store: Store,
    source: ObjectVersion,
    span: Span,
    advance: Callable[[int], None] = lambda _count: None,
) -> str:
    """Return the SHA-256, in hex, of bytes of a version; `advance` is told what has come.

    Errors: StaleError, CorruptError; those of the store.
    """
    digest = hashlib.sha256()
    ready = b""

    async def hash_ready() -> None:
        if ready:
            await trio.to_thread.run_sync(digest.update, ready)

    for piece in span.pieces(PIECE_BYTES):
        async with open_tasks() as nursery:
            nursery.start_soon(hash_ready)
            fetched = await store.read(source, piece)
        ready = fetched
        advance(piece.size)
    await hash_ready()
    return digest.hexdigest()


async def read_back(store: Store, file: FileVersion, digest: Digest) -> None:
    """Compare what a version holds with the digest of what was sent for it.

    What was copied is not read. A version that somebody has replaced meanwhile cannot be read any
    more, and need not be.
    Errors: CorruptError; those of the store.
    """
    queue = iter([leaf for leaf in digest.leaves if leaf.sha256 is not None])

    async def compare() -> None:
        for leaf in queue:
            await _compare(store, file, leaf)

    try:
        async with open_tasks() as nursery:
            for _ in range(LEAVES_AT_ONCE):
                nursery.start_soon(compare)
    except StaleError:
        log.info("%r was replaced before it could be read back", file.pin.key)


async def _compare(store: Store, file: FileVersion, leaf: Leaf) -> None:
    if await hash_span(store, file.pin, leaf.span) != leaf.sha256:
        raise CorruptError(
            f"{file.pin.key!r}: bytes {leaf.span.start} to {leaf.span.stop} were read back and are "
            "not what was sent",
            operation="read",
            store=store.url,
            key=file.pin.key,
        )
