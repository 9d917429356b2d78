"""A small S3 proxy in front of a gateway that ignores conditions: it heeds them itself.

If-Match and If-None-Match count on PutObject, CopyObject, CompleteMultipartUpload and DeleteObject,
x-amz-copy-source-if-match on CopyObject and UploadPartCopy. The proxy looks at the object by a HEAD
of its own and passes the request on, or refuses it, under one lock per key that every change of
that key through the proxy takes: check and change are one step. Requests pass as they are, so that
their signatures hold.
"""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote

from botocore.exceptions import ClientError
from typing_extensions import override

from tests.support.forward import Exchange, Proxy, Request
from tests.support.s3_access import S3Access

CHANGES = frozenset({"PutObject", "CopyObject", "CompleteMultipartUpload", "DeleteObject"})
COPIES = frozenset({"CopyObject", "UploadPartCopy"})

Name = tuple[str, str]  # bucket and key


class ConditionalProxy(Proxy):
    """Refuses what the gateway would have to refuse."""

    def __init__(self, access: S3Access, *, heeds: bool = True) -> None:
        """Stand before the gateway of `access`; without `heeds` only locks and counts."""
        self._client = access.client(max_pool_connections=64)
        self._heeds = heeds
        self._locks: defaultdict[Name, threading.Lock] = defaultdict(threading.Lock)
        self._making = threading.Lock()
        self.refused: list[Request] = []
        super().__init__(access.endpoint)

    @override
    def carry(self, exchange: Exchange) -> None:
        request = exchange.request
        names = set[Name]()
        if request.operation in CHANGES:
            names.add((request.bucket, request.key))
        if request.operation in COPIES:
            names.add(_source(request)[0])
        if not names:
            exchange.forward()
            return
        exchange.take_body()  # no client keeps a lock waiting
        with self._locked(names):
            refusal = self._refusal(request) if self._heeds else None
            if refusal is None:
                exchange.forward()
            else:
                self.refused.append(request)
                exchange.refuse(*refusal)

    @contextlib.contextmanager
    def _locked(self, names: set[Name]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for name in sorted(names):
                with self._making:
                    lock = self._locks[name]
                stack.enter_context(lock)
            yield

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        if request.operation in COPIES:
            name, version_id = _source(request)
            wanted = request.get("x-amz-copy-source-if-match")
            if wanted is not None and not _fits(self._etag(name, version_id), wanted):
                return 412, "PreconditionFailed"
        if request.operation not in CHANGES:
            return None
        match, none_match = request.get("if-match"), request.get("if-none-match")
        if match is None and none_match is None:
            return None
        etag = self._etag((request.bucket, request.key))
        if match is not None and etag is None:
            return 404, "NoSuchKey"
        if match is not None and not _fits(etag, match):
            return 412, "PreconditionFailed"
        if none_match is not None and etag is not None:
            return 412, "PreconditionFailed"
        return None

    def _etag(self, name: Name, version_id: str | None = None) -> str | None:
        which = {"VersionId": version_id} if version_id else {}
        try:
            found = self._client.head_object(Bucket=name[0], Key=name[1], **which)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return found["ETag"]

    @override
    def close(self) -> None:
        super().close()
        self._client.close()


def _source(request: Request) -> tuple[Name, str | None]:
    path, _, query = (request.get("x-amz-copy-source") or "").partition("?")
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    return (bucket, key), parse_qs(query).get("versionId", [None])[0]


def _fits(etag: str | None, wanted: str) -> bool:
    return etag is not None and wanted.strip('"') in {"*", etag.strip('"')}
