"""An HTTP server that does exactly what a test tells it, one connection after the other."""

import contextlib
import re
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Say:
    """Answer the next request with these bytes."""

    data: bytes


@dataclass(frozen=True)
class Close:
    """Close the connection."""


@dataclass(frozen=True)
class Reset:
    """Close the connection with a reset."""


@dataclass(frozen=True)
class Hang:
    """Do nothing until the client closes."""


@dataclass(frozen=True)
class Add:
    """Send bytes without waiting for a request."""

    data: bytes


@dataclass(frozen=True)
class Shake:
    """Shake hands, and end there."""

    tls: ssl.SSLContext


Step = Say | Close | Reset | Hang | Add | Shake


class ScriptedServer:
    """Plays one list of steps per connection that it accepts."""

    def __init__(self, scripts: list[list[Step]], tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.requests: list[bytes] = []
        self.connections = 0
        self._current: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # A close alone does not wake a thread in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        # Again and again: a connection may just have been accepted.
        for _ in range(100):
            if self._current is not None:
                with contextlib.suppress(OSError):
                    self._current.shutdown(socket.SHUT_RDWR)
            self._thread.join(0.1)
            if not self._thread.is_alive():
                return
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        for script in self._scripts:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._current = sock
            with contextlib.suppress(OSError), sock:
                if self._tls is not None:
                    with self._tls.wrap_socket(sock, server_side=True) as wrapped:
                        self._play(wrapped, script)
                else:
                    self._play(sock, script)

    def _play(self, sock: socket.socket, script: list[Step]) -> None:
        for step in script:
            match step:
                case Say(data):
                    self.requests.append(self._read_request(sock))
                    sock.sendall(data)
                case Add(data):
                    sock.sendall(data)
                case Close():
                    return
                case Reset():
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.close()
                    return
                case Shake(tls):
                    tls.wrap_socket(sock, server_side=True).close()
                    return
                case Hang():
                    while sock.recv(4096):
                        pass
        while sock.recv(4096):  # keep the connection until the client has closed it
            pass

    def _read_request(self, sock: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive(sock)
        head, _, body = data.partition(b"\r\n\r\n")
        if b"expect: 100-continue" in head.lower():
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"(?i)content-length: ([0-9]+)", head)
        while length is not None and len(body) < int(length[1]):
            body += self._receive(sock)
        return head + b"\r\n\r\n" + body

    def _receive(self, sock: socket.socket) -> bytes:
        piece = sock.recv(65536)
        if not piece:
            raise OSError("client closed")
        return piece


@contextlib.contextmanager
def scripted(*scripts: list[Step], tls: ssl.SSLContext | None = None) -> Iterator[ScriptedServer]:
    server = ScriptedServer(list(scripts), tls)
    try:
        yield server
    finally:
        server.close()


def partial(body: bytes, start: int, total: int, *extra: str, length: int | None = None) -> bytes:
    """Return a correct 206 answer."""
    fields = [
        "HTTP/1.1 206 Partial Content",
        f"Content-Range: bytes {start}-{start + len(body) - 1}/{total}",
        f"Content-Length: {len(body) if length is None else length}",
        *extra,
    ]
    return ("\r\n".join(fields) + "\r\n\r\n").encode() + body


def make_certificate(folder: Path) -> Path:
    """Return a PEM file of a self-signed certificate for localhost, with its key in `key.pem`."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
            "-keyout", folder / "key.pem", "-out", folder / "ca.pem",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return folder / "ca.pem"
