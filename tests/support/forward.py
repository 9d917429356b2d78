"""An HTTP/1.1 proxy on loopback in front of an S3 gateway: requests pass byte for byte.

The head of a request is sent on as it came, Host and all, so that its signature holds. One thread
and one connection to the gateway for each connection of a client. Subclasses decide what becomes of
a request (`carry`): pass it, answer it, or break it.

Whoever works through a proxy of this process does so from a process that was *executed* (`popen`),
not forked: a forked one would hold the sockets that are meant to be closed.
"""

import contextlib
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

PIECE_BYTES = 256 << 10
MAX_HEAD_BYTES = 64 << 10
CONNECT_S = 5.0

Fields = list[tuple[str, str]]


class EndError(Exception):
    """One side has closed or broken its connection."""


@dataclass
class Request:
    """A request, and what became of it."""

    method: str
    target: str
    fields: Fields
    raw: bytes
    bucket: str = ""
    key: str = ""
    operation: str = ""
    begun_s: float = 0.0
    ended_s: float = 0.0
    status: int = 0  # what the gateway answered; 0: nothing, or it was never asked
    fault: str = ""

    @property
    def size(self) -> int:
        return int(self.get("content-length") or 0)

    def get(self, name: str) -> str | None:
        return next((value for field, value in self.fields if field == name), None)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.target).query, keep_blank_values=True)


@dataclass
class Head:
    """The head of an answer."""

    status: int
    fields: Fields
    raw: bytes

    def get(self, name: str) -> str | None:
        return next((value for field, value in self.fields if field == name), None)


def operation_of(method: str, key: str, query: dict[str, list[str]], *, copies: bool) -> str:
    """Return the name of the S3 call that a request is."""
    if not key:
        if method == "POST" and "delete" in query:
            return "DeleteObjects"
        if method == "GET" and "uploads" in query:
            return "ListMultipartUploads"
        if method == "GET" and not query.keys() & {"versions", "versioning", "object-lock"}:
            return "ListObjects"
        return f"{method}Bucket"
    if "uploadId" in query:
        part = "UploadPartCopy" if copies else "UploadPart"
        return {
            "PUT": part,
            "POST": "CompleteMultipartUpload",
            "DELETE": "AbortMultipartUpload",
            "GET": "ListParts",
        }[method]
    if method == "POST" and "uploads" in query:
        return "CreateMultipartUpload"
    return {
        "GET": "GetObject",
        "HEAD": "HeadObject",
        "PUT": "CopyObject" if copies else "PutObject",
        "DELETE": "DeleteObject",
    }.get(method, method)


class Peer:
    """One side of a connection, read with a buffer."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._held = b""

    def is_quiet(self) -> bool:
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        return not self._held and not poll.poll(0)

    def head(self) -> bytes:
        """Return bytes up to the empty line; none at the end."""
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > MAX_HEAD_BYTES:
                raise EndError("a head without end")
            piece = self._receive(PIECE_BYTES)
            if not piece:
                if self._held:
                    raise EndError("ended in a head")
                return b""
            self._held += piece
            if not self._held[:1].isalpha():
                raise EndError("this is not HTTP")  # a client tries whether TLS is spoken here
        data, self._held = self._held[: end + 4], self._held[end + 4 :]
        return data

    def line(self) -> bytes:
        while (end := self._held.find(b"\r\n")) < 0:
            piece = self._receive(4096)
            if not piece:
                raise EndError("ended in a line")
            self._held += piece
        data, self._held = self._held[: end + 2], self._held[end + 2 :]
        return data

    def some(self, most: int) -> bytes:
        """Return up to so many bytes; none at the end."""
        if self._held:
            data, self._held = self._held[:most], self._held[most:]
            return data
        return self._receive(min(most, PIECE_BYTES))

    def _receive(self, most: int) -> bytes:
        try:
            return self.sock.recv(most)
        except OSError as error:
            raise EndError(str(error)) from error

    def send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise EndError(str(error)) from error

    def close(self, *, reset: bool = False) -> None:
        with contextlib.suppress(OSError):
            if reset:
                linger = struct.pack("ii", 1, 0)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def _parse(raw: bytes) -> tuple[list[str], Fields]:
    first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    pairs = (line.partition(":") for line in lines)
    return first.split(" ", 2), [(name.lower(), value.strip()) for name, _, value in pairs]


def parse_request(raw: bytes) -> Request:
    (method, target, _), fields = _parse(raw)
    path = unquote(urlsplit(target).path).lstrip("/")
    bucket, _, key = path.partition("/")
    request = Request(method, target, fields, raw, bucket, key)
    copies = request.get("x-amz-copy-source") is not None
    request.operation = operation_of(method, key, request.query, copies=copies)
    return request


def _parse_head(raw: bytes) -> Head:
    if not raw:
        raise EndError("no answer")
    words, fields = _parse(raw)
    return Head(int(words[1]), fields, raw)


class Gone(Exception):  # noqa: N818 - no error: the connection is not to be used any more
    """The client's connection ends here, with a reset or without."""

    def __init__(self, *, reset: bool = False) -> None:
        self.reset = reset


