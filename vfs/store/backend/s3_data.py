"""The bytes of one bucket: by the wire client where it can be, by the SDK where it cannot.

A read names the version it wants: by If-Match, or by its id in a bucket that keeps versions. It is
one request, whatever comes. A part is sent with the SHA-256 of its bytes in the signature, so that
the service refuses what was damaged on the way.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from vfs.clock import WallClock, wall_ns
from vfs.errors import CorruptError, StaleError, UnreachableError, VfsError
from vfs.store.backend._threads import run_blocking, run_interruptible
from vfs.store.backend.s3_errors import Doing, fault_of_refusal, translate_fault
from vfs.store.backend.s3_keys import Keys, etag_of, version_of
from vfs.store.backend.s3_open import DataRoute, Link
from vfs.store.backend.s3_requests import S3Requests, translated
from vfs.store.backend.s3_shapes import IfMatch, WhichVersion
from vfs.store.backend.s3_sign import (
    EMPTY_SHA256,
    encode_path,
    encode_query,
    format_time,
    sign,
)
from vfs.store.base import Body, ObjectVersion, Part, Upload
from vfs.store.wire import Exchange, PutRequest, RangeRequest, Refusal, WireClient
from vfs.store.wire.answer import range_field
from vfs.values import Key, Span

if TYPE_CHECKING:
    from botocore.response import StreamingBody

_NS = 1_000_000_000


def _doing(link: Link, source: ObjectVersion) -> Doing:
    return Doing("read", source.key, link.address.url, missing=StaleError, mismatch=StaleError)


class WireData:
    """Reads and uploads over plain HTTP with our own signature."""

    ends_early = True  # a cancelled read

    def __init__(self, link: Link, route: DataRoute, *, clock: WallClock = wall_ns) -> None:
        self._link = link
        self._route = route
        self._keys = Keys(link.address.prefix)
        self._clock = clock
        connections = link.options.max_connections
        self._reads = WireClient(route.endpoint, max_idle=connections)
        # A service may take its time to store a part; a read that stands still is asked again.
        patient = dataclasses.replace(route.endpoint, stall_s=link.options.timeout)
        self._uploads = WireClient(patient, max_idle=connections)

    async def read_into(
        self,
        limiter: trio.CapacityLimiter,
        source: ObjectVersion,
        span: Span,
        buffers: Sequence[memoryview],
    ) -> None:
        """Fill the buffers with the span. Cancellation: ends the thread at once."""
        exchange = Exchange()

        def refuse(refusal: Refusal) -> VfsError:
            fault = fault_of_refusal(refusal.status, refusal.fields, refusal.body)
            return translate_fault(fault, _doing(self._link, source))

        def work() -> None:
            # Signed here, in the thread: credentials may have to be renewed over the network.
            with translated(_doing(self._link, source)):
                request = self._request(source, span)
            self._reads.read_into(request, buffers, refuse, exchange)

        await run_interruptible(limiter, work, exchange.interrupt)

    def _request(self, source: ObjectVersion, span: Span) -> RangeRequest:
        etag = etag_of(source.version)
        fields = {"range": range_field(span), "accept-encoding": "identity"}
        query: dict[str, str] = {}
        if source.version_id is not None:
            query["versionId"] = source.version_id
        else:
            fields["if-match"] = etag
        target, signed = self._sign("GET", source.key, query, fields, EMPTY_SHA256)
        return RangeRequest(target, signed, span, etag, source.key)

    async def upload_part(
        self, limiter: trio.CapacityLimiter, upload: Upload, number: int, body: Body, doing: Doing
    ) -> Part:
        """Store a part. Cancellation: ends the thread at once; the part may be stored."""
        exchange = Exchange()

        def refuse(refusal: Refusal) -> VfsError:
            fault = fault_of_refusal(refusal.status, refusal.fields, refusal.body)
            return translate_fault(fault, doing)

        def work() -> Part:
            query = {"partNumber": str(number), "uploadId": upload.upload_id}
            digest = body.sha256().hex()
            with translated(doing):
                target, signed = self._sign("PUT", upload.key, query, {}, digest)
            request = PutRequest(target, signed, upload.key)
            head = self._uploads.put(request, body, refuse, exchange)
            return Part(number, head.fields["etag"], body.size, digest)

        return await run_interruptible(limiter, work, exchange.interrupt)

    def _sign(
        self,
        method: str,
        key: Key,
        query: Mapping[str, str],
        fields: Mapping[str, str],
        payload_sha256: str,
    ) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Return the target and all header fields of a request."""
        route = self._route
        target = encode_path(route.path + self._keys.full(key))
        if query:
            target += "?" + encode_query(query)
        sent = {**fields, "host": route.host}
        if self._link.options.requester_pays:
            sent["x-amz-request-payer"] = "requester"
        return target, sign(
            method,
            target,
            sent,
            self._link.frozen_credentials(),
            region=route.region,
            amz_date=format_time(self._clock() // _NS),
            payload_sha256=payload_sha256,
        )

    def close(self) -> None:
        """Close idle connections."""
        self._reads.close()
        self._uploads.close()


class SdkData:
    """Reads and uploads by the SDK: through a proxy, to buckets with sessions of their own."""

    ends_early = False

    def __init__(self, link: Link, requests: S3Requests) -> None:
        self._link = link
        self._requests = requests
        self._keys = Keys(link.address.prefix)

    async def read_into(
        self,
        limiter: trio.CapacityLimiter,
        source: ObjectVersion,
        span: Span,
        buffers: Sequence[memoryview],
    ) -> None:
        """Fill the buffers with the span."""
        await run_blocking(limiter, lambda: self._read(source, span, buffers))

    def _read(self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]) -> None:
        doing = _doing(self._link, source)
        named = source.version_id
        match: IfMatch = {} if named else {"IfMatch": etag_of(source.version)}
        which: WhichVersion = {"VersionId": named} if named else {}
        with translated(doing):
            said = self._link.client.get_object(
                Bucket=self._link.address.bucket,
                Key=self._keys.full(source.key),
                Range=range_field(span),
                **match,
                **which,
            )
            if version_of(said["ETag"]) != source.version:
                raise StaleError(f"{doing.target}: it has changed in the store", key=source.key)
            expected = f"bytes {span.start}-{span.stop - 1}/"
            whole = span.start == 0 and "ContentRange" not in said
            if said["ContentLength"] != span.size or not (
                whole or said["ContentRange"].startswith(expected)
            ):
                raise CorruptError(f"{doing.target}: the answer is not the range", key=source.key)
            with said["Body"] as body:
                _drain(body, buffers, doing)

    async def upload_part(
        self, limiter: trio.CapacityLimiter, upload: Upload, number: int, body: Body, doing: Doing
    ) -> Part:
        """Store a part."""
        return await run_blocking(
            limiter, lambda: self._requests.upload_part(upload, number, body, doing)
        )

    def close(self) -> None:
        """Nothing is kept here."""


def _drain(body: "StreamingBody", buffers: Sequence[memoryview], doing: Doing) -> None:
    for buffer in buffers:
        view = buffer
        while view:
            piece = body.read(len(view))
            if not piece:
                raise UnreachableError(f"{doing.target}: the answer broke off", key=doing.key)
            view[: len(piece)] = piece
            view = view[len(piece) :]


Data = WireData | SdkData


def open_data(link: Link, requests: S3Requests) -> Data:
    """Return the cheapest data plane that works for a bucket."""
    return SdkData(link, requests) if link.route is None else WireData(link, link.route)
