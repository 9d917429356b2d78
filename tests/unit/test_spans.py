"""SpanSet against a set of ints."""

import itertools
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vfs.spans import EMPTY, SpanSet
from vfs.values import KIB, Span

LIMIT = 60
FAR = 8000  # room for more spans than a leaf holds

spans = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)).map(
    lambda ends: Span(*sorted(ends))
)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "cut"]), spans), max_size=30)
strokes = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "comb", "thin"]),
        st.integers(0, FAR),
        st.sampled_from([1, 3, 50, 700, 3000, FAR]),
    ),
    max_size=12,
)


def ints(some) -> set[int]:
    return {position for span in some for position in range(span.start, span.stop)}


def build(script) -> tuple[SpanSet, set[int]]:
    real, model = EMPTY, set()
    for action, span in script:
        if action == "add":
            real, model = real.add(span), model | ints([span])
        elif action == "remove":
            real, model = real.remove(span), model - ints([span])
        else:
            real, model = real.cut(span.start), {p for p in model if p < span.start}
    return real, model


def check(real: SpanSet, model: set[int]) -> None:
    """The same bytes, and runs that are sorted, not empty, and do not touch."""
    runs = list(real)
    assert ints(runs) == model
    assert all(runs)
    assert all(left.stop < right.start for left, right in itertools.pairwise(runs))
    assert real.size == len(model)
    assert real.stop == max(model, default=-1) + 1
    assert len(real) == len(runs)
    assert bool(real) == bool(model)


@given(steps)
def test_any_sequence_of_changes_keeps_the_same_bytes(script):
    check(*build(script))


@given(st.lists(spans))
def test_a_set_may_be_made_of_any_spans(some):
    check(SpanSet(some), ints(some))


@given(steps, spans)
@example([("add", Span(0, 2))], Span(1, 1))
def test_questions_about_a_span_are_answered_as_by_the_bytes(script, span):
    real, model = build(script)
    asked = ints([span])
    assert ints(real.within(span)) == model & asked
    assert ints(real.missing(span)) == asked - model
    assert real.covers(span) == (asked <= model)
    assert real.touches(span) == bool(asked & model)
    for parts in (list(real.within(span)), list(real.missing(span))):
        assert all(parts)
        assert parts == sorted(parts)
        assert all(span.contains(part) for part in parts)


@given(steps, steps)
def test_two_sets_combine_as_their_bytes(script, other_script):
    real, model = build(script)
    other, other_model = build(other_script)
    check(real.union(other), model | other_model)
    check(real.minus(other), model - other_model)
    check(real.shared(other), model & other_model)


@given(steps, spans)
def test_a_change_leaves_the_set_it_began_with(script, span):
    real, model = build(script)
    real.add(span)
    real.remove(span)
    check(real, model)


@given(steps)
def test_equal_bytes_make_equal_sets(script):
    real, model = build(script)
    same = SpanSet(Span(position, position + 1) for position in model)
    assert real == same
    assert hash(real) == hash(same)
    assert (real == SpanSet([*real, Span(LIMIT + 1, LIMIT + 2)])) is False


@given(spans, spans, st.integers(1, 9))
def test_spans_clip_grow_and_are_cut_as_their_bytes(span, other, grain):
    assert ints([span.clip(other)]) == ints([span]) & ints([other])
    assert span.overlaps(other) == bool(ints([span]) & ints([other]))
    pieces = list(span.pieces(grain))
    assert ints(pieces) == ints([span])
    assert all(0 < piece.size <= grain for piece in pieces)
    grown = span.grow(grain)
    assert grown.contains(span)
    assert grown.start % grain == grown.stop % grain == 0
    assert grown.start > span.start - grain
    assert grown.stop < span.stop + grain


def history(real: SpanSet, script) -> list[tuple[SpanSet, set[int]]]:
    """Change a set by one span, or by many one after the other, again and again."""
    states = [(real, ints(real))]
    for action, start, size in script:
        real, model = states[-1]
        if action == "comb":
            some = [Span(at, at + 1) for at in range(start, start + size, 4)]
        elif action == "thin":
            some = [Span(at, at + 19) for at in range(start, start + size, 20)]
        else:
            some = [Span(start, start + size)]
        for span in some:
            real = real.add(span) if action in ("add", "comb") else real.remove(span)
        states.append(
            (real, model | ints(some) if action in ("add", "comb") else model - ints(some))
        )
    return states


@given(strokes, strokes, st.integers(0, FAR), st.integers(0, FAR))
@settings(max_examples=60, deadline=None)
@example([], [("comb", 0, FAR), ("remove", 100, FAR - 200), ("comb", 50, FAR)], 0, FAR)
@example([("thin", 2, FAR)], [("comb", 1, 3000), ("add", 500, 2000), ("thin", 0, FAR)], 9, 999)
def test_sets_of_many_spans_keep_their_bytes_and_so_do_those_they_were_made_of(
    script, other_script, start, size
):
    states = history(SpanSet(Span(at, at + 2) for at in range(0, FAR, 4)), script)
    others = history(EMPTY, other_script)
    for real, model in (*states, *others):  # after the last change
        check(real, model)
    (real, model), (other, other_model) = states[-1], others[-1]
    check(real.union(other), model | other_model)
    check(real.minus(other), model - other_model)
    check(real.shared(other), model & other_model)
    check(real.cut(start), {at for at in model if at < start})
    assert real == SpanSet(real)
    assert hash(real) == hash(SpanSet(real))
    span = Span(start, start + size)
    assert ints(real.within(span)) == model & ints([span])
    assert ints(real.missing(span)) == ints([span]) - model


SLOT = 4 * KIB
MANY = SpanSet(Span(2 * at * SLOT, (2 * at + 1) * SLOT) for at in range(65_536))


def allocated(work) -> int:
    """Bytes that were in use at one time, at most, for some work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "work",
    [
        lambda span: MANY.add(span.shift(SLOT)),  # joins two spans
        lambda span: MANY.add(Span(span.stop + 512, span.stop + 1024)),
        MANY.remove,
        lambda span: MANY.remove(Span(span.start + 512, span.start + 1024)),
        lambda span: MANY.union(SpanSet([span.shift(512)])),
        lambda span: MANY.minus(SpanSet([span.shift(512)])),
        MANY.covers,
        MANY.touches,
        lambda span: list(MANY.within(span)),
        lambda span: list(MANY.missing(span.shift(512))),
        lambda _: MANY.size,
    ],
)
@pytest.mark.parametrize("at", [0, 1, 12_345, 32_768, 65_535])
def test_a_small_change_of_a_set_of_many_spans_copies_few_of_them(work, at):
    span = Span(2 * at * SLOT, (2 * at + 1) * SLOT)
    assert allocated(lambda: work(span)) < 48 * KIB  # all of them take a MiB


def test_snapshots_of_a_set_of_many_spans_share_what_did_not_change():
    def work():
        snapshots = [MANY]
        for at in range(0, 65_536, 512):
            snapshots.append(snapshots[-1].add(Span((2 * at + 1) * SLOT, (2 * at + 2) * SLOT)))
        assert len(snapshots[-1]) == 65_536 - 128

    assert allocated(work) < 128 * 16 * KIB
