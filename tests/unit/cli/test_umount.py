"""`vfs umount` and `vfs flush`: success means that everything is stored."""

import os
import signal
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.cli.daemons import WAIT, FakeDaemon, answering
from vfs.cli import mounts, umount
from vfs.cli.mounts import MountEntry, detach, parse_mountinfo
from vfs.errors import BusyError, DeniedError, VfsError
from vfs.runtime import Record, write_record

NOBODY = 1 << 30  # no pid is that high


@pytest.fixture
def kernel(monkeypatch, tmp_path):
    """A table of mounts of our own; unmounting takes the entry away."""
    table = {}
    calls = []

    def take(mountpoint, *, lazy):
        calls.append((mountpoint, lazy))
        del table[mountpoint]

    monkeypatch.setattr(umount, "find_entry", table.get)
    monkeypatch.setattr(umount, "detach", take)
    monkeypatch.setattr(umount, "is_dead", lambda path: True)
    return Kernel(table, calls)


@dataclass
class Kernel:
    table: dict
    calls: list

    def mount(self, path, kind="fuse.vfs"):
        self.table[path] = MountEntry(path, kind, "mem://x")


@pytest.fixture
def process():
    """A process that ends when its pipe is closed."""
    running = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    yield running
    running.stdin.close()
    running.wait()


def end(process):
    process.stdin.close()
    process.wait()


