"""Half of the million steps of `test_crashes.py`: those with `fsync=remote`.

A file of its own, because the tests of one file run one after the other, in one process.
"""

import pytest

from tests.model.test_crashes import LONG_SEEDS, LONG_WANTED, STORES, run

pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("seed", LONG_SEEDS)
@pytest.mark.parametrize("store", STORES)
def test_nothing_acknowledged_is_lost_in_half_a_million_steps(store, seed):
    run(f"remote-{store}", seed, LONG_WANTED)
