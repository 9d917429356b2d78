"""A trio loop that stands still between the steps of a test that is no coroutine.

    loop = Loop()
    loop.call(some_async_function, argument)
    loop.close()

Tasks that `loop.nursery` runs go on only while a call is under way, so a test of Hypothesis that
chooses its next step by what it sees can be repeated exactly. Time is virtual; what vfs would do in
worker threads is done in the loop (`inline_threads`), so nothing depends on the machine's mood.
"""

import threading
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import trio
from trio.testing import MockClock

T = TypeVar("T")
LONGEST_S = 120.0  # real seconds that a call may take

Job = tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]


class Loop:
    """Runs coroutines one by one in a thread of its own."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._failed = False  # and has told of it: it answers no more
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine to its end."""
        self._jobs.put((function, args))
        return self._answer()

    def _answer(self) -> Any:
        try:
            result, error = self._answers.get(timeout=LONGEST_S)
        except Empty:
            raise TimeoutError("the loop does not answer") from None
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Cancel all that is still running."""
        if not self._failed:
            self._jobs.put(None)
            self._answer()
        self._thread.join()

    def _run(self) -> None:
        try:
            trio.run(self._serve, clock=MockClock(autojump_threshold=0))
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._failed = True
            self._answers.put((None, error))
        else:
            self._answers.put((None, None))

    async def _serve(self) -> None:
        async with trio.open_nursery() as self.nursery:
            while (job := self._jobs.get()) is not None:  # blocks the loop, on purpose
                function, args = job
                try:
                    self._answers.put((await function(*args), None))
                except Exception as error:  # noqa: BLE001 - the caller's
                    self._answers.put((None, error))
            self.nursery.cancel_scope.cancel()


async def inline_threads(function: Callable[..., T], *args: Any, **_options: Any) -> T:
    """Stand in for `trio.to_thread.run_sync`: others may run before and after, never meanwhile."""
    await trio.lowlevel.checkpoint()
    result = function(*args)
    await trio.lowlevel.cancel_shielded_checkpoint()
    return result
