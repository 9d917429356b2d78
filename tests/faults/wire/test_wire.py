"""Whatever a server answers, a ranged read gives exactly the bytes asked for, or an error."""

import contextlib
import ssl
import threading

import pytest

from tests.faults.wire.scripted import (
    Add,
    Close,
    Hang,
    Reset,
    Say,
    ScriptedServer,
    make_certificate,
    partial,
    scripted,
)
from vfs.errors import (
    AuthenticationError,
    ConfigError,
    CorruptError,
    DeniedError,
    StaleError,
    UnreachableError,
    VfsError,
)
from vfs.store.wire import Endpoint, Exchange, RangeRequest, Refusal, WireClient
from vfs.store.wire.answer import range_field
from vfs.store.wire.tls import speaks_tls
from vfs.values import Span

BODY = bytes(range(256)) * 256
SPAN = Span(1000, 1000 + len(BODY))
TOTAL = 1 << 20
GOOD = partial(BODY, SPAN.start, TOTAL)


def refuse(refusal: Refusal) -> VfsError:
    if refusal.status in {404, 412, 416}:
        return StaleError(f"{refusal.status}")
    return DeniedError(f"{refusal.status}", detail=refusal.body.decode())


def a_request(span: Span = SPAN, etag: str = "") -> RangeRequest:
    fields = (("Host", "store"), ("Range", range_field(span)))
    return RangeRequest("/bucket/key", fields, span, etag, "key")


