"""What to read ahead: a pure function of the recent requests of one handle.

A guest's disk has several readers at once, so a handle follows several streams. A `Run` goes on
from where it was, up or down. Its requests may come out of order (the kernel's own read-ahead,
direct reads split in two, the coroutines of `qemu-img convert -m 16 -W`): a run may pass bytes over
and come back to as many. A `Stride` takes equal pieces at equal distances; what lies between is not
fetched. Requests that belong to no stream are remembered: two in a row begin a run, three at equal
distances a stride. A request out of the blue fetches nothing but itself.

A window is what is wanted ahead of a reader. It doubles when the reader comes to what was asked for
the last time that it grew, is never more than the stream's share of what the caller allows, and is
small again for a reader that has jumped. A stream that rests while others go on is forgotten.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from vfs.values import KIB, MIB, Span

STREAMS = 16
STRAYS = 8
"""Requests without a stream that are remembered: so many readers may begin at once."""
RESTING = 256
"""After so many requests of others a stream is forgotten, and its share is theirs."""
FIRST_BYTES = 1 * MIB
STEP_BYTES = 4 * MIB
STEPS = 8
"""A wide window is filled by at least so many requests, of at most `STEP_BYTES`."""
GAP_BYTES = 128 * KIB
"""Passing over so little is going on: the block in between is fetched anyway."""
SLACK_BYTES = 512 * KIB
"""The kernel's own read-ahead may deliver requests this far out of order."""
SLACK_REQUESTS = 32
"""And so many may overtake one: qemu-img reads 16 pieces at once, the kernel halves each."""
STRIDES = 32
"""Most pieces ahead of a reader with strides: each is a request."""


