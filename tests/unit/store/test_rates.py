"""How `bandwidth` is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.store.rates import LEAST_BYTES_PER_S, Rates, format_rates, parse_rates

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("20M:100M", Rates(20 * MIB, 100 * MIB)),
        ("1MiB : 16K", Rates(MIB, 16 << 10)),
        ("20M:", Rates(20 * MIB, None)),
        (":1G", Rates(None, 1 << 30)),
        ("0:20M", Rates(None, 20 * MIB)),
        ("20M", Rates(20 * MIB, 20 * MIB)),
        (65536, Rates(65536, 65536)),
        ("0", Rates()),
        ("", Rates()),
        (":", Rates()),
        ("0:0", Rates()),
    ],
)
def test_rates_are_up_then_down_and_one_is_both(text, rates):
    assert parse_rates(text) == rates


@pytest.mark.parametrize("text", ["fast", "1M:2M:3M", "1.5M:", "-1", True, 2.5, "1M/s", None])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_rates(text)


@pytest.mark.parametrize("text", ["10", "10:", ":16383", "1B:1M", 1])
def test_a_rate_that_would_stop_the_mount_is_refused(text):
    with pytest.raises(ValueError, match="at least 16K a second; 0 is none"):
        parse_rates(text)


RATE = st.one_of(st.none(), st.integers(LEAST_BYTES_PER_S, 1 << 50))


@given(RATE, RATE)
def test_rates_are_read_back_as_they_were_written(up, down):
    assert parse_rates(format_rates(Rates(up, down))) == Rates(up, down)
