"""What to read ahead: a pure function of the recent requests of one handle.

A guest's disk has several sequential readers at once, so a handle follows a few streams, each a
place where the next request is expected and a window. A request that falls near a stream's place
continues it; any other begins a stream in place of the one idle longest. The window doubles while
the reader keeps going and is never more than the caller allows; a request out of the blue fetches
nothing but itself.
"""

from dataclasses import dataclass, replace

from vfs.values import KIB, MIB, Span

STREAMS = 4
FIRST_BYTES = 1 * MIB
STEP_BYTES = 4 * MIB
STEPS = 8
"""A wide window is filled by at least so many requests, of at most `STEP_BYTES`."""
SLACK_BYTES = 512 * KIB
"""The kernel's own read-ahead may deliver requests this far out of order."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One sequential reader."""

    next: int  # offset where its next request is expected
    window: int  # bytes wanted beyond that, 0 while it has only asked once
    ahead: int  # offset up to which bytes were asked for


@dataclass(frozen=True, slots=True)
class History:
    """The streams of a handle, the most recently active last."""

    streams: tuple[Stream, ...] = ()


def advance(history: History, request: Span, limit: int) -> tuple[History, Span]:
    """Return the new history and the span to start fetching beyond `request` (often empty)."""
    found = next((one for one in history.streams if _continues(one, request)), None)
    if found is None:
        fresh = Stream(request.stop, 0, request.stop)
        return History((*history.streams[-STREAMS + 1 :], fresh)), Span(request.stop, request.stop)
    window = min(max(2 * found.window, FIRST_BYTES), max(limit, 0))
    place = max(found.next, request.stop)
    start = max(found.ahead, place)
    stop = place + window
    # Ask in large steps: a window that moves by one request at a time would become small requests.
    step = max(FIRST_BYTES, min(window // STEPS, STEP_BYTES))
    if stop - start < min(step, window):
        moved = replace(found, next=place, window=window)
        wanted = Span(start, start)
    else:
        moved = Stream(place, window, stop)
        wanted = Span(start, stop)
    others = tuple(one for one in history.streams if one is not found)
    return History((*others, moved)), wanted


def _continues(stream: Stream, request: Span) -> bool:
    low = stream.next - SLACK_BYTES
    high = max(stream.next, stream.ahead) + SLACK_BYTES if stream.window else stream.next
    return low <= request.start <= high and request.stop > low
