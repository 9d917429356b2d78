"""How many requests a store gets, by what it said of earlier ones."""

from hypothesis import given
from hypothesis import strategies as st

from vfs.store.wrap.pace import MAX_HOLD_S, Pace, faster, slower


def refuse(pace, *, begun_s=0.0, now_s=0.0, running=64, retry_after_s=None):
    return slower(pace, begun_s=begun_s, now_s=now_s, running=running, retry_after_s=retry_after_s)


def test_a_refusal_halves_the_number():
    assert refuse(Pace(64, 64)).limit == 32


def test_what_is_halved_is_what_the_store_really_got():
    assert refuse(Pace(64, 64), running=10).limit == 5


def test_a_hundred_refusals_of_one_round_are_one():
    pace = Pace(64, 64)
    for at_s in range(100):
        pace = refuse(pace, begun_s=0, now_s=1 + at_s)
    assert pace.limit == 32


def test_a_cut_has_a_second_to_show_its_effect():
    pace = refuse(Pace(64, 64), now_s=10)
    assert refuse(pace, begun_s=10.5, now_s=10.9, running=32) == pace
    assert refuse(pace, begun_s=10.5, now_s=11, running=32).limit == 16


def test_one_request_is_always_allowed():
    pace = Pace(64, 64)
    for at_s in range(20):
        pace = refuse(pace, begun_s=at_s, now_s=at_s, running=pace.limit)
    assert pace.limit == 1


def test_a_round_of_successes_allows_one_more_up_to_the_most():
    pace, rounds = Pace(8, 4), []
    for _ in range(4 + 5 + 6 + 7 + 100):
        pace = faster(pace, begun_s=0)
        rounds.append(pace.limit)
    assert rounds == [4] * 3 + [5] * 5 + [6] * 6 + [7] * 7 + [8] * 101


def test_a_success_from_before_the_cut_says_nothing_of_the_number_since():
    pace = refuse(Pace(4, 4), now_s=10, running=2)
    for _ in range(10):
        assert faster(pace, begun_s=9) == pace
    assert faster(pace, begun_s=10).limit == 2


def test_the_longest_pause_that_was_asked_for_holds():
    pace = refuse(Pace(64, 64), now_s=10, retry_after_s=5)
    assert pace.resume_at_s == 15
    pace = refuse(pace, now_s=11, retry_after_s=1)
    assert pace.resume_at_s == 15
    assert refuse(pace, now_s=12, retry_after_s=86_400).resume_at_s == 12 + MAX_HOLD_S


@given(
    st.integers(1, 4096),
    st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.integers(1, 4096))),
)
def test_the_number_stays_within_its_bounds(most, answers):
    pace, now_s = Pace(most, most), 0.0
    for refused, took_s, running in answers:
        begun_s, now_s = now_s, now_s + took_s
        before = pace.limit
        if refused:
            pace = refuse(pace, begun_s=begun_s, now_s=now_s, running=running)
            assert pace.limit <= before
        else:
            pace = faster(pace, begun_s=begun_s)
            assert pace.limit - before in {0, 1}
        assert 1 <= pace.limit <= most
