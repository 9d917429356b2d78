"""Time as one replaceable value, so that tests own it.

Durations and deadlines come from trio's clock (`trio.current_time`), which tests replace by a
virtual one; this module is for what must outlive a process or be shown to a person.
"""

import time
from collections.abc import Callable

WallClock = Callable[[], int]
"""Nanoseconds since the epoch."""


def wall_ns() -> int:
    """Return the machine's wall-clock time, nanoseconds since the epoch."""
    return time.time_ns()
