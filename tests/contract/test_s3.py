"""What is particular to S3 services: what a probe finds on each, and how they refuse."""

import contextlib
import dataclasses
import ssl

import pytest
import trio

from tests.faults.wire.scripted import (
    Close,
    Hang,
    Say,
    Shake,
    make_certificate,
    partial,
    scripted,
)
from tests.support.moto_server import moto
from tests.support.rgw import rgw
from tests.support.s3_access import S3Access
from vfs.errors import (
    AuthenticationError,
    ConfigError,
    DeniedError,
    NotFoundError,
    StaleError,
    ThrottledError,
    TransientError,
    UnreachableError,
    UnsupportedError,
    VfsError,
)
from vfs.store.backend.s3 import open_s3
from vfs.store.base import (
    ABSENT,
    BytesBody,
    Condition,
    Features,
    ObjectVersion,
    Part,
    Properties,
    Upload,
)
from vfs.store.config import StoreConfig
from vfs.store.open import open_reached
from vfs.values import MIB, Key, Span, Version

KEY = Key("vm/disk.img")
CONTENT = bytes(range(256)) * 40
NOT_CONDITIONS = {"max_key_bytes", "parts", "quirks", "remove_max_keys"}


def flags(features: Features) -> set[str]:
    names = set(Features.__dataclass_fields__) - NOT_CONDITIONS
    return {name for name in names if getattr(features, name)}


# What a probe finds


@pytest.mark.rgw
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_probe_of_ceph_16_finds_the_conditions_that_it_ignores(tls):
    async with rgw(tls=tls).store(probe=False) as store:
        found = await store.probe(write=True)
    assert flags(found) == {
        "write_if_absent", "write_if_version", "multipart", "copy_part", "metadata",
    }  # fmt: skip
    assert found.quirks == {"unquoted-etags"}
    assert found.remove_max_keys == 1000


async def test_a_probe_of_moto_finds_the_conditions_that_it_ignores():
    async with moto().store(probe=False) as store:
        found = await store.probe(write=True)
    assert flags(found) == {
        "write_if_absent", "write_if_version", "finish_if_absent", "remove_if_version",
        "multipart", "copy_part", "metadata",
    }  # fmt: skip
    assert found.quirks == frozenset()


async def test_an_unknown_service_is_trusted_with_nothing_before_it_was_tried():
    async with moto().store(probe=False) as store:
        assert flags(store.features) == set()
        assert flags(await store.probe(write=False)) == set()
        with pytest.raises(UnsupportedError):
            await store.write(KEY, BytesBody(b"x"), condition=ABSENT)
        with pytest.raises(UnsupportedError):
            await store.remove([KEY], if_version=Version("x"))


def leftovers(access: S3Access, bucket: str) -> list[str]:
    client = access.client()
    with contextlib.closing(client):
        listed = client.list_object_versions(Bucket=bucket)
        uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        found = [*listed.get("Versions", []), *listed.get("DeleteMarkers", []), *uploads]
    return [entry["Key"] for entry in found]


async def test_what_an_earlier_probe_found_is_not_tried_again(monkeypatch):
    async with moto().store(probe=False) as store:
        found = await store.probe(write=True)
    monkeypatch.setattr("vfs.store.backend.s3_probe.Trials", None)
    async with moto().store(probe=False) as store:
        assert await store.probe(write=True, known=found) == found
        assert store.features == found


async def test_a_bucket_that_keeps_versions_by_now_is_tried_again():
    access = moto()
    with access.bucket(versions=True) as bucket:
        async with access.store(bucket=bucket, probe=False) as store:
            found = await store.probe(write=True)
            stale = dataclasses.replace(found, versions=False, write_if_version=False)
            assert await store.probe(write=True, known=stale) == found


