"""The stage's budget, on virtual time."""

import pytest
import trio

from vfs.errors import FullError
from vfs.stage.budget import StageBudget


async def test_what_fits_is_reserved_at_once():
    budget = StageBudget(100, wait_s=60)
    await budget.reserve(100)
    assert budget.used_bytes == 100
    assert not budget.take(1)


async def test_a_writer_waits_until_bytes_are_freed(autojump_clock):
    budget = StageBudget(100, wait_s=60)
    budget.take(100)

    async def free():
        await trio.sleep(30)
        budget.free(40)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(free)
        await budget.reserve(30)
    assert trio.current_time() == 30
    assert budget.used_bytes == 90


async def test_a_writer_gets_enospc_when_nothing_drains(autojump_clock):
    budget = StageBudget(100, wait_s=60)
    budget.take(100)
    with pytest.raises(FullError, match="nothing was uploaded for 60 s"):
        await budget.reserve(1)
    assert trio.current_time() == 60
    assert budget.used_bytes == 100


async def test_progress_keeps_a_writer_waiting(autojump_clock):
    budget = StageBudget(100, wait_s=60)
    budget.take(100)

    async def trickle():
        for _ in range(5):
            await trio.sleep(50)
            budget.progress()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        with pytest.raises(FullError):
            await budget.reserve(1)
        assert trio.current_time() == 250 + 60


async def test_more_than_the_whole_stage_is_refused_without_waiting(autojump_clock):
    budget = StageBudget(100, wait_s=60)
    with pytest.raises(FullError, match="stage_size"):
        await budget.reserve(101)
    assert trio.current_time() == 0


async def test_pressure_is_announced_and_what_it_frees_is_used(autojump_clock):
    budget = StageBudget(100, wait_s=60)
    budget.take(100)
    budget.on_pressure = lambda: budget.free(50)
    await budget.reserve(10)
    assert budget.used_bytes == 60


async def test_many_waiting_writers_all_get_their_turn(autojump_clock):
    budget = StageBudget(100, wait_s=60)
    budget.take(100)
    done = []

    async def write():
        await budget.reserve(50)
        await trio.sleep(1)
        done.append(trio.current_time())
        budget.free(50)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(write)
        await trio.sleep(1)
        budget.free(100)
    assert len(done) == 10
    assert budget.used_bytes == 0


async def test_settling_gives_back_or_takes_past_the_limit():
    budget = StageBudget(100, wait_s=60)
    await budget.reserve(80)
    budget.settle(30)
    assert budget.used_bytes == 50
    budget.settle(-80)
    assert budget.used_bytes == 130
