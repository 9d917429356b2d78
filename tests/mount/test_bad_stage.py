"""Stages on disks that fill up, become read-only or die, and a daemon that is told to stop twice."""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.support.behind import BehindProxy
from tests.support.kill import (
    assert_nothing_left,
    bury,
    is_gone,
    kill,
    pause,
    small_disk,
    stage_of,
    staged,
)
from tests.support.mount import MIB, VFS, Directory, mount_minor, mounted, wait_until
from tests.support.proxy import FaultProxy
from tests.support.rgw import rgw

DIRTY = 8
EMERGENCY = "echo 1 > /sys/fs/ext4/{}/trigger_fs_error"


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path, 512 * MIB) as disk:
        yield disk


@pytest.fixture(params=["remote", "local"])
def mount(request, tmp_path, disk):
    """Yield a mount whose stage has a disk of its own."""
    store = Directory(tmp_path / "store")
    store.path.mkdir()
    options = (f"fsync={request.param}", "stage_size=256M", "stop_wait=1s")
    with mounted(store, *options, start=False) as mount:
        mount.stage = disk.path
        mount.start()
        yield mount


def writing(mount, name: str, mebibytes: int):
    """Write a file and sync it; return what became of that."""
    command = ("dd", "if=/dev/urandom", f"of={mount.path / name}", "bs=1M", "conv=fsync")
    return mount.run(*command, f"count={mebibytes}", check=False)


def test_a_stage_disk_that_is_full_refuses_writes_and_keeps_what_it_has(mount, disk):
    mount.expect_log("No space|is full|no space|not safe")
    mount.sh("echo kept > a; sync a")
    ballast = disk.fill()
    done = writing(mount, "b", 8)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert mount.sh("cat a; ls") == "kept\na\nb\n"
    ballast.unlink()
    mount.sh("rm b; head -c 5000000 /dev/urandom > c; sync c")
    mount.run(VFS, "flush", mount.path)
    assert_nothing_left(mount)
    mount.assert_survives("a", "c")
    assert mount.store.keys() == {"a", "c"}


def test_a_disk_that_became_full_under_a_killed_mount_is_emptied_by_the_next(mount, disk):
    mount.expect_log("No space|is full|no space|not safe")
    pid = mount.status()["pid"]
    script = "exec 3<>a; head -c 3000000 /dev/zero | tr '\\0' x >&3; sync a; echo up; read line"
    with mount.popen("bash", "-c", f"cd {mount.path}; {script}", stdin=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "up\n"
        kill(pid)
        bury(mount)
        writer.kill()
        writer.communicate()
    disk.fill()
    mount.start()
    mount.run(VFS, "flush", mount.path)
    assert staged(mount) == []
    assert mount.store.read("a") == b"x" * 3_000_000


def test_a_stage_disk_that_became_read_only_is_survived(mount, disk):
    mount.expect_log(".")
    mount.sh("echo kept > a; sync a")
    mount.run(VFS, "flush", mount.path)
    pid = mount.status()["pid"]
    device = os.stat(disk.path).st_dev
    (loop,) = (
        name for name in os.listdir("/sys/fs/ext4") if name.startswith("loop") and _is(name, device)
    )
    subprocess.run(["mount", "-o", "remount,errors=remount-ro", disk.path], check=True, timeout=30)
    subprocess.run(["sh", "-c", EMERGENCY.format(loop)], check=True, timeout=30)
    done = writing(mount, "b", 8)
    assert done.returncode == 1
    assert "error" in done.stderr.lower() or "Read-only" in done.stderr
    assert mount.sh("cat a") == "kept\n"
    assert mount.status()["pid"] == pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: is_gone(pid), "the daemon has given up")
    assert mount_minor(mount.path) is None
    assert mount.store.read("a") == b"kept\n"
    command = (VFS, "mount", "-o", f"stage_dir={mount.stage}", mount.url, mount.path)
    done = mount.run(*command, check=False)
    assert done.returncode not in {0, 1}
    assert "Read-only file system" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    listed = json.loads(recover(mount, "--json").stdout)
    assert {one["name"] for one in listed["files"]} <= {"b"}


def recover(mount, *words: str):
    return mount.run(VFS, "recover", "-o", f"stage_dir={mount.stage}", *words, check=False)


def _is(name: str, device: int) -> bool:
    with open(f"/sys/block/{name}/dev") as file:
        major, minor = file.read().split(":")
    return os.makedev(int(major), int(minor)) == device


def test_a_stage_disk_that_died_takes_nothing_stored_and_ends_no_mount(mount, disk):
    mount.expect_log(".")
    mount.sh("echo kept > a; sync a")
    mount.run(VFS, "flush", mount.path)
    pid = mount.status()["pid"]
    mount.sh("for i in $(seq 60); do echo $i > f$i; mv f$i g$i; done")
    disk.cut_power()
    assert writing(mount, "b", 8).returncode == 1
    assert mount.sh("cat a") == "kept\n"
    pause(1.2)  # whatever looks after things once a second has found out
    assert mount.status()["pid"] == pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: mount_minor(mount.path) is None, "it drains")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: is_gone(pid), "the daemon has ended", 30)
    assert mount_minor(mount.path) is None
    disk.detach()
    disk.attach()
    mount.start()
    assert mount.sh("cat a") == "kept\n"
    assert mount.sh("cat $(seq -f g%g 60)").split() == [str(number) for number in range(1, 61)]


@pytest.mark.rgw
@pytest.mark.parametrize("mode", ["remote", "local"])
def test_a_second_sigterm_leaves_what_the_next_mount_stores(mode):
    with (
        FaultProxy(rgw().endpoint) as proxy,
        rgw().bucket() as name,
        mounted(
            BehindProxy(rgw(), name, proxy=proxy), f"fsync={mode}", "stage_wait=2s", start=False
        ) as mount,
    ):
        mount.expect_log("failed|stopped a second time|not stored|not there|cannot|answer|reach")
        options = f"fsync={mode},stage_wait=2s,stage_dir={mount.stage}"
        with mount.popen(VFS, "mount", "-f", "-o", options, mount.url, mount.path) as daemon:
            wait_until(
                lambda: mount_minor(mount.path) is not None or daemon.poll() is not None, "mounted"
            )
            mount.sh("echo stored > a")
            mount.run(VFS, "flush", mount.path)
            proxy.outage()
            done = mount.run(
                "bash", "-c", f"echo dirty > {mount.path}/b; sync {mount.path}/b", check=False
            )
            assert (done.returncode == 0) == (mode == "local")  # who was told, and who was not
            daemon.send_signal(signal.SIGTERM)
            wait_until(lambda: mount_minor(mount.path) is None, "it is unmounted")
            time.sleep(1)  # noqa: TID251 - it drains, and gets nowhere
            assert daemon.poll() is None, "what is not stored is not given up"
            daemon.send_signal(signal.SIGTERM)
            daemon.communicate(timeout=60)
        assert daemon.returncode == DIRTY
        proxy.recover()
        told = mount.run(VFS, "recover", "-o", f"stage_dir={mount.stage}", "--json")
        assert [one["name"] for one in json.loads(told.stdout)["files"]] == ["b"]
        assert stage_of(mount).exists()
        mount.start()
        mount.run(VFS, "flush", mount.path)
        assert_nothing_left(mount)
        assert mount.store.read("b") == b"dirty\n"