def test_it_drains_then_detaches_then_waits_for_the_daemon_to_end(
    vfs, runtime, kernel, process, tmp_path
):
    kernel.mount(tmp_path)

    def answers(request):
        assert kernel.calls == []
        yield {"progress": {"dirty_bytes": 10, "dirty_files": 1}}
        yield {"ok": True, "dirty": 0}
        end(process)

    with FakeDaemon(runtime, tmp_path, answers, pid=process.pid) as daemon:
        outcome = vfs("umount", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert kernel.calls == [(tmp_path, False)]
    assert daemon.asked == [{"version": 1, "verb": "umount", "lazy": False, "timeout_s": None}]


def test_what_is_not_stored_in_time_keeps_the_mount_and_is_exit_code_8(
    vfs, runtime, kernel, tmp_path
):
    kernel.mount(tmp_path)
    progress = {"progress": {"dirty_bytes": 2048, "dirty_files": 3}}
    with FakeDaemon(runtime, tmp_path, answering(progress, WAIT)) as daemon:
        outcome = vfs("umount", "--timeout", "0.2", tmp_path)
    assert outcome.code == 8
    assert "2.0 KiB in 3 files not stored in time; the upload goes on" in outcome.err
    assert kernel.calls == []
    assert daemon.asked[0]["timeout_s"] == 0.2


def test_the_daemon_may_be_the_one_who_gives_up(vfs, runtime, kernel, tmp_path):
    kernel.mount(tmp_path)
    answer = {"ok": False, "exit": 8, "message": "3 files are not stored yet"}
    with FakeDaemon(runtime, tmp_path, answering(answer)):
        outcome = vfs("umount", tmp_path)
    assert (outcome.code, outcome.err) == (8, "vfs: 3 files are not stored yet\n")
    assert kernel.calls == []


def test_without_a_terminal_it_waits_as_long_as_the_daemon_is_configured_to(
    vfs, runtime, kernel, tmp_path
):
    kernel.mount(tmp_path)
    progress = {"progress": {"dirty_bytes": 1, "dirty_files": 1, "stop_wait_s": 0.05}}
    with FakeDaemon(runtime, tmp_path, answering(progress, WAIT)):
        assert vfs("umount", tmp_path).code == 8


def test_lazy_detaches_at_once_and_names_the_daemon_that_still_works(
    vfs, runtime, kernel, tmp_path
):
    kernel.mount(tmp_path)
    with FakeDaemon(runtime, tmp_path, answering({"ok": True, "mount": {"dirty_files": 5}})):
        outcome = vfs("umount", "--lazy", tmp_path)
    assert (outcome.code, outcome.out) == (8, f"{os.getpid()}\n")
    assert kernel.calls == [(tmp_path, True)]


def test_lazy_with_nothing_left_to_store_is_done(vfs, runtime, kernel, tmp_path):
    kernel.mount(tmp_path)
    with FakeDaemon(runtime, tmp_path, answering({"ok": True, "mount": {"dirty_files": 0}})):
        assert vfs("umount", "--lazy", tmp_path).code == 0


def test_lazy_gets_rid_of_a_mount_whose_daemon_does_not_answer(vfs, runtime, kernel, tmp_path):
    kernel.mount(tmp_path)
    with FakeDaemon(runtime, tmp_path, answering()):
        assert vfs("umount", "--lazy", tmp_path).code == 8
    assert kernel.calls == [(tmp_path, True)]


def test_what_is_no_mount_point_is_not_found(vfs, runtime, kernel, tmp_path):
    outcome = vfs("umount", tmp_path)
    assert (outcome.code, outcome.err) == (3, f"vfs: {tmp_path} is not a mount point\n")


def test_another_file_system_is_not_touched(vfs, runtime, kernel, tmp_path):
    kernel.mount(tmp_path, "ext4")
    outcome = vfs("umount", tmp_path)
    assert outcome.code == 2
    assert "is a mount of ext4, not of vfs; use umount" in outcome.err
    assert kernel.calls == []


def test_after_a_daemon_that_died_the_mount_is_cleaned_up_and_the_stage_is_named(
    vfs, runtime, kernel, tmp_path
):
    kernel.mount(tmp_path)
    write_record(runtime, Record(str(tmp_path), "mem://x", NOBODY, "", "/var/lib/vfs/1"))
    outcome = vfs("umount", tmp_path)
    assert outcome.code == 8
    assert (
        "its daemon had died: what it had not stored stays staged in /var/lib/vfs/1" in outcome.err
    )
    assert kernel.calls == [(tmp_path, True)]
    assert list(runtime.iterdir()) == []


def test_a_dead_mount_of_which_nothing_is_known_is_cleaned_up_too(vfs, runtime, kernel, tmp_path):
    kernel.mount(tmp_path)
    assert vfs("umount", tmp_path).code == 8
    assert kernel.calls == [(tmp_path, True)]


def test_a_living_mount_of_somebody_else_is_not_touched(
    vfs, runtime, kernel, monkeypatch, tmp_path
):
    kernel.mount(tmp_path)
    monkeypatch.setattr(umount, "is_dead", lambda path: False)
    outcome = vfs("umount", tmp_path)
    assert outcome.code == 5
    assert "call this as the user who mounted it" in outcome.err
    assert kernel.calls == []


def test_a_daemon_that_drains_after_a_bare_umount_is_waited_for(
    vfs, runtime, kernel, process, tmp_path
):
    def answers(request):
        yield {"ok": True, "dirty": 0}
        end(process)

    with FakeDaemon(runtime, tmp_path, answers, pid=process.pid):
        assert vfs("umount", tmp_path).code == 0
    assert kernel.calls == []


def test_a_daemon_that_does_not_end_is_told(vfs, runtime, kernel, process, tmp_path):
    kernel.mount(tmp_path)
    with FakeDaemon(runtime, tmp_path, answering({"ok": True, "dirty": 0}), pid=process.pid):
        outcome = vfs("umount", "--timeout", "0.1", tmp_path)
    assert outcome.code == 1
    assert f"the daemon (pid {process.pid}) has not ended yet" in outcome.err


def test_ctrl_c_stops_the_waiting_only(vfs, runtime, kernel, tmp_path):
    kernel.mount(tmp_path)

    def answers(request):
        yield {"progress": {}}
        # To the one thread that a blocked call can be woken in, as a terminal's Ctrl-C does.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        yield WAIT

    with FakeDaemon(runtime, tmp_path, answers):
        assert vfs("umount", tmp_path).code == 130
    assert kernel.calls == []


def test_flush_asks_for_the_path_inside_the_mount(vfs, runtime, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.img").touch()
    with FakeDaemon(runtime, tmp_path, answering({"ok": True})) as daemon:
        assert vfs("flush", tmp_path / "a/b.img").code == 0
        assert vfs("flush", "--timeout", "3", tmp_path).code == 0
    asked = [(request["verb"], request["path"], request["timeout_s"]) for request in daemon.asked]
    assert asked == [("flush", "a/b.img", None), ("flush", None, 3)]


def test_flush_of_a_mistyped_name_is_not_found(vfs, runtime, tmp_path):
    with FakeDaemon(runtime, tmp_path, answering({"ok": True})):
        outcome = vfs("flush", tmp_path / "none.img")
    assert (outcome.code, outcome.err) == (
        3,
        f"vfs: {tmp_path}/none.img: no such file or directory\n",
    )


def test_flush_outside_of_any_mount_is_not_found(vfs, runtime, tmp_path):
    assert vfs("flush", tmp_path).code == 3


def test_mountinfo_is_read_with_its_escapes():
    text = (
        "22 1 0:21 / / rw - ext4 /dev/sda rw\n"
        "36 22 0:42 / /mnt/a\\040b rw,nosuid shared:1 - fuse.vfs s3://b/x rw,user_id=0\n"
    )
    assert parse_mountinfo(text)[1] == MountEntry(Path("/mnt/a b"), "fuse.vfs", "s3://b/x")


def test_a_mount_is_found_through_links_above_it_but_is_not_touched(monkeypatch, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/to").symlink_to("mnt")
    mounted = tmp_path / "real/mnt"
    monkeypatch.setattr(mounts, "find_entry", lambda path: path == mounted)
    looked_at = []
    monkeypatch.setattr(
        mounts, "real_mountpoint", lambda path: looked_at.append(path) or path.resolve()
    )
    assert mounts.resolve(tmp_path / "link/mnt") == mounted
    assert looked_at == [tmp_path / "link"]
    assert mounts.resolve(tmp_path / "link/to") == mounted


def program(directory, name, script):
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("says", "error"),
    [
        ("umount: /m: target is busy.", BusyError),
        ("umount: /m: must be superuser: operation not permitted", DeniedError),
        ("something else", VfsError),
    ],
)
def test_what_umount_says_becomes_an_error(says, error, monkeypatch, tmp_path):
    for name in ("umount", "fusermount3"):
        program(tmp_path, name, f"echo '{says}' >&2; exit 32")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(error) as caught:
        detach(Path("/m"), lazy=False)
    assert type(caught.value) is error


def test_the_kernel_s_umount_is_called_without_our_own_helper(monkeypatch, tmp_path):
    for name in ("umount", "fusermount3"):
        program(tmp_path, name, f"echo $0 $* > {tmp_path}/called")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(mounts.os, "getuid", lambda: 0)
    detach(Path("/m"), lazy=True)
    assert (tmp_path / "called").read_text() == f"{tmp_path}/umount -i -l -- /m\n"
    monkeypatch.setattr(mounts.os, "getuid", lambda: 1)
    detach(Path("/m"), lazy=False)
    assert (tmp_path / "called").read_text() == f"{tmp_path}/fusermount3 -u -- /m\n"
