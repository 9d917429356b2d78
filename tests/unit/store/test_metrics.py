"""What is counted of a store."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.support.faulty import FaultyStore
from vfs.errors import NotFoundError, ThrottledError
from vfs.metrics import Metrics
from vfs.store.base import BytesBody
from vfs.store.memory import MemoryStore
from vfs.store.wrap.metrics import MeteredStore
from vfs.values import Key, Span

KEY = Key("disk.img")


@pytest.fixture
def faulty():
    return FaultyStore(MemoryStore())


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def store(faulty, metrics):
    return MeteredStore(faulty, metrics)


async def test_calls_are_counted_by_operation_and_result(store, faulty, metrics):
    await store.write(KEY, BytesBody(b"x"))
    await store.head(KEY)
    with pytest.raises(NotFoundError):
        await store.head(Key("missing"))
    faulty.fail("head", ThrottledError("slow down"))
    with pytest.raises(ThrottledError):
        await store.head(KEY)
    seen = metrics.snapshot()
    assert seen.total("store_calls_total") == 4
    assert seen.total("store_calls_total", operation="head") == 3
    for result in ("OK", "NOT_FOUND", "THROTTLED"):
        assert seen.total("store_calls_total", operation="head", result=result) == 1


async def test_bytes_are_counted_when_they_have_passed(store, faulty, metrics):
    info = await store.write(KEY, BytesBody(bytes(100)))
    await store.read(info.pin, Span(10, 40))
    faulty.fail("read", ThrottledError("slow down"))
    with pytest.raises(ThrottledError):
        await store.read(info.pin, Span(0, 100))
    seen = metrics.snapshot()
    assert seen.total("store_bytes_out_total") == 100
    assert seen.total("store_bytes_in_total", operation="read") == 30


async def test_time_inside_the_store_is_summed(store, faulty, metrics, autojump_clock):
    faulty.delay("list", 2)
    faulty.delay("list", 3)
    await store.list(Key(""))
    await store.list(Key(""))
    assert metrics.snapshot().total("store_seconds_total", operation="list") == 5


async def test_calls_in_flight_are_a_gauge(store, faulty, metrics, nursery):
    gate = faulty.block("list", times=3)
    for _ in range(3):
        nursery.start_soon(store.list, Key(""))
    await wait_all_tasks_blocked()
    assert metrics.snapshot().total("store_in_flight") == 3
    gate.release()
    await wait_all_tasks_blocked()
    assert metrics.snapshot().total("store_in_flight") == 0


async def test_a_cancelled_call_is_counted_as_such(store, faulty, metrics, autojump_clock):
    faulty.block("list")
    with trio.move_on_after(1):
        await store.list(Key(""))
    seen = metrics.snapshot()
    assert seen.total("store_calls_total", result="CANCELLED") == 1
    assert seen.total("store_in_flight") == 0


def test_a_snapshot_does_not_change(metrics):
    metrics.add("x_total", kind="a")
    before = metrics.snapshot()
    metrics.add("x_total", 2, kind="b")
    assert (before.total("x_total"), metrics.snapshot().total("x_total")) == (1, 3)
    assert metrics.snapshot().total("x_total", kind="c") == 0
