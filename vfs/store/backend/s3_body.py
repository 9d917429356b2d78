"""A body as the SDK wants it: a file."""

import hashlib
import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import cast

from typing_extensions import Buffer, override

from vfs.store.base import Body
from vfs.values import KIB

_PIECE_BYTES = 256 * KIB


class BodyFile(io.RawIOBase):
    """A body as the SDK wants it: it reads it twice, for the signature and to send it."""

    def __init__(self, body: Body, *, hashed: bool = False) -> None:
        self._body = body
        self._position = 0
        # Of the first pass over all the bytes: the SDK does not show its own.
        self._digest = hashlib.sha256() if hashed else None
        self._hashed = 0
        self._failure: Exception | None = None
        self._buffer = memoryview(bytearray(min(body.size, _PIECE_BYTES)))

    @contextmanager
    def failing_as_itself(self) -> Generator[None]:
        """Let a failure of the body be seen as what it is: the SDK takes it for the network's."""
        try:
            yield
        except Exception:
            if self._failure is not None:
                raise self._failure from None
            raise

    def sha256(self) -> str | None:
        """Return the digest of all the bytes, in hex; None before they were read in order."""
        if self._digest is None or self._hashed != self._body.size:
            return None
        return self._digest.hexdigest()

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
        """Return the next bytes, fewer than were asked for at the caller's risk, as any raw file.

        Shape: valid until the next read. The SDK hashes in pieces of 1 MiB and sends in pieces of
        16 KiB; it takes what it is given, and one buffer of a size in between is not made anew,
        zeroed and copied for each.
        """
        left = self._body.size - self._position
        if size < 0:
            piece = bytearray(max(0, left))
            self.readinto(piece)
            return bytes(piece)
        view = self._buffer[: max(0, min(left, len(self._buffer)))]
        self.readinto(view)
        return cast("bytes", view)

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
            self._hash(view[:size])
            self._position += size
        return max(0, size)

    def _hash(self, view: memoryview) -> None:
        if self._digest is None or self._hashed == self._body.size:
            return
        if self._position == 0:
            self._digest, self._hashed = hashlib.sha256(), 0
        if self._position == self._hashed:
            self._digest.update(view)
            self._hashed += view.nbytes
