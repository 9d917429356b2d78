"""Knows whether a store can be used, by how its requests have ended.

The outermost wrapper, so that what a retry mends does not count. A store is down when a request
failed for good because nobody answered or we were not let in, and up again with the next request
that is answered, be it by "no such key". Both are logged once, not each time of a store that
comes and goes.
"""

import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.errors import (
    AuthenticationError,
    ConfigError,
    ConflictError,
    DeniedError,
    ExistsError,
    NotFoundError,
    StaleError,
    TransientError,
    VfsError,
)
from vfs.metrics import Health, Metrics
from vfs.repeats import Repeats
from vfs.store.base import Store
from vfs.store.wrap.base import Call, WrappedStore

T = TypeVar("T")

log = logging.getLogger(__name__)

QUIET_S = 60.0
"""Outages that follow each other within this are one, to whoever reads the log."""

_SHARE = 1 / 8  # of the last request in the average; as TCP does it, RFC 6298

_UNUSABLE = (TransientError, DeniedError, AuthenticationError, ConfigError)
_ANSWERS = (NotFoundError, ConflictError, ExistsError, StaleError)


def after(health: Health, error: VfsError | None, took_s: float | None) -> Health:
    """Return the health of a store after one more request, which failed or succeeded.

    An error that may have been found here, without asking the store, says nothing about it. A call
    that is many requests has no `took_s`.
    """
    if error is not None:
        # A missing bucket is told from a missing key by its empty key.
        gone = isinstance(error, NotFoundError) and not error.key
        if gone or isinstance(error, _UNUSABLE):
            return dataclasses.replace(health, up=False, last_error=error.message)
        if not isinstance(error, _ANSWERS):
            return health
    known_s = health.latency_s
    if known_s is not None and took_s is not None:
        took_s = known_s + (took_s - known_s) * _SHARE
    return dataclasses.replace(
        health, up=True, answered=True, latency_s=known_s if took_s is None else took_s
    )


class WatchedStore(WrappedStore):
    """Keeps the health of another store."""

    def __init__(self, inner: Store, metrics: Metrics) -> None:
        super().__init__(inner)
        self._metrics = metrics
        self._repeats = Repeats(quiet_s=QUIET_S)
        self._told = False  # that it is down

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        started = trio.current_time()
        try:
            answer = await run()
        except VfsError as error:
            self._note(call, error, trio.current_time() - started)
            raise
        self._note(call, None, trio.current_time() - started)
        return answer

    def _note(self, call: Call, error: VfsError | None, took_s: float) -> None:
        before = self._metrics.health[self.url]
        single_s = None if call.operation == "probe" else took_s
        found = self._metrics.health[self.url] = after(before, error, single_s)
        # Before its first answer whoever opens the store hears of every failure.
        if not before.answered or before.up == found.up:
            return
        if found.up:
            log.log(logging.INFO if self._told else logging.DEBUG, "%s can be used again", self.url)
            self._told = False
            return
        more = self._repeats.turn("down", trio.current_time())
        self._told = more is not None
        level = logging.WARNING if self._told else logging.DEBUG
        log.log(level, "%s cannot be used: %s%s", self.url, found.last_error, more or "")
