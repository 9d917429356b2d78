"""Copy an object that is too large for one request: in parts, inside the service."""

from contextlib import suppress

import trio

from vfs.errors import VfsError
from vfs.store.base import Condition, ObjectInfo, Part, Store, Upload
from vfs.values import GIB, Span

# Services copy one part at some hundred MB/s, and several at once; 5 TiB in parts of this size are
# 5,120 of the 10,000 allowed.
PART_BYTES = GIB
_AT_ONCE = 8

_ABORT_GRACE_S = 30.0


async def copy_in_parts(
    store: Store,
    upload: Upload,
    source: ObjectInfo,
    *,
    condition: Condition,
) -> ObjectInfo:
    """Fill an upload with an object and finish it; abort it when that fails.

    Errors: those of `Store.copy`.
    """
    try:
        parts = await _copy_parts(store, upload, source)
        return await store.finish_upload(upload, parts, condition=condition)
    except BaseException:
        # Parts are paid for until they are dropped. A finish whose reply was lost is not undone
        # by this: its upload is gone.
        with trio.move_on_after(_ABORT_GRACE_S, shield=True), suppress(VfsError):
            await store.abort_upload(upload)
        raise


async def _copy_parts(store: Store, upload: Upload, source: ObjectInfo) -> list[Part]:
    parts: list[Part] = []
    failures: list[VfsError] = []
    pending = iter(enumerate(Span(0, source.size).pieces(PART_BYTES), 1))

    async def work() -> None:
        for number, span in pending:
            try:
                parts.append(await store.copy_part(upload, number, source.pin, span))
            except VfsError as error:
                failures.append(error)
            if failures:
                return

    async with trio.open_nursery() as nursery:
        for _ in range(_AT_ONCE):
            nursery.start_soon(work)
    if failures:
        raise failures[0]
    return sorted(parts, key=lambda part: part.number)