@pytest.mark.rgw
@pytest.mark.parametrize("versions", [False, True], ids=["plain bucket", "bucket with versions"])
async def test_a_probe_leaves_no_object_no_version_and_no_upload(versions):
    access = rgw()
    with access.bucket(versions=versions) as bucket:
        async with access.store(bucket=bucket, prefix="p", probe=False) as store:
            found = await store.probe(write=True)
        assert found.versions is versions
        assert leftovers(access, bucket) == []


@pytest.mark.rgw
async def test_a_probe_writes_nothing_where_everything_must_be_kept():
    access = rgw()
    client = access.client()
    bucket = "vfs-locked-by-default"
    with contextlib.closing(client):
        # No object is ever stored in it, so that it can be used again and again.
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
        rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 1}}
        client.put_object_lock_configuration(
            Bucket=bucket,
            ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
        )
    async with access.store(bucket=bucket, probe=False) as store:
        found = await store.probe(write=True)
    assert flags(found) == {"multipart", "versions"}
    assert leftovers(access, bucket) == []


@pytest.mark.rgw
async def test_encryption_that_the_server_drops_in_silence_is_refused():
    async with rgw().store(probe=False, sse="AES256") as store:
        with pytest.raises(DeniedError, match="ignores sse=AES256"):
            await store.probe(write=True)


async def test_encryption_that_the_server_confirms_is_accepted():
    async with moto().store(probe=False, sse="AES256") as store:
        assert (await store.probe(write=True)).metadata


# Refusals that an operator must understand


@pytest.mark.rgw
@pytest.mark.parametrize("write", [False, True], ids=["read only", "writable"])
async def test_a_missing_bucket_names_the_remedy(write):
    async with rgw().store(bucket="vfs-no-such-bucket", probe=False) as store:
        with pytest.raises(NotFoundError, match="create it, or correct the URL") as caught:
            await store.probe(write=write)
    assert caught.value.key == ""


PAGE = b"HTTP/1.0 400 Bad Request\r\n\r\nThis port speaks HTTPS."


# After a page the SDK asks for the bucket's region, in case it was that.
@pytest.mark.parametrize(
    "answers", [[[Say(PAGE), Close()]] * 2, [[Close()]]], ids=["a page", "silence"]
)
async def test_a_server_that_speaks_tls_says_so_when_it_is_asked(answers, tmp_path):
    certificate = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with scripted(*answers, [Shake(tls)]) as server:
        access = S3Access(f"http://127.0.0.1:{server.port}", "an-access-key", "a-secret-key")
        async with access.store(bucket="bucket", probe=False) as store:
            with pytest.raises(ConfigError, match=r"speaks TLS: write s3\+https://"):
                await store.head(KEY)


@pytest.mark.rgw
async def test_a_wrong_secret_is_an_authentication_error():
    access = rgw()
    wrong = S3Access(access.endpoint, access.access_key, "not-the-secret-at-all")
    async with wrong.store(bucket="whatever", probe=False) as store:
        with pytest.raises(AuthenticationError, match="secret key"):
            await store.probe(write=False)
        with pytest.raises(AuthenticationError) as caught:
            await store.read(ObjectVersion(KEY, Version("x")), Span(0, 1))
    assert "not-the-secret" not in str(caught.value.to_dict())


@pytest.mark.rgw
async def test_somebody_elses_bucket_is_denied():
    with rgw().bucket() as bucket:
        async with rgw(other=True).store(bucket=bucket, probe=False) as store:
            with pytest.raises(DeniedError):
                await store.probe(write=False)
            with pytest.raises(DeniedError):
                await store.read(ObjectVersion(KEY, Version("x")), Span(0, 1))
            with pytest.raises(DeniedError):
                await store.head(KEY)


@pytest.mark.rgw
async def test_an_unknown_authority_names_the_remedy():
    access = rgw(tls=True)
    distrustful = S3Access(access.endpoint, access.access_key, access.secret_key)
    async with distrustful.store(bucket="whatever", probe=False) as store:
        for attempt in (
            lambda: store.probe(write=False),
            lambda: store.read(ObjectVersion(KEY, Version("x")), Span(0, 1)),
        ):
            with pytest.raises(AuthenticationError, match="ca_bundle"):
                await attempt()


