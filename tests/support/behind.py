"""A bucket of the gateway that vfs reaches through a proxy, and tests look at directly."""

from dataclasses import dataclass, replace

from typing_extensions import override

from tests.support.forward import Proxy
from tests.support.mount import Bucket


@dataclass
class BehindProxy(Bucket):
    """A prefix of a bucket behind a proxy."""

    proxy: Proxy | None = None

    @property
    @override
    def url(self) -> str:
        assert self.proxy is not None
        through = replace(self.access, endpoint=self.proxy.endpoint)
        return through.url(self.name, self.prefix.rstrip("/"))

    def uploads(self) -> list[str]:
        """Return the keys of uploads in parts that were begun and neither finished nor aborted."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name)
        return [found["Key"] for page in pages for found in page.get("Uploads", [])]

    def temporary(self) -> list[str]:
        """Return the keys of our own temporary objects."""
        found = self.client.list_objects_v2(Bucket=self.name, Prefix=f"{self.prefix}.vfs/tmp/")
        return [item["Key"] for item in found.get("Contents", [])]

    def assert_tidy(self, *names: str) -> None:
        """Compare what is in the bucket with what should be: nothing twice, nothing unfinished."""
        assert self.keys() == set(names)
        assert self.uploads() == []
        assert self.temporary() == []
