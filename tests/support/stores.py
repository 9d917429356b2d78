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


StoreFactory = Callable[[], AbstractAsyncContextManager[Store]]

STORES: dict[str, StoreFactory] = {
    "memory": open_memory,
    "memory-prefix": open_memory_below_a_prefix,
    "local": open_local,
}

MARKS: dict[str, tuple[pytest.MarkDecorator, ...]] = {}
"""Store -> markers of its tests, such as `pytest.mark.rgw`."""

EXPECTED_FAILURES: dict[str, dict[str, str]] = {}
"""Store -> test name -> why, citing servers.md."""


def parameters() -> list[object]:
    """Return the `params` of a fixture over all stores."""
    return [pytest.param(name, marks=MARKS.get(name, ())) for name in STORES]
