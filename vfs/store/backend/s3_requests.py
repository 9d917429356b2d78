"""One method for each request that the SDK makes. Blocking: call it from worker threads.

Conditions are sent as given: whether the service heeds them is for the caller to know, be it the
store (by its features) or the probe (which finds out).
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from vfs.errors import CorruptError
from vfs.store.backend.s3_body import BodyFile
from vfs.store.backend.s3_errors import Doing, meant_for_tls, translate
from vfs.store.backend.s3_keys import Keys, encode_metadata, etag_of, version_of
from vfs.store.backend.s3_open import Link
from vfs.store.backend.s3_shapes import (
    Conditions,
    Copied,
    Description,
    Encryption,
    IfMatch,
    PageFields,
    Payer,
    Replacement,
    Source,
    SourceRange,
    StorageClassField,
    WhichVersion,
    check_listing,
    date_ns,
    describe,
    nanoseconds,
    parse_page,
    real_version_id,
)
from vfs.store.base import (
    COMMIT_ID,
    Body,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    Part,
    Properties,
    Upload,
)
from vfs.store.wire.answer import range_field
from vfs.values import Key, Span

if TYPE_CHECKING:
    from mypy_boto3_s3.literals import StorageClassType
    from mypy_boto3_s3.type_defs import (
        CopySourceTypeDef,
    )


@contextmanager
def translated(doing: Doing) -> Generator[None]:
    """Turn what the SDK raises into our errors."""
    try:
        yield
    except KeyError as error:  # from the answer, which services are free to leave incomplete
        raise CorruptError(
            f"{doing.target}: the answer lacks {error}", operation=doing.operation, key=doing.key
        ) from error
    except Exception as error:
        known = translate(error, doing)
        if known is None:
            raise
        raise meant_for_tls(error, doing) or known from error


class S3Requests:
    """The requests of one bucket below one prefix. Concurrency: any number of threads."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.keys = Keys(link.address.prefix)
        self._client = link.client
        self._bucket = link.address.bucket
        options = link.options
        self._payer: Payer = {"RequestPayer": "requester"} if options.requester_pays else {}
        self._encryption: Encryption = {}
        if options.sse is not None:
            self._encryption["ServerSideEncryption"] = options.sse
        if options.sse_kms_key is not None:
            self._encryption["SSEKMSKeyId"] = options.sse_kms_key

    def doing(self, operation: str, key: Key) -> Doing:
        """Say what is being done, for errors."""
        return Doing(operation, key, self.link.address.url)

    def _class(self, kept: str = "") -> StorageClassField:
        wanted = self.link.options.storage_class or kept
        return {"StorageClass": cast("StorageClassType", wanted)} if wanted else {}

    # -- objects -----------------------------------------------------------------------------

    def head(self, key: Key, doing: Doing, *, version_id: str | None = None) -> Description:
        """HEAD the current version, or one by its id."""
        which: WhichVersion = {"VersionId": version_id} if version_id else {}
        with translated(doing):
            said = self._client.head_object(
                Bucket=self._bucket, Key=self.keys.full(key), **which, **self._payer
            )
            return describe(key, said)

    def put(
        self, key: Key, body: Body, properties: Properties, conditions: Conditions, doing: Doing
    ) -> ObjectInfo:
        """PUT a whole object. The time of the answer stands for its mtime, to the second."""
        file = BodyFile(body)
        with translated(doing), file.failing_as_itself():
            said = self._client.put_object(
                Bucket=self._bucket,
                Key=self.keys.full(key),
                Body=cast("IO[bytes]", file),
                ContentType=properties.content_type,
                Metadata=encode_metadata(properties.metadata),
                **conditions,
                **self._class(),
                **self._encryption,
                **self._payer,
            )
            return ObjectInfo(
                key,
                body.size,
                version_of(said["ETag"]),
                date_ns(said["ResponseMetadata"]["HTTPHeaders"]),
                properties.metadata,
                real_version_id(said.get("VersionId")),
                self.link.options.storage_class or "",
            )

    def _source(self, source: ObjectVersion) -> Source:
        place: CopySourceTypeDef = {"Bucket": self._bucket, "Key": self.keys.full(source.key)}
        if source.version_id is not None:
            place["VersionId"] = source.version_id
        return {"CopySource": place, "CopySourceIfMatch": etag_of(source.version)}

    def copy(
        self,
        source: ObjectInfo,
        target: Key,
        properties: Properties | None,
        conditions: Conditions,
        doing: Doing,
    ) -> ObjectInfo:
        """COPY an object. Its storage class must be repeated: a copy is STANDARD without."""
        directive: Replacement = {"MetadataDirective": "COPY"}
        if properties is not None:
            directive = {
                "MetadataDirective": "REPLACE",
                "Metadata": encode_metadata(properties.metadata),
                "ContentType": properties.content_type,
            }
        with translated(doing):
            said = self._client.copy_object(
                Bucket=self._bucket,
                Key=self.keys.full(target),
                **self._source(source.pin),
                **directive,
                **conditions,
                **self._class(source.storage_class),
                **self._encryption,
                **self._payer,
            )
            made = cast("Copied", said["CopyObjectResult"])
            return ObjectInfo(
                target,
                source.size,
                version_of(made["ETag"]),
                nanoseconds(made["LastModified"]),
                source.metadata if properties is None else properties.metadata,
                real_version_id(said.get("VersionId")),
                self.link.options.storage_class or source.storage_class,
            )

    def remove(self, key: Key, match: IfMatch, doing: Doing) -> None:
        """DELETE one object."""
        with translated(doing):
            self._client.delete_object(
                Bucket=self._bucket,
                Key=self.keys.full(key),
                **match,
                **self._payer,
            )

    def remove_many(self, keys: Sequence[Key], doing: Doing) -> "dict[Key, tuple[str, str]]":
        """DELETE up to 1000 objects; return code and message of each that was refused."""
        with translated(doing):
            said = self._client.delete_objects(
                Bucket=self._bucket,
                Delete={"Objects": [{"Key": self.keys.full(key)} for key in keys], "Quiet": True},
                **self._payer,
            )
            return {
                self.keys.short(error.get("Key", "")): (
                    error.get("Code", ""),
                    error.get("Message", ""),
                )
                for error in said.get("Errors", [])
            }

    # -- listings ----------------------------------------------------------------------------

    def list(
        self,
        prefix: Key,
        delimiter: str,
        start: "tuple[Key | None, str | None]",
        limit: int,
        doing: Doing,
    ) -> ListPage:
        """LIST a page; `start` is what to begin after, and the cursor of the page before."""
        after, cursor = start
        page: PageFields = {}
        if delimiter:
            page["Delimiter"] = delimiter
        if cursor is not None:
            page["ContinuationToken"] = cursor
        elif after is not None:
            page["StartAfter"] = self.keys.full(after)
        with translated(doing):
            said = self._client.list_objects_v2(
                Bucket=self._bucket,
                Prefix=self.keys.full(prefix),
                MaxKeys=limit,
                **page,
                **self._payer,
            )
            check_listing(said, doing.target)
            objects, prefixes = parse_page(said, self.keys)
        cursor = said.get("NextContinuationToken") if said.get("IsTruncated") else None
        if said.get("IsTruncated") and not cursor:
            raise CorruptError(f"{doing.target}: the listing breaks off without a way to go on")
        return ListPage(objects, prefixes, cursor)

    # -- uploads -----------------------------------------------------------------------------

    def begin_upload(
        self, key: Key, properties: Properties, doing: Doing, *, storage_class: str = ""
    ) -> Upload:
        """Begin an upload; `storage_class` is that of a source to keep."""
        with translated(doing):
            said = self._client.create_multipart_upload(
                Bucket=self._bucket,
                Key=self.keys.full(key),
                ContentType=properties.content_type,
                Metadata=encode_metadata(properties.metadata),
                **self._class(storage_class),
                **self._encryption,
                **self._payer,
            )
            return Upload(key, said["UploadId"], properties.commit_id)

    def upload_part(self, upload: Upload, number: int, body: Body, doing: Doing) -> Part:
        """PUT a part."""
        file = BodyFile(body, hashed=True)
        with translated(doing), file.failing_as_itself():
            said = self._client.upload_part(
                Bucket=self._bucket,
                Key=self.keys.full(upload.key),
                UploadId=upload.upload_id,
                PartNumber=number,
                Body=cast("IO[bytes]", file),
                **self._payer,
            )
            return Part(number, said["ETag"], body.size, file.sha256())

    def copy_part(
        self,
        upload: Upload,
        number: int,
        source: ObjectVersion,
        span: Span,
        doing: Doing,
        *,
        whole: bool = False,
    ) -> Part:
        """COPY a range of an object, or all of it, into a part.

        Amazon takes no range of an object of 5 MiB or less.
        """
        part: SourceRange = {} if whole else {"CopySourceRange": range_field(span)}
        with translated(doing):
            said = self._client.upload_part_copy(
                Bucket=self._bucket,
                Key=self.keys.full(upload.key),
                UploadId=upload.upload_id,
                PartNumber=number,
                **part,
                **self._source(source),
                **self._payer,
            )
            return Part(number, cast("Copied", said["CopyPartResult"])["ETag"], span.size)

    def finish_upload(
        self, upload: Upload, parts: Sequence[Part], conditions: Conditions, doing: Doing
    ) -> ObjectInfo:
        """Complete an upload; the version is empty where the answer has none.

        An error that comes with status 200 is one for the SDK as well.
        """
        with translated(doing):
            said = self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self.keys.full(upload.key),
                UploadId=upload.upload_id,
                MultipartUpload={
                    "Parts": [{"ETag": part.tag, "PartNumber": part.number} for part in parts]
                },
                **conditions,
                **self._payer,
            )
            metadata = {} if upload.commit_id is None else {COMMIT_ID: upload.commit_id}
            return ObjectInfo(
                upload.key,
                sum(part.size for part in parts),
                version_of(said.get("ETag", "")),
                date_ns(said["ResponseMetadata"]["HTTPHeaders"]),
                metadata,
                real_version_id(said.get("VersionId")),
                self.link.options.storage_class or "",
            )

    def abort_upload(self, upload: Upload, doing: Doing) -> None:
        """Drop an upload."""
        with translated(doing):
            self._client.abort_multipart_upload(
                Bucket=self._bucket,
                Key=self.keys.full(upload.key),
                UploadId=upload.upload_id,
                **self._payer,
            )
