"""The implementations that the store contract runs on.

To add one: a factory below, which yields an empty, probed store (and cleans up), its name in
`STORES`, a marker in `MARKS` where it needs something that not every machine has, and in
`EXPECTED_FAILURES` what its server is known to do wrong, each with its source in servers.md. Those
are strict: a server that learns a thing fails the suite until its entry is gone.
"""

import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.support.moto_server import moto
from tests.support.rgw import rgw
from vfs.store.backend.local import LocalStore
from vfs.store.base import PartRules, Store
from vfs.store.memory import MemoryStore, everything

SMALL_RULES = PartRules(
    min_bytes=1024,
    max_bytes=1 << 20,
    max_parts=100,
    max_object_bytes=1 << 24,
    max_write_bytes=1 << 22,
)

_serial = itertools.count(1)


@contextlib.asynccontextmanager
async def open_memory() -> AsyncIterator[Store]:
    yield MemoryStore(f"mem://contract-{next(_serial)}", features=everything(SMALL_RULES))


@contextlib.asynccontextmanager
async def open_memory_below_a_prefix() -> AsyncIterator[Store]:
    url = f"mem://contract-{next(_serial)}/images/vm"
    yield MemoryStore(url, features=everything(SMALL_RULES, versions=True))


@contextlib.asynccontextmanager
async def open_local() -> AsyncIterator[Store]:
    with tempfile.TemporaryDirectory(prefix="vfs-contract-") as root:
        store = LocalStore(Path(root))
        await store.probe(write=True)
        try:
            yield store
        finally:
            await store.aclose()


@contextlib.asynccontextmanager
async def open_moto() -> AsyncIterator[Store]:
    async with moto().store() as store:
        yield store


@contextlib.asynccontextmanager
async def open_rgw() -> AsyncIterator[Store]:
    async with rgw().store(prefix="images/vm") as store:
        yield store


@contextlib.asynccontextmanager
async def open_rgw_with_versions() -> AsyncIterator[Store]:
    async with rgw(tls=True).store(versions=True) as store:
        yield store


StoreFactory = Callable[[], AbstractAsyncContextManager[Store]]

STORES: dict[str, StoreFactory] = {
    "memory": open_memory,
    "memory-prefix": open_memory_below_a_prefix,
    "local": open_local,
    "moto": open_moto,
    "rgw": open_rgw,
    "rgw-tls-versions": open_rgw_with_versions,
}

MARKS: dict[str, tuple[pytest.MarkDecorator, ...]] = {
    "rgw": (pytest.mark.rgw,),
    "rgw-tls-versions": (pytest.mark.rgw,),
}
"""Store -> markers of its tests, such as `pytest.mark.rgw`."""

_ALL_PARTS = {
    "test_only_the_parts_that_are_named_are_joined": "Ceph 16 wants every part named that was"
    " uploaded (InvalidPart); found here, not in servers.md",
}

EXPECTED_FAILURES: dict[str, dict[str, str]] = {
    "moto": {
        "test_every_file_name_can_be_a_key[line\\nfeed]": "404: moto's routes end at a line feed"
        " (servers.md 1, moto)",
        "test_an_aborted_upload_takes_no_part": "500 (servers.md 1, moto)",
    },
    "rgw": _ALL_PARTS,
    "rgw-tls-versions": _ALL_PARTS,
}
"""Store -> test name, or one case of it -> why, citing servers.md."""


def parameters() -> list[object]:
    """Return the `params` of a fixture over all stores."""
    return [pytest.param(name, marks=MARKS.get(name, ())) for name in STORES]
