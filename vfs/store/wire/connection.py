"""One connection to a server: send a request, receive its answer.

A whole range on a plain socket is one system call during which the GIL is free (MSG_WAITALL). Many
small receives tripled the cost of a read, because each of them takes the GIL from the loop. TLS has
no such call: its records are 16 KiB.
"""

import contextlib
import math
import select
import socket
import ssl
from collections.abc import Sequence

from vfs.errors import CorruptError, UnreachableError
from vfs.store.wire.dial import Endpoint, Exchange, dial
from vfs.store.wire.head import MAX_HEAD_BYTES, Head, HeadError, find_end, join_chunks, parse_head

MAX_PAGE_BYTES = 64 << 10

# A head is well below 2 KiB; whatever else comes with it is copied once.
_FIRST_RECEIVE_BYTES = 4 << 10

# IOV_MAX of Linux: the buffers that one recvmsg takes.
_MAX_BUFFERS = 1024

_INFORMATIONAL = range(100, 200)


class ClosedError(Exception):
    """The connection ended before any byte of the answer: a kept one may have been closed."""


class _EndError(Exception):
    """The peer closed the connection."""


class Connection:
    """A connected socket that carries one exchange at a time."""

    def __init__(self, endpoint: Endpoint, exchange: Exchange) -> None:
        self.endpoint = endpoint
        self.used = False  # has carried an exchange: the server may have closed it since
        self.idle_since_s = 0.0
        self._buffer = bytearray(_FIRST_RECEIVE_BYTES)
        self._held = 0  # bytes of the buffer that were received and not consumed
        self._socket = dial(endpoint, exchange)
        self._poll = select.poll()
        self._poll.register(self._socket.fileno(), select.POLLIN)

    @property
    def socket(self) -> socket.socket:
        """The socket, for an exchange to shut."""
        return self._socket

    def is_quiet(self) -> bool:
        """Tell whether nothing has come since the last answer: no end, no stray byte."""
        return self._held == 0 and not self._poll.poll(0)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, data: bytes | memoryview) -> None:
        """Send a request, or a piece of one.

        Errors: ClosedError, UnreachableError.
        """
        try:
            self._socket.sendall(data)
        except (TimeoutError, BlockingIOError) as error:
            raise self._stalled() from error
        except OSError as error:
            raise ClosedError(str(error)) from error

    def receive_head(self) -> Head:
        """Receive the head of the answer; what follows it stays in the buffer.

        Errors: ClosedError, UnreachableError, CorruptError when it is not HTTP.
        """
        while True:
            end = find_end(self._buffer, self._held)
            while end < 0:
                self._receive_more()
                end = find_end(self._buffer, self._held)
            try:
                head = parse_head(bytes(memoryview(self._buffer)[:end]))
            except HeadError as error:
                raise CorruptError(
                    f"{self.endpoint} does not speak HTTP/1.1 ({error}): check the endpoint",
                ) from error
            self._consume(end)
            if head.status not in _INFORMATIONAL:
                return head

    def _receive_more(self) -> None:
        if self._held >= MAX_HEAD_BYTES:
            raise CorruptError(f"{self.endpoint} sent a response head without end")
        if self._held == len(self._buffer):
            self._buffer.extend(bytes(len(self._buffer)))
        view = memoryview(self._buffer)[self._held :]
        try:
            self._held += self._receive(view)
        except (_EndError, ConnectionError) as error:
            if self._held == 0:
                raise ClosedError(str(error)) from error
            raise self._broken() from error

    def receive_body(self, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers with the body, first with what came with the head.

        Errors: UnreachableError.
        """
        left = self._take_held(buffers)
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                for view in left:
                    self._fill(view)
            else:
                self._fill_all(left)
        except (_EndError, ConnectionError) as error:
            raise self._broken() from error

    def _take_held(self, buffers: Sequence[memoryview]) -> list[memoryview]:
        """Move received bytes into the buffers; return what is left to fill."""
        left: list[memoryview] = []
        taken = 0
        for view in buffers:
            size = min(len(view), self._held - taken)
            view[:size] = memoryview(self._buffer)[taken : taken + size]
            taken += size
            if size < len(view):
                left.append(view[size:])
        self._consume(taken)
        return left

    def _consume(self, size: int) -> None:
        if size < self._held:
            self._buffer[: self._held - size] = self._buffer[size : self._held]
        self._held -= size

    def _fill_all(self, buffers: list[memoryview]) -> None:
        """Fill many buffers with as few receives as the kernel allows."""
        first = 0
        while first < len(buffers):
            batch = buffers[first : first + _MAX_BUFFERS]
            try:
                size = self._socket.recvmsg_into(batch, 0, socket.MSG_WAITALL)[0]
            except BlockingIOError as error:
                raise self._stalled() from error
            if size == 0:
                raise _EndError
            while first < len(buffers) and size >= len(buffers[first]):
                size -= len(buffers[first])
                first += 1
            if size:  # a time-out or a signal after some bytes: they came, so it is no stall
                buffers[first] = buffers[first][size:]

    def _fill(self, view: memoryview) -> None:
        while view:
            view = view[self._receive(view) :]

    def _receive(self, view: memoryview) -> int:
        try:
            size = self._socket.recv_into(view)
        except (TimeoutError, BlockingIOError) as error:
            raise self._stalled() from error
        except ssl.SSLError as error:  # a peer that closes without saying so, a damaged record
            raise self._broken() from error
        if size == 0:
            raise _EndError
        return size

    def receive_page(self, head: Head) -> tuple[bytes, bool]:
        """Receive a body that is no data, 64 KiB at most; tell whether it was all of it.

        One that breaks off is taken as far as it came: the status says enough.
        """
        data = bytearray(memoryview(self._buffer)[: self._held])
        self._held = 0
        try:
            length = 0 if head.status in {204, 304} else head.content_length
        except HeadError:
            length = None
        piece = memoryview(bytearray(MAX_PAGE_BYTES))
        complete = False
        with contextlib.suppress(_EndError, ConnectionError, UnreachableError):
            while not (complete := _is_complete(head, data, length)):
                if len(data) >= MAX_PAGE_BYTES:
                    break
                size = self._receive(piece[: MAX_PAGE_BYTES - len(data)])
                data += piece[:size]
        body = bytes(data)
        return (join_chunks(body)[0] if head.chunked else body), complete

    def _stalled(self) -> UnreachableError:
        return UnreachableError(
            f"{self.endpoint} has sent nothing for {math.ceil(self.endpoint.stall_s)} s",
        )

    def _broken(self) -> UnreachableError:
        return UnreachableError(f"{self.endpoint} broke off in the middle of an answer")


def _is_complete(head: Head, data: bytearray, length: int | None) -> bool:
    if head.chunked:
        return join_chunks(bytes(data))[1]
    return length is not None and len(data) == length
