"""Ranged reads and uploads over kept connections. Blocking: call it from worker threads."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from vfs.errors import UnreachableError
from vfs.store.base import Body
from vfs.store.wire.answer import (
    FIRST_REFUSAL,
    PutRequest,
    RangeRequest,
    Refusal,
    Refuse,
    check_answer,
    check_stored,
)
from vfs.store.wire.connection import ClosedError, Connection
from vfs.store.wire.dial import Endpoint, Exchange
from vfs.store.wire.head import Head
from vfs.values import KIB, Span

# NAT boxes and load balancers forget idle connections without a word, the quickest after some
# 60 s; a request on a forgotten one stalls instead of failing.
IDLE_S = 20.0

# What a body is read and sent in: few calls, and it is still in the processor's cache when sent.
_PIECE_BYTES = 512 * KIB

T = TypeVar("T")


class WireClient:
    """Reads ranges of objects from one server, and sends it bodies.

    Concurrency: any number of threads, each with a connection of its own; at most `max_idle` are
    kept for later ones.
    """

    def __init__(self, endpoint: Endpoint, *, max_idle: int = 64) -> None:
        self.endpoint = endpoint
        self._max_idle = max_idle
        self._lock = threading.Lock()  # guards _idle and _closed
        self._idle: list[Connection] = []  # the last one was used last
        self._closed = False

    def read_into(
        self,
        request: RangeRequest,
        buffers: Sequence[memoryview],
        refuse: Refuse,
        exchange: Exchange,
    ) -> None:
        """Fill the buffers with exactly the range that was asked for.

        A request on a kept connection that turns out closed before any byte of the answer is sent
        once more, on a new one: servers close idle connections whenever they like.
        Errors: what `refuse` makes of a refusal; StaleError, CorruptError for wrong answers;
        UnreachableError; AuthenticationError for a certificate that is not trusted.
        Cancellation: `exchange.interrupt()` ends the call at once with UnreachableError.
        """
        self._carry_out(partial(_read, request=request, buffers=buffers, refuse=refuse), exchange)

    def put(self, request: PutRequest, body: Body, refuse: Refuse, exchange: Exchange) -> Head:
        """Send a body and return the head of the answer that accepts it.

        Only for what may be sent twice: a request on a kept connection that turns out closed is
        sent once more, as a read is.
        Errors and cancellation: those of `read_into`; CorruptError for an answer that makes no
        sense; whatever the body raises.
        """
        return self._carry_out(partial(_put, request=request, body=body, refuse=refuse), exchange)

    def _carry_out(
        self, converse: "Callable[[Connection], tuple[T, bool]]", exchange: Exchange
    ) -> T:
        """Converse on a connection; the second value tells whether it can take another exchange."""
        connection = self._take() or Connection(self.endpoint, exchange)
        while True:
            exchange.attach(connection.socket)
            reusable = False
            try:
                result, reusable = converse(connection)
            except ClosedError as error:
                if not connection.used or exchange.interrupted:
                    raise UnreachableError(
                        f"{self.endpoint} closed the connection without an answer",
                    ) from error
            else:
                return result
            finally:
                exchange.attach(None)
                self._give_back(connection, reusable=reusable)
            connection = Connection(self.endpoint, exchange)

    def close(self) -> None:
        """Close the idle connections; reads under way keep theirs until they are done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> Connection | None:
        """Return the connection that was used last, if it is still good."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if time.monotonic() - connection.idle_since_s < IDLE_S and connection.is_quiet():
                return connection
            connection.close()

    def _give_back(self, connection: Connection, *, reusable: bool) -> None:
        if reusable:
            connection.used = True
            connection.idle_since_s = time.monotonic()
            with self._lock:
                if not self._closed and len(self._idle) < self._max_idle:
                    self._idle.append(connection)
                    return
        connection.close()


def _read(
    connection: Connection,
    *,
    request: RangeRequest,
    buffers: Sequence[memoryview],
    refuse: Refuse,
) -> tuple[None, bool]:
    connection.send(encode_request("GET", request.target, request.fields))
    head = connection.receive_head()
    _check_refusal(connection, head, request.what, refuse)
    check_answer(request, head)
    connection.receive_body(buffers)
    return None, head.keeps_alive


def _put(
    connection: Connection, *, request: PutRequest, body: Body, refuse: Refuse
) -> tuple[Head, bool]:
    length = ("content-length", str(body.size))
    connection.send(encode_request("PUT", request.target, (*request.fields, length)))
    sent = False
    try:
        _send_body(connection, body)
        sent = True
        head = connection.receive_head()
    except ClosedError:
        if sent:
            raise
        # A server that refuses before it has all of a body says so and hangs up.
        head = connection.receive_head()
    _check_refusal(connection, head, request.what, refuse)
    check_stored(request, head)
    _, complete = connection.receive_page(head)
    return head, sent and complete and head.keeps_alive


def _send_body(connection: Connection, body: Body) -> None:
    buffer = memoryview(bytearray(min(body.size, _PIECE_BYTES)))
    for piece in Span(0, body.size).pieces(_PIECE_BYTES):
        view = buffer[: piece.size]
        body.read_into(piece.start, view)
        connection.send(view)


def _check_refusal(connection: Connection, head: Head, what: str, refuse: Refuse) -> None:
    if head.status >= FIRST_REFUSAL:
        # The connection is not used again: refusals are rare, and what follows them is not sure.
        body, _ = connection.receive_page(head)
        raise refuse(Refusal(head.status, head.fields, body, what))


def encode_request(method: str, target: str, fields: Sequence[tuple[str, str]]) -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {target} HTTP/1.1"]
    lines.extend(f"{name}: {value}" for name, value in fields)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
