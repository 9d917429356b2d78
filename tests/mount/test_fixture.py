"""The fixture itself: what a mount that hangs, or one that complains, does to a test."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.mount import ChildError, Directory, mounted


def end_of_a_stopped_daemon(mount, pid: int) -> None:
    os.kill(pid, signal.SIGCONT)  # it finds its connection cut, and ends
    mount.run("bash", "-c", f"while [ -e /proc/{pid} ]; do sleep 0.05; done", timeout=30)
    mount.run("umount", "-l", mount.path, check=False)
    mount.expect_log(".")


def test_a_command_on_a_mount_that_hangs_fails_in_time(local_mount):
    mount, pid = local_mount, local_mount.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ChildError, match="did not end within 1"):
        mount.sh("ls", timeout=1)
    end_of_a_stopped_daemon(mount, pid)


def test_a_function_on_a_mount_that_hangs_fails_in_time(local_mount):
    mount, pid = local_mount, local_mount.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ChildError, match="nothing within 1"):
        mount.call(os.listdir, mount.path, timeout=1)
    end_of_a_stopped_daemon(mount, pid)


def test_what_a_function_raises_on_a_mount_is_seen(local_mount):
    with pytest.raises(ChildError, match="FileNotFoundError"):
        local_mount.call(os.stat, "missing")
    assert local_mount.call(os.getcwd) == str(local_mount.path)


def test_a_warning_in_the_log_of_a_daemon_fails_the_test_unless_it_was_announced(tmp_path):
    with (
        pytest.raises(pytest.fail.Exception, match="logged unexpectedly"),
        mounted(Directory(tmp_path)) as mount,
    ):
        complain(mount)
    with mounted(Directory(tmp_path)) as mount:
        complain(mount)
        mount.expect_log("something odd")


def complain(mount) -> None:
    with Path(mount.stage, "vfs.log").open("a") as log:
        log.write("2026-01-01 00:00:00.000 warning something odd\n")
