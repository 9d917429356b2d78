"""Talking to a daemon: the protocol, and everything that can go wrong with it."""

import os
from pathlib import Path

import pytest

from tests.unit.cli.daemons import WAIT, FakeDaemon, answering
from vfs.cli.client import Patience, ask, find_mount, find_mount_of
from vfs.errors import ConfigError, MetadataError, NotFoundError, UnreachableError
from vfs.runtime import (
    ExitError,
    Record,
    is_alive,
    list_records,
    make_runtime_directory,
    mount_id,
    read_record,
    record_path,
    runtime_directory,
    write_record,
)

MOUNT = Path("/srv/images")


def record(mountpoint, pid=1):
    return Record(str(mountpoint), "mem://x", pid, "2030-01-01T00:00:00Z")


def test_a_request_is_one_line_with_version_and_verb(runtime):
    with FakeDaemon(runtime, MOUNT, answering({"ok": True, "mount": {"a": 1}})) as daemon:
        assert ask(daemon.path, "status", {"x": 2}) == {"ok": True, "mount": {"a": 1}}
    assert daemon.asked == [{"version": 1, "verb": "status", "x": 2}]


def test_progress_comes_before_the_answer(runtime):
    seen = []
    lines = [{"progress": {"dirty_bytes": left}} for left in (2, 1)]
    with FakeDaemon(runtime, MOUNT, answering(*lines, {"ok": True})) as daemon:
        ask(daemon.path, "flush", progress=seen.append)
    assert seen == [{"dirty_bytes": 2}, {"dirty_bytes": 1}]


def test_an_answer_may_come_in_pieces(runtime):
    with FakeDaemon(runtime, MOUNT, answering(b'{"progress":{}}\n{"ok"', b":true}\n")) as daemon:
        assert ask(daemon.path, "x") == {"ok": True}


def test_a_refusal_carries_its_exit_code_and_message(runtime):
    answer = {"ok": False, "exit": 7, "message": "somebody else wrote"}
    with (
        FakeDaemon(runtime, MOUNT, answering(answer)) as daemon,
        pytest.raises(ExitError, match="somebody else wrote") as caught,
    ):
        ask(daemon.path, "flush")
    assert caught.value.exit_code == 7


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([], UnreachableError),
        ([{"progress": {}}], UnreachableError),
        ([b"nonsense\n"], MetadataError),
        ([b"[]\n"], MetadataError),
        ([{"exit": "x"}], ExitError),
    ],
)
def test_a_daemon_that_makes_no_sense_is_an_error(answers, error, runtime):
    with FakeDaemon(runtime, MOUNT, answering(*answers)) as daemon, pytest.raises(error):
        ask(daemon.path, "status")


def test_a_daemon_that_keeps_silent_is_left_when_patience_has_run_out(runtime):
    with FakeDaemon(runtime, MOUNT, answering(WAIT)) as daemon, pytest.raises(TimeoutError):
        ask(daemon.path, "status", patience=Patience(total_s=0))


def test_where_nobody_listens_nobody_is_reached(tmp_path):
    with pytest.raises(UnreachableError, match="no daemon answers"):
        ask(tmp_path / "none.sock", "status")


def test_patience_ends_after_its_total():
    now = [0.0]
    patience = Patience(total_s=10, clock=lambda: now[0])
    now[0] = 4
    patience.moved(1)
    assert patience.left_s() == 6
    now[0] = 11
    assert patience.left_s() == 0


def test_patience_ends_when_nothing_moves():
    now = [0.0]
    patience = Patience(stall_s=10, clock=lambda: now[0])
    now[0] = 9
    patience.moved(5)
    assert patience.left_s() == 10
    now[0] = 18
    patience.moved(5)  # the same figure again is no movement
    assert patience.left_s() == 1
    patience.allow(100)
    assert patience.left_s() == 91


def test_patience_without_limits_waits_for_ever():
    assert Patience().left_s() is None


def test_a_mount_is_found_by_any_path_inside_it(runtime, tmp_path):
    outer, inner = tmp_path / "a", tmp_path / "a/b"
    for mountpoint in (outer, inner):
        write_record(runtime, record(mountpoint))
    assert find_mount(outer)[0].mountpoint == str(outer)
    assert find_mount_of(inner / "x/y")[0::2] == (record(inner), "x/y")
    assert find_mount_of(outer / "z")[0::2] == (record(outer), "z")
    assert find_mount_of(outer)[2] is None
    for missing in (find_mount, find_mount_of):
        with pytest.raises(NotFoundError):
            missing(tmp_path / "ab")


def test_a_mount_is_found_through_a_link(runtime, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_record(runtime, record(tmp_path / "real"))
    assert find_mount_of(tmp_path / "link/f")[2] == "f"


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    path = write_record(tmp_path, record("/m"))
    assert path == record_path(tmp_path, Path("/m"))
    assert path.name == f"{mount_id(Path('/m'))}.json"
    assert len(path.stem) == 16
    assert read_record(path) == record("/m")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 2}', "newer vfs"),
        ("{", "not a record"),
        ("[]", "not a record"),
        ('{"version": 1, "pid": "1"}', "not a record"),
    ],
)
def test_a_record_that_cannot_be_understood_is_left_untouched(text, message, tmp_path):
    path = tmp_path / "0.json"
    path.write_text(text)
    with pytest.raises(MetadataError, match=message):
        read_record(path)
    assert list_records(tmp_path) == []
    assert path.read_text() == text


def test_the_runtime_directory_depends_on_who_asks():
    assert runtime_directory({"XDG_RUNTIME_DIR": "/run/user/7"}, 0) == Path("/run/vfs")
    assert runtime_directory({"XDG_RUNTIME_DIR": "/run/user/7"}, 7) == Path("/run/user/7/vfs")
    assert runtime_directory({}, 7).name == "vfs-7"


def test_the_runtime_directory_is_ours_alone(tmp_path):
    directory = tmp_path / "vfs"
    make_runtime_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    make_runtime_directory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_link_in_place_of_the_runtime_directory_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="not our own directory"):
        make_runtime_directory(tmp_path / "link")


def test_a_process_that_has_ended_is_not_alive():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child)  # a zombie
    os.waitpid(child, 0)
    assert not is_alive(child)
    assert is_alive(os.getpid())
