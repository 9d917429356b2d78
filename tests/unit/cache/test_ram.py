"""The RAM tier by itself: what goes first, what lies where, and who waits."""

import random
from itertools import pairwise

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from vfs.cache.ram import HOT_SHARE, ONE_USE_READS, BlockKey, RamCache
from vfs.values import KIB

BLOCK = 4 * KIB
COUNT = 64
HOT = COUNT * HOT_SHARE[0] // HOT_SHARE[1]


def fetch(cache, number, owner="a"):
    frame = cache.take()
    cache.keep(BlockKey(owner, number), frame)
    cache.release(frame)
    return frame


def touch(cache, number, owner="a"):
    """Read a block, fetched if need be."""
    key = BlockKey(owner, number)
    if cache.get(key) is None:
        fetch(cache, number, owner)
        cache.get(key)


def pause(cache, owner="pause"):
    """Let so many reads pass that the next touch of another block is a second use."""
    for _ in range(ONE_USE_READS + 1):
        touch(cache, 0, owner)


def cached(cache, owner="a"):
    return sorted(cache.blocks_of(owner))


def test_blocks_go_in_the_order_in_which_they_came():
    cache = RamCache(4 * BLOCK, BLOCK)
    for number in range(6):
        touch(cache, number)
    assert cached(cache) == [2, 3, 4, 5]
    assert cache.used_bytes == cache.limit_bytes


def test_touches_in_a_row_are_one_use():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    for number in range(2 * COUNT):
        for _ in range(ONE_USE_READS // 2):
            touch(cache, number)
    assert cache.hot_bytes == 0


def test_a_block_that_is_used_again_outlives_a_scan():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    touch(cache, 0)
    pause(cache)
    touch(cache, 0)
    for number in range(10 * COUNT):
        touch(cache, number, "scan")
    assert cached(cache) == [0]


def test_a_second_use_counts_if_the_block_had_to_be_fetched_again():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    touch(cache, 0)
    for number in range(COUNT + COUNT // 2):
        touch(cache, number, "scan")
    assert cached(cache) == []
    touch(cache, 0)
    assert cache.hot_bytes == BLOCK


def test_what_was_read_ahead_and_never_asked_for_was_not_used():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    fetch(cache, 0)
    for number in range(COUNT):
        touch(cache, number, "scan")
    pause(cache)
    touch(cache, 0)
    assert cache.hot_bytes == 0


def test_hot_blocks_leave_room_for_reading_ahead():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    for _ in range(20):
        for number in range(COUNT):
            touch(cache, number)
        pause(cache)
    assert cache.hot_bytes == HOT * BLOCK
    for number in range(COUNT // 2):
        fetch(cache, number, "ahead")
    assert cached(cache, "ahead") == list(range(COUNT // 2))


def test_hot_blocks_of_the_past_give_way():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    for owner in ("old", "new"):
        for _ in range(6):
            for number in range(HOT):
                touch(cache, number, owner)
            pause(cache)
    for number in range(10 * COUNT):
        touch(cache, number, "scan")
    assert len(cached(cache, "new")) > 0.9 * HOT
    assert len(cached(cache, "old")) < 0.1 * HOT


def test_a_hot_block_stays_hot_under_the_name_of_the_next_version():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    touch(cache, 0)
    pause(cache)
    touch(cache, 0)
    cache.rename(BlockKey("a", 0), BlockKey("b", 0))
    for number in range(2 * COUNT):
        touch(cache, number, "scan")
    assert cached(cache, "b") == [0]
    assert cached(cache) == []


def test_a_held_frame_stays():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    held = [fetch(cache, number) for number in range(COUNT - 1)]
    for frame in held:
        cache.hold(frame)
    for number in range(COUNT):
        fetch(cache, number, "scan")
    assert len(cached(cache)) == COUNT - 1
    last = cache.take()
    assert cache.take() is None
    cache.release(held[5])
    assert cache.take() is held[5]
    assert last is not None


def test_what_is_fetched_together_lies_together_whatever_was_before():
    cache = RamCache(COUNT * BLOCK, BLOCK)
    pick = random.Random(1)
    for _ in range(100 * COUNT):
        number = pick.randrange(3 * COUNT)
        if pick.random() < 0.2:
            cache.drop(BlockKey("a", number))
        else:
            touch(cache, number)
    assert cache.hot_bytes > 0
    for number in range(2 * COUNT):
        fetch(cache, number, "scan")
    places = [fetch(cache, number, "run").number for number in range(16)]
    gaps = [two for one, two in pairwise(places) if two != one + 1]
    assert sum(two < one for one, two in pairwise(places)) <= 1  # where the arena ends
    assert len(gaps) <= 12  # hot frames in between


@given(st.lists(st.tuples(st.sampled_from("ttttfhrdn"), st.integers(0, 11)), max_size=300))
def test_no_frame_is_ever_lost_or_in_two_places(steps):
    cache = RamCache(8 * BLOCK, BLOCK)
    held = []
    for step, number in steps:
        key = BlockKey("a", number)
        if step == "t" and (key in cache or len(held) < 8):
            touch(cache, number)
        elif step == "f" and (frame := cache.take()) is not None:
            held.append(frame)
        elif step == "h" and (frame := cache.get(key)) is not None:
            cache.hold(frame)
            held.append(frame)
        elif step == "r" and held:
            cache.release(held.pop())
        elif step == "d":
            cache.drop(key)
        elif step == "n":
            cache.rename(key, BlockKey("a", number // 2))
        for frame in held:
            assert frame.holds > 0
        for block in cache.blocks_of("a"):
            assert BlockKey("a", block) in cache
    for frame in held:
        cache.release(frame)
    taken = [cache.take() for _ in range(8)]
    assert {frame.number for frame in taken} == set(range(8))
    assert cache.take() is None
    assert cache.used_bytes == cache.hot_bytes == 0


async def test_a_cancelled_wait_for_a_frame_passes_its_turn_on(autojump_clock):
    cache = RamCache(BLOCK, BLOCK)
    held = cache.take()
    got = []
    scopes = []

    async def wait(index):
        with trio.CancelScope() as scope:
            scopes.append(scope)
            frame = await cache.take_waiting()
            got.append(index)
            cache.release(frame)

    async with trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(wait, index)
            await wait_all_tasks_blocked()
        cache.release(held)  # wakes the first, which is cancelled before it runs
        scopes[0].cancel()
    assert sorted(got) in ([1, 2], [0, 1, 2])


async def test_a_waiter_that_gave_up_is_not_woken_in_place_of_another(autojump_clock):
    cache = RamCache(BLOCK, BLOCK)
    held = cache.take()
    with trio.move_on_after(1):
        await cache.take_waiting()
    got = []

    async def wait():
        cache.release(await cache.take_waiting())
        got.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        cache.release(held)
    assert got == [True]
