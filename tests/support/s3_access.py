"""A bucket of an S3 server on loopback, made for one test."""

import contextlib
import functools
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config

from vfs.store.backend.s3 import S3Store, open_s3
from vfs.store.base import Features
from vfs.store.config import StoreConfig

_serial = itertools.count(1)
_probed: dict[tuple[str, bool], Features] = {}  # a probe is some 25 requests; once is enough


@dataclass(frozen=True)
class S3Access:
    """Where a server is and who we are to it."""

    endpoint: str
    access_key: str
    secret_key: str
    ca: Path | None = None

    def client(self, **config):
        """Return a client of the SDK, to look at the server by other means than ours."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=str(self.ca) if self.ca else None,
            config=Config(
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
                **config,
            ),
        )

    def url(self, bucket: str, prefix: str = "") -> str:
        return f"s3+{self.endpoint}/{bucket}" + (f"/{prefix}" if prefix else "")

    @contextlib.contextmanager
    def bucket(self, *, versions: bool = False) -> Iterator[str]:
        """Make a bucket; remove it with all that is in it."""
        name = f"vfs-{os.getpid()}-{next(_serial)}"
        client = _client_of(self)
        client.create_bucket(Bucket=name)
        if versions:
            client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        try:
            yield name
        finally:
            remove_bucket(client, name)

    @contextlib.contextmanager
    def credentials(self) -> Iterator[None]:
        """Put the keys where the SDK's own chain looks for them."""
        given = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        before = {name: os.environ.get(name) for name in given}
        os.environ.update(given)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    @contextlib.asynccontextmanager
    async def store(
        self,
        *,
        bucket: str | None = None,
        prefix: str = "",
        versions: bool = False,
        probe: bool = True,
        **options,
    ) -> AsyncIterator[S3Store]:
        """Open a store on a bucket, a new one if none is named."""
        if self.ca is not None:
            options.setdefault("ca_bundle", self.ca)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.credentials())
            if bucket is None:
                bucket = stack.enter_context(self.bucket(versions=versions))
            kind = (self.endpoint, versions)
            known = _probed.get(kind) if probe else None
            store = await open_s3(self.url(bucket, prefix), StoreConfig(**options), features=known)
            try:
                if probe and kind not in _probed:
                    _probed[kind] = await store.probe(write=True)
                yield store
            finally:
                await store.aclose()


@functools.cache
def _client_of(access: S3Access):
    return access.client()


def remove_bucket(client, name: str) -> None:
    for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=name):
        for upload in page.get("Uploads", []):
            client.abort_multipart_upload(
                Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"]
            )
    for page in client.get_paginator("list_object_versions").paginate(Bucket=name):
        for found in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
            client.delete_object(Bucket=name, Key=found["Key"], VersionId=found["VersionId"])
    client.delete_bucket(Bucket=name)
