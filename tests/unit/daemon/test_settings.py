"""What a running mount can change."""

import logging

import pytest

from vfs.daemon.settings import CHANGEABLE, Settings, apply, current, read_settings
from vfs.errors import ConfigError
from vfs.store.rates import Rates
from vfs.store.wrap.bandwidth import Bandwidth

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _level():
    before = logging.getLogger("vfs").level
    logging.getLogger("vfs").setLevel("INFO")
    yield
    logging.getLogger("vfs").setLevel(before)


async def test_what_is_changed_holds_and_the_rest_stays():
    limits = Bandwidth(Rates(MIB, None))
    apply(read_settings({"log-level": "debug"}), limits)
    assert current(limits) == {"bandwidth": "1M:", "log_level": "debug"}
    apply(read_settings({"bandwidth": "2M:3M"}), limits)
    assert current(limits) == {"bandwidth": "2M:3M", "log_level": "debug"}
    apply(read_settings({"bandwidth": "0", "log_level": "info"}), limits)
    assert current(limits) == {"bandwidth": "", "log_level": "info"}


def test_everything_that_can_be_changed_is_told():
    assert tuple(current(Bandwidth())) == CHANGEABLE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"memory": "1G"}, "option memory (vfs set): bandwidth and log_level can be changed"),
        (
            {"url": "mem://x"},
            "unknown option url (vfs set): bandwidth and log_level can be changed",
        ),
        ({"bandwith": "1M"}, "did you mean bandwidth?"),
        ({"bandwidth": "fast"}, "option bandwidth (vfs set): 'fast' is not a size"),
        ({"bandwidth": "10"}, "option bandwidth (vfs set): a limit must be at least 16K"),
        ({"log_level": "loud"}, "option log_level (vfs set): must be 'debug', 'info'"),
        ({"log_level": "debug", "bandwidth": "fast"}, "option bandwidth"),
        ({"bandwidth": "1M", "log_level": ""}, "option log_level"),
    ],
)
def test_a_mistake_is_told_with_what_can_be_changed(given, message):
    with pytest.raises(ConfigError) as caught:
        read_settings(given)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


def test_nothing_asked_for_is_nothing_changed():
    assert read_settings({}) == Settings()