@pytest.mark.rgw
async def test_the_check_of_the_certificate_can_be_turned_off():
    access = rgw(tls=True)
    careless = S3Access(access.endpoint, access.access_key, access.secret_key)
    with access.bucket() as bucket:
        async with careless.store(bucket=bucket, tls_verify=False) as store:
            info = await store.write(KEY, BytesBody(CONTENT))
            assert await store.read(info.pin, Span(0, len(CONTENT))) == CONTENT


async def test_a_server_that_is_not_there_is_unreachable():
    nobody = S3Access("http://127.0.0.1:1", "a", "b")
    async with nobody.store(bucket="b", probe=False) as store:
        with pytest.raises(UnreachableError):
            await store.probe(write=False)
        with pytest.raises(UnreachableError):
            await store.read(ObjectVersion(KEY, Version("x")), Span(0, 1))


# Ways that only some objects go


@pytest.mark.rgw
async def test_a_copy_keeps_content_type_and_storage_class():
    access = rgw()
    with access.bucket() as bucket:
        async with access.store(bucket=bucket, storage_class="STANDARD_IA") as store:
            source = await store.write(
                KEY, BytesBody(CONTENT), properties=Properties({"mode": "1"}, "text/x-disk")
            )
        async with access.store(bucket=bucket) as store:
            copied = await store.copy(source.pin, Key("copy"))
            assert copied.storage_class == "STANDARD_IA"
        with contextlib.closing(access.client()) as client:
            found = client.head_object(Bucket=bucket, Key="copy")
    assert (found["ContentType"], found["StorageClass"]) == ("text/x-disk", "STANDARD_IA")


@pytest.mark.rgw
async def test_an_object_too_large_for_one_copy_is_copied_in_parts(monkeypatch):
    monkeypatch.setattr("vfs.store.backend.s3_copy.PART_BYTES", 5 * MIB)
    content = CONTENT * (11 * MIB // len(CONTENT))
    access = rgw()
    with access.bucket() as bucket:
        async with access.store(bucket=bucket) as store:
            source = await store.write(
                KEY, BytesBody(content), properties=Properties({"mode": "1"}, "text/x-disk")
            )
            small = smaller_writes(store.features)
        with access.credentials():
            store = await open_s3(access.url(bucket), StoreConfig(), features=small)
        copied = await store.copy(source.pin, Key("copy"))
        assert copied.version.endswith("-3")
        assert await store.read(copied.pin, Span(0, copied.size)) == content
        assert dict((await store.head(Key("copy"))).metadata) == {"mode": "1"}
        with pytest.raises(StaleError):
            await store.copy(ObjectVersion(KEY, Version("another")), Key("copy"))
        await store.aclose()
        with contextlib.closing(access.client()) as client:
            assert client.head_object(Bucket=bucket, Key="copy")["ContentType"] == "text/x-disk"


def smaller_writes(features: Features) -> Features:
    rules = dataclasses.replace(features.parts, max_write_bytes=10 * MIB)
    return dataclasses.replace(features, parts=rules)


@pytest.mark.rgw
async def test_reads_through_the_sdk_are_the_same_reads(monkeypatch):
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"http": "http://127.0.0.1:1"})
    monkeypatch.setattr("urllib.request.proxy_bypass", lambda host: False)
    async with rgw().store(probe=False) as store:
        info = await store.write(KEY, BytesBody(CONTENT))
        assert await store.read(info.pin, Span(7, 9000)) == CONTENT[7:9000]
        with pytest.raises(StaleError):
            await store.read(ObjectVersion(KEY, Version("another")), Span(0, 1))
        await store.remove([KEY])
        with pytest.raises(StaleError):
            await store.read(info.pin, Span(0, 1))


# Answers that no healthy server gives


