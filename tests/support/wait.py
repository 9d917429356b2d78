"""Waiting for what another process says, with a limit."""

import select
from typing import IO


def readable(file: IO, limit_s: float) -> bool:
    """Tell whether there is something to read, or the end, within the limit.

    Not by `select`, which takes no descriptor above 1023.
    """
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(limit_s * 1000))
