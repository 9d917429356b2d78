"""Ranged reads over kept connections. Blocking: call it from worker threads."""

import threading
import time
from collections.abc import Sequence

from vfs.errors import UnreachableError
from vfs.store.wire.answer import FIRST_REFUSAL, RangeRequest, Refusal, Refuse, check_answer
from vfs.store.wire.connection import ClosedError, Connection
from vfs.store.wire.dial import Endpoint, Exchange

# NAT boxes and load balancers forget idle connections without a word, the quickest after some
# 60 s; a request on a forgotten one stalls instead of failing.
IDLE_S = 20.0


class RangeClient:
    """Reads ranges of objects from one server.

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
        connection = self._take() or Connection(self.endpoint, exchange)
        while True:
            exchange.attach(connection.socket)
            reusable = False
            try:
                reusable = _converse(connection, request, buffers, refuse)
            except ClosedError as error:
                if not connection.used or exchange.interrupted:
                    raise UnreachableError(
                        f"{self.endpoint} closed the connection without an answer",
                    ) from error
            else:
                return
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


def _converse(
    connection: Connection,
    request: RangeRequest,
    buffers: Sequence[memoryview],
    refuse: Refuse,
) -> bool:
    """Carry out one exchange; tell whether the connection can take another."""
    connection.send(encode_request(request))
    head = connection.receive_head()
    if head.status >= FIRST_REFUSAL:
        # The connection is not used again: refusals are rare, and what follows them is not sure.
        body, _ = connection.receive_refusal(head)
        raise refuse(Refusal(head.status, head.fields, body, request.what))
    check_answer(request, head)
    connection.receive_body(buffers)
    return head.keeps_alive


def encode_request(request: RangeRequest) -> bytes:
    """Return the bytes of a request."""
    lines = [f"GET {request.target} HTTP/1.1"]
    lines.extend(f"{name}: {value}" for name, value in request.fields)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