@contextlib.asynccontextmanager
async def store_at(*scripts, features: Features | None = None):
    """Open a store on a server that plays a script."""
    with scripted(*scripts) as server:
        access = S3Access(f"http://127.0.0.1:{server.port}", "key", "secret")
        with access.credentials():
            store = await open_s3(access.url("bucket", "p"), StoreConfig(), features=features)
        try:
            yield store, server
        finally:
            await store.aclose()


def answer(status: str, body: str = "", *fields: str) -> Say:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields]
    return Say(("\r\n".join(head) + "\r\n\r\n" + body).encode())


async def test_a_read_is_exactly_one_signed_request():
    reply = partial(CONTENT, 512, 1 << 30, 'ETag: "v1"')
    async with store_at([Say(reply), Say(reply)]) as (store, server):
        pin = ObjectVersion(Key("d i+r/\u00e9.img"), Version("v1"))
        span = Span(512, 512 + len(CONTENT))
        assert await store.read(pin, span) == CONTENT
        assert await store.read(pin, span) == CONTENT
        assert (len(server.requests), server.connections) == (2, 1)
        request = server.requests[0].decode()
    assert request.startswith("GET /bucket/p/d%20i%2Br/%C3%A9.img HTTP/1.1\r\n")
    assert 'if-match: "v1"\r\n' in request
    assert "range: bytes=512-10751\r\n" in request
    assert "authorization: AWS4-HMAC-SHA256 Credential=key/" in request


async def test_a_read_by_version_id_asks_for_no_other_condition():
    reply = partial(b"abc", 0, 3, 'ETag: "v1"')
    async with store_at([Say(reply)]) as (store, server):
        pin = ObjectVersion(KEY, Version("v1"), "id+/=")
        assert await store.read(pin, Span(0, 3)) == b"abc"
        request = server.requests[0].decode()
    assert "?versionId=id%2B%2F%3D HTTP/1.1" in request
    assert "if-match" not in request


async def test_no_request_is_made_for_an_empty_span():
    async with store_at() as (store, server):
        assert await store.read(ObjectVersion(KEY, Version("v1")), Span(5, 5)) == b""
        assert server.connections == 0


async def test_a_throttled_read_is_not_repeated_here():
    body = "<Error><Code>SlowDown</Code><Message>x</Message></Error>"
    async with store_at([answer("503 Slow Down", body, "Retry-After: 9")]) as (store, server):
        with pytest.raises(ThrottledError) as caught:
            await store.read(ObjectVersion(KEY, Version("v1")), Span(0, 3))
        assert caught.value.retry_after_s == 9
        assert len(server.requests) == 1


ERROR_WITH_200 = (
    '<?xml version="1.0"?><Error><Code>InternalError</Code><Message>x</Message></Error>'
)


async def test_an_error_with_200_is_no_finished_upload():
    async with store_at([answer("200 OK", ERROR_WITH_200)]) as (store, server):
        with pytest.raises(TransientError):
            await store.finish_upload(Upload(KEY, "id"), [Part(1, '"x"', 3)])
        assert len(server.requests) == 1


async def test_an_error_with_200_is_no_copied_part():
    features = Features(copy_part=True)
    async with store_at([answer("200 OK", ERROR_WITH_200)], features=features) as (store, _):
        pin = ObjectVersion(KEY, Version("v1"))
        with pytest.raises(TransientError):
            await store.copy_part(Upload(KEY, "id"), 1, pin, Span(0, 9))


async def test_an_error_with_200_is_no_copy():
    head = answer("200 OK", "", 'ETag: "v1"', "Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT")
    async with store_at([head, answer("200 OK", ERROR_WITH_200)]) as (store, _):
        with pytest.raises(TransientError):
            await store.copy(ObjectVersion(KEY, Version("v1")), Key("copy"))


