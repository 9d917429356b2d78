"""What `vfs status` shows, also of a daemon that cannot speak."""

import json

import pytest

from tests.unit.cli.daemons import FakeDaemon, answering
from vfs.cli.status import blank, judge
from vfs.runtime import Record, write_record

FIELDS = [
    "mountpoint",
    "url",
    "pid",
    "state",
    "since",
    "dirty_bytes",
    "dirty_files",
    "oldest_dirty_age_s",
    "uploads_in_progress",
    "upload_queue_bytes",
    "failed_uploads",
    "conflicts",
    "stage_bytes",
    "stage_limit",
    "memory_bytes",
    "memory_limit",
    "fsync",
    "ro",
    "layout",
    "cache",
    "requests",
    "errors",
    "last_error",
    "stores",
    "restart_needed",
    "daemon_version",
]
CACHE = ["ram_bytes", "ram_limit", "disk_bytes", "disk_limit", "hits", "misses"]

RECORD = Record("/m", "mem://x", 1 << 30, "2030-01-02T03:04:05Z")  # a pid that nobody has


def test_nothing_mounted_is_an_empty_list_and_no_error(vfs, runtime):
    outcome = vfs("status", "--json")
    assert (outcome.code, json.loads(outcome.out)) == (0, {"version": 1, "mounts": []})
    assert vfs("status").out == "nothing is mounted\n"
    assert vfs("status", "--json", "/nowhere").code == 0


def test_every_field_of_the_contract_is_there_also_for_a_dead_daemon(vfs, runtime):
    write_record(runtime, RECORD)
    (mount,) = json.loads(vfs("status", "--json").out)["mounts"]
    assert list(mount) == FIELDS
    assert list(mount["cache"]) == CACHE
    assert list(mount["stores"][0]) == [
        "url", "up", "latency_s", "last_error", "bytes_in", "bytes_out"
    ]  # fmt: skip
    assert (mount["state"], mount["since"]) == ("dead", RECORD.started)


def test_a_daemon_answers_for_itself(vfs, runtime, tmp_path):
    mount = {
        "mountpoint": "/m",
        "state": "ready",
        "url": "mem://x",
        "dirty_bytes": 2048,
        "dirty_files": 1,
    }
    with FakeDaemon(runtime, tmp_path, answering({"ok": True, "mount": mount})):
        (shown,) = json.loads(vfs("status", "--json", tmp_path).out)["mounts"]
        lines = vfs("status").out.splitlines()
    assert shown["dirty_bytes"] == 2048
    assert set(shown) == set(FIELDS)
    assert lines[0].split()[:2] == ["MOUNTPOINT", "STATE"]
    assert "2.0 KiB in 1" in lines[1]


def test_a_daemon_that_runs_but_does_not_answer_is_degraded(vfs, runtime, tmp_path):
    with FakeDaemon(runtime, tmp_path, answering()):
        (shown,) = json.loads(vfs("status", "--json").out)["mounts"]
        assert "last error: the daemon at" in vfs("status").out
    assert shown["state"] == "degraded"


def test_check_fails_for_a_dead_daemon_with_the_remedy(vfs, runtime):
    write_record(runtime, RECORD)
    outcome = vfs("status", "--check")
    assert outcome.code == 1
    assert "/m is dead: the daemon is gone; vfs umount cleans up" in outcome.err
    assert vfs("status").code == 0


def test_check_of_a_mount_point_where_nothing_is_mounted_fails(vfs, runtime):
    assert vfs("status", "--check", "/nowhere").code == 3
    assert vfs("status", "--check").code == 0


@pytest.mark.parametrize(
    ("changes", "max_age_s", "code"),
    [
        ({}, None, None),
        ({"state": "draining"}, None, None),
        ({"state": "degraded"}, None, 1),
        ({"failed_uploads": 1}, None, 1),
        ({"conflicts": 1}, None, 1),
        ({"oldest_dirty_age_s": 61}, None, None),
        ({"oldest_dirty_age_s": 61}, 60, 8),
        ({"oldest_dirty_age_s": 59}, 60, None),
    ],
)
def test_a_mount_is_judged_by_its_state_and_by_what_waits(changes, max_age_s, code):
    verdict = judge({**blank(RECORD, "ready", None), **changes}, max_age_s)
    assert (verdict and verdict[0]) == code
