"""Zeros that the store copies for itself: a hole of an image costs a request, no bandwidth.

    .vfs/zeros/5242880       so many bytes, all zero

Objects of nothing but zeros are made when the first hole needs them and stay for all to come. The
smallest is uploaded, a larger one is put together from it. One that is found is read before it is
believed, once in the life of a mount.
"""

import logging
from dataclasses import replace

import trio
from typing_extensions import override

from vfs.errors import ConflictError, NotFoundError, StaleError, TransientError, VfsError
from vfs.layout.uploads import Uploads
from vfs.names import OWN_DIRECTORY
from vfs.store.base import (
    ABSENT,
    ANY,
    PLAIN_PROPERTIES,
    Body,
    ObjectInfo,
    ObjectVersion,
    Part,
    Store,
    Upload,
)
from vfs.store.zeros import ZEROS as A_MIB
from vfs.store.zeros import zeros_digest
from vfs.values import MIB, Key, Span

log = logging.getLogger(__name__)

ZEROS = f"{OWN_DIRECTORY}/zeros"
SIZES = (5 * MIB, 25 * MIB, 125 * MIB)
"""The parts of the ladder that reach 405 GiB; whole multiples of the smallest."""
WORTH_BYTES = 1 * MIB
"""A shorter hole is sent in less time than it is asked for."""


class _ZeroBody(Body):
    def __init__(self, size: int) -> None:
        self.size = size

    @override
    def read_into(self, offset: int, buffer: memoryview) -> None:
        for piece in Span(0, buffer.nbytes).pieces(len(A_MIB)):
            buffer[piece.start : piece.stop] = A_MIB[: piece.size]

    @override
    def is_hole(self, span: Span) -> bool:
        return True


class ZeroObjects:
    """The objects of zeros of one store."""

    def __init__(self, store: Store, uploads: Uploads) -> None:
        self._store = store
        self._uploads = uploads
        self._found: dict[int, ObjectVersion | None] = {}  # by size; None: not to be had
        self._finding = trio.Lock()

    async def copy_part(self, upload: Upload, number: int, size: int, offset: int) -> Part | None:
        """Make a part of zeros without sending any; None where that is not possible.

        Errors: any store error but one about the zeros themselves.
        """
        fit = next((one for one in SIZES if one >= size), None)
        features = self._store.features
        if fit is None or size < WORTH_BYTES or features.sparse or not features.copy_part:
            return None
        source = await self._source(fit)
        if source is None:
            return None
        try:
            part = await self._store.copy_part(upload, number, source, Span(0, size), offset=offset)
        except (StaleError, NotFoundError):  # or the upload is gone: who sends the part is told
            self._found.pop(fit, None)
            return None
        return replace(part, sha256=await trio.to_thread.run_sync(zeros_digest, size))

    async def _source(self, size: int) -> ObjectVersion | None:
        async with self._finding:
            if size not in self._found:
                try:
                    self._found[size] = await self._find(size)
                except (TransientError, ConflictError, StaleError, NotFoundError) as error:
                    log.debug("zeros are sent this time: %s", error.message)
                    return None
                except VfsError as error:
                    log.info("holes are sent as zeros: %s", error.message)
                    self._found[size] = None
            return self._found[size]

    async def _find(self, size: int) -> ObjectVersion | None:
        key = Key(f"{ZEROS}/{size}")
        try:
            found = await self._store.head(key)
        except NotFoundError as error:
            if not error.key:
                raise
            return (await self._make(key, size)).pin
        if found.size == size and await self._is_zero(found):
            return found.pin
        log.warning("%r does not hold %d zeros: remove it; holes are sent as zeros", key, size)
        return None

    async def _is_zero(self, found: ObjectInfo) -> bool:
        for span in Span(0, found.size).pieces(SIZES[0]):
            data = await self._store.read(found.pin, span)
            if data.count(0) != span.size:
                return False
        return True

    async def _make(self, key: Key, size: int) -> ObjectInfo:
        features = self._store.features
        smallest = SIZES[0]
        if size == smallest:
            condition = ABSENT if features.write_if_absent else ANY
            return await self._store.write(key, _ZeroBody(size), condition=condition)
        if smallest not in self._found:
            self._found[smallest] = await self._find(smallest)
        source = self._found[smallest]
        if source is None:
            raise NotFoundError("no zeros to copy", key=key)
        upload = await self._uploads.begin(key, PLAIN_PROPERTIES)
        try:
            parts = [
                await self._store.copy_part(
                    upload, number, source, Span(0, smallest), offset=(number - 1) * smallest
                )
                for number in range(1, size // smallest + 1)
            ]
            condition = ABSENT if features.finish_if_absent else ANY
            made = await self._store.finish_upload(upload, parts, condition=condition)
        except BaseException:  # whoever wanted it may have gone
            await self._uploads.abort(upload)
            raise
        await self._uploads.finished(upload)
        return made
