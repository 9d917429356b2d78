"""How long a read may stand before it is asked twice, and how often that may be."""

import random

import pytest

from vfs.store.wrap.patience import (
    EARNED_PER_READ,
    FEW_READS,
    LEAST_S,
    MOST_EARNED,
    RECENT_READS,
    TIMES_AS_LONG,
    UNKNOWN_S,
    Patience,
)
from vfs.values import KIB, MIB

SMALL = 128 * KIB


def after(*took_s, size=SMALL, most_s=300.0):
    patience = Patience(most_s)
    for one_s in took_s:
        patience.note(size, one_s)
    return patience


def test_while_little_is_known_patience_is_long():
    assert after(*[1.0] * (FEW_READS - 1)).limit_s(SMALL) == UNKNOWN_S


def test_a_read_may_take_a_few_times_as_long_as_the_slow_ones_of_late():
    # 19 of 20 take a second or less, in any order.
    took_s = [0.5] * 60 + [1.0] * 62 + [7.0] * 6
    random.Random(1).shuffle(took_s)
    assert after(*took_s).limit_s(SMALL) == TIMES_AS_LONG * 1.0


def test_a_fast_store_is_granted_the_pauses_of_a_busy_machine():
    assert after(*[0.001] * 100).limit_s(SMALL) == LEAST_S


def test_no_read_stands_longer_than_the_time_limit():
    assert after(*[50.0] * 100, most_s=60.0).limit_s(SMALL) == 60.0
    assert Patience(2.0).limit_s(SMALL) == 2.0


def test_what_was_long_ago_is_forgotten():
    assert after(*[50.0] * 500, *[1.0] * RECENT_READS).limit_s(SMALL) == TIMES_AS_LONG


def test_a_store_that_has_become_slow_is_soon_given_its_time():
    assert after(*[0.1] * 500, *[2.0] * FEW_READS).limit_s(SMALL) == TIMES_AS_LONG * 2.0


@pytest.mark.parametrize("size", [1, 4 * KIB, SMALL, 256 * KIB])
def test_small_reads_are_all_of_one_size(size):
    assert after(*[1.0] * FEW_READS).limit_s(size) == TIMES_AS_LONG


def test_large_reads_take_their_time_for_a_reason():
    patience = after(*[0.1] * 100, *[1.0] * FEW_READS)
    for _ in range(FEW_READS):
        patience.note(4 * MIB, 3.0)
    assert patience.limit_s(MIB) == UNKNOWN_S
    assert patience.limit_s(4 * MIB) == patience.limit_s(3 * MIB) == TIMES_AS_LONG * 3.0
    assert patience.limit_s(SMALL) == TIMES_AS_LONG * 1.0


def test_a_burst_may_be_asked_twice_and_then_a_few_in_a_hundred():
    patience = after(*[1.0] * 10_000)
    burst = [patience.spend() for _ in range(100)]
    assert sum(burst) == MOST_EARNED
    granted = 0
    for _ in range(1000):
        patience.note(SMALL, 1.0)
        granted += patience.spend()
    assert granted == pytest.approx(1000 * EARNED_PER_READ, abs=1)
