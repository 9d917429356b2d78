"""Connect to a server, with time-outs, and be interrupted from another thread.

Plain sockets are in blocking mode with the kernel's own time-outs (SO_RCVTIMEO), not in Python's
time-out mode, in which the socket is non-blocking and MSG_WAITALL does not hold. The time-out is
per receive: a body that crawls is fine, one that stands still is not. TLS needs Python's mode: a
blocking TLS socket would try again for ever.
"""

import contextlib
import socket
import ssl
import struct
import threading
from dataclasses import dataclass

from typing_extensions import override

from vfs.errors import UnreachableError, VfsError
from vfs.store.wire.tls import handshake_failed

CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens and how to talk to it."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None  # None speaks plain HTTP
    stall_s: float = 60.0  # longest time without a byte
    connect_s: float = CONNECT_TIMEOUT_S

    @override
    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Exchange:
    """One read under way, so that it can be interrupted from another thread."""

    __slots__ = ("_lock", "_socket", "interrupted")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.interrupted = False

    def attach(self, sock: socket.socket | None) -> None:
        """Name the socket that an interruption must shut."""
        with self._lock:
            self._socket = sock
            if self.interrupted and sock is not None:
                _shut(sock)

    def interrupt(self) -> None:
        """Make the thread that carries out the exchange end at once. Any thread; never blocks."""
        with self._lock:
            self.interrupted = True
            if self._socket is not None:
                _shut(self._socket)


def _shut(sock: socket.socket) -> None:
    # The method of the base class: that of an SSL socket drops its TLS state, and a receive in
    # another thread would then go on in the clear.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def dial(endpoint: Endpoint, exchange: Exchange) -> socket.socket:
    """Connect a socket, with TLS where the endpoint has it.

    Errors: UnreachableError; AuthenticationError for a certificate that is not trusted;
    ConfigError for a server that does not speak TLS.
    """
    try:
        addresses = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreachableError(
            f"cannot resolve {endpoint.host}: {_reason(error)}; check the endpoint and DNS",
        ) from error
    last: OSError | None = None
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            exchange.attach(sock)
            return _prepare(sock, endpoint, address, exchange)
        except OSError as error:
            exchange.attach(None)
            sock.close()
            last = error
            if isinstance(error, ssl.SSLCertVerificationError) or exchange.interrupted:
                break
    raise _connect_failed(endpoint, last) from last


def _prepare(
    sock: socket.socket,
    endpoint: Endpoint,
    address: tuple[str | int, ...] | tuple[int, bytes],
    exchange: Exchange,
) -> socket.socket:
    sock.settimeout(endpoint.connect_s)
    sock.connect(address)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if endpoint.tls is not None:
        return _start_tls(sock, endpoint, endpoint.tls, exchange)
    sock.settimeout(None)
    limit = _timeval(endpoint.stall_s)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    return sock


def _start_tls(
    sock: socket.socket, endpoint: Endpoint, context: ssl.SSLContext, exchange: Exchange
) -> ssl.SSLSocket:
    wrapped = context.wrap_socket(
        sock, server_hostname=endpoint.host, do_handshake_on_connect=False
    )
    try:
        exchange.attach(wrapped)
        wrapped.do_handshake()
    except BaseException:
        exchange.attach(None)
        wrapped.close()  # it has taken the descriptor over
        raise
    wrapped.settimeout(endpoint.stall_s)
    return wrapped


def _timeval(seconds: float) -> bytes:
    micros = max(1, round(seconds * 1_000_000))
    return struct.pack("ll", micros // 1_000_000, micros % 1_000_000)


def _connect_failed(endpoint: Endpoint, error: OSError | None) -> VfsError:
    if isinstance(error, ssl.SSLError):
        return handshake_failed(str(endpoint), error)
    why = _reason(error) if error is not None else "it has no address"
    return UnreachableError(f"cannot connect to {endpoint}: {why}; check the endpoint and network")


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
