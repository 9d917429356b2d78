"""A frozen state of a file as the layout reads it, completed with bytes of the base version."""

from collections.abc import Awaitable, Callable

from typing_extensions import override

from vfs.layout.base import Content
from vfs.spans import SpanSet
from vfs.stage.file import StagedFile
from vfs.stage.frozen import Frozen
from vfs.store.base import Body
from vfs.values import MIB, Span


class FrozenContent(Content):
    """What one commit stores."""

    def __init__(
        self,
        staged: StagedFile,
        frozen: Frozen,
        read_base: Callable[[Span], Awaitable[bytes | memoryview]],
    ) -> None:
        self._staged = staged
        self._frozen = frozen
        self._read_base = read_base

    @property
    @override
    def size(self) -> int:
        return self._frozen.size

    @property
    @override
    def changed(self) -> SpanSet:
        return self._frozen.changed

    @override
    async def body(self, span: Span) -> Body:
        for gap in list(self._frozen.missing(span)):
            for piece in gap.pieces(MIB):
                data = bytes(await self._read_base(piece))
                await self._staged.fill(piece, memoryview(data))
        return self._frozen.body(span)

    @override
    def is_latest(self, span: Span) -> bool:
        return not self._frozen.written_since.touches(span) and span.stop <= self._staged.size
