"""How long a read may stand before it is asked a second time: pure decisions, by what reads took.

A read that takes a few times as long as all but the slowest of late is more likely stuck (a lost
packet, a disk that retries, one bad server behind a name) than on its way. Small and large reads
are told apart, because the large ones take their time for a reason.

Where everything is slow, asking twice makes it slower. So the patience grows with what is measured,
also with what was asked twice; and there is an allowance, earned by reads that were carried out.
"""

import math
from collections import deque

RECENT_READS = 128
"""Enough that the slowest twentieth is several reads; few enough to be of the last seconds."""

FEW_READS = 16  # below that nothing is known
SLOW_SHARE = 0.05  # the reads of late that are called slow
TIMES_AS_LONG = 3.0  # as the fastest of those

# The pauses of a busy machine, this one's or the server's: they end without our help.
LEAST_S = 0.25
UNKNOWN_S = 10.0  # while nothing is known; the slowest link has begun to answer by then

EARNED_PER_READ = 0.03
MOST_EARNED = 4.0

_LEAST_BITS = 18  # reads up to 256 KiB are small


class Patience:
    """What reads of each size took of late, and how often one was asked twice."""

    def __init__(self, most_s: float) -> None:
        """Make it; no read may stand longer than `most_s`."""
        self._most_s = most_s
        self._recent: dict[int, _Recent] = {}
        self._earned = MOST_EARNED

    def limit_s(self, size: int) -> float:
        """Return how long a read of so many bytes may stand."""
        recent = self._recent.get(_class_of(size))
        return min(self._most_s, UNKNOWN_S if recent is None else recent.limit_s)

    def note(self, size: int, took_s: float) -> None:
        """Take note of a read that was carried out, by its first request or its second."""
        kind = _class_of(size)
        recent = self._recent.get(kind)
        if recent is None:
            recent = self._recent[kind] = _Recent()
        recent.add(took_s)
        self._earned = min(MOST_EARNED, self._earned + EARNED_PER_READ)

    def spend(self) -> bool:
        """Tell whether one more read may be asked twice, and count it."""
        if self._earned < 1:
            return False
        self._earned -= 1
        return True


class _Recent:
    """Reads of about one size."""

    __slots__ = ("_left", "_took_s", "limit_s")

    def __init__(self) -> None:
        self.limit_s = UNKNOWN_S
        self._took_s: deque[float] = deque(maxlen=RECENT_READS)
        self._left = FEW_READS  # until the limit is worked out again

    def add(self, took_s: float) -> None:
        self._took_s.append(took_s)
        self._left -= 1
        if self._left == 0:
            self._left = FEW_READS
            slow = max(1, math.ceil(len(self._took_s) * SLOW_SHARE))
            self.limit_s = max(LEAST_S, TIMES_AS_LONG * sorted(self._took_s)[-slow])


def _class_of(size: int) -> int:
    """Return the same number for sizes within a factor of four."""
    return max(0, (size - 1).bit_length() - _LEAST_BITS + 1) // 2
