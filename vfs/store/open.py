"""From a URL to a store with everything around it: the one place that knows schemes and order.

Metrics are innermost and count every attempt. Around them a slow read is asked twice, and around
that is the throttle, because every attempt must pay; retry is outside of both, so that a call that
waits to be repeated holds no slot; the health of the store is outermost, where what was mended is
no failure. A backend is imported only when its scheme is asked for: nobody who mounts a directory
waits for the SDK of a cloud.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from urllib.parse import unquote_to_bytes

import trio

from vfs.errors import ConfigError, UnreachableError, VfsError
from vfs.metrics import Metrics
from vfs.store.base import Store
from vfs.store.config import StoreConfig
from vfs.store.memory import MemoryStore
from vfs.store.wrap.bandwidth import Bandwidth
from vfs.store.wrap.health import WatchedStore
from vfs.store.wrap.hedge import open_hedged
from vfs.store.wrap.metrics import MeteredStore
from vfs.store.wrap.retry import RetryingStore
from vfs.store.wrap.throttle import Throttle, ThrottledStore
from vfs.values import Key

START_S = 10.0
"""Longest that a store may keep silent at first: with all else, a command then ends within 15 s."""

_CLOSE_GRACE_S = 10.0  # connections that take longer are left to the operating system
_NEVER_THERE = Key(".vfs/nothing")


@asynccontextmanager
async def open_store(
    url: str,
    config: StoreConfig | None = None,
    *,
    metrics: Metrics | None = None,
    limits: Bandwidth | None = None,
) -> AsyncGenerator[Store, None]:
    """Open the store of a URL. Nothing is asked of it yet: `probe` does.

    `limits` may be changed while the store is open; without them the option `bandwidth` holds.
    Errors: ConfigError for a URL that means no store; AuthenticationError without credentials.
    """
    config = config or StoreConfig.model_validate({})
    backend = await _open_backend(url, config)
    metrics = metrics or Metrics()
    metered = MeteredStore(backend, metrics)
    limits = limits or Bandwidth(config.bandwidth)
    throttle = Throttle(backend.url, config.max_connections, limits, metrics)
    try:
        async with _hedged(metered, throttle, metrics, config) as hedged:
            retrying = RetryingStore(
                ThrottledStore(hedged, throttle),
                max_retries=config.max_retries,
                retry_delay_s=config.retry_delay,
                timeout_s=config.timeout,
            )
            yield WatchedStore(retrying, metrics)
    finally:
        with trio.move_on_after(_CLOSE_GRACE_S, shield=True):
            await backend.aclose()


def _hedged(
    store: Store, throttle: Throttle, metrics: Metrics, config: StoreConfig
) -> AbstractAsyncContextManager[Store]:
    if not store.ends_reads_early:
        return nullcontext(store)
    return open_hedged(store, throttle, metrics, most_s=config.timeout)


@asynccontextmanager
async def open_reached(url: str, config: StoreConfig) -> AsyncGenerator[Store, None]:
    """Open the store of a URL, for one command, and make sure that somebody answers.

    Later calls are as patient as `timeout` says, which is too much for a wrong address.
    Errors: UnreachableError; those of `open_store`.
    """
    async with open_store(url, config) as store:
        await _await_answer(store)
        yield store


async def _await_answer(store: Store) -> None:
    with trio.move_on_after(START_S):
        try:
            await store.head(_NEVER_THERE)
        except UnreachableError:
            raise
        except VfsError:
            pass  # an answer: what it means to the command, its own calls will tell
        return
    raise silent(store.url)


def silent(url: str) -> UnreachableError:
    """Return the error for a store that has said nothing for `START_S`."""
    return UnreachableError(
        f"{url} has not answered for {START_S:g} s: check address, network and server",
    )


async def _open_backend(url: str, config: StoreConfig) -> Store:
    scheme, separator, rest = url.partition("://")
    opener = _SCHEMES.get(scheme.lower())
    if not separator or opener is None:
        # The URL is not repeated as a whole: what is not understood may hold a secret.
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        shown = f"{scheme}://" if separator else "no scheme"
        raise ConfigError(f"URL with {shown}: write one that begins with one of {known}")
    return await opener(f"{scheme.lower()}://{rest}", config)


async def _open_local(url: str, _: StoreConfig) -> Store:
    from vfs.store.backend.local import LocalStore  # noqa: PLC0415 - see the module

    host, slash, path = url.removeprefix("file://").partition("/")
    if not slash or host not in {"", "localhost"}:
        raise ConfigError(f"file URL without an absolute path: write file:///{host or 'dir'}")
    raw = unquote_to_bytes(path)
    if b"\0" in raw:
        raise ConfigError("file URL with a NUL byte: no directory has such a name")
    return LocalStore(Path("/", os.fsdecode(raw)))


async def _open_memory(url: str, _: StoreConfig) -> Store:
    if not url.removeprefix("mem://").strip("/"):
        raise ConfigError("mem URL without a name: write mem://NAME")
    return MemoryStore(url)


async def _open_s3(url: str, config: StoreConfig) -> Store:
    from vfs.store.backend.s3 import open_s3  # noqa: PLC0415 - see the module

    return await open_s3(url, config)


_SCHEMES: dict[str, Callable[[str, StoreConfig], Awaitable[Store]]] = {
    "file": _open_local,
    "mem": _open_memory,
    "s3": _open_s3,
    "s3+http": _open_s3,
    "s3+https": _open_s3,
}