@dataclass(frozen=True, slots=True)
class Run:
    """A reader that goes on from where it was. Its offsets are negative if it goes down."""

    down: bool
    next: int  # offset where its next request is expected
    ahead: int  # offset up to which bytes were asked for
    mark: int  # where what was asked for when the window last grew begins
    window: int  # bytes wanted beyond `next`
    skipped: int  # bytes that it passed over and may come back to
    turn: int  # count of requests at its last one

    def continues(self, request: Span) -> bool:
        """Tell whether a request belongs to this reader."""
        if self.down:  # not by `_along`: this is asked of every stream
            start, stop = -request.stop, -request.start
        else:
            start, stop = request.start, request.stop
        gap = start - self.next
        if stop <= self.next:  # others have overtaken it
            return 2 * self.skipped >= stop - start and -gap <= _slack(stop - start)
        return gap <= GAP_BYTES or self.skipped + gap <= _slack(stop - start)

    def follow(self, request: Span, share: int, turn: int) -> tuple["Run", list[Span]]:
        """Return the run after a request, and what to fetch now."""
        start, stop = _along(request, down=self.down)
        skipped = self._skipped(start, stop)
        place = max(self.next, stop)
        begin = max(self.ahead, place)
        window = min(self.window, share)
        wider = min(max(2 * self.window, FIRST_BYTES), share) if stop > self.mark else window
        end = place + wider
        # Ask in large steps: a window that moves by one request at a time makes small requests.
        step = min(max(FIRST_BYTES, min(wider // STEPS, STEP_BYTES)), wider)
        if end - begin < max(step, 1):
            return Run(self.down, place, self.ahead, self.mark, window, skipped, turn), []
        mark = begin if wider > window else self.mark
        return Run(self.down, place, end, mark, wider, skipped, turn), self._spans(begin, end)

    def _skipped(self, start: int, stop: int) -> int:
        if stop <= self.next:  # it has come back
            return max(self.skipped - (stop - start), 0)
        # What it has not come back to for a while it will not come back to.
        return self.skipped * (SLACK_REQUESTS - 1) // SLACK_REQUESTS + max(start - self.next, 0)

    def _spans(self, begin: int, end: int) -> list[Span]:
        """Return the nearest bytes first."""
        if not self.down:
            return [Span(begin, end)]
        low = max(-end, 0)
        return list(Span(low, max(-begin, low)).pieces(STEP_BYTES))[::-1]


@dataclass(frozen=True, slots=True)
class Stride:
    """A reader of equal pieces at equal distances."""

    last: int  # offset of its latest request
    step: int  # bytes from one request to the next, negative if it goes down
    size: int  # bytes of a request
    asked: int  # pieces that were asked for beyond the latest request
    window: int  # pieces wanted beyond it
    turn: int  # count of requests at its last one

    def continues(self, request: Span) -> bool:
        """Tell whether a request belongs to this reader."""
        count, rest = divmod(request.start - self.last, self.step)
        return not rest and request.size == self.size and -self.window <= count <= self.window

    def follow(self, request: Span, share: int, turn: int) -> tuple["Stride", list[Span]]:
        """Return the stride after a request, and what to fetch now."""
        count = max((request.start - self.last) // self.step, 0)  # 0: another one overtook it
        last = self.last + count * self.step
        asked = max(self.asked - count, 0)
        most = min(STRIDES, share // self.size)
        window = min(self.window, most)
        if asked > window // 2:
            return Stride(last, self.step, self.size, asked, window, turn), []
        window = min(2 * max(window, 1), most)
        starts = (last + number * self.step for number in range(asked + 1, window + 1))
        spans = [Span(start, start + self.size) for start in starts if start >= 0]
        return Stride(last, self.step, self.size, max(asked, window), window, turn), spans


Stream: TypeAlias = Run | Stride


@dataclass(frozen=True, slots=True)
class History:
    """The streams of a handle, the most recently active last, and requests that have none."""

    streams: tuple[Stream, ...] = ()
    strays: tuple[Span, ...] = ()
    turn: int = 0  # count of requests


def advance(
    history: History, request: Span, limit: int, size: int
) -> tuple[History, tuple[Span, ...]]:
    """Return the new history and the spans to start fetching, the most urgent first.

    Shape: spans of a file of `size` bytes, outside `request`, of at most `limit` bytes together;
    part of them may have been fetched before.
    """
    turn = history.turn + 1
    streams, strays = _awake(history.streams, turn), history.strays
    stream = _find(streams, request)
    if stream is None:
        stream = _begin(strays, request)
        if stream is None:
            return History(streams, (*strays[1 - STRAYS :], request), turn), ()
        streams = streams[1 - STREAMS :]
    else:
        streams = tuple([other for other in streams if other is not stream])
    moved, spans = stream.follow(request, max(limit, 0) // (len(streams) + 1), turn)
    return History((*streams, moved), strays, turn), tuple(_inside(spans, size))


def _awake(streams: tuple[Stream, ...], turn: int) -> tuple[Stream, ...]:
    return streams[1:] if streams and turn - streams[0].turn > RESTING else streams


def _find(streams: tuple[Stream, ...], request: Span) -> Stream | None:
    for stream in reversed(streams):
        if stream.continues(request):
            return stream
    return None


def _begin(strays: tuple[Span, ...], request: Span) -> Stream | None:
    """Return the stream that a request begins together with earlier ones."""
    start, stop, size = request.start, request.stop, request.size
    for stray in reversed(strays):
        if stray.start < start <= stray.stop + size:
            return _run(stray, down=False)
        if stray.stop > stop >= stray.start - size:
            return _run(stray, down=True)
    starts = {stray.start for stray in strays if stray.stop - stray.start == size}
    for earlier in starts:
        step = start - earlier
        if earlier - step in starts and step:
            if abs(step) <= GAP_BYTES + size:  # nothing lies between that is not fetched anyway
                return _run(Span(earlier, earlier + size), down=step < 0)
            return Stride(earlier, step, size, 0, 1, 0)
    return None


def _run(first: Span, *, down: bool) -> Run:
    _, place = _along(first, down=down)
    return Run(down, place, place, place, 0, 0, 0)


def _slack(size: int) -> int:
    return max(SLACK_BYTES, SLACK_REQUESTS * size)


def _along(span: Span, *, down: bool) -> tuple[int, int]:
    """Return a span's ends in the direction of a reader."""
    return (-span.stop, -span.start) if down else (span.start, span.stop)


def _inside(spans: list[Span], size: int) -> Iterator[Span]:
    for span in spans:
        if span.start < size:
            yield span if span.stop <= size else Span(span.start, size)
