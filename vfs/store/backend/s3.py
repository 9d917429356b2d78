"""S3 and what speaks its protocol, as a Store.

Requests are made by the SDK in worker threads; reads and parts by the wire client. A condition is
sent only where the features say that the service heeds it: some ignore conditions in silence, which
turns a check into an overwrite.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    StaleError,
    TooLargeError,
    UnsupportedError,
    VfsError,
)
from vfs.store.backend._threads import Threads, run_abandonable, run_blocking
from vfs.store.backend.s3_copy import copy_in_parts
from vfs.store.backend.s3_data import open_data
from vfs.store.backend.s3_errors import Doing, Fault, translate_fault
from vfs.store.backend.s3_keys import MAX_KEY_BYTES, etag_of, etag_of_parts, fits_xml
from vfs.store.backend.s3_open import Link, open_link
from vfs.store.backend.s3_probe import UNQUOTED_ETAGS, known_features, probe_bucket
from vfs.store.backend.s3_requests import S3Requests
from vfs.store.backend.s3_shapes import Conditions, Description, IfMatch
from vfs.store.base import (
    ANY,
    COMMIT_ID,
    PLAIN_PROPERTIES,
    Body,
    Condition,
    Features,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    Part,
    Properties,
    Store,
    Upload,
)
from vfs.store.config import StoreConfig
from vfs.values import Key, Span, Version

T = TypeVar("T")


async def open_s3(url: str, options: StoreConfig, *, features: Features | None = None) -> "S3Store":
    """Open the bucket and prefix of a URL; nothing is asked of the service yet.

    `features` is what an earlier probe of the same endpoint and bucket has found.
    Errors: ConfigError, AuthenticationError when there are no credentials.
    """
    threads = Threads.of(options.max_connections)
    link = await run_blocking(threads.control, lambda: open_link(url, options))
    return S3Store(link, threads, features)


class S3Store(Store):
    """One prefix of a bucket."""

    def __init__(self, link: Link, threads: Threads, features: Features | None = None) -> None:
        self.url = link.address.url
        self._link = link
        self._threads = threads
        self._requests = S3Requests(link)
        self._data = open_data(link, self._requests)
        self._features = self._fitted(features or known_features(link.endpoint))

    @property
    @override
    def ends_reads_early(self) -> bool:
        return self._data.ends_early

    @property
    @override
    def features(self) -> Features:
        return self._features

    @override
    async def probe(self, *, write: bool, known: Features | None = None) -> Features:
        found = await probe_bucket(
            self._requests, self._data, self._threads, write=write, proved=known
        )
        self._features = self._fitted(found)
        return self._features

    def _fitted(self, features: Features) -> Features:
        """Account for our prefix, which is part of every key."""
        own = len(self._link.address.prefix.encode())
        return dataclasses.replace(features, max_key_bytes=MAX_KEY_BYTES - own)

    @override
    async def head(self, key: Key) -> ObjectInfo:
        doing = self._doing("head", key)
        work = partial(self._requests.head, key, doing)
        info = (await run_abandonable(self._threads.control, work)).info
        return dataclasses.replace(info, looked=True)

    @override
    async def list(
        self,
        prefix: Key,
        *,
        delimiter: str = "",
        start_after: Key | None = None,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        doing = self._doing("list", prefix)
        start = (start_after, cursor)
        return await run_abandonable(
            self._threads.control,
            lambda: self._requests.list(prefix, delimiter, start, limit, doing),
        )

    @override
    async def read_into(
        self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]
    ) -> None:
        await self._data.read_into(self._threads.reads, source, span, buffers)

    @override
    async def write(
        self,
        key: Key,
        body: Body,
        *,
        condition: Condition = ANY,
        properties: Properties = PLAIN_PROPERTIES,
    ) -> ObjectInfo:
        doing = self._doing("write", key, condition)
        if body.size > self._features.parts.max_write_bytes:
            raise TooLargeError(f"{doing.target}: too large for one request", key=key)
        conditions = self._conditions(
            condition,
            doing,
            absent=self._features.write_if_absent,
            version=self._features.write_if_version,
        )
        return await run_blocking(
            self._threads.writes,
            lambda: self._requests.put(key, body, properties, conditions, doing),
        )

    @override
    async def copy(
        self,
        source: ObjectVersion,
        target: Key,
        *,
        condition: Condition = ANY,
        properties: Properties | None = None,
    ) -> ObjectInfo:
        doing = self._doing("copy", target, condition)
        # Its size says how to copy it, and a copy must repeat its storage class.
        found = await self._control(
            partial(
                self._requests.head,
                source.key,
                self._doing("copy", source.key),
                version_id=source.version_id,
            )
        )
        if found.info.version != source.version:
            raise self._stale("copy", source)
        if found.info.size > self._features.parts.max_write_bytes:
            return await self._copy_large(found, target, condition, properties, doing)
        conditions = self._conditions(
            condition,
            doing,
            absent=self._features.copy_if_absent,
            version=self._features.copy_if_version,
        )
        try:
            return await self._control(
                lambda: self._requests.copy(found.info, target, properties, conditions, doing)
            )
        except ConflictError as error:
            if not condition or not await self._is_current(source):
                raise self._stale("copy", source) from error
            raise

    async def _copy_large(
        self,
        found: Description,
        target: Key,
        condition: Condition,
        properties: Properties | None,
        doing: Doing,
    ) -> ObjectInfo:
        kept = properties or Properties(found.info.metadata, found.content_type)
        self._require(doing, offered=self._features.copy_part)
        upload = await self._control(
            lambda: self._requests.begin_upload(
                target, kept, doing, storage_class=found.info.storage_class
            )
        )
        made = await copy_in_parts(self, upload, found.info, condition=condition)
        return dataclasses.replace(
            made, metadata=kept.metadata, storage_class=found.info.storage_class
        )

    async def _is_current(self, source: ObjectVersion) -> bool:
        """Tell which of two conditions failed: the answer does not."""
        try:
            return (await self.head(source.key)).version == source.version
        except NotFoundError:
            return False

    @override
    async def remove(self, keys: Sequence[Key], *, if_version: Version | None = None) -> None:
        if len(keys) > self._features.remove_max_keys or (if_version and len(keys) != 1):
            raise InvalidError(f"remove in {self.url}: {len(keys)} keys are too many for one call")
        if len(keys) == 1:
            await self._remove_one(keys[0], if_version)
            return
        plain = [key for key in keys if fits_xml(key)]
        for key in keys:
            if not fits_xml(key):
                await self._remove_one(key, None)
        if plain:
            await self._remove_many(plain)

    async def _remove_one(self, key: Key, if_version: Version | None) -> None:
        condition = Condition(if_version=if_version)
        doing = self._doing("remove", key)
        conditions = self._conditions(
            condition, doing, absent=False, version=self._features.remove_if_version
        )
        match: IfMatch = {"IfMatch": conditions["IfMatch"]} if "IfMatch" in conditions else {}
        try:
            await self._control(lambda: self._requests.remove(key, match, doing))
        except NotFoundError as error:
            if not error.key:  # the bucket
                raise

    async def _remove_many(self, keys: Sequence[Key]) -> None:
        doing = self._doing("remove", Key(""))
        refused = await self._control(lambda: self._requests.remove_many(keys, doing))
        for key, (code, message) in refused.items():
            error = translate_fault(Fault(0, code, message), self._doing("remove", key))
            if not isinstance(error, NotFoundError):
                raise error

    @override
    async def move(
        self, source: ObjectVersion, target: Key, *, condition: Condition = ANY
    ) -> ObjectInfo:
        # RenameObject exists in directory buckets alone, and other services take it for a PUT of
        # an empty object.
        raise UnsupportedError(f"move in {self.url}: S3 has no atomic rename", key=target)

    @override
    async def begin_upload(self, key: Key, *, properties: Properties = PLAIN_PROPERTIES) -> Upload:
        doing = self._doing("begin_upload", key)
        self._require(doing, offered=self._features.multipart)
        return await self._control(lambda: self._requests.begin_upload(key, properties, doing))

    @override
    async def upload_part(
        self, upload: Upload, number: int, body: Body, *, offset: int | None = None
    ) -> Part:
        doing = self._doing("upload_part", upload.key)
        self._check_part(doing, number, body.size)
        return await self._data.upload_part(self._threads.writes, upload, number, body, doing)

    @override
    async def copy_part(
        self,
        upload: Upload,
        number: int,
        source: ObjectVersion,
        span: Span,
        *,
        offset: int | None = None,
    ) -> Part:
        doing = Doing("copy_part", source.key, self.url, missing=StaleError, mismatch=StaleError)
        self._require(doing, offered=self._features.copy_part)
        self._check_part(doing, number, span.size)
        return await run_blocking(
            self._threads.writes,
            lambda: self._requests.copy_part(upload, number, source, span, doing),
        )

    @override
    async def finish_upload(
        self, upload: Upload, parts: Sequence[Part], *, condition: Condition = ANY
    ) -> ObjectInfo:
        doing = self._doing("finish_upload", upload.key, condition)
        conditions = self._conditions(
            condition,
            doing,
            absent=self._features.finish_if_absent,
            version=self._features.finish_if_version,
        )
        made = await self._control(
            lambda: self._requests.finish_upload(upload, parts, conditions, doing)
        )
        return made if made.version else await self._look_up(made, parts)

    async def _look_up(self, made: ObjectInfo, parts: Sequence[Part]) -> ObjectInfo:
        """Find the version of a finished upload: the answer of Ceph 16 does not tell."""
        expected = etag_of_parts([part.tag for part in parts])
        try:
            found = await self.head(made.key)
        except NotFoundError:
            found = made
        ours = (
            found.version == expected
            if expected is not None
            else found.metadata.get(COMMIT_ID) == made.metadata.get(COMMIT_ID)
        )
        # Another one's is never taken for ours: whoever reads ours then learns that it is gone.
        return found if ours else dataclasses.replace(made, version=Version(expected or "gone"))

    @override
    async def abort_upload(self, upload: Upload) -> None:
        doing = self._doing("abort_upload", upload.key)
        try:
            await self._control(lambda: self._requests.abort_upload(upload, doing))
        except NotFoundError as error:
            if not error.key:  # the bucket
                raise

    @override
    async def aclose(self) -> None:
        # Not among the others: requests that were given up may hold all places.
        await trio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        self._data.close()
        self._link.client.close()

    # -- helpers -----------------------------------------------------------------------------

    async def _control(self, work: Callable[[], T]) -> T:
        return await run_blocking(self._threads.control, work)

    @override
    async def renew(self) -> bool:
        return await run_blocking(self._threads.control, self._link.credentials.renew)

    def _doing(self, operation: str, key: Key, condition: Condition = ANY) -> Doing:
        # Where a version was expected, no object at all is a conflict as well.
        missing: type[VfsError] = ConflictError if condition.if_version else NotFoundError
        return Doing(operation, key, self.url, missing=missing)

    def _conditions(
        self, condition: Condition, doing: Doing, *, absent: bool, version: bool
    ) -> Conditions:
        """Return header fields for a condition that the service is known to heed."""
        if not condition:
            return {}
        self._require(doing, offered=absent if condition.if_absent else version)
        if condition.if_version is None:
            return {"IfNoneMatch": "*"}
        if UNQUOTED_ETAGS in self._features.quirks:
            return {"IfMatch": condition.if_version}
        return {"IfMatch": etag_of(condition.if_version)}

    def _require(self, doing: Doing, *, offered: bool) -> None:
        if not offered:
            raise UnsupportedError(
                f"{doing.target}: the service is not known to do this (or its condition)",
                operation=doing.operation,
                store=self.url,
                key=doing.key,
            )

    def _check_part(self, doing: Doing, number: int, size: int) -> None:
        rules = self._features.parts
        if not 1 <= number <= rules.max_parts:
            raise InvalidError(f"{doing.target}: part {number} is not in 1..{rules.max_parts}")
        if size > rules.max_bytes:
            raise TooLargeError(f"{doing.target}: {size} bytes are too large for a part")

    def _stale(self, operation: str, source: ObjectVersion) -> StaleError:
        return StaleError(
            f"{operation} of {source.key!r} in {self.url}: it has changed since it was looked up",
            operation=operation,
            store=self.url,
            key=source.key,
        )
