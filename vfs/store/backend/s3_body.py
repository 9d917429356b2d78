"""A body as the SDK wants it: a file."""

import io
from collections.abc import Generator
from contextlib import contextmanager

from typing_extensions import Buffer, override

from vfs.store.base import Body
from vfs.values import KIB

_PIECE_BYTES = 256 * KIB


class BodyFile(io.RawIOBase):
    """A body as the SDK wants it: it reads it twice, for the signature and to send it."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._position = 0
        self._failure: Exception | None = None

    @contextmanager
    def failing_as_itself(self) -> Generator[None]:
        """Let a failure of the body be seen as what it is: the SDK takes it for the network's."""
        try:
            yield
        except Exception:
            if self._failure is not None:
                raise self._failure from None
            raise

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._position

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._body.size}
        self._position = base[whence] + offset
        return self._position

    @override
    def read(self, size: int = -1, /) -> bytes:
        # The SDK sends in pieces of 16 KiB, each of which takes the GIL several times; it sends
        # what it is given, so it is given more.
        wanted = self._body.size if size < 0 else max(size, _PIECE_BYTES)
        piece = bytearray(max(0, min(wanted, self._body.size - self._position)))
        self.readinto(piece)
        return bytes(piece)

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        size = min(view.nbytes, self._body.size - self._position)
        if size > 0:
            try:
                self._body.read_into(self._position, view[:size])
            except Exception as error:
                self._failure = error
                raise
            self._position += size
        return max(0, size)
