"""How many requests a store gets at one time, by what it says of them: pure decisions.

A store that asks for fewer gets half as many; each round of successes at the present number allows
one more (additive increase, multiplicative decrease, as TCP does it: RFC 5681, section 3.1). A
hundred requests that are refused together are one refusal: what was sent before the last cut says
nothing about the number since, and a cut has a second to show its effect.
"""

import math
from dataclasses import dataclass, replace

CUT_EVERY_S = 1.0
MAX_HOLD_S = 30.0
"""Longest that one answer stops the others; who got it waits for as long as it was told."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What a store gets now."""

    most: int  # max_connections
    limit: int  # requests at one time
    successes: int = 0  # since the limit was last changed
    cut_at_s: float = -math.inf
    resume_at_s: float = -math.inf  # no new request before


def slower(
    pace: Pace, *, begun_s: float, now_s: float, running: int, retry_after_s: float | None
) -> Pace:
    """Return the pace after a refusal of a request; `running` counts all of the moment, and it."""
    if retry_after_s is not None:
        hold_s = min(retry_after_s, MAX_HOLD_S)
        pace = replace(pace, resume_at_s=max(pace.resume_at_s, now_s + hold_s))
    if begun_s < pace.cut_at_s or now_s < pace.cut_at_s + CUT_EVERY_S:
        return pace
    # Of what it really got: to halve a limit that nobody makes use of would change nothing.
    limit = max(1, min(pace.limit, running) // 2)
    return replace(pace, limit=limit, successes=0, cut_at_s=now_s)


def faster(pace: Pace, *, begun_s: float) -> Pace:
    """Return the pace after a request that the store carried out."""
    if pace.limit == pace.most or begun_s < pace.cut_at_s:
        return pace
    if pace.successes + 1 < pace.limit:
        return replace(pace, successes=pace.successes + 1)
    return replace(pace, limit=pace.limit + 1, successes=0)
