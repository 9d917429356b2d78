"""Pure part plans: how the new version of an object is cut into uploads and server-side copies.

Two questions are answered here. *Where may a part be cut while the file is still being written?* On
the ladder, which reaches the largest object that S3 allows while small files keep small parts.
*What does a commit send?* `plan_commit`: parts that were sent ahead are kept, untouched ranges are
copied by the server, the rest is uploaded, in cuts that obey the store's rules.

Part numbers must ascend with the offsets but may have gaps. A part sent ahead has the number of its
ladder step, so the ranges between two of them are planned with the numbers that lie between.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from vfs.errors import TooLargeError
from vfs.spans import SpanSet
from vfs.store.base import Part, PartRules
from vfs.values import MIB, TIB, Span

LADDER: tuple[tuple[int, int], ...] = (
    (5 * MIB, 1000),
    (25 * MIB, 1000),
    (125 * MIB, 3000),
    (1000 * MIB, 5000),
)
"""(part size, count): 10,000 parts reach 5.15 TiB, past the 5 TiB limit of an S3 object."""

DELTA_UNIT_BYTES = 1 * MIB
"""Smallest cut of a delta where the store would allow less: a request costs more than 1 MiB."""

MOST_PIECES = 10_000
"""Uploads of one commit, also where the store would take more: each costs a request."""

UPLOAD_BYTES = 8 * MIB
"""Usual upload of a delta: large enough to amortise a request, small enough to overlap."""


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that the store already has."""

    part: Part
    span: Span


@dataclass(frozen=True, slots=True)
class Step:
    """One part of a commit: kept, copied from the base, or uploaded."""

    number: int
    span: Span
    kept: Part | None = None
    copy: bool = False


class SentParts:
    """Parts that the store has and that hold what the file holds; no two overlap."""

    def __init__(self, sent: Iterable[SentPart] = ()) -> None:
        self._starts: list[int] = []
        self._by_start: dict[int, SentPart] = {}
        self._start_of: dict[int, int] = {}  # by part number
        for one in sent:
            self.add(one)

    def add(self, sent: SentPart) -> None:
        """Take note of a part."""
        self.drop(sent.span)
        self.replaced(sent.part.number)
        insort(self._starts, sent.span.start)
        self._by_start[sent.span.start] = sent
        self._start_of[sent.part.number] = sent.span.start

    def drop(self, span: Span) -> list[int]:
        """Forget the parts that overlap a span; return their numbers."""
        first = bisect_right(self._starts, span.start)
        if first and self._by_start[self._starts[first - 1]].span.stop > span.start:
            first -= 1
        last = bisect_left(self._starts, span.stop, lo=first)
        gone = [self._by_start.pop(start).part.number for start in self._starts[first:last]]
        for number in gone:
            del self._start_of[number]
        del self._starts[first:last]
        return gone

    def replaced(self, number: int) -> None:
        """Forget the part of a number, which the store may have other bytes of."""
        start = self._start_of.get(number)
        if start is not None:
            self.drop(self._by_start[start].span)

    def clear(self) -> None:
        """Forget all."""
        self._starts.clear()
        self._by_start.clear()
        self._start_of.clear()

    def __iter__(self) -> Iterator[SentPart]:
        """Yield them by offset."""
        return iter([self._by_start[start] for start in self._starts])

    def __len__(self) -> int:
        return len(self._starts)


class Grid:
    """Where parts may be cut ahead of a commit, numbered from 1."""

    def __init__(self, steps: Sequence[tuple[int, int]]) -> None:
        self._steps = tuple(steps)
        starts: list[int] = []
        numbers: list[int] = []
        offset, number = 0, 1
        for size, count in self._steps:
            starts.append(offset)
            numbers.append(number)
            offset += size * count
            number += count
        self._starts, self._numbers = tuple(starts), tuple(numbers)
        self.reach = offset  # bytes of the largest object

    def number(self, offset: int) -> int:
        """Return the number of the part that holds a byte."""
        rung = bisect_right(self._starts, offset) - 1
        return self._numbers[rung] + (offset - self._starts[rung]) // self._steps[rung][0]

    def span(self, number: int) -> Span:
        """Return the bytes of a part, were the object endless."""
        rung = bisect_right(self._numbers, number) - 1
        size = self._steps[rung][0]
        start = self._starts[rung] + (number - self._numbers[rung]) * size
        return Span(start, start + size)

    def parts(self, span: Span) -> Iterator[tuple[int, Span]]:
        """Yield number and bytes of each part that overlaps `span`."""
        if not span:
            return
        for number in range(self.number(span.start), self.number(span.stop - 1) + 1):
            yield number, self.span(number)


