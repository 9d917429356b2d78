"""Real mounts whose store gives wrong answers: never a wrong byte, a clear errno, one line of log."""

import errno
import itertools
import os
import random
import re

import pytest

from tests.support.behind import BehindProxy
from tests.support.mount import mounted
from tests.support.proxy import FaultProxy, Hold, Refuse, ResetReply, Rewrite, Shorten
from tests.support.rgw import rgw
from vfs.store.wrap.patience import FEW_READS

MIB = 1 << 20
SIZE = 8 * MIB
DATA = random.Random(1).randbytes(SIZE)
NEW = random.Random(2).randbytes(SIZE)
SMALL = DATA[: 64 << 10]

pytestmark = pytest.mark.rgw

PATIENT_FOR_LITTLE = ("max_retries=1", "retry_delay=1ms", "timeout=2s", "metadata_ttl=0")


@pytest.fixture
def proxy():
    with FaultProxy(rgw().endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket(proxy):
    with rgw().bucket() as name:
        found = BehindProxy(rgw(), name, proxy=proxy)
        found.put("image", DATA)
        yield found


def read(name):
    """Read a file past the kernel's cache; return whose bytes they are, or the errno."""
    pieces = []
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECT)
        try:
            while piece := os.pread(fd, MIB, sum(map(len, pieces))):
                pieces.append(piece)
        finally:
            os.close(fd)
    except OSError as error:
        return errno.errorcode[error.errno]
    return {DATA: "old", NEW: "new", SMALL: "small"}.get(b"".join(pieces), "WRONG")


def read_again(name, times):
    return {read(name) for _ in range(times)}


def warnings(mount):
    """Return the lines of WARNING and above, without their time."""
    lines = [re.sub(r"^\S+ \S+ ", "", line) for line in mount.log().splitlines()]
    return [line for line in lines if line.startswith(("warning", "error", "critical"))]


def answer(status, fields, body):
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def without_range(head, _data):
    return answer("200 OK", [f"ETag: {head.get('etag')}"], DATA)


def page(_head, _data):
    return answer("200 OK", ["Content-Type: text/html"], b"<html>please log in</html>")


def page_of_the_right_length(head, data):
    fields = [f"Content-Range: {head.get('content-range')}"]
    return answer("206 Partial Content", [*fields, 'ETag: "page"'], b"<" * len(data))


def next_range(head, data):
    start, last, total = map(int, re.findall(r"\d+", head.get("content-range")))
    said = f"Content-Range: bytes {start + 1}-{last + 1}/{total + 1}"
    return answer("206 Partial Content", [said, f"ETag: {head.get('etag')}"], data)


def of_another_version(head, data):
    said = f"Content-Range: {head.get('content-range')}"
    return answer("206 Partial Content", [said, 'ETag: "0123456789abcdef"'], data)


BAD = {
    "200 to a range": (Rewrite(without_range), "EIO", "wrong answer"),
    "a page with 200": (Rewrite(page), "EIO", "wrong answer"),
    "a page of the right length": (Rewrite(page_of_the_right_length), "ESTALE", "has changed"),
    "another range": (Rewrite(next_range), "EIO", "wrong answer"),
    "another version": (Rewrite(of_another_version), "ESTALE", "has changed"),
    "a short body that says so": (Shorten(5, hidden=True), "EIO", "wrong answer"),
    "a short body": (Shorten(5), "ETIMEDOUT", "broke off"),
    "resets": (ResetReply(0.5), "ETIMEDOUT", "broke off|without an answer"),
    "stalls": (Hold(), "ETIMEDOUT", "has sent nothing"),
    "503": (Refuse(503), "EIO", "asks to try again"),
    "429": (Refuse(429), "EIO", "asks to try again"),
}


@pytest.mark.promise("S-read-6", "S-mount-11")
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_answer_is_an_error_and_one_line(proxy, bucket, name):
    action, code, why = BAD[name]
    times = 1 if name == "stalls" else 5
    with mounted(bucket, *PATIENT_FOR_LITTLE) as mount:
        mount.expect_log(why)
        fault = proxy.add("GetObject", action, key="image", times=1 << 30)
        assert mount.call(read_again, "image", times) == {code}
        assert fault.played >= times
        told = warnings(mount)
        # One for the object; one more where it is the store that cannot be used.
        assert len(told) <= 2, told
        assert all(re.search(why, line) for line in told)
        proxy.clear()
        assert mount.call(read, "image") == "old"


@pytest.mark.promise("S-read-6")
def test_resets_at_every_tenth_read_are_nobody_s_business(proxy, bucket):
    with mounted(bucket, "retry_delay=1ms") as mount:
        turns = itertools.count(1)

        def weather(request):
            if request.operation == "GetObject" and next(turns) % 10 == 0:
                return ResetReply(0.5)
            return None

        proxy.weather = weather
        for _ in range(5):
            mount.remount()
            assert mount.call(read, "image") == "old"
        assert "ResetReply" in {request.fault for request in proxy.asked()}
        assert warnings(mount) == []


@pytest.mark.promise("S-read-1", "S-read-2")
@pytest.mark.parametrize("before", [2, 3])
def test_an_object_that_changes_while_it_is_read_is_stale_and_never_mixed(proxy, bucket, before):
    with mounted(bucket, *PATIENT_FOR_LITTLE) as mount:
        mount.expect_log("not the version that was expected|has changed")
        turns = itertools.count(1)

        def weather(request):
            if request.operation == "GetObject" and next(turns) == before:
                bucket.put("image", NEW)

        proxy.weather = weather
        assert mount.call(read, "image") == "ESTALE"
        assert len(warnings(mount)) == 1
        assert mount.call(read, "image") == "new"


@pytest.mark.promise("S-read-13")
def test_a_read_that_stands_is_answered_by_the_second_request(proxy, bucket):
    names = [f"small-{number}" for number in range(FEW_READS + 1)]
    for name in names:
        bucket.put(name, SMALL)
    with mounted(bucket) as mount:
        for name in names[1:]:
            assert mount.call(read, name) == "small"
        held = Hold()
        fault = proxy.add("GetObject", held, key=names[0])
        assert mount.call(read, names[0], timeout=30) == "small"
        assert fault.played == 1
        held.release()
