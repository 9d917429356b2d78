"""Bytes that may pass, and whose turn it is: arithmetic alone, the caller brings the time.

The bucket may go into debt by one piece: a piece passes when those before it are paid off, whatever
its own size. So the average holds, and nothing waits where nothing was sent lately.

Each file has a queue, first come first served, and the queues take turns, one piece each: a file
with a hundred parts waiting holds up another one by a piece, not by a hundred parts. A request
passes with its last piece.
"""

from collections import deque
from dataclasses import dataclass

PIECE_BYTES = 64 << 10
"""At the lowest rate that is allowed, 16 KiB/s, a turn takes 4 s."""

PIECE_S = 0.01
"""At high rates a piece is what passes in this time: more turns would cost more than they give."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request in a queue."""

    file: str
    left: int  # bytes that may not pass yet; at 0 the request may go
    passed: int = 0


class Bucket:
    """A rate, what is owed, and who waits; a rate of None lets everything pass."""

    def __init__(self, rate_bytes_per_s: int | None = None) -> None:
        self.passed_bytes = 0  # through the queues, ever
        self._rate = rate_bytes_per_s
        self._debt = 0.0  # bytes that have passed and are not paid off; below 0 by a late wake-up
        self._counted_at_s = 0.0
        self._queues: dict[str, deque[Ticket]] = {}  # by file, in the order of their turns

    @property
    def rate_bytes_per_s(self) -> int | None:
        """Bytes a second, None without a limit."""
        return self._rate

    @property
    def is_open(self) -> bool:
        """Whether a request may go without asking."""
        return self._rate is None and not self._queues

    def change(self, rate_bytes_per_s: int | None, now_s: float) -> None:
        """Set a new rate, also for those who wait."""
        self._settle(now_s)
        self._rate = rate_bytes_per_s

    def ask(self, file: str, count: int, now_s: float) -> Ticket:
        """Queue a request of `count` bytes, at least 1."""
        self._settle(now_s)  # while nobody waits no credit is saved
        ticket = Ticket(file, count)
        self._queues.setdefault(file, deque()).append(ticket)
        return ticket

    def withdraw(self, ticket: Ticket, now_s: float) -> None:
        """Take back a request that has not passed; its pieces are not owed any more."""
        self._settle(now_s)
        queue = self._queues[ticket.file]
        queue.remove(ticket)
        if not queue:
            del self._queues[ticket.file]
        self._debt = max(min(self._debt, 0.0), self._debt - ticket.passed)

    def grant(self, now_s: float) -> list[Ticket]:
        """Let pass what may; return the requests that have passed as a whole."""
        self._settle(now_s)
        through: list[Ticket] = []
        # Less than a byte is rounding: to wait for it would be to wait for no time at all.
        while self._queues and (self._rate is None or self._debt < 1):
            file = next(iter(self._queues))
            queue = self._queues.pop(file)
            ticket = queue[0]
            piece = ticket.left if self._rate is None else min(ticket.left, self._piece_bytes)
            ticket.left -= piece
            ticket.passed += piece
            self.passed_bytes += piece
            if self._rate is not None:
                self._debt += piece
            if not ticket.left:
                through.append(queue.popleft())
            if queue:
                self._queues[file] = queue  # behind the others
        return through

    def wait_s(self, now_s: float) -> float:
        """Return how long nothing can pass."""
        self._settle(now_s)
        return 0.0 if self._rate is None else max(0.0, self._debt) / self._rate

    @property
    def _piece_bytes(self) -> int:
        return PIECE_BYTES if self._rate is None else max(PIECE_BYTES, int(self._rate * PIECE_S))

    def _settle(self, now_s: float) -> None:
        if self._rate is None:
            self._debt = 0.0
        else:
            paid = (now_s - self._counted_at_s) * self._rate
            # Who is woken late has not lost the time; but a rest is not saved up for a burst.
            most = -float(self._piece_bytes) if self._queues else 0.0
            self._debt = max(most, self._debt - paid)
        self._counted_at_s = now_s