@dataclass
class Exchange:
    """One request of a client and the way to the gateway."""

    proxy: "Proxy"
    near: Peer
    request: Request
    far: Peer | None = None
    body: bytes | None = None  # of the request, once it was taken
    kept: bytes = b""

    def take_body(self) -> None:
        """Receive the whole body of the request."""
        if self.body is None:
            if self.request.get("expect"):
                self.near.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.body = b"".join(self._pieces(self.near, self.request.size))

    def answer(self, status: int, fields: Fields, body: bytes = b"") -> None:
        """Answer without asking the gateway."""
        lines = [f"HTTP/1.1 {status} By the proxy", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in fields]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self.near.send(head if self.request.method == "HEAD" else head + body)

    def refuse(self, status: int, code: str, fields: Fields | None = None) -> None:
        """Answer as S3 refuses, once the body of the request has come."""
        self.take_body()
        page = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
        self.answer(status, [("Content-Type", "application/xml"), *(fields or [])], page.encode())

    def ask(self, *, body_bytes: int | None = None) -> Head:
        """Send the request to the gateway and return the head of its answer.

        With `body_bytes` only so much of the body goes there, and both connections break.
        """
        if self.far is not None and not self.far.is_quiet():
            self.far.close()
            self.far = None
        if self.far is None:
            self.far = self.proxy.dial()
        far, size = self.far, self.request.size
        self.proxy.let_pass(len(self.request.raw))
        far.send(self.request.raw)
        if body_bytes is None and self.request.get("expect"):
            raw = far.head()
            if not raw.startswith(b"HTTP/1.1 100"):
                return _parse_head(raw)  # refused: the client sends no body then
            if self.body is None:
                self.near.send(raw)
        elif self.request.get("expect") and self.body is None:
            self.near.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        stop = size if body_bytes is None else min(body_bytes, size)
        pieces = iter([self.body[:stop]]) if self.body else self._pieces(self.near, stop)
        try:
            for piece in pieces:
                self.proxy.let_pass(len(piece))
                far.send(piece)
        except EndError:
            self._rest(far)
            raise
        if body_bytes is not None:
            far.close(reset=True)
            self.far = None
            raise Gone(reset=True)
        head = _parse_head(far.head())
        while head.status < 200:
            head = _parse_head(far.head())
        self.request.status = head.status
        return head

    def _rest(self, far: Peer) -> None:
        far.close(reset=True)
        self.far = None

    def forward(self) -> None:
        """Pass the request to the gateway and its answer to the client."""
        head = self.ask()
        self.near.send(head.raw)
        for piece in self.answer_body(head):
            self.proxy.let_pass(len(piece))
            self.near.send(piece)
        self.finish(head)

    def finish(self, head: Head) -> None:
        """End both connections where the answer says so."""
        closes = (head.get("connection") or "").lower() == "close"
        unframed = head.get("content-length") is None and head.get("transfer-encoding") is None
        if closes or (unframed and self._has_body(head)):
            raise Gone

    def _has_body(self, head: Head) -> bool:
        return self.request.method != "HEAD" and head.status not in {204, 304}

    def answer_body(self, head: Head) -> Iterator[bytes]:
        """Yield the body of an answer as it is on the line."""
        far = self.far
        if far is None or not self._has_body(head):
            return
        if (head.get("transfer-encoding") or "").lower() == "chunked":
            while True:
                line = far.line()
                yield line
                size = int(line.split(b";")[0], 16)
                yield from self._pieces(far, size + 2)
                if size == 0:
                    return
        length = head.get("content-length")
        if length is not None:
            yield from self._pieces(far, int(length))
            return
        while piece := far.some(PIECE_BYTES):
            yield piece

    @staticmethod
    def _pieces(source: Peer, size: int) -> Iterator[bytes]:
        left = size
        while left:
            piece = source.some(left)
            if not piece:
                raise EndError("ended in a body")
            left -= len(piece)
            yield piece


