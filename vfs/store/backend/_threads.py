"""The only hop from trio to blocking code of a store: SDK calls, sockets, directory I/O.

Reads, writes and small control calls have limiters of their own, so that two hundred uploads cannot
keep a listing from starting.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

T = TypeVar("T")


def _limiter(count: int) -> Callable[[], trio.CapacityLimiter]:
    return lambda: trio.CapacityLimiter(count)


@dataclass(frozen=True, slots=True)
class Threads:
    """Worker threads of one store, by what they wait for."""

    reads: trio.CapacityLimiter = field(default_factory=_limiter(64))
    writes: trio.CapacityLimiter = field(default_factory=_limiter(32))
    control: trio.CapacityLimiter = field(default_factory=_limiter(32))


async def run_blocking(limiter: trio.CapacityLimiter, work: Callable[[], T]) -> T:
    """Run `work` in a worker thread.

    Cancellation: abandons the wait for reads only through the caller's own time-out; the thread is
    always waited for, so buffers that it fills stay valid until it is done.
    """
    return await trio.to_thread.run_sync(work, limiter=limiter)
