"""What `vfs status` is told."""

import pytest

from tests.support.faulty import FaultyStore
from tests.support.tree import tree_on
from vfs.config import load_config
from vfs.daemon.report import Report, state_of
from vfs.metrics import Health
from vfs.store.memory import MemoryStore

NOTHING_MOVED = {"bytes_in": 0, "bytes_out": 0}


@pytest.mark.parametrize(
    ("state", "failing", "up", "shown"),
    [
        ("ready", 0, True, "ready"),
        ("ready", 0, False, "degraded"),
        ("ready", 1, True, "degraded"),
        ("starting", 0, False, "starting"),
        ("draining", 1, False, "draining"),
    ],
)
def test_a_mount_that_serves_is_degraded_while_something_keeps_failing(state, failing, up, shown):
    assert state_of(state, failing_uploads=failing, store_up=up) == shown


async def test_a_store_that_is_down_shows_until_the_next_answer(tmp_path):
    async with tree_on(FaultyStore(MemoryStore()), tmp_path) as mount:
        report = Report(load_config("mem://tree", [], environ={}), tmp_path, mount)
        report.state = "ready"
        health = mount.metrics.health

        health[mount.store.url] = Health(up=True, latency_s=0.25)
        shown = report.status()
        assert (shown["state"], shown["last_error"]) == ("ready", None)
        assert shown["stores"] == [
            {"url": "mem://tree", "up": True, "latency_s": 0.25, "last_error": None} | NOTHING_MOVED
        ]

        health[mount.store.url] = Health(up=False, latency_s=0.25, last_error="no route")
        shown = report.status()
        assert (shown["state"], shown["last_error"]) == ("degraded", "no route")
        assert shown["stores"] == [
            {"url": "mem://tree", "up": False, "latency_s": None, "last_error": "no route"}
            | NOTHING_MOVED
        ]

        health[mount.store.url] = Health(up=True, latency_s=0.25, last_error="no route")
        assert report.status()["state"] == "ready"
