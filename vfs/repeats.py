"""When to tell again what has been told: pure; the time is passed in.

A log with a line for every request that fails says no more than one with a line for each cause, and
fills the disk during an outage.
"""

from collections import OrderedDict
from collections.abc import Hashable

QUIET_S = 300.0
"""Often enough for whoever reads the last minutes of a log."""


class Repeats:
    """What was told, and what was not told since."""

    def __init__(self, *, quiet_s: float = QUIET_S, most: int = 1024) -> None:
        """Make it; of more than `most` subjects those that were told first may be told again."""
        self._quiet_s = quiet_s
        self._most = most
        self._told: OrderedDict[Hashable, _Told] = OrderedDict()

    def turn(self, subject: Hashable, now_s: float) -> str | None:
        """Return what to add to a line about this, None when there is to be no line."""
        told = self._told.get(subject)
        if told is not None and now_s < told.at_s + self._quiet_s:
            told.kept_back += 1
            return None
        self._told[subject] = _Told(now_s)
        self._told.move_to_end(subject)
        if len(self._told) > self._most:
            self._told.popitem(last=False)
        if told is None or not told.kept_back:
            return ""
        return f" (and {told.kept_back} times more since this was last told)"


class _Told:
    """A line that was written."""

    __slots__ = ("at_s", "kept_back")

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s
        self.kept_back = 0
