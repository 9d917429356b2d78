"""The reference: clients that move the same bytes in parallel, without a file system.

`download` and `upload` are the least that a client must do: plain sockets, ranges or parts of
8 MiB, one thread a connection, no copy that can be avoided. What the SDK and curl do is beside
them, so that nobody need trust that these are the fastest. Over TLS, where Python takes at most
16 KiB at a time from a connection, two curl at once may be.
"""

import contextlib
import functools
import hashlib
import hmac
import html
import http.client
import mmap
import os
import queue
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from boto3.s3.transfer import TransferConfig

from bench.children import BenchError, run
from bench.gateway import REGION, Gateway

PART_BYTES = 8 << 20
TIMEOUT_S = 300.0
HEAD_BYTES = 64 << 10

UNSIGNED = "UNSIGNED-PAYLOAD"

Headers = Mapping[str, str]


def sign(
    gateway: Gateway, method: str, path: str, query: Headers, payload: str
) -> tuple[str, dict[str, str]]:
    """Return request target and headers with AWS Signature Version 4."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/{REGION}/s3/aws4_request"
    headers = {
        "host": f"{gateway.host}:{gateway.port}",
        "x-amz-content-sha256": payload,
        "x-amz-date": now,
    }
    pairs = "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items()))
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    target = quote(path)
    request = f"{method}\n{target}\n{pairs}\n{lines}\n{names}\n{payload}"
    text = "\n".join(("AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{gateway.secret_key}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={gateway.access_key}/{scope},"
        f"SignedHeaders={names},Signature={signature}"
    )
    return f"{target}?{pairs}" if pairs else target, headers


@functools.cache
def _trusting(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)


class Connection:
    """One connection that is kept open; requests follow one another."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._socket = socket.create_connection((gateway.host, gateway.port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A time-out makes sockets non-blocking, and MSG_WAITALL would do nothing.
        self._socket.settimeout(None)
        self._flags = int(socket.MSG_WAITALL)
        if gateway.ca is not None:
            self._socket = _trusting(gateway.ca).wrap_socket(
                self._socket, server_hostname=gateway.host
            )
            self._flags = 0  # TLS takes none

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def get(self, key: str, start: int, into: memoryview) -> None:
        """Read a range of an object into a buffer of its size."""
        span = f"bytes={start}-{start + len(into) - 1}"
        target, headers = sign(self._gateway, "GET", f"/{self._gateway.bucket}/{key}", {}, UNSIGNED)
        self._send("GET", target, {**headers, "range": span})
        status, _, body = self._head()
        if status != 206 or len(body) > len(into):
            raise BenchError(f"range {span} of {key}: status {status}")
        into[: len(body)] = body
        got = len(body)
        while got < len(into):
            count = self._socket.recv_into(into[got:], 0, self._flags)
            if not count:
                raise BenchError(f"range {span} of {key}: connection closed")
            got += count

    def put(
        self, key: str, query: Headers, body: memoryview | bytes, *, hashed: bool = False
    ) -> str:
        """Write an object, or a part of one; return its ETag."""
        payload = hashlib.sha256(body).hexdigest() if hashed else UNSIGNED
        path = f"/{self._gateway.bucket}/{key}"
        target, headers = sign(self._gateway, "PUT", path, query, payload)
        self._send("PUT", target, {**headers, "content-length": str(len(body))})
        self._socket.sendall(body)
        status, answer, rest = self._head()
        missing = int(answer.get("content-length", "0")) - len(rest)
        if missing > 0:
            self._socket.recv(missing, self._flags)
        if status != 200:
            raise BenchError(f"PUT of {key}: status {status}")
        return answer["etag"]

    def _send(self, method: str, target: str, headers: Headers) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._socket.sendall(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode())

    def _head(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers, and what came of the body already."""
        data = b""
        while b"\r\n\r\n" not in data:
            # Little at a time: what it brings of the body is copied once more.
            more = self._socket.recv(4096)
            if not more or len(data) > HEAD_BYTES:
                raise BenchError("the gateway closed the connection")
            data += more
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if ": " in line)
        return int(first.split()[1]), {k.lower(): v for k, v in headers.items()}, rest


def _spread(
    gateway: Gateway,
    connections: int,
    jobs: Iterable[int],
    work: Callable[[Connection, int, memoryview], None],
) -> None:
    """Do all jobs on so many connections, each with a thread and a buffer of its own."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def serve() -> None:
        with (
            contextlib.closing(Connection(gateway)) as connection,
            mmap.mmap(-1, PART_BYTES) as room,
            memoryview(room) as buffer,
            contextlib.suppress(queue.Empty),
        ):
            while True:
                work(connection, waiting.get_nowait(), buffer)

    with ThreadPoolExecutor(connections) as pool:
        workers = [pool.submit(serve) for _ in range(connections)]
        try:
            for done in workers:
                done.result()
        finally:
            # The pool waits for those that still work, after Ctrl-C as well.
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.get_nowait()


def download(
    gateway: Gateway, key: str, size: int, connections: int, into: Path | None = None
) -> float:
    """Read an object, into a file if there is one to write; return the seconds."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(into.open("wb", buffering=0)) if into else None

        def fetch(connection: Connection, start: int, buffer: memoryview) -> None:
            with buffer[: min(PART_BYTES, size - start)] as part:
                connection.get(key, start, part)
                if file is not None:
                    os.pwrite(file.fileno(), part, start)

        before = time.perf_counter()
        _spread(gateway, connections, range(0, size, PART_BYTES), fetch)
        return time.perf_counter() - before


def download_pieces(
    gateway: Gateway, key: str, spots: Iterable[int], piece_bytes: int, connections: int
) -> float:
    """Read pieces of an object, each with a request of its own; return the seconds."""

    def fetch(connection: Connection, start: int, buffer: memoryview) -> None:
        with buffer[:piece_bytes] as part:
            connection.get(key, start, part)

    before = time.perf_counter()
    _spread(gateway, connections, spots, fetch)
    return time.perf_counter() - before


def download_by_curl(
    gateway: Gateway, key: str, size: int, connections: int, processes: int = 1
) -> float:
    """Read an object with `curl --parallel`, so many of them at once; return the seconds."""
    url = gateway.client().generate_presigned_url(
        "get_object", Params={"Bucket": gateway.bucket, "Key": key}, ExpiresIn=3600
    )
    trust = f'cacert = "{gateway.ca}"\n' if gateway.ca else ""
    parts = [
        f'url = "{url}"\noutput = "/dev/null"\nfail\nsilent\n{trust}'
        f'range = "{start}-{min(start + PART_BYTES, size) - 1}"\n'
        for start in range(0, size, PART_BYTES)
    ]
    options = ("--parallel", "--parallel-max", str(connections))
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(processes) as pool:
        configs = [Path(directory, str(number)) for number in range(processes)]
        for number, config in enumerate(configs):
            config.write_text("next\n".join(parts[number::processes]))
        before = time.perf_counter()
        for _ in pool.map(lambda config: run("curl", *options, "--config", config), configs):
            pass
        return time.perf_counter() - before


def upload(
    gateway: Gateway, source: Path, key: str, connections: int, *, hashed: bool = False
) -> float:
    """Write an object from a file in parts; return the seconds, the last request included."""
    client = gateway.client()
    size = source.stat().st_size
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        before = time.perf_counter()
        bucket = gateway.bucket
        upload_id = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        tags: dict[int, str] = {}

        def send(connection: Connection, start: int, _buffer: memoryview) -> None:
            number = start // PART_BYTES + 1
            query = {"partNumber": str(number), "uploadId": upload_id}
            with memoryview(content) as whole, whole[start : start + PART_BYTES] as part:
                tags[number] = connection.put(key, query, part, hashed=hashed)

        _spread(gateway, connections, range(0, size, PART_BYTES), send)
        client.complete_multipart_upload(
            Bucket=bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": [{"PartNumber": n, "ETag": tags[n]} for n in sorted(tags)]},
        )
        return time.perf_counter() - before


def upload_by_sdk(gateway: Gateway, source: Path, key: str, connections: int) -> float:
    """Write an object from a file with boto3; return the seconds."""
    client = gateway.client(connections)
    config = TransferConfig(multipart_chunksize=PART_BYTES, max_concurrency=connections)
    before = time.perf_counter()
    client.upload_file(str(source), gateway.bucket, key, Config=config)
    return time.perf_counter() - before


def put_many(gateway: Gateway, keys: list[str], body: bytes, connections: int) -> None:
    """Write many small objects."""

    def send(connection: Connection, number: int, _buffer: memoryview) -> None:
        connection.put(keys[number], {}, body)

    _spread(gateway, connections, range(len(keys)), send)


def list_all(gateway: Gateway, prefix: str) -> tuple[float, int]:
    """List all objects below a prefix by plain HTTP; return the seconds and how many there are."""
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=TIMEOUT_S)
    before = time.perf_counter()
    with contextlib.closing(connection):
        count = sum(page.count("<Key>") for page in _pages(gateway, connection, prefix, ""))
        return time.perf_counter() - before, count


def list_directories(gateway: Gateway, prefix: str) -> tuple[float, int]:
    """List each directory below a prefix by itself; return the seconds and how many objects."""
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=TIMEOUT_S)
    before = time.perf_counter()
    todo, count = [prefix], 0
    with contextlib.closing(connection):
        while todo:
            for page in _pages(gateway, connection, todo.pop(), "/"):
                count += page.count("<Key>")
                common = re.findall(r"<CommonPrefixes>(.*?)</CommonPrefixes>", page)
                todo += [
                    html.unescape(name)
                    for found in common
                    for name in re.findall(r"<Prefix>([^<]*)</Prefix>", found)
                ]
        return time.perf_counter() - before, count


def _pages(
    gateway: Gateway, connection: http.client.HTTPConnection, prefix: str, delimiter: str
) -> Iterator[str]:
    query = {"list-type": "2", "max-keys": "1000", "prefix": prefix}
    if delimiter:
        query["delimiter"] = delimiter
    while True:
        target, headers = sign(gateway, "GET", f"/{gateway.bucket}", query, UNSIGNED)
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        page = answer.read().decode()
        if answer.status != 200:
            raise BenchError(f"list of {prefix}: status {answer.status}")
        yield page
        more = re.search(r"<NextContinuationToken>([^<]*)</NextContinuationToken>", page)
        if more is None:
            return
        query["continuation-token"] = html.unescape(more[1])
