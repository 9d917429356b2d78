"""Slots by kind of call, as many as the store can bear, and bandwidth by debt."""

from itertools import pairwise

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.faulty import FaultyStore
from vfs.errors import StaleError, ThrottledError, TransientError
from vfs.metrics import Metrics
from vfs.store.base import BytesBody, PartRules
from vfs.store.memory import MemoryStore, everything
from vfs.store.rates import NO_LIMITS, Rates
from vfs.store.wrap.bandwidth import Bandwidth
from vfs.store.wrap.base import WrappedStore
from vfs.store.wrap.retry import RetryingStore
from vfs.store.wrap.throttle import Throttle, ThrottledStore
from vfs.values import Key, Span

KEY = Key("disk.img")
PART = 8 << 20


def throttled_store(inner, connections, limits=None, metrics=None):
    return ThrottledStore(inner, Throttle(inner.url, connections, limits, metrics))


def limited(up=None, down=None):
    return Bandwidth(Rates(up, down))


@pytest.fixture
def faulty():
    return FaultyStore(MemoryStore(features=everything(PartRules(min_bytes=1))))


async def test_no_more_calls_than_connections_run_at_once(faulty, nursery):
    store = throttled_store(faulty, 16)
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
    store = throttled_store(faulty, 16)
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
    store = throttled_store(faulty, 4)
    info = await store.write(KEY, BytesBody(b"x"))
    gate = faulty.block("read", times=1000)
    for _ in range(20):
        nursery.start_soon(store.read, info.pin, Span(0, 1))
    await wait_all_tasks_blocked()
    await store.list(Key(""))
    gate.release()


@pytest.mark.parametrize("connections", [1, 2, 3])
async def test_few_connections_still_carry_every_kind_of_call(faulty, connections):
    store = throttled_store(faulty, connections)
    info = await store.write(KEY, BytesBody(b"x"))
    assert await store.read(info.pin, Span(0, 1)) == b"x"
    await store.head(KEY)


async def test_a_call_that_fails_gives_its_slot_back(faulty):
    store = throttled_store(faulty, 1)
    for _ in range(3):
        faulty.fail("write", OSError("broken"))
        with pytest.raises(OSError, match="broken"):
            await store.write(KEY, BytesBody(b"x"))
    await store.write(KEY, BytesBody(b"x"))


async def test_uploads_keep_to_the_bandwidth(faulty, autojump_clock):
    store = throttled_store(faulty, 8, limited(100))
    for _ in range(5):
        await store.write(KEY, BytesBody(bytes(50)))
    # The first one starts at once, each of the others when those before it are paid for.
    assert trio.current_time() == pytest.approx(4 * 0.5)


async def test_reads_keep_to_their_own_bandwidth(faulty, autojump_clock):
    store = throttled_store(faulty, 8, limited(down=10))
    info = await store.write(KEY, BytesBody(bytes(1000)))
    assert trio.current_time() == 0
    await store.read(info.pin, Span(0, 100))
    await store.read(info.pin, Span(0, 1))
    assert trio.current_time() == pytest.approx(10)


async def test_many_at_once_keep_to_the_bandwidth_too(faulty, autojump_clock):
    store = throttled_store(faulty, 8, limited(100))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(store.write, KEY, BytesBody(bytes(100)))
    assert trio.current_time() == pytest.approx(19)


async def test_a_call_without_payload_does_not_wait_for_bandwidth(faulty, autojump_clock):
    store = throttled_store(faulty, 8, limited(1, 1))
    await store.write(KEY, BytesBody(bytes(1000)))
    await store.head(KEY)
    assert trio.current_time() == 0


async def test_a_new_rate_holds_for_those_that_wait(faulty, autojump_clock, nursery):
    limits = limited(1)
    store = throttled_store(faulty, 8, limits)
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
    store = throttled_store(faulty, 8, limits)
    for _ in range(5):
        nursery.start_soon(store.write, KEY, BytesBody(bytes(1000)))
    await wait_all_tasks_blocked()
    assert faulty.count("write") == 1
    limits.change(NO_LIMITS)
    await wait_all_tasks_blocked()
    assert faulty.count("write") == 5
    assert trio.current_time() == 0


async def test_waiting_for_bandwidth_holds_no_slot(faulty, autojump_clock, nursery):
    store = throttled_store(faulty, 1, limited(1))
    info = await store.write(KEY, BytesBody(bytes(1000)))
    nursery.start_soon(store.write, KEY, BytesBody(b"x"))
    await wait_all_tasks_blocked()
    await store.read(info.pin, Span(0, 1))
    assert trio.current_time() == 0


