"""Lets only so many calls and so many bytes a second through.

Calls have turns by kind, so that two hundred uploads keep no listing waiting: *control* calls,
which are short, have slots of their own; the others share the rest, of which uploads get three
quarters at most. A call first pays for its bytes (`bandwidth.py`) and only then takes a slot:
waiting for bandwidth holds none. What the store copies itself is free.

A store that asks for fewer requests gets fewer (`pace.py`), by making the slots fewer. A pause that
it asks for is kept by all but the control calls: what made it complain were not those.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.errors import ThrottledError, TransientError
from vfs.metrics import Metrics
from vfs.store.base import Store
from vfs.store.wrap.bandwidth import Bandwidth
from vfs.store.wrap.base import Call, WrappedStore
from vfs.store.wrap.pace import Pace, faster, slower

T = TypeVar("T")

log = logging.getLogger(__name__)

_CONTROL = frozenset({"probe", "head", "list", "remove", "begin_upload", "abort_upload"})
_READS = frozenset({"read"})


class Throttle:
    """Bounds calls at one time and bytes a second, to and from one store.

    The gauge `store_concurrency{store}` is the number of calls that the store gets at one time.
    """

    def __init__(
        self,
        url: str,
        max_connections: int,
        limits: Bandwidth | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.url = url
        self.limits = limits or Bandwidth()
        self._metrics = metrics or Metrics()
        self._metrics.add("store_concurrency", max_connections, store=url)
        self._pace = Pace(most=max_connections, limit=max_connections)
        self._running = 0
        control, data, uploads = _shares(max_connections)
        self._control = trio.CapacityLimiter(control)
        self._data = trio.CapacityLimiter(data)
        self._uploads = trio.CapacityLimiter(uploads)

    async def admit(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        """Carry out a call when it is its turn."""
        asked_s = trio.current_time()
        await self._pay(call)
        waited_s = trio.current_time() - asked_s
        try:
            # A limiter counts borrowers, which are tasks by default; one task may be in two calls.
            borrower, slots = object(), self._slots(call.operation)
            await _borrow(slots, borrower)
            try:
                return await self._paced(call, run)
            finally:
                _give_back(slots, borrower)
        except TransientError as error:
            error.waited_s = waited_s
            raise

    async def admit_spare(self, read: Call, run: Callable[[], Awaitable[T]]) -> T:
        """Carry out a read that can be done without.

        Errors: WouldBlock when all slots are taken, or the store asks for fewer requests.
        """
        await self._pay(read)
        if self._pace.limit < self._pace.most:
            raise trio.WouldBlock
        borrower = object()
        self._data.acquire_on_behalf_of_nowait(borrower)
        try:
            return await self._paced(read, run)
        finally:
            self._data.release_on_behalf_of(borrower)

    async def _pay(self, call: Call) -> None:
        await self.limits.up.pay(call.key, call.bytes_out)
        await self.limits.down.pay(call.key, call.bytes_in)

    async def _paced(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        if call.operation not in _CONTROL:
            # Again and again: while one waits, another answer may ask for more.
            while trio.current_time() < self._pace.resume_at_s:  # noqa: ASYNC110 - a point in time
                await trio.sleep_until(self._pace.resume_at_s)
        begun_s = trio.current_time()
        self._running += 1
        try:
            answer = await run()
        except ThrottledError as error:
            self._adapt(
                slower(
                    self._pace,
                    begun_s=begun_s,
                    now_s=trio.current_time(),
                    running=self._running,
                    retry_after_s=error.retry_after_s,
                )
            )
            raise
        finally:
            self._running -= 1
        self._adapt(faster(self._pace, begun_s=begun_s))
        return answer

    def _adapt(self, pace: Pace) -> None:
        before, self._pace = self._pace, pace
        if pace.limit == before.limit:
            return
        control, data, uploads = _shares(pace.limit)
        self._control.total_tokens = control
        self._data.total_tokens = data
        self._uploads.total_tokens = uploads
        self._metrics.add("store_concurrency", pace.limit - before.limit, store=self.url)
        if pace.limit < before.limit:
            log.info("%s asks for fewer requests: %d at one time", self.url, pace.limit)
        elif pace.limit == pace.most:
            log.info("%s gets up to %d requests at one time again", self.url, pace.limit)

    def _slots(self, operation: str) -> tuple[trio.CapacityLimiter, ...]:
        """Return of what a call takes one each, in this order."""
        if operation in _CONTROL:
            return (self._control,)
        if operation in _READS:
            return (self._data,)
        return (self._uploads, self._data)


class ThrottledStore(WrappedStore):
    """A store that gets no more than its throttle admits."""

    def __init__(self, inner: Store, throttle: Throttle) -> None:
        super().__init__(inner)
        self._throttle = throttle

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        return await self._throttle.admit(call, run)


def _shares(limit: int) -> tuple[int, int, int]:
    """Return the slots of control calls, of all others, and of uploads among those."""
    # An eighth for control calls; with a single connection there are two, or none could wait.
    control = max(1, limit // 8)
    others = max(1, limit - control)
    return control, others, max(1, others * 3 // 4)


async def _borrow(slots: Iterable[trio.CapacityLimiter], borrower: object) -> None:
    """Take one of each; none when this is cancelled."""
    taken: list[trio.CapacityLimiter] = []
    try:
        for limiter in slots:
            try:
                limiter.acquire_on_behalf_of_nowait(borrower)
            except trio.WouldBlock:
                await limiter.acquire_on_behalf_of(borrower)
            taken.append(limiter)
    except BaseException:
        _give_back(taken, borrower)
        raise


def _give_back(slots: Iterable[trio.CapacityLimiter], borrower: object) -> None:
    for limiter in slots:
        limiter.release_on_behalf_of(borrower)
