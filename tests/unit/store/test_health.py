"""Whether a store can be used, by how its requests end."""

import logging
from dataclasses import replace

import pytest
import trio

from tests.support.faulty import FaultyStore
from vfs.errors import (
    AuthenticationError,
    ConfigError,
    ConflictError,
    DeniedError,
    InvalidError,
    NotFoundError,
    StaleError,
    ThrottledError,
    UnreachableError,
    UnsupportedError,
)
from vfs.metrics import Health, Metrics
from vfs.store.base import BytesBody
from vfs.store.memory import MemoryStore
from vfs.store.wrap.health import QUIET_S, WatchedStore, after
from vfs.store.wrap.retry import RetryingStore
from vfs.values import Key, Span

KEY = Key("disk.img")
UP = Health(up=True, answered=True, latency_s=1.0, last_error=None)
DOWN = Health(up=False, answered=True, latency_s=1.0, last_error="it was down")


@pytest.mark.parametrize(
    "error",
    [
        UnreachableError("why", key=KEY),
        ThrottledError("why", key=KEY),
        DeniedError("why", key=KEY),
        AuthenticationError("why"),
        ConfigError("why"),
        NotFoundError("why", key=""),  # the bucket
    ],
    ids=lambda error: error.code,
)
def test_a_failure_for_want_of_the_store_takes_it_down(error):
    assert after(UP, error, 5.0) == replace(DOWN, last_error="why")
    assert after(DOWN, error, 5.0).last_error == "why"


@pytest.mark.parametrize(
    "error",
    [None, NotFoundError("no", key=KEY), ConflictError("no", key=KEY), StaleError("no", key=KEY)],
    ids=["success", "missing", "conflict", "stale"],
)
def test_an_answer_of_any_kind_brings_it_up(error):
    assert after(DOWN, error, 1.0) == replace(UP, last_error="it was down")


@pytest.mark.parametrize("error", [UnsupportedError("no"), InvalidError("no")])
@pytest.mark.parametrize("health", [UP, DOWN], ids=["up", "down"])
def test_what_may_not_come_from_the_store_says_nothing(health, error):
    assert after(health, error, 9.0) == health


def test_the_latency_follows_the_answers_slowly():
    assert after(Health(), None, 4.0).latency_s == 4.0
    assert after(UP, None, 9.0).latency_s == 2.0
    assert after(UP, None, None).latency_s == 1.0
    assert after(Health(), None, None) == Health(answered=True)
    assert after(UP, UnreachableError("why", key=KEY), 60.0).latency_s == 1.0


@pytest.fixture
def faulty():
    return FaultyStore(MemoryStore())


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def store(faulty, metrics):
    return WatchedStore(RetryingStore(faulty), metrics)


async def test_what_a_retry_mends_is_no_failure(store, faulty, metrics, autojump_clock):
    await store.write(KEY, BytesBody(b"x"))
    faulty.fail("head", UnreachableError("no route"), times=3)
    await store.head(KEY)
    assert metrics.health[store.url].up
    assert metrics.health[store.url].last_error is None


async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    store, faulty, metrics, autojump_clock, expect_log, caplog
):
    expect_log("cannot be used: no route")
    caplog.set_level(logging.INFO)
    info = await store.write(KEY, BytesBody(b"x"))
    faulty.fail("", UnreachableError("no route", key=KEY), times=12)
    for _ in range(3):
        with pytest.raises(UnreachableError):
            await store.read(info.pin, Span(0, 1))
    assert not metrics.health[store.url].up
    assert metrics.health[store.url].last_error == "no route"
    await store.read(info.pin, Span(0, 1))
    assert metrics.health[store.url].up
    assert [record.getMessage() for record in caplog.records] == [
        f"{store.url} cannot be used: no route",
        f"{store.url} can be used again",
    ]


async def test_a_store_that_comes_and_goes_is_told_of_now_and_then(
    store, faulty, autojump_clock, expect_log, caplog
):
    expect_log("cannot be used: no route")
    caplog.set_level(logging.INFO)
    store = WatchedStore(faulty, Metrics())
    await store.write(KEY, BytesBody(b"x"))

    async def fail_and_answer(times):
        caplog.clear()
        for _ in range(times):
            faulty.fail("head", UnreachableError("no route", key=KEY))
            with pytest.raises(UnreachableError):
                await store.head(KEY)
            await store.head(KEY)
        return [record.getMessage().removeprefix(store.url) for record in caplog.records]

    assert await fail_and_answer(100) == [" cannot be used: no route", " can be used again"]
    await trio.sleep(QUIET_S)
    assert await fail_and_answer(1) == [
        " cannot be used: no route (and 99 times more since this was last told)",
        " can be used again",
    ]


async def test_before_its_first_answer_nothing_is_logged(store, faulty, metrics, autojump_clock):
    faulty.fail("probe", DeniedError("not yours"))
    with pytest.raises(DeniedError):
        await store.probe(write=False)
    assert not metrics.health[store.url].up


async def test_a_probe_is_no_measure_of_one_request(store, faulty, metrics, autojump_clock):
    faulty.delay("probe", 3)
    await store.probe(write=False)
    assert metrics.health[store.url] == Health(answered=True)


async def test_a_call_that_is_cancelled_says_nothing(store, faulty, metrics, autojump_clock):
    faulty.block("list")
    with trio.move_on_after(1):
        await store.list(Key(""))
    assert metrics.health[store.url] == Health()
