"""Waiting for bandwidth: the effect around `bucket.py`, in each direction.

There is no task in the background: of those who wait one drives, which is to sleep until the next
piece may pass and to wake whose last piece it was. When it leaves, the next one drives.
"""

from collections.abc import Callable

import trio

from vfs.store.rates import NO_LIMITS, Rates
from vfs.store.wrap.bucket import Bucket, Ticket


class Lane:
    """One direction."""

    def __init__(self, rate_bytes_per_s: int | None = None) -> None:
        self.on_pass: Callable[[], None] = lambda: None  # bytes of somebody who waited may go
        self._bucket = Bucket(rate_bytes_per_s)
        self._parked: dict[Ticket, trio.Event] = {}
        self._driven = False
        self._changed = trio.Event()

    @property
    def rate_bytes_per_s(self) -> int | None:
        """Bytes a second, None without a limit."""
        return self._bucket.rate_bytes_per_s

    def change(self, rate_bytes_per_s: int | None) -> None:
        """Set a new rate, also for the calls that wait now."""
        self._bucket.change(rate_bytes_per_s, trio.current_time())
        self._changed.set()
        self._changed = trio.Event()

    @property
    def passed_bytes(self) -> int:
        """Bytes that have waited here and passed, ever: it moves while anybody's turn comes."""
        return self._bucket.passed_bytes

    async def pay(self, file: str, count: int) -> None:
        """Wait until `count` bytes of a file may pass.

        Cancellation: they are not owed. Concurrency: any number of tasks.
        """
        if count == 0 or self._bucket.is_open:
            return
        ticket = self._bucket.ask(file, count, trio.current_time())
        try:
            self._advance()
            while ticket.left:
                if self._driven:
                    parked = self._parked[ticket] = trio.Event()
                    await parked.wait()
                else:
                    await self._drive(ticket)
        finally:
            self._parked.pop(ticket, None)
            if ticket.left:
                self._bucket.withdraw(ticket, trio.current_time())
            if not self._driven:
                self._wake(next(iter(self._parked), None))

    async def _drive(self, own: Ticket) -> None:
        self._driven = True
        try:
            while own.left:
                with trio.move_on_after(self._bucket.wait_s(trio.current_time())):
                    await self._changed.wait()
                self._advance()
        finally:
            self._driven = False

    def _advance(self) -> None:
        before = self._bucket.passed_bytes
        for ticket in self._bucket.grant(trio.current_time()):
            self._wake(ticket)
        if self._bucket.passed_bytes != before:
            self.on_pass()

    def _wake(self, ticket: Ticket | None) -> None:
        if ticket in self._parked:
            self._parked.pop(ticket).set()


class Bandwidth:
    """The limits of both directions; one object may be shared by several stores."""

    def __init__(self, rates: Rates = NO_LIMITS) -> None:
        self.up = Lane(rates.up_bytes_per_s)
        self.down = Lane(rates.down_bytes_per_s)

    @property
    def rates(self) -> Rates:
        """What holds now."""
        return Rates(self.up.rate_bytes_per_s, self.down.rate_bytes_per_s)

    def change(self, rates: Rates) -> None:
        """Set new rates, also for the calls that wait now."""
        self.up.change(rates.up_bytes_per_s)
        self.down.change(rates.down_bytes_per_s)
