"""How many bytes the stage may hold, and who waits when it is full.

A writer reserves before it writes. When the budget is used up it waits for uploads to drain; when
nothing has drained for `wait_s`, it gets FullError (ENOSPC): no request hangs, nothing is cut
short. A part of the stage is not for writers: what a commit needs to finish (clean bytes that
complete a part, old bytes that a writer overwrites meanwhile) is taken from it, without waiting.
"""

from collections.abc import Callable

import trio

from vfs.errors import FullError


class StageBudget:
    """Bytes of staged content, bounded."""

    def __init__(self, limit_bytes: int, wait_s: float, *, reserved_bytes: int = 0) -> None:
        self.limit_bytes = limit_bytes
        self._writable_bytes = limit_bytes - reserved_bytes
        self.used_bytes = 0
        self._wait_s = wait_s
        self._drained = trio.Event()
        self._last_drain = float("-inf")
        self.on_pressure: Callable[[], None] = lambda: None

    def take(self, count: int) -> bool:
        """Reserve bytes if they fit now."""
        if self.used_bytes + count > self._writable_bytes:
            return False
        self.used_bytes += count
        return True

    async def reserve(self, count: int) -> None:
        """Reserve bytes, waiting while uploads drain.

        Errors: FullError when nothing has drained for the time limit, or it can never fit.
        """
        if self.take(count):
            return
        if count > self._writable_bytes:
            raise FullError(
                f"a write of {count} bytes does not fit the stage of {self.limit_bytes} bytes: "
                "raise stage_size"
            )
        waiting_since = trio.current_time()
        while not self.take(count):
            self.on_pressure()
            if self.take(count):  # pressure may have freed bytes at once
                return
            limit = max(waiting_since, self._last_drain) + self._wait_s
            with trio.move_on_at(limit) as scope:
                await self._drained.wait()
            if scope.cancelled_caught:
                raise FullError(
                    f"the stage is full ({self.used_bytes} of {self.limit_bytes} bytes) and nothing"
                    f" was uploaded for {self._wait_s:g} s: see vfs status, raise stage_size"
                )

    def free(self, count: int) -> None:
        """Give bytes back and let waiting writers look again."""
        if count <= 0:
            return
        self.used_bytes -= count
        self.progress()

    def settle(self, reserved: int) -> None:
        """Give back what was reserved and not used; a negative count is taken from the reserve."""
        if reserved < 0:
            self.used_bytes -= reserved
        else:
            self.free(reserved)

    def progress(self) -> None:
        """Note that uploads are moving, so that waiting writers keep waiting."""
        self._last_drain = trio.current_time()
        self._drained.set()
        self._drained = trio.Event()