class Reader:
    """A client of a scripted reader.server."""

    def __init__(self, server: ScriptedServer, endpoint: Endpoint) -> None:
        self.server = server
        self.client = WireClient(endpoint)
        self.exchange = Exchange()

    def close(self) -> None:
        self.client.close()

    def read(self, span: Span = SPAN, etag: str = "", pieces: int = 1) -> bytes:
        data = bytearray(b"\xee" * span.size)
        step = -(-span.size // pieces)
        views = [memoryview(data)[at : at + step] for at in range(0, span.size, step)]
        self.client.read_into(a_request(span, etag), views, refuse, self.exchange)
        return bytes(data)


@contextlib.contextmanager
def reading(*scripts, server_tls=None, host="127.0.0.1", stall_s=20.0, **endpoint):
    with scripted(*scripts, tls=server_tls) as server:
        where = Endpoint(host, server.port, stall_s=stall_s, **endpoint)
        with contextlib.closing(Reader(server, where)) as reader:
            yield reader


@pytest.mark.parametrize("pieces", [1, 3, 5000], ids=lambda count: f"{count} buffers")
def test_a_range_arrives_in_any_number_of_buffers(pieces):
    with reading([Say(GOOD)]) as reader:
        assert reader.read(pieces=pieces) == BODY
        assert reader.server.requests[0].startswith(b"GET /bucket/key HTTP/1.1\r\nHost: store\r\n")
        assert b"Range: bytes=1000-66535\r\n" in reader.server.requests[0]


def test_a_head_in_many_pieces_is_put_together():
    first, *rest = [GOOD[at : at + 7] for at in range(0, 70, 7)]
    script = [Say(first), *map(Add, rest), Add(GOOD[70:])]
    with reading(script) as reader:
        assert reader.read() == BODY


def test_a_head_longer_than_the_first_receive_is_put_together():
    head = partial(BODY, SPAN.start, TOTAL, f"X-Long: {'y' * 9000}")
    with reading([Say(head)]) as reader:
        assert reader.read() == BODY


def test_an_informational_answer_before_the_real_one_is_skipped():
    with reading([Say(b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD)]) as reader:
        assert reader.read() == BODY


def test_a_connection_is_kept_and_used_again():
    with reading([Say(GOOD), Say(GOOD), Say(GOOD)]) as reader:
        assert [reader.read() for _ in range(3)] == [BODY] * 3
        assert reader.server.connections == 1


def test_a_connection_that_the_server_wants_closed_is_not_used_again():
    closing = partial(BODY, SPAN.start, TOTAL, "Connection: close")
    with reading([Say(closing)], [Say(GOOD)]) as reader:
        assert [reader.read(), reader.read()] == [BODY, BODY]
        assert reader.server.connections == 2


def test_a_kept_connection_that_was_closed_is_replaced():
    with reading([Say(GOOD), Close()], [Say(GOOD)]) as reader:
        assert [reader.read(), reader.read()] == [BODY, BODY]
        assert reader.server.connections == 2


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
def test_a_kept_connection_that_closes_on_the_next_request_is_tried_once_more(end):
    with reading([Say(GOOD), Say(b""), end], [Say(GOOD)]) as reader:
        assert [reader.read(), reader.read()] == [BODY, BODY]
        assert len(reader.server.requests) == 3


@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
def test_a_new_connection_that_closes_without_an_answer_is_unreachable(end):
    with reading([Say(b""), end]) as reader:
        with pytest.raises(UnreachableError, match="without an answer"):
            reader.read()
        assert reader.server.connections == 1


def test_a_refused_connection_is_unreachable():
    with reading() as reader:
        reader.server.close()
        with pytest.raises(UnreachableError, match="cannot connect"):
            reader.read()


def test_a_name_that_does_not_resolve_is_unreachable():
    with (
        reading(host="nowhere.invalid") as reader,
        pytest.raises(UnreachableError, match=r"cannot resolve nowhere\.invalid"),
    ):
        reader.read()


@pytest.mark.promise("S-read-6")
@pytest.mark.parametrize("end", [Close(), Reset()], ids=["closed", "reset"])
def test_a_short_body_is_unreachable_and_never_data(end):
    with (
        reading([Say(GOOD[:-5000]), end]) as reader,
        pytest.raises(UnreachableError, match="in the middle"),
    ):
        reader.read()


def test_a_head_that_breaks_off_is_unreachable_and_not_sent_again():
    with reading([Say(GOOD), Say(GOOD[:40]), Close()]) as reader:
        reader.read()
        with pytest.raises(UnreachableError, match="in the middle"):
            reader.read()


@pytest.mark.parametrize("sent", [b"", GOOD[:30], GOOD[:-100]], ids=["no byte", "head", "body"])
def test_a_stall_is_unreachable(sent):
    with (
        reading([Say(sent), Hang()], stall_s=0.05) as reader,
        pytest.raises(UnreachableError, match="sent nothing"),
    ):
        reader.read()


@pytest.mark.parametrize("sent", [b"", GOOD[:-100]], ids=["no byte", "body"])
def test_an_interruption_ends_a_read_that_waits(sent):
    with reading([Say(sent), Hang()]) as reader:
        timer = threading.Timer(0.05, reader.exchange.interrupt)
        timer.start()
        with pytest.raises(UnreachableError):
            reader.read()
        timer.join()


def test_an_interruption_before_the_start_ends_a_read():
    with reading([Say(GOOD)]) as reader:
        reader.exchange.interrupt()
        with pytest.raises(UnreachableError):
            reader.read()


WRONG_ANSWERS = {
    "200 to a range": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "an error page with 200": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlogin",
    "the bytes before": partial(BODY, SPAN.start - 1, TOTAL),
    "fewer bytes": partial(BODY[:-1], SPAN.start, TOTAL),
    "a length that is not the range's": partial(BODY, SPAN.start, TOTAL, length=len(BODY) + 1),
    "an object that ends before": partial(BODY, SPAN.start, SPAN.stop - 1),
    "no Content-Range": b"HTTP/1.1 206 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "no length": partial(BODY, SPAN.start, TOTAL).replace(b"Content-Length", b"X-Length"),
    "two lengths": partial(BODY, SPAN.start, TOTAL, "Content-Length: 1"),
    "a length that is no number": partial(BODY, SPAN.start, TOTAL).replace(b"h: 6", b"h: +6"),
    "chunks": partial(BODY, SPAN.start, TOTAL, "Transfer-Encoding: chunked"),
    "many ranges": partial(BODY, SPAN.start, TOTAL).replace(b"Content-Range: bytes", b"X: y"),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
    "a folded header": partial(BODY, SPAN.start, TOTAL, "X: y", " z"),
}


@pytest.mark.promise("S-read-6")
@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_a_wrong_answer_is_corrupt_and_never_data(name):
    with reading([Say(WRONG_ANSWERS[name])]) as reader:
        data = bytearray(SPAN.size)
        with pytest.raises(CorruptError):
            reader.client.read_into(a_request(), [memoryview(data)], refuse, reader.exchange)
        assert data == bytes(SPAN.size)


def test_bytes_after_the_body_never_become_the_next_answer():
    forged = partial(b"\0" * len(BODY), SPAN.start, TOTAL)
    with reading([Say(GOOD + forged)], [Say(GOOD)]) as reader:
        assert [reader.read(), reader.read()] == [BODY, BODY]
        assert reader.server.connections == 2


def test_a_small_answer_and_a_forged_one_in_one_segment_are_told_apart():
    answer = partial(b"abc", 0, 3)
    with reading([Say(answer + answer)], [Say(answer)]) as reader:
        assert [reader.read(Span(0, 3)), reader.read(Span(0, 3))] == [b"abc", b"abc"]
        assert reader.server.connections == 2


def test_a_whole_object_may_come_with_200():
    answer = b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: 3\r\n\r\nabc'
    with reading([Say(answer)]) as reader:
        assert reader.read(Span(0, 3), etag='"v1"') == b"abc"


def test_a_page_with_200_of_the_right_length_is_not_the_object():
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n404"
    with reading([Say(answer)]) as reader, pytest.raises(CorruptError, match="without an ETag"):
        reader.read(Span(0, 3), etag='"v1"')


def test_a_server_that_ignores_the_condition_is_found_out():
    answer = partial(BODY, SPAN.start, TOTAL, 'ETag: "v2"')
    with reading([Say(answer)]) as reader, pytest.raises(StaleError):
        reader.read(etag='"v1"')


@pytest.mark.parametrize("status", [404, 412, 416])
def test_a_refusal_is_translated_by_the_caller(status):
    answer = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    with reading([Say(answer)]) as reader, pytest.raises(StaleError, match=str(status)):
        reader.read()


@pytest.mark.parametrize(
    "answer",
    [
        b"Content-Length: 12\r\n\r\nAccessDenied",
        b"Transfer-Encoding: chunked\r\n\r\n6;x=y\r\nAccess\r\n6\r\nDenied\r\n0\r\n\r\n",
        b"Connection: close\r\n\r\nAccessDenied",
    ],
    ids=["length", "chunks", "until closed"],
)
def test_the_body_of_a_refusal_reaches_the_translation(answer):
    script = [Say(b"HTTP/1.1 403 No\r\n" + answer), Close()]
    with reading(script) as reader, pytest.raises(DeniedError) as caught:
        reader.read()
    assert caught.value.detail == "AccessDenied"


def test_the_body_of_a_refusal_is_bounded():
    answer = b"HTTP/1.1 403 No\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 200_000
    with reading([Say(answer)]) as reader, pytest.raises(DeniedError) as caught:
        reader.read()
    assert len(caught.value.detail) == 64 << 10


def test_idle_connections_are_closed_with_the_client():
    with reading([Say(GOOD)], [Say(GOOD)]) as reader:
        reader.read()
        reader.client.close()
        assert reader.read() == BODY  # a late read still works, and keeps nothing
        assert reader.server.connections == 2


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def server_side(authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, authority.with_name("key.pem"))
    return context


def test_tls_with_a_private_authority_reads(authority):
    trusting = ssl.create_default_context(cafile=authority)
    script = [Say(GOOD), Say(GOOD)]
    with reading(
        script, host="localhost", tls=trusting, server_tls=server_side(authority)
    ) as reader:
        assert [reader.read(), reader.read(pieces=4)] == [BODY, BODY]
        assert reader.server.connections == 1


def test_tls_with_an_unknown_authority_names_the_remedy(authority):
    with (
        reading(
            [Hang()],
            host="localhost",
            tls=ssl.create_default_context(),
            server_tls=server_side(authority),
        ) as reader,
        pytest.raises(AuthenticationError, match="ca_bundle"),
    ):
        reader.read()


def test_tls_for_another_host_names_both_names_and_the_remedy(authority):
    trusting = ssl.create_default_context(cafile=authority)
    with (
        reading(
            [Hang()], host="127.0.0.1", tls=trusting, server_tls=server_side(authority)
        ) as reader,
        pytest.raises(AuthenticationError, match=r"for another name.*127\.0\.0\.1") as caught,
    ):
        reader.read()
    assert "in the URL" in caught.value.message
    assert "ca_bundle" not in caught.value.message


def test_tls_stall_is_unreachable(authority):
    trusting = ssl.create_default_context(cafile=authority)
    with (
        reading(
            [Say(GOOD[:-100]), Hang()],
            host="localhost",
            tls=trusting,
            stall_s=0.05,
            server_tls=server_side(authority),
        ) as reader,
        pytest.raises(UnreachableError, match="sent nothing"),
    ):
        reader.read()


def test_tls_interruption_ends_a_read_that_waits(authority):
    trusting = ssl.create_default_context(cafile=authority)
    with reading(
        [Say(GOOD[:-100]), Hang()],
        host="localhost",
        tls=trusting,
        server_tls=server_side(authority),
    ) as reader:
        timer = threading.Timer(0.05, reader.exchange.interrupt)
        timer.start()
        with pytest.raises(UnreachableError):
            reader.read()
        timer.join()


def test_a_server_without_tls_is_told_from_one_that_is_down(authority):
    trusting = ssl.create_default_context(cafile=authority)
    script = [Add(b"HTTP/1.1 400 Bad\r\n\r\n")]
    with (
        reading(script, tls=trusting) as reader,
        pytest.raises(ConfigError, match=r"does not speak TLS: write s3\+http://"),
    ):
        reader.read()


def test_a_server_that_hangs_up_on_a_handshake_is_unreachable(authority):
    trusting = ssl.create_default_context(cafile=authority)
    with (
        reading([Reset()], tls=trusting) as reader,
        pytest.raises(UnreachableError, match=r"cannot connect|TLS connection"),
    ):
        reader.read()


def test_whether_a_server_speaks_tls_is_asked_of_it(authority):
    with scripted([Hang()], tls=server_side(authority)) as server:
        assert speaks_tls("127.0.0.1", server.port)
    with scripted([Add(b"HTTP/1.1 400 Bad\r\n\r\n")]) as server:
        assert not speaks_tls("127.0.0.1", server.port)
    assert not speaks_tls("127.0.0.1", server.port)  # nobody listens any more
    assert not speaks_tls("", 80)
