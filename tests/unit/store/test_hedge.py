"""A read that is slow is asked a second time: never a wrong byte, never many of them."""

from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from typing_extensions import override

from tests.support.faulty import FaultyStore
from vfs.errors import CorruptError, StaleError, ThrottledError, TransientError
from vfs.metrics import Metrics
from vfs.store.base import BytesBody
from vfs.store.memory import MemoryStore
from vfs.store.rates import Rates
from vfs.store.wrap.bandwidth import Bandwidth
from vfs.store.wrap.base import WrappedStore
from vfs.store.wrap.hedge import MOST_AT_ONCE, open_hedged
from vfs.store.wrap.patience import FEW_READS, LEAST_S, MOST_EARNED
from vfs.store.wrap.throttle import Throttle, ThrottledStore
from vfs.tasks import open_tasks
from vfs.values import Key, Span

KEY = Key("disk.img")
DATA = bytes(range(256)) * 16
SPAN = Span(0, len(DATA))


class Slow:
    """A store that is quick by habit, and what reads it."""

    def __init__(self, faulty, store, pin, metrics):
        self.faulty = faulty
        self.store = store
        self.pin = pin
        self._metrics = metrics

    async def read(self, span=SPAN):
        buffer = bytearray(b"\xee" * span.size)
        half = span.size // 2
        await self.store.read_into(
            self.pin, span, [memoryview(buffer)[:half], memoryview(buffer)[half:]]
        )
        return bytes(buffer)

    def hedges(self, **labels):
        return self._metrics.snapshot().total("store_hedges_total", **labels)


@asynccontextmanager
async def a_quick_store(*, connections=16, limits=None, wrap=lambda store: store):
    faulty = FaultyStore(MemoryStore())
    info = await faulty.write(KEY, BytesBody(DATA))
    metrics = Metrics()
    throttle = Throttle(faulty.url, connections, limits)
    async with open_hedged(wrap(faulty), throttle, metrics, most_s=300.0) as hedged:
        slow = Slow(faulty, ThrottledStore(hedged, throttle), info.pin, metrics)
        for _ in range(FEW_READS):
            await slow.read()
        faulty.forget()
        yield slow


@pytest.mark.promise("S-read-13")
async def test_a_read_that_stands_is_asked_again_and_the_second_answer_is_taken(autojump_clock):
    async with a_quick_store() as slow:
        slow.faulty.delay("read", 60)
        assert await slow.read() == DATA
        assert trio.current_time() == LEAST_S
        assert [call.outcome for call in slow.faulty.asked("read")] == ["CANCELLED", "OK"]
        assert slow.hedges(result="WON") == slow.hedges() == 1


async def test_a_read_that_answers_after_all_ends_the_second(autojump_clock):
    async with a_quick_store() as slow:
        slow.faulty.delay("read", LEAST_S + 1)
        slow.faulty.delay("read", 60)
        assert await slow.read() == DATA
        assert trio.current_time() == LEAST_S + 1
        await wait_all_tasks_blocked()
        assert [call.outcome for call in slow.faulty.asked("read")] == ["OK", "CANCELLED"]
        assert slow.hedges(result="LOST") == slow.hedges() == 1


async def test_a_read_in_time_is_asked_once(autojump_clock):
    async with a_quick_store() as slow:
        for _ in range(50):
            slow.faulty.delay("read", LEAST_S / 2)
            assert await slow.read() == DATA
        assert slow.faulty.count("read") == 50
        assert slow.hedges() == 0


async def test_a_read_is_asked_no_more_than_twice(autojump_clock):
    async with a_quick_store() as slow:
        slow.faulty.delay("read", 60, times=10)
        assert await slow.read() == DATA
        assert trio.current_time() == 60
        assert slow.faulty.count("read") == 2


class Torn(WrappedStore):
    """Has the bytes of the first slow read come wrong, up to the moment when it ends."""

    def __init__(self, inner):
        super().__init__(inner)
        self.slow = 0
        self.ended_s = 0.0

    @override
    async def read_into(self, source, span, buffers):
        if not self.slow:
            await self._inner.read_into(source, span, buffers)
            return
        self.slow -= 1
        try:
            await trio.sleep(60)
        finally:
            with trio.CancelScope(shield=True):  # a thread that takes its time to end
                await trio.sleep(5)
            for buffer in buffers:
                buffer[:] = b"\xbd" * len(buffer)
            self.ended_s = trio.current_time()


async def test_what_the_first_request_writes_while_it_ends_is_not_what_is_read(autojump_clock):
    torn = []

    def wrap(store):
        torn.append(Torn(store))
        return torn[0]

    async with a_quick_store(wrap=wrap) as slow:
        torn[0].slow = 1
        assert await slow.read() == DATA
        assert trio.current_time() == torn[0].ended_s == LEAST_S + 5


async def test_a_second_request_that_is_late_does_not_write_into_what_was_read(autojump_clock):
    torn = []

    def wrap(store):
        torn.append(Torn(store))
        return torn[0]

    async with a_quick_store(wrap=wrap) as slow:
        slow.faulty.delay("read", LEAST_S + 1)
        buffer = bytearray(SPAN.size)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.store.read_into, slow.pin, SPAN, [memoryview(buffer)])
            await wait_all_tasks_blocked()
            torn[0].slow = 1  # the next one, which is the second request
        assert trio.current_time() == LEAST_S + 1
        await trio.sleep(60)
        assert torn[0].ended_s == LEAST_S + 1 + 5
        assert buffer == DATA


