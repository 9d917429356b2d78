"""A body as the SDK wants it: a file."""

import io
from collections.abc import Generator
from contextlib import contextmanager

from typing_extensions import Buffer, override

from vfs.store.base import Body


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
