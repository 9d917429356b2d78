"""Lets only so many calls and so many bytes a second through.

Calls have turns by kind, so that two hundred uploads keep no listing waiting: *control* calls,
which are short, have slots of their own; the others share the rest, of which uploads get three
quarters at most. A call first pays for its bytes and only then takes a slot: waiting for bandwidth
holds none.

Bandwidth is a bucket that may go into debt: a call starts when the debt of those before it is paid
off, whatever its own size. So a large part is not cut, and the average holds.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.store.base import Store
from vfs.store.wrap.base import Call, WrappedStore

T = TypeVar("T")

_CONTROL = frozenset({"probe", "head", "list", "remove", "begin_upload", "abort_upload"})
_READS = frozenset({"read"})


class Bucket:
    """Bytes that may pass, refilled at a rate; None lets everything pass."""

    def __init__(self, rate_bytes_per_s: float | None = None) -> None:
        self._rate = rate_bytes_per_s
        self._debt = 0.0  # bytes that were let through and are not paid for yet
        self._counted_at = -math.inf
        self._turn = trio.StrictFIFOLock()
        self._changed = trio.Event()

    @property
    def rate_bytes_per_s(self) -> float | None:
        """The rate; may be set while calls wait."""
        return self._rate

    @rate_bytes_per_s.setter
    def rate_bytes_per_s(self, rate: float | None) -> None:
        self._settle()
        self._rate = rate
        self._changed.set()
        self._changed = trio.Event()

    async def pay(self, count: int) -> None:
        """Wait until `count` bytes may pass."""
        if count == 0 or (self._rate is None and not self._turn.locked()):
            return
        async with self._turn:
            while (wait_s := self._wait_s()) > 0:
                with trio.move_on_after(wait_s):
                    await self._changed.wait()
            self._debt += count

    def _settle(self) -> None:
        now = trio.current_time()
        paid = (now - self._counted_at) * self._rate if self._rate is not None else math.inf
        self._debt = max(0.0, self._debt - paid)
        self._counted_at = now

    def _wait_s(self) -> float:
        self._settle()
        return self._debt / self._rate if self._rate is not None else 0.0


class Bandwidth:
    """The limits of both directions; one object may be shared by several stores."""

    def __init__(self, up: float | None = None, down: float | None = None) -> None:
        self.up = Bucket(up)
        self.down = Bucket(down)

    def change(self, *, up_bytes_per_s: float | None, down_bytes_per_s: float | None) -> None:
        """Set new rates, also for the calls that wait now; None is no limit."""
        self.up.rate_bytes_per_s = up_bytes_per_s
        self.down.rate_bytes_per_s = down_bytes_per_s


class ThrottledStore(WrappedStore):
    """Bounds calls at one time and bytes a second."""

    def __init__(self, inner: Store, max_connections: int, limits: Bandwidth | None = None) -> None:
        super().__init__(inner)
        self.limits = limits or Bandwidth()
        # An eighth for control calls; with a single connection there are two, or none could wait.
        control = max(1, max_connections // 8)
        others = max(1, max_connections - control)
        self._control = trio.CapacityLimiter(control)
        self._data = trio.CapacityLimiter(others)
        self._uploads = trio.CapacityLimiter(max(1, others * 3 // 4))

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        await self.limits.up.pay(call.bytes_out)
        await self.limits.down.pay(call.bytes_in)
        async with self._slot(call.operation):
            return await run()

    @asynccontextmanager
    async def _slot(self, operation: str) -> AsyncGenerator[None, None]:
        # A limiter counts borrowers, which are tasks by default; one task may be in two calls.
        borrower = object()
        if operation in _CONTROL:
            async with _borrowed(self._control, borrower):
                yield
        elif operation in _READS:
            async with _borrowed(self._data, borrower):
                yield
        else:
            async with _borrowed(self._uploads, borrower), _borrowed(self._data, borrower):
                yield


@asynccontextmanager
async def _borrowed(limiter: trio.CapacityLimiter, borrower: object) -> AsyncGenerator[None, None]:
    await limiter.acquire_on_behalf_of(borrower)
    try:
        yield
    finally:
        limiter.release_on_behalf_of(borrower)
