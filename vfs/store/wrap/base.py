"""What every wrapper shares: one hook around each call.

A wrapper overrides `around` and nothing else, unless it must know what a call means (retry checks a
mutation whose reply was lost).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from typing_extensions import override

from vfs.store.base import (
    ANY,
    PLAIN_PROPERTIES,
    Body,
    Condition,
    Features,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    Part,
    Properties,
    Store,
    Upload,
)
from vfs.values import Key, Span, Version

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """What is being asked of the store, for counting, shaping and logging."""

    operation: str  # name of the Store method
    key: Key
    bytes_in: int = 0  # payload that a success brings here
    bytes_out: int = 0  # payload that is sent


class WrappedStore(Store):
    """A store that does something around every call of another."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.url = inner.url

    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        """Carry out one call; wrappers override this."""
        return await run()

    @property
    @override
    def ends_reads_early(self) -> bool:
        return self._inner.ends_reads_early

    @override
    async def renew(self) -> bool:
        return await self._inner.renew()

    @property
    @override
    def features(self) -> Features:
        return self._inner.features

    @override
    async def probe(self, *, write: bool, known: Features | None = None) -> Features:
        return await self.around(
            Call("probe", Key("")), lambda: self._inner.probe(write=write, known=known)
        )

    @override
    async def head(self, key: Key) -> ObjectInfo:
        return await self.around(Call("head", key), lambda: self._inner.head(key))

    @override
    async def list(
        self,
        prefix: Key,
        *,
        delimiter: str = "",
        start_after: Key | None = None,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        return await self.around(
            Call("list", prefix),
            lambda: self._inner.list(
                prefix,
                delimiter=delimiter,
                start_after=start_after,
                cursor=cursor,
                limit=limit,
            ),
        )

    @override
    async def read_into(
        self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]
    ) -> None:
        await self.around(
            Call("read", source.key, bytes_in=span.size),
            lambda: self._inner.read_into(source, span, buffers),
        )

    @override
    async def write(
        self,
        key: Key,
        body: Body,
        *,
        condition: Condition = ANY,
        properties: Properties = PLAIN_PROPERTIES,
    ) -> ObjectInfo:
        return await self.around(
            Call("write", key, bytes_out=body.size),
            lambda: self._inner.write(key, body, condition=condition, properties=properties),
        )

    @override
    async def copy(
        self,
        source: ObjectVersion,
        target: Key,
        *,
        condition: Condition = ANY,
        properties: Properties | None = None,
    ) -> ObjectInfo:
        return await self.around(
            Call("copy", target),
            lambda: self._inner.copy(source, target, condition=condition, properties=properties),
        )

    @override
    async def remove(self, keys: Sequence[Key], *, if_version: Version | None = None) -> None:
        await self.around(
            Call("remove", keys[0] if len(keys) == 1 else Key("")),
            lambda: self._inner.remove(keys, if_version=if_version),
        )

    @override
    async def move(
        self, source: ObjectVersion, target: Key, *, condition: Condition = ANY
    ) -> ObjectInfo:
        return await self.around(
            Call("move", target),
            lambda: self._inner.move(source, target, condition=condition),
        )

    @override
    async def begin_upload(self, key: Key, *, properties: Properties = PLAIN_PROPERTIES) -> Upload:
        return await self.around(
            Call("begin_upload", key),
            lambda: self._inner.begin_upload(key, properties=properties),
        )

    @override
    async def upload_part(
        self, upload: Upload, number: int, body: Body, *, offset: int | None = None
    ) -> Part:
        return await self.around(
            Call("upload_part", upload.key, bytes_out=body.size),
            lambda: self._inner.upload_part(upload, number, body, offset=offset),
        )

    @override
    async def copy_part(
        self,
        upload: Upload,
        number: int,
        source: ObjectVersion,
        span: Span,
        *,
        offset: int | None = None,
    ) -> Part:
        return await self.around(
            Call("copy_part", upload.key),
            lambda: self._inner.copy_part(upload, number, source, span, offset=offset),
        )

    @override
    async def finish_upload(
        self, upload: Upload, parts: Sequence[Part], *, condition: Condition = ANY
    ) -> ObjectInfo:
        return await self.around(
            Call("finish_upload", upload.key),
            lambda: self._inner.finish_upload(upload, parts, condition=condition),
        )

    @override
    async def abort_upload(self, upload: Upload) -> None:
        await self.around(
            Call("abort_upload", upload.key), lambda: self._inner.abort_upload(upload)
        )

    @override
    async def aclose(self) -> None:
        await self._inner.aclose()
