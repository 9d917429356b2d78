"""Reads of one bucket: by the wire client where it can be, by the SDK where it cannot.

A read names the version it wants: by If-Match, or by its id in a bucket that keeps versions. It is
one request, whatever comes.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from vfs.clock import WallClock, wall_ns
from vfs.errors import CorruptError, StaleError, UnreachableError, VfsError
from vfs.store.backend._threads import run_blocking, run_interruptible
from vfs.store.backend.s3_errors import Doing, fault_of_refusal, translate_fault
from vfs.store.backend.s3_keys import Keys, etag_of, version_of
from vfs.store.backend.s3_open import Link, ReadRoute
from vfs.store.backend.s3_requests import translated
from vfs.store.backend.s3_shapes import IfMatch, WhichVersion
from vfs.store.backend.s3_sign import encode_path, encode_query, format_time, sign_get
from vfs.store.base import ObjectVersion
from vfs.store.wire import Exchange, RangeClient, RangeRequest, Refusal
from vfs.store.wire.answer import range_field
from vfs.values import Span

if TYPE_CHECKING:
    from botocore.response import StreamingBody

_NS = 1_000_000_000

ReadInto = Callable[[ObjectVersion, Span, Sequence[memoryview]], None]


def _doing(link: Link, source: ObjectVersion) -> Doing:
    return Doing("read", source.key, link.address.url, missing=StaleError, mismatch=StaleError)


class WireReader:
    """Reads over plain HTTP with our own signature."""

    def __init__(self, link: Link, route: ReadRoute, *, clock: WallClock = wall_ns) -> None:
        self._link = link
        self._route = route
        self._keys = Keys(link.address.prefix)
        self._clock = clock
        self._client = RangeClient(route.endpoint, max_idle=link.options.max_connections)

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
            self._client.read_into(request, buffers, refuse, exchange)

        await run_interruptible(limiter, work, exchange.interrupt)

    def _request(self, source: ObjectVersion, span: Span) -> RangeRequest:
        route = self._route
        etag = etag_of(source.version)
        target = encode_path(route.path + self._keys.full(source.key))
        fields = {"host": route.host, "range": range_field(span), "accept-encoding": "identity"}
        if source.version_id is not None:
            target += "?" + encode_query({"versionId": source.version_id})
        else:
            fields["if-match"] = etag
        if self._link.options.requester_pays:
            fields["x-amz-request-payer"] = "requester"
        signed = sign_get(
            target,
            fields,
            self._link.frozen_credentials(),
            region=route.region,
            amz_date=format_time(self._clock() // _NS),
        )
        return RangeRequest(target, signed, span, etag, source.key)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()


class SdkReader:
    """Reads by the SDK: through a proxy, and from buckets with sessions of their own."""

    def __init__(self, link: Link) -> None:
        self._link = link
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


Reader = WireReader | SdkReader


def open_reader(link: Link) -> Reader:
    """Return the cheapest reader that works for a bucket."""
    return SdkReader(link) if link.route is None else WireReader(link, link.route)