@dataclass
class Proxy:
    """Passes everything on, and remembers what it was asked."""

    upstream: str  # http://HOST:PORT
    calls: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        far = urlsplit(self.upstream)
        self._far = (far.hostname or "", far.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._live: set[Peer] = set()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        self.break_all()
        for thread in self._threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in self._threads)

    # --- what it was asked -------------------------------------------------------------------

    def asked(self, *operations: str, key: str | None = None) -> list[Request]:
        """Return the requests of these operations; all of them without any."""
        with self._lock:
            calls = list(self.calls)
        return [
            call
            for call in calls
            if (not operations or call.operation in operations)
            and (key is None or call.key == key or call.key.endswith("/" + key))
        ]

    def count(self, *operations: str, key: str | None = None) -> int:
        return len(self.asked(*operations, key=key))

    def forget(self) -> None:
        """Start counting anew."""
        with self._lock:
            self.calls.clear()

    # --- for subclasses ----------------------------------------------------------------------

    def carry(self, exchange: Exchange) -> None:
        """Decide what becomes of a request."""
        exchange.forward()

    def accepts(self) -> bool:
        """Tell whether a new connection is taken."""
        return True

    def let_pass(self, size: int) -> None:
        """Return when so many bytes may pass."""

    # --- connections -------------------------------------------------------------------------

    def dial(self) -> Peer:
        try:
            peer = Peer(socket.create_connection(self._far, timeout=CONNECT_S))
        except OSError as error:
            raise EndError(str(error)) from error
        peer.sock.settimeout(None)
        return self._join(peer)

    def _join(self, peer: Peer) -> Peer:
        with self._lock:
            self._live.add(peer)
        return peer

    def break_all(self) -> None:
        """Break every connection."""
        with self._lock:
            live = list(self._live)
        for peer in live:
            with contextlib.suppress(OSError):
                linger = struct.pack("ii", 1, 0)
                peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                peer.sock.shutdown(socket.SHUT_RDWR)  # its thread wakes and closes it

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            near = Peer(sock)
            if not self.accepts():
                near.close(reset=True)
                continue
            self._join(near)
            thread = threading.Thread(target=self._serve, args=(near,), daemon=True)
            self._threads = [one for one in self._threads if one.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _serve(self, near: Peer) -> None:
        far: Peer | None = None
        reset = True
        try:
            while raw := near.head():
                request = parse_request(raw)
                request.begun_s = time.monotonic()
                with self._lock:
                    self.calls.append(request)
                exchange = Exchange(self, near, request, far)
                try:
                    self.carry(exchange)
                finally:
                    request.ended_s = time.monotonic()
                    far = exchange.far
            reset = False
        except EndError:
            pass
        except Gone as gone:
            reset = gone.reset
        finally:
            for peer, hard in ((near, reset), (far, True)):
                if peer is not None:
                    peer.close(reset=hard)
                    with self._lock:
                        self._live.discard(peer)


def replace_length(head: Head, length: int) -> bytes:
    """Return the head of an answer with another Content-Length."""
    field = re.compile(rb"(?im)^content-length: *\d+")
    return field.sub(b"Content-Length: %d" % length, head.raw)
