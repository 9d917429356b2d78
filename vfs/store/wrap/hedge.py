"""Asks a second time for what a read is slow to bring; whichever answers first is believed.

Inside the throttle, so that what waits for its turn is not taken for slow; a second request has to
pay and to find a free slot like any other, and gives up where there is none (`Throttle`). When, and
how often, is decided in `patience.py`.

The second request fills memory of its own, because the first one's thread may still write into the
caller's. When it wins, the first is cancelled, its thread has ended, and then the bytes are copied.
One task watches all reads: an ordinary one costs no timer and no task of its own.

`store_hedges_total{store, result}` counts second requests: WON, LOST (the first was faster),
NO_ROOM, or the code of the error.
"""

import logging
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio
from typing_extensions import override

from vfs.errors import ThrottledError, TransientError, VfsError
from vfs.metrics import Metrics
from vfs.store.base import ObjectVersion, Store
from vfs.store.wrap.base import Call, WrappedStore
from vfs.store.wrap.patience import Patience
from vfs.store.wrap.throttle import Throttle
from vfs.tasks import open_tasks
from vfs.values import Span

log = logging.getLogger(__name__)

MOST_AT_ONCE = 4
"""Second requests under way: each has memory of its own, of a whole read (4 MiB)."""


class _Read:
    """A read under way."""

    __slots__ = ("due_s", "first", "found", "second", "second_over", "source", "span")

    def __init__(self, source: ObjectVersion, span: Span, due_s: float) -> None:
        self.source = source
        self.span = span
        self.due_s = due_s  # when it has stood for too long; inf: it was asked twice
        self.first = trio.CancelScope()
        self.second: trio.CancelScope | None = None
        self.second_over = trio.Event()
        self.found: bytearray | VfsError = bytearray()  # by the second request, when it wins


class HedgedStore(WrappedStore):
    """Asks for slow reads twice, while `watch` runs."""

    def __init__(
        self, inner: Store, throttle: Throttle, metrics: Metrics, patience: Patience
    ) -> None:
        super().__init__(inner)
        self._throttle = throttle
        self._metrics = metrics
        self._patience = patience
        self._reads: set[_Read] = set()
        self._hedges = 0
        self._next_s = math.inf  # when `watch` looks again
        self._sooner = trio.Event()

    @override
    async def read_into(
        self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]
    ) -> None:
        begun_s = trio.current_time()
        read = _Read(source, span, begun_s + self._patience.limit_s(span.size))
        self._reads.add(read)
        if read.due_s < self._next_s:
            self._sooner.set()
        try:
            with read.first:
                await self._ask_first(read, buffers)
        finally:
            self._reads.discard(read)
            if read.second is not None:
                read.second.cancel()
        if read.first.cancelled_caught:
            _hand_over(read.found, buffers)
        self._patience.note(span.size, trio.current_time() - begun_s)

    async def _ask_first(self, read: _Read, buffers: Sequence[memoryview]) -> None:
        try:
            await self._inner.read_into(read.source, read.span, buffers)
        except ThrottledError:
            raise
        except TransientError:
            if read.second is None:
                raise
            await read.second_over.wait()  # when it wins, this is cancelled
            raise

    async def watch(self) -> None:
        """Look after the reads until cancelled."""
        async with open_tasks() as nursery:
            while True:
                now_s = trio.current_time()
                for read in [read for read in self._reads if read.due_s <= now_s]:
                    if self._hedges == MOST_AT_ONCE or not self._patience.spend():
                        read.due_s = now_s + self._patience.limit_s(read.span.size)
                        continue
                    read.due_s = math.inf
                    read.second = trio.CancelScope()
                    self._hedges += 1
                    nursery.start_soon(self._ask_second, read, read.second)
                self._next_s = min((read.due_s for read in self._reads), default=math.inf)
                self._sooner = trio.Event()
                with trio.move_on_at(self._next_s):
                    await self._sooner.wait()

    async def _ask_second(self, read: _Read, scope: trio.CancelScope) -> None:
        result = "LOST"
        try:
            with scope:
                result = await self._second_result(read)
        finally:
            self._hedges -= 1
            read.second_over.set()
            self._metrics.add("store_hedges_total", store=self.url, result=result)

    async def _second_result(self, read: _Read) -> str:
        try:
            found = await self._carry_out(read)
        except trio.WouldBlock:
            return "NO_ROOM"
        except VfsError as error:
            if not error.transient:
                self._win(read, error)
            return error.code
        except Exception:
            # A fault of ours; the first request may still succeed.
            log.exception("second read of %r failed unexpectedly", read.source.key)
            return "FAILED"
        self._win(read, found)
        return "WON"

    async def _carry_out(self, read: _Read) -> bytearray:
        found = bytearray()

        async def run() -> None:
            found.extend(bytes(read.span.size))
            await self._inner.read_into(read.source, read.span, [memoryview(found)])

        call = Call("read", read.source.key, bytes_in=read.span.size)
        await self._throttle.admit_spare(call, run)
        return found

    @staticmethod
    def _win(read: _Read, found: bytearray | VfsError) -> None:
        read.found = found
        read.first.cancel()


def _hand_over(found: bytearray | VfsError, buffers: Sequence[memoryview]) -> None:
    if isinstance(found, VfsError):
        raise found
    at = 0
    for buffer in buffers:
        buffer[:] = memoryview(found)[at : at + len(buffer)]
        at += len(buffer)


@asynccontextmanager
async def open_hedged(
    inner: Store, throttle: Throttle, metrics: Metrics, *, most_s: float
) -> AsyncGenerator[Store, None]:
    """Ask for slow reads twice; none stands longer than `most_s` without that."""
    store = HedgedStore(inner, throttle, metrics, Patience(most_s))
    async with open_tasks() as nursery:
        nursery.start_soon(store.watch)
        yield store
        nursery.cancel_scope.cancel()