def ladder(rules: PartRules, *, part_bytes: int | None = None, size: int = 0) -> Grid:
    """Return the grid for a store: the ladder, or one size where the rules or the user want it.

    `size` is the best guess of the final size (qemu-img truncates first); it matters only where all
    parts must be equal.
    """
    largest = min(rules.max_object_bytes, rules.max_parts * rules.max_bytes)
    if part_bytes is None and not rules.equal_parts:
        steps = _ladder_for(rules)
        if steps:
            return Grid(steps)
    wanted = part_bytes or max(LADDER[0][0], rules.min_bytes)
    least = -(-max(size, 1) // rules.max_parts)
    one = min(max(wanted, rules.min_bytes, -(-least // MIB) * MIB), rules.max_bytes)
    count = min(rules.max_parts, -(-largest // one))
    return Grid([(one, count)])


def _ladder_for(rules: PartRules) -> list[tuple[int, int]]:
    scale = max(1, -(-rules.min_bytes // LADDER[0][0]))
    if rules.max_parts < sum(count for _, count in LADDER):
        return []
    steps = [(size * scale, count) for size, count in LADDER]
    return steps if steps[-1][0] <= rules.max_bytes else []


def check_size(size: int, rules: PartRules) -> None:
    """Refuse a size that no plan could store. Errors: TooLargeError."""
    limit = min(rules.max_object_bytes, rules.max_parts * rules.max_bytes)
    if size > limit:
        raise TooLargeError(
            f"a file of {size / TIB:.2f} TiB is larger than the store's limit of "
            f"{limit / TIB:.2f} TiB for one object"
        )


def plan_commit(
    size: int,
    clean: SpanSet,
    sent: Sequence[SentPart],
    grid: Grid,
    rules: PartRules,
) -> list[Step]:
    """Cut `[0, size)` into steps, ascending, without gaps or overlap.

    `clean` are the bytes that the server can copy from the base at the same offsets (empty when it
    cannot copy). `sent` are parts on `grid` that still hold what the file holds; those that do not
    fit the final size are sent again.
    """
    if rules.equal_parts:
        return _plan_equal(size, clean, sent, grid, rules)
    usable = _ascending([one for one in sent if _fits(one, size, rules)])
    # A file that has outgrown its grid may leave too few numbers beyond the parts that were sent.
    for kept in (usable, []):
        steps = _plan_around(kept, size, clean, grid, rules)
        if steps is not None:
            return steps
    one = max(rules.min_bytes, -(-size // rules.max_parts))
    pieces = [(piece, clean.covers(piece)) for piece in Span(0, size).pieces(one)]
    return _numbered(pieces, 1)


def _fits(ready: SentPart, size: int, rules: PartRules) -> bool:
    if ready.span.stop > size:
        return False
    return ready.span.size >= rules.min_bytes or ready.span.stop == size


def _ascending(sent: Sequence[SentPart]) -> list[SentPart]:
    """Return parts whose numbers ascend with their offsets.

    Those of an earlier plan and of the grid are numbered in two ways: the later ones have to go.
    """
    kept: list[SentPart] = []
    for one in sorted(sent, key=lambda one: one.span):
        if not kept or one.part.number > kept[-1].part.number:
            kept.append(one)
    return kept


def _plan_around(
    kept: Sequence[SentPart], size: int, clean: SpanSet, grid: Grid, rules: PartRules
) -> list[Step] | None:
    """Plan what lies between the parts that are kept; None when the numbers do not suffice."""
    steps: list[Step] = []
    position, number = 0, 1
    for ready in kept:
        numbers = (number, ready.part.number - 1)
        between = _plan_gap(Span(position, ready.span.start), size, clean, numbers, grid, rules)
        if between is None:
            return None
        steps += between
        steps.append(Step(ready.part.number, ready.span, kept=ready.part))
        position, number = ready.span.stop, ready.part.number + 1
    numbers = (number, rules.max_parts)
    rest = _plan_gap(Span(position, size), size, clean, numbers, grid, rules)
    return None if rest is None else steps + rest


def _plan_gap(
    gap: Span,
    size: int,
    clean: SpanSet,
    numbers: tuple[int, int],
    grid: Grid,
    rules: PartRules,
) -> list[Step] | None:
    """Plan a range between parts sent ahead with the numbers free there; None if impossible."""
    if not gap:
        return []
    room = numbers[1] - numbers[0] + 1
    on_grid = grid.number(gap.stop - 1) <= numbers[1]
    runs = list(clean.within(gap))
    if not runs and on_grid:
        return _numbered(_grid_pieces(gap, clean, grid), numbers[0])
    # Mending adds less than two of the smallest parts to a piece.
    most = rules.max_bytes - 2 * rules.min_bytes
    unit = max(rules.min_bytes, min(DELTA_UNIT_BYTES, most))
    # Larger uploads before coarser units: half the numbers go to what is dirty.
    dirty = gap.size - sum(run.size for run in runs)
    piece = max(UPLOAD_BYTES, -(-2 * dirty // max(min(room, MOST_PIECES), 1)))
    while unit <= most:
        runs = [run for run in runs if run.size >= unit or run == gap]  # no other fills a cell
        caps = most // unit * unit, min(most, max(unit, piece))
        pieces = _mend_small(_cells(gap, runs, unit, caps, rules), size, rules)
        if len(pieces) <= room:
            return _numbered(pieces, numbers[0])
        unit *= 2
    return _numbered(_grid_pieces(gap, clean, grid), numbers[0]) if on_grid else None


def _grid_pieces(gap: Span, clean: SpanSet, grid: Grid) -> list[tuple[Span, bool]]:
    pieces = [part.clip(gap) for _, part in grid.parts(gap)]
    return [(piece, clean.covers(piece)) for piece in pieces]


def _cells(
    gap: Span, clean: Sequence[Span], unit: int, caps: tuple[int, int], rules: PartRules
) -> list[tuple[Span, bool]]:
    """Cut on multiples of `unit`, join cells of one kind, and cap copies and uploads."""
    runs: list[tuple[Span, bool]] = []
    for start, stop, copied in _runs(gap, clean, unit):
        if runs and runs[-1][1] == copied:
            runs[-1] = (Span(runs[-1][0].start, stop), copied)
        else:
            runs.append((Span(start, stop), copied))
    out: list[tuple[Span, bool]] = []
    for span, copied in runs:
        cap = caps[0] if copied else caps[1]
        out += [(piece, copied) for piece in _even(span, cap, rules.min_bytes)]
    return out


def _runs(gap: Span, clean: Sequence[Span], unit: int) -> Iterator[tuple[int, int, bool]]:
    """Yield `(start, stop, copied)` on the unit's grid: copied only where all of it is clean."""
    position = gap.start
    for run in clean:
        first = gap.start if run.start == gap.start else -(-run.start // unit) * unit
        last = gap.stop if run.stop == gap.stop else run.stop // unit * unit
        if last - first < unit and not (first == gap.start and last == gap.stop):
            continue
        if first > position:
            yield position, first, False
        yield first, last, True
        position = last
    if position < gap.stop:
        yield position, gap.stop, False


def _even(span: Span, cap: int, least: int) -> Iterator[Span]:
    """Cut into pieces of at most `cap` bytes of which none is smaller than `least`."""
    position = span.start
    while span.stop - position > cap:
        rest = span.stop - position - cap
        cut = cap if rest >= least else (span.stop - position) // 2
        yield Span(position, position + cut)
        position += cut
    yield Span(position, span.stop)


def _mend_small(
    pieces: list[tuple[Span, bool]], size: int, rules: PartRules
) -> list[tuple[Span, bool]]:
    """Give pieces below the minimum what they lack from a neighbour; the very last may be small."""
    out: list[tuple[Span, bool]] = []
    for piece, piece_copied in pieces:
        span, copied = piece, piece_copied
        while out:
            before, was_copied = out[-1]
            small = span.size < rules.min_bytes and span.stop != size
            if not small and before.size >= rules.min_bytes:
                break
            out.pop()
            if small and was_copied and before.size >= 2 * rules.min_bytes:
                cut = span.stop - rules.min_bytes
                out.append((Span(before.start, cut), True))
                span, copied = Span(cut, span.stop), False
            elif copied and not was_copied and span.size >= 2 * rules.min_bytes:
                cut = before.start + rules.min_bytes
                out.append((Span(before.start, cut), False))
                span = Span(cut, span.stop)
            else:
                span, copied = Span(before.start, span.stop), copied and was_copied
        out.append((span, copied))
    return out


def _numbered(pieces: Sequence[tuple[Span, bool]], first: int) -> list[Step]:
    return [Step(first + i, span, copy=copied) for i, (span, copied) in enumerate(pieces)]


def _plan_equal(
    size: int, clean: SpanSet, sent: Sequence[SentPart], grid: Grid, rules: PartRules
) -> list[Step]:
    """Plan for stores that want all parts of one size: every cut on the grid."""
    if size and grid.number(size - 1) > rules.max_parts:
        grid, sent = ladder(rules, size=size), []
    whole = Span(0, size)
    kept = {ready.part.number: ready for ready in sent if ready.span.stop <= size}
    steps: list[Step] = []
    for number, part in grid.parts(whole):
        span = part.clip(whole)
        ready = kept.get(number)
        if ready is not None and ready.span == span:
            steps.append(Step(number, span, kept=ready.part))
        else:
            steps.append(Step(number, span, copy=clean.covers(span)))
    return steps
