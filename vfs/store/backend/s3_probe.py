"""Find out what an S3 service does: by its name, or by trying it.

reach       list; versioning and object lock of the bucket
basics      write, describe, read back          on `a`
writes      conditions of a write               on `a`
copies      conditions of a copy                `a` to `c`      } these two
uploads     range copy, finish, remove          `a` to `u`      } at once
cleaning    remove all of it, versions too
"""

import dataclasses
import secrets
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlsplit

import trio

from vfs.errors import ConfigError, CorruptError, UnreachableError, VfsError
from vfs.store.backend._threads import Threads, run_abandonable
from vfs.store.backend.s3_bucket import keeps_versions, reach, retains_by_default
from vfs.store.backend.s3_open import Link
from vfs.store.backend.s3_requests import S3Requests
from vfs.store.backend.s3_trials import CONTENT, Copies, Trials, Uploads
from vfs.store.base import Features, ObjectVersion, PartRules
from vfs.values import Key, Span

UNQUOTED_ETAGS = "unquoted-etags"
"""If-Match wants the ETag without its quotes: Ceph 16 compares the strings as they come."""

_REACH_S = 8.0
_CLEAN_S = 30.0
_CLEAN_LATE_S = 1.5  # when the probe was cut off: whoever did that has waited long enough
_BULK_KEYS = 1000  # S3 API Reference, DeleteObjects

MINIMAL = Features()

# Source: S3 User Guide, "Conditional requests", 2025. Conditions on the target of a copy are newer
# than the rest and are left to the trials.
AMAZON = Features(
    write_if_absent=True,
    write_if_version=True,
    finish_if_absent=True,
    finish_if_version=True,
    copy_pins_source=True,
    copy_part_pins_source=True,
    remove_if_version=True,
    multipart=True,
    copy_part=True,
    metadata=True,
    remove_max_keys=_BULK_KEYS,
)

# Cloudflare: "R2 multipart upload": all parts but the last have the same size.
_EQUAL_PARTS = (".r2.cloudflarestorage.com",)


class Reader(Protocol):
    """What the probe needs of a reader."""

    async def read_into(
        self,
        limiter: trio.CapacityLimiter,
        source: ObjectVersion,
        span: Span,
        buffers: Sequence[memoryview],
    ) -> None:
        """Fill the buffers with a span."""


def is_amazon(endpoint: str) -> bool:
    """Tell whether an endpoint is Amazon's own."""
    host = urlsplit(endpoint).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def known_features(endpoint: str) -> Features:
    """Return what is known of a service by its name."""
    host = urlsplit(endpoint).hostname or ""
    base = AMAZON if is_amazon(endpoint) else MINIMAL
    return dataclasses.replace(base, parts=PartRules(equal_parts=host.endswith(_EQUAL_PARTS)))


async def probe_bucket(
    requests: S3Requests,
    reader: Reader,
    threads: Threads,
    *,
    write: bool,
    proved: Features | None = None,
) -> Features:
    """Reach the bucket and find out what it does; see `Store.probe`.

    Whether it keeps versions and retains objects may be changed at any time, so it is always asked.
    Cancellation: every request is given up at once, since the SDK waits for as long as its longest
    calls may take; what was written is removed as far as that goes quickly.
    """
    link = requests.link
    await _reach(link)
    versions, retains = await run_abandonable(
        threads.control, lambda: (keeps_versions(link), retains_by_default(link))
    )
    known = dataclasses.replace(known_features(link.endpoint), versions=versions)
    if not write:
        return known
    if proved is not None and proved.versions == versions and proved.multipart and not retains:
        return proved
    trials = Trials(requests, Key(f".vfs/tmp/probe-{secrets.token_hex(8)}/"))
    if retains or not await run_abandonable(threads.control, trials.may_remove):
        multipart = await run_abandonable(threads.control, trials.multipart_leaves_nothing)
        return dataclasses.replace(known, multipart=multipart)
    limit_s, cut_off = _CLEAN_S, False
    try:
        return await _try_all(trials, reader, threads, known)
    except trio.Cancelled:
        limit_s, cut_off = _CLEAN_LATE_S, True
        raise
    finally:
        with trio.move_on_after(limit_s, shield=cut_off):
            await run_abandonable(threads.control, lambda: trials.clean(versions=versions))


async def _reach(link: Link) -> None:
    with trio.move_on_after(_REACH_S):
        region = await trio.to_thread.run_sync(reach, link, abandon_on_cancel=True)
        own = link.client.meta.region_name
        if region and region != own and is_amazon(link.endpoint):
            raise ConfigError(
                f"{link.address.url} is in region {region}, not {own}: set region={region}",
            )
        return
    raise UnreachableError(
        f"{link.address.url}: {link.endpoint} does not answer; check the endpoint and the network",
    )


async def _try_all(trials: Trials, reader: Reader, threads: Threads, known: Features) -> Features:
    base = await run_abandonable(threads.control, trials.basics)
    read_back = bytearray(len(CONTENT))
    await reader.read_into(
        threads.reads, base.info.pin, Span(0, len(CONTENT)), [memoryview(read_back)]
    )
    if bytes(read_back) != CONTENT:
        raise CorruptError(f"{trials.url}: an object reads back as other bytes than were written")
    writes = await run_abandonable(threads.control, lambda: trials.writes(base))
    copies, uploads = Copies(), Uploads()
    failed: list[VfsError] = []

    async def try_copies() -> None:
        nonlocal copies
        try:
            copies = await run_abandonable(threads.control, lambda: trials.copies(writes.info))
        except VfsError as error:
            failed.append(error)

    async def try_uploads() -> None:
        nonlocal uploads
        try:
            uploads = await run_abandonable(threads.control, lambda: trials.uploads(writes.info))
        except VfsError as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(try_copies)
        nursery.start_soon(try_uploads)
    if failed:
        raise failed[0]
    bulk = await run_abandonable(threads.control, trials.removes_in_bulk)
    return dataclasses.replace(
        known,
        metadata=base.metadata,
        write_if_absent=writes.if_absent,
        write_if_version=writes.if_version,
        copy_if_absent=copies.if_absent,
        copy_if_version=copies.if_version,
        copy_pins_source=copies.pins_source,
        multipart=uploads.multipart,
        copy_part=uploads.copy_part,
        copy_part_pins_source=uploads.pins_source,
        finish_if_absent=uploads.if_absent,
        finish_if_version=uploads.if_version,
        remove_if_version=uploads.remove_if_version,
        remove_max_keys=_BULK_KEYS if bulk else 1,
        quirks=frozenset() if trials.quoted else frozenset({UNQUOTED_ETAGS}),
    )