async def test_a_call_that_is_cancelled_while_it_waits_pays_nothing(faulty, autojump_clock):
    store = throttled_store(faulty, 1, limited(10))
    await store.write(KEY, BytesBody(bytes(100)))
    with trio.move_on_after(5):
        await store.write(KEY, BytesBody(bytes(10**6)))
    await store.write(KEY, BytesBody(b"x"))
    assert trio.current_time() == pytest.approx(10)


async def test_the_parts_of_a_large_file_do_not_hold_up_another(faulty, autojump_clock, nursery):
    store = throttled_store(faulty, 64, limited(1 << 20))
    upload = await store.begin_upload(KEY)
    for number in range(1, 11):
        nursery.start_soon(store.upload_part, upload, number, BytesBody(bytes(PART)))
    await wait_all_tasks_blocked()
    await store.write(Key("small"), BytesBody(b"x"))
    # Two pieces of 64 KiB were before it, not 80 MiB.
    assert trio.current_time() == pytest.approx(2 / 16)
    assert faulty.count("upload_part") == 0
    nursery.cancel_scope.cancel()


async def test_large_files_get_the_same_share(faulty, autojump_clock):
    store = throttled_store(faulty, 64, limited(down=1 << 20))
    for key, size in (("a", 4), ("b", 8), ("c", 4)):
        await store.write(Key(key), BytesBody(bytes(size << 20)))
    ends = {}

    async def read(key, pieces):
        info = await store.head(Key(key))
        step = info.size // pieces
        async with trio.open_nursery() as nursery:
            for at in range(0, info.size, step):
                nursery.start_soon(store.read, info.pin, Span(at, at + step))
        ends[key] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for key, pieces in (("a", 1), ("b", 2), ("c", 64)):
            nursery.start_soon(read, key, pieces)
    assert ends == pytest.approx({"a": 12, "b": 16, "c": 12}, abs=0.5)


async def test_every_attempt_pays_also_one_that_fails(faulty, autojump_clock):
    faulty.fail("write", TransientError("reset"), times=2)
    throttled = throttled_store(faulty, 8, limited(100))
    store = RetryingStore(throttled, max_retries=3, jitter=lambda: 0.0)
    await store.write(KEY, BytesBody(bytes(100)))
    assert trio.current_time() == pytest.approx(2)


async def test_waiting_for_bandwidth_is_no_part_of_the_timeout(faulty, autojump_clock):
    throttled = throttled_store(faulty, 8, limited(100))
    store = RetryingStore(throttled, max_retries=3, timeout_s=5, jitter=lambda: 0.0)
    await throttled.write(Key("other"), BytesBody(bytes(10_000)))
    faulty.fail("write", TransientError("reset"), times=2)
    await store.write(KEY, BytesBody(bytes(10_000)))
    assert trio.current_time() == pytest.approx(300)


async def test_what_the_store_copies_itself_is_free(faulty, autojump_clock):
    store = throttled_store(faulty, 8, limited(1, 1))
    info = await faulty.write(KEY, BytesBody(bytes(10**6)))
    upload = await store.begin_upload(KEY)
    part = await store.copy_part(upload, 1, info.pin, Span(0, 10**6))
    await store.finish_upload(upload, [part])
    await store.copy((await store.head(KEY)).pin, Key("copy"))
    await store.list(Key(""))
    assert trio.current_time() == 0


async def test_who_waits_in_one_direction_does_not_hold_up_the_other(
    faulty, autojump_clock, nursery
):
    store = throttled_store(faulty, 8, limited(1, 1))
    info = await faulty.write(KEY, BytesBody(bytes(1000)))
    await store.write(KEY, BytesBody(bytes(1000)))
    nursery.start_soon(store.write, KEY, BytesBody(b"x"))
    await wait_all_tasks_blocked()
    with pytest.raises(StaleError):  # it was asked: that the version is gone is its answer
        await store.read(info.pin, Span(0, 1))
    assert trio.current_time() == 0
    nursery.cancel_scope.cancel()


async def test_when_the_one_who_wakes_the_others_is_cancelled_another_does(
    faulty, autojump_clock, nursery
):
    store = throttled_store(faulty, 8, limited(1 << 20))
    await store.write(KEY, BytesBody(bytes(1 << 20)))
    first = trio.CancelScope()

    async def write_and_give_up():
        with first:
            await store.write(KEY, BytesBody(bytes(PART)))

    nursery.start_soon(write_and_give_up)
    await wait_all_tasks_blocked()
    for _ in range(3):
        nursery.start_soon(store.write, Key("b"), BytesBody(b"x"))
    await wait_all_tasks_blocked()
    first.cancel()
    await trio.sleep(2)
    assert faulty.count("write", "b") == 3


