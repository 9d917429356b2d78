"""Part plans: no rule of a store is broken, every byte comes from the right place, once."""

import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vfs.errors import TooLargeError
from vfs.layout.parts import Grid, SentPart, Step, check_size, ladder, plan_commit
from vfs.spans import EMPTY, SpanSet
from vfs.store.base import Part, PartRules
from vfs.values import GIB, KIB, MIB, TIB, Span

S3 = PartRules()
SMALL = PartRules(
    min_bytes=1 * KIB,
    max_bytes=1 * MIB,
    max_parts=100,
    max_object_bytes=16 * MIB,
    max_write_bytes=4 * MIB,
)
TIGHT = PartRules(min_bytes=5 * MIB, max_bytes=40 * MIB, max_parts=20, max_object_bytes=800 * MIB)
EQUAL = PartRules(max_parts=1000, equal_parts=True)
ALL_RULES = [S3, SMALL, TIGHT, EQUAL]


@st.composite
def situations(draw, among=ALL_RULES):
    """Rules, grid, size, clean bytes and parts sent ahead, as a writer can bring them about."""
    rules = draw(st.sampled_from(among))
    limit = min(rules.max_object_bytes, rules.max_parts * rules.max_bytes)
    top = draw(st.sampled_from([2 * rules.min_bytes, 60 * rules.min_bytes, limit]))
    size = draw(st.integers(1, min(top, limit)))
    hint = draw(st.sampled_from([0, size, size // 3, min(2 * size, limit)]))
    part_bytes = draw(st.sampled_from([None, None, rules.min_bytes, 3 * rules.min_bytes]))
    grid = ladder(rules, part_bytes=part_bytes, size=max(hint, 1))
    clean = SpanSet(draw(spans(size)))
    sent = [
        SentPart(Part(number, f"tag-{number}", span.size), span)
        for number, span in draw(parts_of(grid, size, rules))
    ]
    # A part is only sent ahead when all of it is dirty.
    for one in sent:
        clean = clean.remove(one.span)
    return rules, grid, size, clean, sent


@st.composite
def spans(draw, size):
    kind = draw(st.sampled_from(["none", "all", "few"]))
    if kind == "none":
        return []
    if kind == "all":
        return [Span(0, size)]
    edges = sorted(draw(st.lists(st.integers(0, size), min_size=2, max_size=12)))
    return [Span(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]


@st.composite
def parts_of(draw, grid, size, rules):
    last = min(grid.number(size - 1), rules.max_parts, 200)
    numbers = draw(st.sets(st.integers(1, last), max_size=8))
    return [(number, grid.span(number)) for number in sorted(numbers) if number <= rules.max_parts]


def check(steps: list[Step], size, clean, sent, rules):
    position = 0
    before = 0
    for step in steps:
        assert step.span.start == position, "a gap or an overlap"
        assert step.span
        position = step.span.stop
        assert before < step.number <= rules.max_parts
        before = step.number
        assert step.span.size <= rules.max_bytes
        if step is not steps[-1]:
            assert step.span.size >= rules.min_bytes
        if step.copy:
            assert clean.covers(step.span), "copied what is dirty"
            assert step.kept is None
        if step.kept is not None:
            assert SentPart(step.kept, step.span) in sent
            assert step.number == step.kept.number
    assert position == size
    if rules.equal_parts:
        assert len({step.span.size for step in steps[:-1]}) <= 1


@given(situations())
@settings(max_examples=300, deadline=None)
def test_every_byte_is_planned_once_and_no_rule_is_broken(situation):
    rules, grid, size, clean, sent = situation
    steps = plan_commit(size, clean, sent, grid, rules)
    check(steps, size, clean, sent, rules)


@given(situations())
@settings(max_examples=100, deadline=None)
def test_parts_that_were_sent_ahead_are_kept_where_they_fit(situation):
    rules, grid, size, clean, sent = situation
    assume(grid.reach >= size)
    steps = plan_commit(size, clean, sent, grid, rules)
    kept = {step.number for step in steps if step.kept is not None}
    fits = {one.part.number for one in sent if one.span.stop <= size}
    assert kept == fits


@given(situations([S3]))
@settings(max_examples=100, deadline=None)
def test_a_delta_uploads_little_more_than_what_is_dirty(situation):
    rules, grid, size, clean, _ = situation
    steps = plan_commit(size, clean, [], grid, rules)
    uploaded = sum(step.span.size for step in steps if not step.copy)
    dirty = size - clean.size
    gaps = list(clean.missing(Span(0, size)))
    short = sum(run.size for run in clean if run.size < 3 * rules.min_bytes)
    assert uploaded <= dirty + short + 2 * len(gaps) * rules.min_bytes


def test_a_hundred_small_changes_of_four_gib_cost_one_smallest_part_each():
    pick = random.Random(7)
    starts = pick.sample(range(4 * GIB // (4 * KIB)), 100)
    dirty = SpanSet(Span(at * 4 * KIB, (at + 1) * 4 * KIB) for at in starts)
    clean = SpanSet(dirty.missing(Span(0, 4 * GIB)))
    steps = plan_commit(4 * GIB, clean, [], ladder(S3), S3)
    check(steps, 4 * GIB, clean, [], S3)
    uploaded = sum(step.span.size for step in steps if not step.copy)
    assert uploaded <= 100 * 5 * MIB


def test_the_largest_object_that_s3_allows_has_a_plan():
    steps = plan_commit(5 * TIB, EMPTY, [], ladder(S3), S3)
    check(steps, 5 * TIB, EMPTY, [], S3)


def test_a_scattered_delta_of_the_largest_object_stays_within_the_part_numbers():
    pick = random.Random(3)
    dirty = SpanSet(
        Span(at * MIB, at * MIB + 4096) for at in pick.sample(range(5 * TIB // MIB), 12_000)
    )
    clean = SpanSet(dirty.missing(Span(0, 5 * TIB)))
    steps = plan_commit(5 * TIB, clean, [], ladder(S3), S3)
    check(steps, 5 * TIB, clean, [], S3)


def test_a_file_that_outgrows_its_part_size_still_has_a_plan():
    grid = ladder(S3, part_bytes=5 * MIB, size=1)
    size = 100 * GIB
    sent = [SentPart(Part(n, str(n), 5 * MIB), grid.span(n)) for n in range(1, S3.max_parts + 1)]
    check(plan_commit(size, EMPTY, sent, grid, S3), size, EMPTY, sent, S3)
    check(plan_commit(size, EMPTY, [], grid, S3), size, EMPTY, [], S3)


def test_a_file_cut_inside_a_part_that_was_sent_sends_that_part_again():
    grid = ladder(S3)
    sent = [SentPart(Part(n, str(n), 5 * MIB), grid.span(n)) for n in (1, 2)]
    steps = plan_commit(7 * MIB, EMPTY, sent, grid, S3)
    assert [(step.number, step.span, step.kept is not None) for step in steps] == [
        (1, Span(0, 5 * MIB), True),
        (2, Span(5 * MIB, 7 * MIB), False),
    ]


@given(st.sampled_from(ALL_RULES), st.integers(1, 5 * TIB), st.integers(1, 9000))
def test_a_grid_knows_the_number_and_the_bytes_of_each_part(rules, size, number):
    grid = ladder(rules, size=size)
    number = min(number, rules.max_parts)
    span = grid.span(number)
    assert grid.number(span.start) == number
    assert grid.number(span.stop - 1) == number
    assert list(grid.parts(span)) == [(number, span)]


def test_a_grid_counts_over_the_rungs_of_the_ladder():
    grid = Grid([(10, 2), (100, 3)])
    assert [grid.span(n) for n in (1, 2, 3, 4)] == [
        Span(0, 10),
        Span(10, 20),
        Span(20, 120),
        Span(120, 220),
    ]
    assert list(grid.parts(Span(15, 21))) == [(2, Span(10, 20)), (3, Span(20, 120))]
    assert list(grid.parts(Span(5, 5))) == []
    assert grid.reach == 320


@pytest.mark.parametrize("rules", ALL_RULES)
def test_a_size_past_the_limit_is_refused(rules):
    limit = min(rules.max_object_bytes, rules.max_parts * rules.max_bytes)
    check_size(limit, rules)
    with pytest.raises(TooLargeError):
        check_size(limit + 1, rules)
