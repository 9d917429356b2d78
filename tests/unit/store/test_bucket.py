"""How many bytes may pass, and whose turn it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.store.wrap.bucket import PIECE_BYTES, PIECE_S, Bucket

PART = 8 << 20
RATE = PIECE_BYTES  # a piece a second


def run(bucket, now_s=0.0, until_s=float("inf")):
    """Grant until nobody waits; return (time, ticket) for each request, as it passes."""
    passed = []
    while True:
        passed += [(now_s, ticket) for ticket in bucket.grant(now_s)]
        wait_s = bucket.wait_s(now_s)
        if bucket.is_empty or now_s + wait_s > until_s:
            return passed
        now_s += wait_s


class Watched(Bucket):
    @property
    def is_empty(self):
        return not self._queues


def test_without_a_limit_everything_passes_at_once():
    bucket = Watched()
    assert bucket.is_open
    ticket = bucket.ask("a", PART, 0)
    assert bucket.grant(0) == [ticket]
    assert bucket.passed_bytes == PART


def test_a_request_passes_with_its_last_piece():
    bucket = Watched(RATE)
    ticket = bucket.ask("a", 3 * PIECE_BYTES, 0)
    for second in (0, 1):
        assert bucket.grant(second) == []
        assert bucket.passed_bytes == (second + 1) * PIECE_BYTES
    assert bucket.grant(2) == [ticket]


def test_a_file_with_many_parts_holds_up_another_by_a_piece():
    bucket = Watched(RATE)
    for _ in range(100):
        bucket.ask("big", PART, 0)
    bucket.grant(0)
    small = bucket.ask("small", 100, 0.5)
    [(when, ticket)] = run(bucket, 0.5, until_s=3)
    assert (when, ticket) == (2, small)  # the piece that is owed, and one more of the other


def test_files_share_the_rate_evenly_whatever_the_size_of_their_parts():
    bucket = Watched(RATE)
    tickets = [
        bucket.ask(name, size, 0) for name, size in (("a", PART), ("b", 5 << 20), ("c", PART))
    ]
    run(bucket, until_s=29)
    assert [ticket.passed for ticket in tickets] == [10 * PIECE_BYTES] * 3


def test_within_a_file_parts_pass_one_after_the_other():
    bucket = Watched(RATE)
    first, second = bucket.ask("a", 2 * PIECE_BYTES, 0), bucket.ask("a", 2 * PIECE_BYTES, 0)
    assert run(bucket) == [(1, first), (3, second)]


def test_a_rest_is_not_saved_up():
    bucket = Watched(RATE)
    bucket.ask("a", PIECE_BYTES, 0)
    bucket.grant(0)
    for _ in range(3):
        bucket.ask("a", PIECE_BYTES, 1000)
    assert [when for when, _ in run(bucket, 1000)] == [1000, 1001, 1002]


def test_who_is_woken_late_has_not_lost_the_time():
    bucket = Watched(RATE)
    for _ in range(4):
        bucket.ask("a", PIECE_BYTES, 0)
    assert len(bucket.grant(0)) == 1
    assert len(bucket.grant(1.5)) == 1
    assert len(bucket.grant(2)) == 1


def test_what_is_withdrawn_is_not_owed_and_holds_nobody_up():
    bucket = Watched(RATE)
    gone = bucket.ask("a", PART, 0)
    after = bucket.ask("a", 10, 0)
    assert bucket.grant(0) == []
    bucket.withdraw(gone, 0)
    assert bucket.grant(0) == [after]


def test_a_new_rate_holds_for_what_is_owed_already():
    bucket = Watched(RATE)
    bucket.ask("a", 2 * PIECE_BYTES, 0)
    bucket.grant(0)
    assert bucket.wait_s(0.5) == 0.5
    bucket.change(2 * RATE, 0.5)
    assert bucket.wait_s(0.5) == 0.25
    bucket.change(None, 0.5)
    assert len(bucket.grant(0.5)) == 1
    assert bucket.is_open


def test_turns_are_no_more_than_a_hundred_a_second_at_any_rate():
    bucket = Watched(10 << 30)
    bucket.ask("a", 10 << 30, 0)
    turns, now_s = 0, 0.0
    while not bucket.grant(now_s):
        turns += 1
        now_s += bucket.wait_s(now_s)
    assert turns <= 1 / PIECE_S


REQUESTS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(1, 1 << 21), st.floats(0, 30)), max_size=30
)


@given(REQUESTS, st.integers(16 << 10, 1 << 30))
def test_never_more_than_the_rate_and_a_piece_passes_and_everything_does(requests, rate):
    bucket = Watched(rate)
    piece = max(PIECE_BYTES, int(rate * PIECE_S))
    now_s, passed = 0.0, []
    for file, size, pause_s in requests:
        bucket.ask(file, size, now_s)
        passed += run(bucket, now_s, until_s=now_s + pause_s)
        now_s += pause_s
        # One piece ahead of its time, one for a late wake-up, and what is less than a byte.
        assert bucket.passed_bytes <= now_s * rate + 2 * piece + 1 + len(requests)
    passed += run(bucket, now_s)
    assert len(passed) == len(requests)
    assert bucket.passed_bytes == sum(size for _, size, _ in requests)
    for file in "abcd":
        sizes = [ticket.passed for _, ticket in passed if ticket.file == file]
        assert sizes == [size for name, size, _ in requests if name == file]


@pytest.mark.parametrize("now_s", [0.0, 1e5, 1e7])
@pytest.mark.parametrize("rate", [16 << 10, 12_345_678, (1 << 40) + 1])
def test_a_wait_is_never_for_ever_and_never_for_no_time(now_s, rate):
    bucket = Watched(rate)
    bucket.ask("a", 100 * PIECE_BYTES, now_s)
    turns = 0
    while not bucket.grant(now_s):
        turns += 1
        assert turns <= 200
        now_s += bucket.wait_s(now_s)
