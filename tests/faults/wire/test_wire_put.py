"""Whatever a server answers to a body, it is stored and said so, or an error."""

import contextlib

import pytest

from tests.faults.wire.scripted import Add, Close, Reset, Say, scripted
from vfs.errors import CorruptError, DeniedError, UnreachableError, VfsError
from vfs.store.base import Body, BytesBody
from vfs.store.wire import Endpoint, Exchange, PutRequest, Refusal, WireClient

BODY = bytes(range(256)) * 8192  # 2 MiB: several pieces
REQUEST = PutRequest("/bucket/key?partNumber=1", (("host", "store"),), "key")
STORED = b'HTTP/1.1 200 OK\r\nETag: "tag"\r\nContent-Length: 0\r\n\r\n'


def refuse(refusal: Refusal) -> VfsError:
    return DeniedError(f"{refusal.status}", detail=refusal.body.decode())


@contextlib.contextmanager
def sending(*scripts):
    with scripted(*scripts) as server:
        client = WireClient(Endpoint("127.0.0.1", server.port, stall_s=20.0))

        def put(body: Body | None = None) -> str:
            body = body or BytesBody(BODY)
            return client.put(REQUEST, body, refuse, Exchange()).fields["etag"]

        with contextlib.closing(client):
            yield server, put


def test_a_body_arrives_whole_and_the_tag_comes_back():
    with sending([Say(STORED)]) as (server, put):
        assert put() == '"tag"'
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        assert head.startswith(b"PUT /bucket/key?partNumber=1 HTTP/1.1\r\nhost: store\r\n")
        assert head.endswith(b"content-length: 2097152")
        assert body == BODY


def test_an_empty_body_is_sent_as_one():
    with sending([Say(STORED)]) as (server, put):
        assert put(BytesBody(b"")) == '"tag"'
        assert server.requests[0].endswith(b"content-length: 0\r\n\r\n")


def test_a_connection_is_kept_for_the_next_body():
    page = b'HTTP/1.1 200 OK\r\nETag: "tag"\r\nContent-Length: 4\r\n\r\npage'
    with sending([Say(page), Say(STORED), Say(STORED)]) as (server, put):
        assert [put() for _ in range(3)] == ['"tag"'] * 3
        assert server.connections == 1


def test_a_kept_connection_that_was_closed_is_replaced():
    with sending([Say(STORED), Close()], [Say(STORED)]) as (server, put):
        assert [put(), put()] == ['"tag"'] * 2
        assert server.connections == 2


def test_a_new_connection_that_is_closed_is_an_error():
    with sending([Reset()]) as (_, put), pytest.raises(UnreachableError):
        put()


def test_a_refusal_that_comes_before_the_body_was_sent_is_understood():
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!"
    with sending([Add(refusal), Close()]) as (_, put):
        with pytest.raises((DeniedError, UnreachableError)) as caught:
            put(BytesBody(BODY * 16))
        if isinstance(caught.value, DeniedError):
            assert caught.value.detail == "no!"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 206 Partial Content\r\nETag: "tag"\r\nContent-Length: 0\r\n\r\n',
    ],
    ids=["no tag", "another success"],
)
def test_an_answer_that_makes_no_sense_is_no_success(answer):
    with sending([Say(answer)]) as (_, put), pytest.raises(CorruptError):
        put()


def test_a_body_that_fails_ends_the_request_and_the_connection():
    class Failing(Body):
        size = len(BODY)

        def read_into(self, offset: int, buffer: memoryview) -> None:
            if offset:
                raise VfsError("the disk fails")
            buffer[:] = bytes(buffer.nbytes)

    with sending([Say(STORED)], [Say(STORED)]) as (server, put):
        with pytest.raises(VfsError, match="the disk fails"):
            put(Failing())
        assert put() == '"tag"'
        assert server.connections == 2
