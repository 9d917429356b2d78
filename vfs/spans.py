"""A set of bytes as sorted, disjoint spans that do not touch: what is changed, present, missing.

`SpanSet` is immutable: worker threads may read one while the loop replaces it by another, and a
snapshot of a file's changes costs nothing. Updates cost one tuple copy, which stays cheap while
neighbours merge, as the writes of disk images do.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from typing_extensions import override

from vfs.values import Span


class SpanSet:
    """Immutable set of byte positions."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        starts: list[int] = []
        stops: list[int] = []
        for span in sorted(spans):
            if not span:
                continue
            if stops and span.start <= stops[-1]:
                stops[-1] = max(stops[-1], span.stop)
            else:
                starts.append(span.start)
                stops.append(span.stop)
        self._starts = tuple(starts)
        self._stops = tuple(stops)

    @classmethod
    def _of(cls, starts: tuple[int, ...], stops: tuple[int, ...]) -> "SpanSet":
        made = cls.__new__(cls)
        made._starts, made._stops = starts, stops  # noqa: SLF001 - our own constructor
        return made

    def add(self, span: Span) -> "SpanSet":
        """Return the union with one span."""
        if not span:
            return self
        first = bisect_left(self._stops, span.start)  # first run that touches or follows
        last = bisect_right(self._starts, span.stop)  # first run beyond
        start, stop = span.start, span.stop
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
            if last - first == 1 and start == self._starts[first] and stop == self._stops[first]:
                return self
        return SpanSet._of(
            (*self._starts[:first], start, *self._starts[last:]),
            (*self._stops[:first], stop, *self._stops[last:]),
        )

    def remove(self, span: Span) -> "SpanSet":
        """Return what is left without one span."""
        if not span:
            return self
        first = bisect_right(self._stops, span.start)
        last = bisect_left(self._starts, span.stop)
        if first >= last:
            return self
        starts: list[int] = []
        stops: list[int] = []
        if self._starts[first] < span.start:
            starts.append(self._starts[first])
            stops.append(span.start)
        if self._stops[last - 1] > span.stop:
            starts.append(span.stop)
            stops.append(self._stops[last - 1])
        return SpanSet._of(
            (*self._starts[:first], *starts, *self._starts[last:]),
            (*self._stops[:first], *stops, *self._stops[last:]),
        )

    def within(self, span: Span) -> Iterator[Span]:
        """Yield the parts of this set inside `span`, ascending."""
        if not span:
            return
        for index in range(bisect_right(self._stops, span.start), len(self._starts)):
            if self._starts[index] >= span.stop:
                return
            yield Span(max(self._starts[index], span.start), min(self._stops[index], span.stop))

    def missing(self, span: Span) -> Iterator[Span]:
        """Yield the parts of `span` outside this set, ascending."""
        position = span.start
        for run in self.within(span):
            if run.start > position:
                yield Span(position, run.start)
            position = run.stop
        if position < span.stop:
            yield Span(position, span.stop)

    def covers(self, span: Span) -> bool:
        """Tell whether every byte of `span` is in this set."""
        if not span:
            return True
        index = bisect_right(self._stops, span.start)
        return (
            index < len(self._starts)
            and self._starts[index] <= span.start
            and span.stop <= self._stops[index]
        )

    def touches(self, span: Span) -> bool:
        """Tell whether any byte of `span` is in this set."""
        return next(self.within(span), None) is not None

    def union(self, other: "SpanSet") -> "SpanSet":
        """Return the bytes that are in either."""
        if not self:
            return other
        return SpanSet((*self, *other)) if other else self

    def minus(self, other: "SpanSet") -> "SpanSet":
        """Return the bytes of this set that are not in `other`."""
        if not other:
            return self
        return SpanSet(gap for run in self for gap in other.missing(run))

    def shared(self, other: "SpanSet") -> "SpanSet":
        """Return the bytes that are in both."""
        return SpanSet(part for run in self for part in other.within(run))

    def cut(self, size: int) -> "SpanSet":
        """Return the bytes below `size`."""
        return self.remove(Span(size, max(size, self.stop)))

    @property
    def size(self) -> int:
        """Number of bytes in the set."""
        return sum(self._stops) - sum(self._starts)

    @property
    def stop(self) -> int:
        """One past the last byte; 0 for the empty set."""
        return self._stops[-1] if self._stops else 0

    def __iter__(self) -> Iterator[Span]:
        return map(Span, self._starts, self._stops)

    def __len__(self) -> int:
        return len(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpanSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    @override
    def __hash__(self) -> int:
        return hash((self._starts, self._stops))

    @override
    def __repr__(self) -> str:
        return f"SpanSet([{', '.join(f'{run.start}:{run.stop}' for run in self)}])"


EMPTY = SpanSet()