async def test_a_copy_repeats_the_storage_class_of_its_source():
    modified = "Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT"
    head = answer("200 OK", "", 'ETag: "v1"', modified, "x-amz-storage-class: STANDARD_IA")
    copied = (
        '<?xml version="1.0"?><CopyObjectResult><ETag>"v1"</ETag>'
        "<LastModified>2026-01-02T03:04:05.000Z</LastModified></CopyObjectResult>"
    )
    async with store_at([head, answer("200 OK", copied)]) as (store, server):
        await store.copy(ObjectVersion(KEY, Version("v1")), Key("copy"))
        request = server.requests[1]
    assert b"x-amz-storage-class: STANDARD_IA\r\n" in request
    assert b'x-amz-copy-source-if-match: "v1"\r\n' in request


async def test_a_condition_is_written_as_the_service_wants_it():
    features = Features(write_if_version=True, quirks=frozenset({"unquoted-etags"}))
    stored = answer("200 OK", "", 'ETag: "v2"')
    async with store_at([stored], features=features) as (store, server):
        condition = Condition(if_version=Version("v1"))
        await store.write(KEY, BytesBody(b""), condition=condition)
        assert b"If-Match: v1\r\n" in server.requests[0]


async def test_a_body_that_fails_is_not_taken_for_the_network():
    class Broken(BytesBody):
        def read_into(self, offset, buffer):
            raise OSError(5, "the stage cannot be read")

    async with store_at([answer("200 OK")]) as (store, _):
        with pytest.raises(OSError, match="the stage"):
            await store.write(KEY, Broken(b"abc"))


async def test_a_cancelled_read_ends_at_once():
    async with store_at([Say(partial(CONTENT, 0, 99999)[:300])]) as (store, _):
        with trio.move_on_after(0.1) as scope:
            await store.read(ObjectVersion(KEY, Version("v1")), Span(0, len(CONTENT)))
        assert scope.cancelled_caught


# Servers that keep silent


SILENT = S3Access("http://127.0.0.1:1", "an-access-key", "a-secret-key")


async def test_a_command_gives_up_a_server_that_never_answers(autojump_clock):
    with scripted([Hang()]) as server, SILENT.credentials():
        url = f"s3+http://127.0.0.1:{server.port}/bucket"
        with pytest.raises(UnreachableError, match="has not answered for 10 s") as caught:
            async with open_reached(url, StoreConfig(max_connections=1)):
                pytest.fail("nobody has answered")
        assert url in caught.value.message


@pytest.mark.parametrize("status", [404, 403, 400, 501])
async def test_any_answer_lets_a_command_go_on(status):
    answer = f"HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with scripted(*[[Say(answer.encode()), Close()]] * 3) as server, SILENT.credentials():
        url = f"s3+http://127.0.0.1:{server.port}/bucket"
        async with open_reached(url, StoreConfig()) as store:
            assert store.url == url


LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
LISTED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(LISTING), LISTING)


PAGE = b"<html><body>It works!</body></html>"


@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
async def test_a_web_server_is_no_empty_bucket(status):
    said = b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(PAGE), PAGE)
    with scripted([Say(said)] * 2) as server, SILENT.credentials():
        store = await open_s3(f"s3+http://127.0.0.1:{server.port}/bucket", StoreConfig())
        for ask in (lambda: store.probe(write=False), lambda: store.list(Key(""))):
            with pytest.raises(VfsError, match="does not look like an S3 service"):
                await ask()
        await store.aclose()


@pytest.mark.parametrize("answers", [0, 1, 3], ids=lambda count: f"after {count} answers")
async def test_a_probe_that_is_cut_off_ends_soon_whatever_hangs(answers, autojump_clock):
    script = [*[Say(LISTED)] * answers, Hang()]
    with scripted(script, *[[Hang()]] * 9) as server, SILENT.credentials():
        store = await open_s3(f"s3+http://127.0.0.1:{server.port}/bucket", StoreConfig())
        with trio.move_on_after(5) as limit:
            await store.probe(write=True)
        assert limit.cancelled_caught
        assert trio.current_time() <= 7
        await store.aclose()