async def test_whose_turn_comes_is_told_while_a_long_part_waits(faulty, autojump_clock, nursery):
    limits = limited(1 << 20)
    told = []
    limits.up.on_pass = lambda: told.append(trio.current_time())
    store = throttled_store(faulty, 8, limits)
    await store.write(KEY, BytesBody(bytes(600 << 20)))
    assert len(told) == 600 * 16
    assert max(later - sooner for sooner, later in pairwise(told)) < 1
    assert limits.up.passed_bytes == 600 << 20


SLOW = ThrottledError("slow down")


@pytest.fixture
def refusing(faulty):
    """A store that takes half a second for each read, and refuses when more than six run."""
    return Refusing(faulty)


class Refusing(WrappedStore):
    def __init__(self, inner, most=6):
        super().__init__(inner)
        self.most = most
        self.running = self.refused = 0
        self.peaks = []

    async def around(self, call, run):
        if call.operation != "read":
            return await run()
        self.running += 1
        self.peaks.append(self.running)
        try:
            await trio.sleep(0.5)
            if self.running > self.most:
                self.refused += 1
                raise ThrottledError("slow down")
            return await run()
        finally:
            self.running -= 1


@pytest.mark.promise("S-mount-9")
async def test_a_store_that_asks_for_fewer_requests_gets_as_many_as_it_can_bear(
    refusing, autojump_clock
):
    metrics = Metrics()
    throttled = throttled_store(refusing, 64, metrics=metrics)
    store = RetryingStore(throttled, max_retries=1000, jitter=lambda: 0.5)
    info = await store.write(KEY, BytesBody(b"x"))
    assert metrics.snapshot().total("store_concurrency") == 64

    async def read_on():
        while trio.current_time() < 100:
            await store.read(info.pin, Span(0, 1))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(read_on)
    # From 56 slots by halves to what is borne, then up by one and down again, again and again.
    late = refusing.peaks[len(refusing.peaks) // 2 :]
    assert refusing.peaks[:56] == list(range(1, 57))
    assert 4 <= max(late) <= 2 * refusing.most
    assert refusing.refused < len(refusing.peaks) / 4
    assert metrics.snapshot().total("store_concurrency") <= 2 * refusing.most


@pytest.mark.promise("S-mount-9")
async def test_when_the_store_bears_more_again_it_gets_all_again(faulty, autojump_clock, caplog):
    caplog.set_level("INFO")
    metrics = Metrics()
    store = throttled_store(faulty, 4, metrics=metrics)
    faulty.fail("head", SLOW)
    with pytest.raises(ThrottledError):
        await store.head(KEY)
    assert metrics.snapshot().total("store_concurrency") == 1
    for _ in range(1 + 2 + 3):
        await store.list(Key(""))
    assert metrics.snapshot().total("store_concurrency") == 4
    assert [record.message.partition(" ")[2] for record in caplog.records] == [
        "asks for fewer requests: 1 at one time",
        "gets up to 4 requests at one time again",
    ]


async def test_a_store_that_has_one_request_at_a_time_still_answers_all_kinds(
    faulty, autojump_clock
):
    store = throttled_store(faulty, 64)
    info = await store.write(KEY, BytesBody(b"x"))
    faulty.fail("read", SLOW)
    with pytest.raises(ThrottledError):
        await store.read(info.pin, Span(0, 1))
    faulty.forget()
    faulty.delay("", 1, times=1000)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(store.read, info.pin, Span(0, 1))
            nursery.start_soon(store.write, Key("b"), BytesBody(b"x"))
    assert faulty.most_in_flight <= 2  # three successes allow that
    assert faulty.count("read") == faulty.count("write") == 3


@pytest.mark.promise("S-mount-9")
async def test_a_pause_that_the_store_asks_for_is_kept_by_all_but_the_short_calls(
    faulty, autojump_clock, nursery
):
    store = throttled_store(faulty, 64)
    info = await store.write(KEY, BytesBody(b"x"))
    faulty.fail("read", ThrottledError("slow down", retry_after_s=7))
    with pytest.raises(ThrottledError):
        await store.read(info.pin, Span(0, 1))
    await store.head(KEY)
    await store.list(Key(""))
    assert trio.current_time() == 0
    await store.read(info.pin, Span(0, 1))
    assert trio.current_time() == 7


async def test_one_store_s_complaint_does_not_slow_another(faulty, autojump_clock):
    other = FaultyStore(MemoryStore("mem://other"))
    metrics, limits = Metrics(), Bandwidth()
    one, two = (throttled_store(store, 64, limits, metrics) for store in (faulty, other))
    faulty.fail("head", ThrottledError("slow down", retry_after_s=60))
    with pytest.raises(ThrottledError):
        await one.head(KEY)
    await two.write(KEY, BytesBody(b"x"))
    assert trio.current_time() == 0
    assert metrics.snapshot().total("store_concurrency", store="mem://other") == 64
