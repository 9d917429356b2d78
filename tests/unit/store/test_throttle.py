"""Slots by kind of call, as many as the store can bear, and bandwidth by debt."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.faulty import FaultyStore
from vfs.store.base import BytesBody, PartRules
from vfs.store.memory import MemoryStore, everything
from vfs.store.rates import NO_LIMITS, Rates
from vfs.store.wrap.bandwidth import Bandwidth
from vfs.store.wrap.throttle import ThrottledStore
from vfs.values import Key, Span

KEY = Key("disk.img")
PART = 8 << 20


def limited(up=None, down=None):
    return Bandwidth(Rates(up, down))


@pytest.fixture
def faulty():
    return FaultyStore(MemoryStore(features=everything(PartRules(min_bytes=1))))


async def test_no_more_calls_than_connections_run_at_once(faulty, nursery):
    store = ThrottledStore(faulty, 16)
    info = await store.write(KEY, BytesBody(b"x"))
    gate = faulty.block("", times=1000)
    for _ in range(100):
        nursery.start_soon(store.read, info.pin, Span(0, 1))
        nursery.start_soon(store.write, KEY, BytesBody(b"x"))
        nursery.start_soon(store.head, KEY)
    await wait_all_tasks_blocked()
    assert faulty.in_flight == 16
    nursery.cancel_scope.cancel()
    gate.release()


async def test_two_hundred_uploads_keep_nothing_else_waiting(faulty, nursery):
    store = ThrottledStore(faulty, 16)
    upload = await store.begin_upload(KEY)
    info = await store.write(KEY, BytesBody(b"x"))
    gate = faulty.block("upload_part", times=1000)
    for number in range(1, 201):
        nursery.start_soon(lambda number=number: store.upload_part(upload, number, BytesBody(b"x")))
    await wait_all_tasks_blocked()
    assert await store.read(info.pin, Span(0, 1)) == b"x"
    await store.head(KEY)
    await store.list(Key(""))
    await store.remove([KEY])
    gate.release()


async def test_reads_that_hang_keep_no_listing_waiting(faulty, nursery):
    store = ThrottledStore(faulty, 4)
    info = await store.write(KEY, BytesBody(b"x"))
    gate = faulty.block("read", times=1000)
    for _ in range(20):
        nursery.start_soon(store.read, info.pin, Span(0, 1))
    await wait_all_tasks_blocked()
    await store.list(Key(""))
    gate.release()


@pytest.mark.parametrize("connections", [1, 2, 3])
async def test_few_connections_still_carry_every_kind_of_call(faulty, connections):
    store = ThrottledStore(faulty, connections)
    info = await store.write(KEY, BytesBody(b"x"))
    assert await store.read(info.pin, Span(0, 1)) == b"x"
    await store.head(KEY)


async def test_a_call_that_fails_gives_its_slot_back(faulty):
    store = ThrottledStore(faulty, 1)
    for _ in range(3):
        faulty.fail("write", OSError("broken"))
        with pytest.raises(OSError, match="broken"):
            await store.write(KEY, BytesBody(b"x"))
    await store.write(KEY, BytesBody(b"x"))


async def test_uploads_keep_to_the_bandwidth(faulty, autojump_clock):
    store = ThrottledStore(faulty, 8, limited(100))
    for _ in range(5):
        await store.write(KEY, BytesBody(bytes(50)))
    # The first one starts at once, each of the others when those before it are paid for.
    assert trio.current_time() == pytest.approx(4 * 0.5)


async def test_reads_keep_to_their_own_bandwidth(faulty, autojump_clock):
    store = ThrottledStore(faulty, 8, limited(down=10))
    info = await store.write(KEY, BytesBody(bytes(1000)))
    assert trio.current_time() == 0
    await store.read(info.pin, Span(0, 100))
    await store.read(info.pin, Span(0, 1))
    assert trio.current_time() == pytest.approx(10)


async def test_many_at_once_keep_to_the_bandwidth_too(faulty, autojump_clock):
    store = ThrottledStore(faulty, 8, limited(100))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(store.write, KEY, BytesBody(bytes(100)))
    assert trio.current_time() == pytest.approx(19)


async def test_a_call_without_payload_does_not_wait_for_bandwidth(faulty, autojump_clock):
    store = ThrottledStore(faulty, 8, limited(1, 1))
    await store.write(KEY, BytesBody(bytes(1000)))
    await store.head(KEY)
    assert trio.current_time() == 0


async def test_a_new_rate_holds_for_those_that_wait(faulty, autojump_clock, nursery):
    limits = limited(1)
    store = ThrottledStore(faulty, 8, limits)
    await store.write(KEY, BytesBody(bytes(1000)))
    nursery.start_soon(store.write, KEY, BytesBody(b"x"))
    await trio.sleep(100)  # 900 bytes are owed
    limits.change(Rates(90))
    await trio.sleep(9.9)
    assert faulty.count("write") == 1
    await trio.sleep(0.2)
    assert faulty.count("write") == 2


async def test_a_limit_that_is_lifted_lets_all_through(faulty, autojump_clock, nursery):
    limits = limited(1)
    store = ThrottledStore(faulty, 8, limits)
    for _ in range(5):
        nursery.start_soon(store.write, KEY, BytesBody(bytes(1000)))
    await wait_all_tasks_blocked()
    assert faulty.count("write") == 1
    limits.change(NO_LIMITS)
    await wait_all_tasks_blocked()
    assert faulty.count("write") == 5
    assert trio.current_time() == 0


async def test_waiting_for_bandwidth_holds_no_slot(faulty, autojump_clock, nursery):
    store = ThrottledStore(faulty, 1, limited(1))
    info = await store.write(KEY, BytesBody(bytes(1000)))
    nursery.start_soon(store.write, KEY, BytesBody(b"x"))
    await wait_all_tasks_blocked()
    await store.read(info.pin, Span(0, 1))
    assert trio.current_time() == 0


async def test_a_call_that_is_cancelled_while_it_waits_pays_nothing(faulty, autojump_clock):
    store = ThrottledStore(faulty, 1, limited(10))
    await store.write(KEY, BytesBody(bytes(100)))
    with trio.move_on_after(5):
        await store.write(KEY, BytesBody(bytes(10**6)))
    await store.write(KEY, BytesBody(b"x"))
    assert trio.current_time() == pytest.approx(10)
