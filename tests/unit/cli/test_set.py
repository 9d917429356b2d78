"""`vfs set`: what is asked of the daemon, and what is refused before."""

import json

import pytest

from tests.unit.cli.daemons import WAIT, FakeDaemon, answering
from vfs.cli import client
from vfs.runtime import Record, write_record

NOW = {"ok": True, "settings": {"bandwidth": "20M:", "log_level": "debug"}}


def test_all_changes_are_asked_for_at_once_and_what_holds_is_printed(vfs, runtime, tmp_path):
    with FakeDaemon(runtime, tmp_path, answering(NOW)) as daemon:
        outcome = vfs("set", tmp_path, "bandwidth=20M:", "log-level=debug")
    assert (outcome.code, outcome.out, outcome.err) == (
        0,
        "bandwidth = 20M:\nlog_level = debug\n",
        "",
    )
    settings = {"bandwidth": "20M:", "log_level": "debug"}
    assert daemon.asked == [{"version": 1, "verb": "set", "settings": settings}]


def test_an_empty_value_lifts_the_limit(vfs, runtime, tmp_path):
    now = {"ok": True, "settings": {"bandwidth": "", "log_level": "info"}}
    with FakeDaemon(runtime, tmp_path, answering(now)) as daemon:
        outcome = vfs("set", tmp_path, "bandwidth=")
    assert daemon.asked[0]["settings"] == {"bandwidth": ""}
    assert outcome.out == "bandwidth =\nlog_level = info\n"


def test_what_holds_is_told_in_json_too(vfs, runtime, tmp_path):
    with FakeDaemon(runtime, tmp_path, answering(NOW)):
        outcome = vfs("set", "--json", tmp_path, "log_level=debug")
    assert json.loads(outcome.out) == {
        "version": 1,
        "mountpoint": str(tmp_path),
        "settings": NOW["settings"],
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["memory=1G"], "bandwidth and log_level can be changed while mounted"),
        (["bandwidth=1M", "colour=red"], "bandwidth and log_level can be changed while mounted"),
        (["log_level=debug", "bandwidth=fast"], "'fast' is not a size"),
        (["bandwidth"], "'bandwidth' is not a change; write NAME=VALUE. Try vfs set --help."),
        (["=1M"], "is not a change"),
        ([], "Missing argument 'NAME=VALUE...'"),
    ],
)
def test_a_mistake_is_exit_code_2_and_the_daemon_is_not_asked(
    changes, message, vfs, runtime, tmp_path
):
    with FakeDaemon(runtime, tmp_path, answering(NOW)) as daemon:
        outcome = vfs("set", tmp_path, *changes)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert daemon.asked == []


def test_what_the_daemon_refuses_is_refused(vfs, runtime, tmp_path):
    answer = {"ok": False, "exit": 2, "message": "option bandwidth: not by me"}
    with FakeDaemon(runtime, tmp_path, answering(answer)):
        outcome = vfs("set", tmp_path, "bandwidth=1M")
    assert (outcome.code, outcome.err) == (2, "vfs: option bandwidth: not by me\n")


def test_a_directory_without_a_mount_is_not_found(vfs, runtime, tmp_path):
    assert vfs("set", tmp_path, "bandwidth=1M").code == 3


def test_a_daemon_that_is_gone_or_silent_is_unreachable(vfs, runtime, tmp_path, monkeypatch):
    write_record(runtime, Record(str(tmp_path), "mem://x", 1 << 30, "2030-01-02T03:04:05Z"))
    assert vfs("set", tmp_path, "bandwidth=1M").code == 5
    monkeypatch.setattr(client, "ANSWER_S", 0.1)
    with FakeDaemon(runtime, tmp_path, answering(WAIT)):
        outcome = vfs("set", tmp_path, "bandwidth=1M")
    assert (outcome.code, outcome.err) == (5, f"vfs: the daemon of {tmp_path} does not answer\n")
