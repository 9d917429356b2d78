"""Requests about a bucket as a whole, which only a probe makes. Blocking."""

from vfs.errors import TransientError, VfsError
from vfs.store.backend.s3_errors import Doing
from vfs.store.backend.s3_open import Link
from vfs.store.backend.s3_requests import translated
from vfs.store.backend.s3_shapes import check_listing
from vfs.values import Key


def reach(link: Link) -> str:
    """List one key; return the region that the service says the bucket is in, "" without."""
    doing = _doing(link)
    with translated(doing):
        said = link.client.list_objects_v2(
            Bucket=link.address.bucket, Prefix=link.address.prefix, MaxKeys=1
        )
        check_listing(said, doing.target)
        return said["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "")


def keeps_versions(link: Link) -> bool:
    """Tell whether the bucket keeps older versions; not when that may not be asked."""
    try:
        with translated(_doing(link)):
            said = link.client.get_bucket_versioning(Bucket=link.address.bucket)
            return said.get("Status") == "Enabled"
    except TransientError:
        raise
    except VfsError:
        return False


def retains_by_default(link: Link) -> bool:
    """Tell whether whatever is written must be kept: then nothing is written to try things."""
    try:
        with translated(_doing(link)):
            said = link.client.get_object_lock_configuration(Bucket=link.address.bucket)
            rule = said["ObjectLockConfiguration"].get("Rule", {})
            return "DefaultRetention" in rule
    except TransientError:
        raise
    except VfsError:  # no such configuration, or not for us to know
        return False


def remove_versions(link: Link, prefix: Key) -> None:
    """Remove every version and delete marker below a prefix, a page of them."""
    with translated(_doing(link)):
        said = link.client.list_object_versions(
            Bucket=link.address.bucket, Prefix=link.address.prefix + prefix
        )
        for found in (*said.get("Versions", []), *said.get("DeleteMarkers", [])):
            link.client.delete_object(
                Bucket=link.address.bucket,
                Key=found.get("Key", ""),
                VersionId=found.get("VersionId", ""),
            )


def _doing(link: Link) -> Doing:
    return Doing("probe", "", link.address.url)
