"""SpanSet against a set of ints."""

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from vfs.spans import EMPTY, SpanSet
from vfs.values import Span

LIMIT = 60

spans = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)).map(
    lambda ends: Span(*sorted(ends))
)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "cut"]), spans), max_size=30)


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