async def test_a_reader_that_is_cancelled_ends_both_requests(autojump_clock):
    async with a_quick_store() as slow:
        slow.faulty.delay("read", 60, times=2)
        with trio.move_on_after(1):
            await slow.read()
        await wait_all_tasks_blocked()
        assert trio.current_time() == 1
        assert slow.faulty.in_flight == 0
        assert [call.outcome for call in slow.faulty.asked("read")] == ["CANCELLED"] * 2


async def test_a_first_request_that_breaks_off_waits_for_the_second(autojump_clock):
    async with a_quick_store() as slow:
        gate = slow.faulty.block("read")
        gate.before = TransientError("connection reset")
        slow.faulty.delay("read", 2)
        async with trio.open_nursery() as nursery:

            async def read():
                assert await slow.read() == DATA

            nursery.start_soon(read)
            await trio.sleep(1)
            gate.release()
        assert trio.current_time() == LEAST_S + 2
        assert slow.faulty.count("read") == 2


async def test_when_both_requests_fail_the_first_error_is_told(autojump_clock):
    async with a_quick_store() as slow:
        for seconds, why in ((1, "first"), (2, "second")):
            slow.faulty.delay("read", seconds).before = TransientError(why)
        with pytest.raises(TransientError, match="first"):
            await slow.read()
        assert trio.current_time() == LEAST_S + 2
        assert slow.hedges(result=TransientError("").code) == 1


@pytest.mark.parametrize("error", [StaleError, CorruptError])
async def test_what_the_second_request_learns_for_good_is_an_answer(autojump_clock, error):
    async with a_quick_store() as slow:
        slow.faulty.delay("read", 60)
        slow.faulty.fail("read", error("known"))
        with pytest.raises(error):
            await slow.read()
        assert trio.current_time() == LEAST_S


async def test_a_fault_of_ours_in_the_second_request_is_not_the_reader_s(
    autojump_clock, expect_log
):
    expect_log("second read of 'disk.img' failed unexpectedly")
    async with a_quick_store() as slow:
        slow.faulty.delay("read", 60)
        slow.faulty.fail("read", ZeroDivisionError())
        assert await slow.read() == DATA
        assert trio.current_time() == 60
        assert slow.hedges(result="FAILED") == 1


async def test_when_everything_is_slow_few_are_asked_twice(autojump_clock):
    async with a_quick_store(connections=64) as slow:
        slow.faulty.delay("read", 60, times=1 << 30)
        for _ in range(FEW_READS - 1):
            await slow.read()
        assert slow.faulty.count("read") == FEW_READS - 1 + MOST_EARNED


async def test_memory_for_second_requests_is_bounded_however_many_were_earned(autojump_clock):
    async with a_quick_store(connections=64) as slow, trio.open_nursery() as nursery:
        slow.faulty.delay("read", 1000, times=2 * MOST_AT_ONCE)
        for _ in range(MOST_AT_ONCE):
            nursery.start_soon(slow.read)
        await trio.sleep(1)
        assert slow.faulty.in_flight == 2 * MOST_AT_ONCE
        for _ in range(500):
            await slow.read()
        slow.faulty.delay("read", 60)
        assert await slow.read() == DATA
        assert trio.current_time() == 61
        nursery.cancel_scope.cancel()


async def test_nothing_is_asked_twice_while_the_store_asks_for_less(autojump_clock):
    async with a_quick_store() as slow:
        slow.faulty.delay("read", LEAST_S / 2, times=9)
        slow.faulty.fail("read", ThrottledError("slow down"))
        with pytest.raises(ThrottledError):  # noqa: PT012 - ten at once
            async with open_tasks() as nursery:
                for _ in range(10):
                    nursery.start_soon(slow.read)
        slow.faulty.forget()
        slow.faulty.delay("read", 60)
        assert await slow.read() == DATA
        assert slow.faulty.count("read") == 1
        assert slow.hedges(result="NO_ROOM") == 1


async def test_a_second_request_takes_a_free_connection_or_none(autojump_clock):
    async with a_quick_store(connections=3) as slow:
        slow.faulty.delay("read", 60, times=2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow.read)
            nursery.start_soon(slow.read)
        assert slow.faulty.most_in_flight == slow.faulty.count("read") == 2


async def test_a_second_request_pays_for_its_bytes(autojump_clock):
    limits = Bandwidth(Rates(None, None))
    async with a_quick_store(limits=limits) as slow:
        slow.faulty.delay("read", 60)
        limits.down.change(len(DATA) // 16)
        before_s = trio.current_time()
        assert await slow.read() == DATA
        assert trio.current_time() - before_s == 16  # when the first request's bytes are paid off


async def test_what_waits_for_bandwidth_is_not_slow(autojump_clock):
    limits = Bandwidth(Rates(None, len(DATA)))
    async with a_quick_store(limits=limits) as slow:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(slow.read)
        assert slow.faulty.count("read") == 10
