"""Changed attributes reach the store, also one that was down for long."""

import errno
import logging
import os

import pytest
import trio

from tests.support.tree import Shell, tree_on
from vfs.errors import DeniedError, UnreachableError
from vfs.tree.uploader import Backoff, Uploader

DOWN = UnreachableError("no route to host")
HOUR_S = 3600.0


@pytest.fixture
async def shell(store, tmp_path):
    async with tree_on(store, tmp_path) as mount:
        yield Shell(mount)


@pytest.fixture
def uploader(shell):
    context = shell.mount.fs.context
    return Uploader(context.sidecars, context.journal)


@pytest.fixture
def running(uploader, changed, nursery):
    nursery.start_soon(uploader.run)
    return uploader


@pytest.fixture
async def changed(shell, store):
    """Some directories whose attributes are not stored yet."""
    for name in "abc":
        await shell.mkdir(name)
        await shell.mkdir(f"{name}/below")
        await shell.chmod(f"{name}/below", 0o700)
    store.forget()
    return shell.mount.fs.context.sidecars


def test_pauses_double_up_to_a_minute():
    backoff, pauses = Backoff(), []
    for _ in range(9):
        backoff.fail(100.0)
        pauses.append(backoff.until_s - 100)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    backoff.failures = 10**6
    backoff.fail(0.0)
    assert backoff.until_s == 60


async def test_a_disk_that_does_not_take_what_is_stored_ends_nothing(
    changed, running, uploader, autojump_clock, monkeypatch, expect_log
):
    def fail(*_words):
        raise OSError(errno.EIO, "Input/output error")

    expect_log("journal of names: the stage's disk fails")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        while changed.pending:
            await trio.sleep(1)
        await uploader.drain()
        await trio.sleep(HOUR_S)
    await trio.sleep(61)  # it is told once more, and taken


async def test_a_store_that_is_down_is_asked_more_and_more_rarely(
    changed, running, store, autojump_clock, expect_log, caplog
):
    expect_log("attributes of .* not stored yet .*, kept and tried again: no route")
    caplog.set_level(logging.INFO)
    store.fail("", DOWN, times=10**6)
    await trio.sleep(HOUR_S)
    assert 60 <= len(store.calls) <= 80
    assert len(caplog.records) <= 8

    store.script.clear()
    await trio.sleep(61)
    assert not changed.pending
    told = [record.getMessage() for record in caplog.records]
    assert told.count("attributes are stored again") == 1
    assert told[-1] == "attributes are stored again"


async def test_a_directory_that_fails_alone_holds_nobody_up(
    changed, running, store, autojump_clock, expect_log, caplog
):
    expect_log("attributes of 'a'")
    store.fail("write", DeniedError("not there"), key="a/.vfs.attrs", times=10**6)
    await trio.sleep(1.5)
    assert [sidecar.directory for sidecar in changed.pending] == ["a"]
    await trio.sleep(HOUR_S)
    assert store.count("write", "a/.vfs.attrs") <= 80
    assert len([one for one in caplog.records if one.levelname == "WARNING"]) <= 8


async def test_a_key_that_never_answers_starves_no_other_directory(
    changed, running, store, autojump_clock, expect_log
):
    expect_log("attributes of 'a'")
    store.fail("write", DOWN, key="a/.vfs.attrs", times=10**6)
    await trio.sleep(10)
    assert [sidecar.directory for sidecar in changed.pending] == ["a"]


async def test_draining_tries_at_once_what_had_been_left_alone(
    changed, running, store, autojump_clock, expect_log
):
    expect_log("not stored yet")
    store.fail("", DOWN, times=10**6)
    await trio.sleep(HOUR_S)
    store.script.clear()
    before = trio.current_time()
    await running.drain()
    assert not changed.pending
    assert trio.current_time() - before < 1
