"""A set of bytes as sorted, disjoint spans that do not touch: what is changed, present, missing.

`SpanSet` is immutable: worker threads may read one while the loop replaces it by another, and a
snapshot of a file's changes costs nothing.

It keeps the edges of its spans, ascending: start, stop, start, stop. The parity of an edge's index
tells which it is, and whether a place is inside: it is where an odd number of edges lie at or
before it. The edges are cut into leaves that sets share. A change copies one leaf and the list of
leaves, so that each of a guest's scattered writes, which leave tens of thousands of spans, costs
microseconds.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from operator import itemgetter
from typing import TypeAlias

from typing_extensions import override

from vfs.values import Span

_Edges: TypeAlias = "array[int]"  # never changed once it is a leaf; 16 bytes a span

LEAF_EDGES = 1024
"""Where a leaf is split. Measured with 65,536 spans: 512 and 2048 are no quicker."""

_MANY = 16
"""Changing a set by one span costs as much as merging this many."""


class SpanSet:
    """Immutable set of byte positions below 2**63."""

    __slots__ = ("_heads", "_leaves", "_size")

    # Each leaf holds whole spans. Only the one leaf of the empty set is empty.
    _leaves: tuple[_Edges, ...]
    # Where each leaf but the first begins: at its first edge, or before, beyond the leaf before it.
    _heads: tuple[int, ...]
    _size: int

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        edges = _merged((span.start, span.stop) for span in spans if span)
        self._leaves = _cut(edges)
        self._heads = _heads(self._leaves)
        self._size = _alternating_sum(edges)

    @classmethod
    def _of(cls, leaves: tuple[_Edges, ...], heads: tuple[int, ...], size: int) -> "SpanSet":
        made = cls.__new__(cls)
        made._leaves, made._heads, made._size = leaves, heads, size  # noqa: SLF001 - constructor
        return made

    @classmethod
    def _between(cls, edges: _Edges) -> "SpanSet":
        leaves = _cut(edges)
        return cls._of(leaves, _heads(leaves), _alternating_sum(edges))

    def add(self, span: Span) -> "SpanSet":
        """Return the union with one span."""
        if self.covers(span):  # most writes of a guest change what it has changed before
            return self
        return self._changed(span.start, span.stop, 0)

    def remove(self, span: Span) -> "SpanSet":
        """Return what is left without one span."""
        return self._changed(span.start, span.stop, 1) if span and self._size else self

    def _changed(self, start: int, stop: int, parity: int) -> "SpanSet":
        """Replace the edges in `[start, stop]`: a new one goes where the index has `parity`."""
        leaves, heads = self._leaves, self._heads
        first, last = bisect_right(heads, start), bisect_right(heads, stop)
        left = bisect_left(leaves[first], start)
        right = bisect_right(leaves[last], stop)
        new = array("q")
        if left & 1 == parity:
            new.append(start)
        if right & 1 == parity:
            new.append(stop)
        if first == last:
            old = leaves[first][left:right]
        else:
            old = _joined((leaves[first][left:], *leaves[first + 1 : last], leaves[last][:right]))
        if old == new:
            return self
        growth = _alternating_sum(new) - _alternating_sum(old)
        size = self._size + (-growth if right & 1 else growth)  # odd: both end with a start
        leaf = leaves[first][:left] + new + leaves[last][right:]
        if not heads and len(leaf) <= LEAF_EDGES:
            return SpanSet._of((leaf,), heads, size)
        return self._with(first, last + 1, leaf, size)

    def _with(self, first: int, end: int, leaf: _Edges, size: int) -> "SpanSet":
        """Return the set with one leaf in the place of some; mend it if it is too small or big."""
        leaves, heads = self._leaves, self._heads
        if len(leaf) < LEAF_EDGES // 4 and end - first < len(leaves):
            if end < len(leaves):
                leaf = leaf + leaves[end]
                end += 1
            else:
                first -= 1
                leaf = leaves[first] + leaf
        pieces = _cut(leaf)
        leaves = leaves[:first] + pieces + leaves[end:]
        if not len(pieces) == end - first == 1:
            heads = _heads(leaves)
        return SpanSet._of(leaves, heads, size)

    def within(self, span: Span) -> Iterator[Span]:
        """Yield the parts of this set inside `span`, ascending."""
        start, stop = span.start, span.stop
        if start == stop:
            return
        number = bisect_right(self._heads, start)
        index = bisect_right(self._leaves[number], start) & ~1
        for leaf in islice(self._leaves, number, None):
            for at in range(index, len(leaf), 2):
                if leaf[at] >= stop:
                    return
                yield Span(max(leaf[at], start), min(leaf[at + 1], stop))
            index = 0

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
        leaf = self._leaves[bisect_right(self._heads, span.start)]
        index = bisect_right(leaf, span.start)
        return index & 1 == 1 and span.stop <= leaf[index]

    def touches(self, span: Span) -> bool:
        """Tell whether any byte of `span` is in this set."""
        return next(self.within(span), None) is not None

    def union(self, other: "SpanSet") -> "SpanSet":
        """Return the bytes that are in either."""
        some, more = (self, other) if len(self) < len(other) else (other, self)
        if len(some) * _MANY < len(more):
            for span in some:
                more = more.add(span)
            return more
        pairs = chain(_pairs(some._edges()), _pairs(more._edges()))  # noqa: SLF001 - our kind
        return SpanSet._between(_merged(pairs))

    def minus(self, other: "SpanSet") -> "SpanSet":
        """Return the bytes of this set that are not in `other`."""
        if not self:
            return self
        if len(other) * _MANY < len(self):
            rest = self
            for span in other:
                rest = rest.remove(span)
            return rest
        # What is neither outside this set nor in the other.
        stop = max(self.stop, other.stop)
        pairs = chain(_pairs(_outside(self._edges(), stop)), _pairs(other._edges()))  # noqa: SLF001 - our kind
        return SpanSet._between(_outside(_merged(pairs), stop))

    def shared(self, other: "SpanSet") -> "SpanSet":
        """Return the bytes that are in both."""
        return self.minus(self.minus(other))

    def cut(self, size: int) -> "SpanSet":
        """Return the bytes below `size`."""
        return self.remove(Span(size, max(size, self.stop)))

    @property
    def size(self) -> int:
        """Number of bytes in the set."""
        return self._size

    @property
    def stop(self) -> int:
        """One past the last byte; 0 for the empty set."""
        return self._leaves[-1][-1] if self._size else 0

    def _edges(self) -> _Edges:
        return _joined(self._leaves)

    def __iter__(self) -> Iterator[Span]:
        edges = chain.from_iterable(self._leaves)
        return map(Span, edges, edges)

    def __len__(self) -> int:
        return sum(map(len, self._leaves)) // 2

    def __bool__(self) -> bool:
        return self._size > 0

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpanSet):
            return NotImplemented
        # Equal sets may be cut into leaves in different places.
        return self._size == other._size and self._edges() == other._edges()

    @override
    def __hash__(self) -> int:
        return hash((self._size, self.stop))

    @override
    def __repr__(self) -> str:
        return f"SpanSet([{', '.join(f'{run.start}:{run.stop}' for run in self)}])"


def _merged(pairs: Iterable[tuple[int, int]]) -> _Edges:
    """Return the edges of what is in any of the pairs; linear where few of them are out of order.

    Source: timsort merges what is sorted already.
    """
    edges = array("q")
    end = -1
    for start, stop in sorted(pairs):
        if start > end:
            edges.append(start)
            edges.append(stop)
            end = stop
        elif stop > end:
            edges[-1] = end = stop
    return edges


def _pairs(edges: _Edges) -> Iterator[tuple[int, int]]:
    one_by_one = iter(edges)
    return zip(one_by_one, one_by_one, strict=True)


def _outside(edges: _Edges, stop: int) -> _Edges:
    """Return the edges of what lies below `stop`, which no edge is beyond, and between no pair."""
    all_edges = array("q", (0,)) + edges + array("q", (stop,))
    first = 2 if all_edges[0] == all_edges[1] else 0
    last = len(all_edges) - 2 if all_edges[-2] == all_edges[-1] else len(all_edges)
    return all_edges[first:last]


def _alternating_sum(edges: _Edges) -> int:
    """Return the last edge - the one before + ...: of whole spans, their size."""
    total = 0
    for edge in edges:
        total = edge - total
    return total


def _joined(parts: Iterable[_Edges]) -> _Edges:
    edges = array("q")
    for part in parts:
        edges += part
    return edges


def _cut(edges: _Edges) -> tuple[_Edges, ...]:
    """Cut into leaves with room to grow; few enough edges stay one leaf."""
    if len(edges) <= LEAF_EDGES:
        return (edges,)
    spans = len(edges) // 2
    step = -(-spans // (len(edges) // (LEAF_EDGES // 2))) * 2
    return tuple(edges[at : at + step] for at in range(0, len(edges), step))


def _heads(leaves: tuple[_Edges, ...]) -> tuple[int, ...]:
    return tuple(map(itemgetter(0), leaves[1:]))


EMPTY = SpanSet()
