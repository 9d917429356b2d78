"""The only hop from trio to blocking code of a store: SDK calls, sockets, directory I/O.

Reads, writes and small control calls have limiters of their own, so that two hundred uploads cannot
keep a listing from starting.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import outcome
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

    @classmethod
    def of(cls, max_connections: int) -> "Threads":
        """Share out a number of connections."""
        half = max(1, max_connections // 2)
        return cls(
            trio.CapacityLimiter(max_connections),
            trio.CapacityLimiter(half),
            trio.CapacityLimiter(half),
        )


async def run_blocking(limiter: trio.CapacityLimiter, work: Callable[[], T]) -> T:
    """Run `work` in a worker thread.

    Cancellation: abandons the wait for reads only through the caller's own time-out; the thread is
    always waited for, so buffers that it fills stay valid until it is done.
    """
    return await trio.to_thread.run_sync(work, limiter=limiter)


async def run_abandonable(limiter: trio.CapacityLimiter, work: Callable[[], T]) -> T:
    """Run `work`, which only asks the store and fills no buffer, in a worker thread.

    Cancellation: takes effect at once; the thread goes on, keeps its place in the limiter, and its
    answer is dropped.
    """
    return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)


async def run_interruptible(
    limiter: trio.CapacityLimiter, work: Callable[[], T], interrupt: Callable[[], None]
) -> T:
    """Run `work` in a worker thread, with a way to end it early.

    Cancellation: `interrupt` is called on the loop's thread and must make `work` end soon; the
    thread is waited for all the same, so buffers that it fills stay valid. Work that was done
    before the interruption reached it counts as done.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    # A limiter that has room would be a turn of the loop all the same.
    try:
        limiter.acquire_nowait()
    except trio.WouldBlock:
        await limiter.acquire()
    try:
        task = trio.lowlevel.current_task()
        token = trio.lowlevel.current_trio_token()
        cancelled: list[trio.lowlevel.RaiseCancelT] = []

        def deliver(result: outcome.Outcome[T]) -> None:
            # The loop cannot have ended: it waits for this very task.
            token.run_sync_soon(trio.lowlevel.reschedule, task, outcome.Value(result))

        def abort(raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            cancelled.append(raise_cancel)
            interrupt()
            return trio.lowlevel.Abort.FAILED

        trio.lowlevel.start_thread_soon(work, deliver)
        result: outcome.Outcome[T] = await trio.lowlevel.wait_task_rescheduled(abort)
        if cancelled and isinstance(result, outcome.Error):
            cancelled[0]()  # raises Cancelled: the failure is that of the interruption
        return result.unwrap()
    finally:
        limiter.release()
