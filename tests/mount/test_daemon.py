"""The life of a daemon: start, second mounts, signals, hosts beside each other, the end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.mount import VFS, Directory, mount_minor, mounted


def tree_of(path: Path) -> dict[str, bytes | None]:
    """Return everything in a directory, with content."""
    return {
        str(one.relative_to(path)): one.read_bytes() if one.is_file() else None
        for one in sorted(path.rglob("*"))
    }


def wait_for(condition, what: str, limit_s: float = 30.0) -> None:
    """Wait until another process has done something."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        threading.Event().wait(0.05)  # another process: there is nothing to wait on


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.promise("S-mount-1")
def test_a_mount_is_usable_when_the_command_returns(mount):
    assert mount.sh("ls -A") == ""
    assert mount.status()["state"] == "ready"


@pytest.mark.promise("S-mount-2")
def test_after_umount_the_store_has_everything(mount):
    mount.sh("for i in $(seq 50); do echo $i > f$i; done; head -c 20000000 /dev/zero > big")
    pid = mount.status()["pid"]
    mount.umount()
    assert is_gone(pid)
    assert mount.store.keys() == {"big", *(f"f{i}" for i in range(1, 51))}
    assert mount.store.read("f7") == b"7\n"
    assert len(mount.store.read("big")) == 20_000_000


@pytest.mark.promise("S-mount-3")
def test_sigterm_stores_everything_and_unmounts(mount):
    mount.sh("echo kept > a; mkdir d; echo too > d/b; chmod 600 a")
    pid = mount.status()["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: is_gone(pid), "the daemon ends")
    assert mount_minor(mount.path) is None
    assert mount.store.read("a") == b"kept\n"
    mount.start()
    assert mount.sh("stat -c %a a; cat d/b") == "600\ntoo\n"


FAILS = """
import sys
from pathlib import Path
import pyfuse3
from vfs.fuse import session
in_use = sys.argv[2] == "in use"
with session.mounted(pyfuse3.Operations(), Path(sys.argv[1]), {"fsname=x"}, lambda: in_use):
    raise RuntimeError("of ours")
"""


@pytest.mark.parametrize("state", ["in use", "starting"])
def test_a_fatal_error_leaves_no_empty_directory_where_data_was(tmp_path, state):
    command = (sys.executable, "-c", FAILS, tmp_path, state)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "RuntimeError: of ours" in done.stderr
    assert (mount_minor(tmp_path) is not None) == (state == "in use")
    if state == "in use":
        try:
            shown = subprocess.run(
                ["ls", tmp_path], capture_output=True, text=True, timeout=60, check=False
            )
            assert "Transport endpoint is not connected" in shown.stderr
        finally:
            subprocess.run(["umount", "-l", tmp_path], check=True, timeout=60)


@pytest.mark.promise("S-mount-4")
def test_a_read_only_mount_changes_nothing_in_the_store(tmp_path):
    store = Directory(tmp_path / "store")
    store.put("d/a", b"one")
    before = tree_of(store.path)
    with mounted(store, "ro") as mount:
        assert mount.sh("cat d/a") == "one"
        for command in ("echo x > b", "rm d/a", "mv d/a e", "mkdir f", "chmod 600 d/a", "rmdir d"):
            done = mount.run("bash", "-c", f"cd {mount.path} && {command}", check=False)
            assert done.returncode != 0
            assert "Read-only file system" in done.stderr
        assert mount.status()["ro"] is True
    assert tree_of(store.path) == before


def test_read_only_mounts_of_one_url_stand_beside_a_writable_one(tmp_path):
    (tmp_path / "store").mkdir()
    store = Directory(tmp_path / "store")
    with mounted(store) as writer, mounted(store, "ro") as one, mounted(store, "ro") as two:
        writer.sh("echo hello > a")
        assert one.sh("cat a") == two.sh("cat a") == "hello\n"


@pytest.mark.promise("S-mount-5")
def test_a_second_mount_on_the_same_stage_is_refused_with_the_owner(tmp_path):
    (tmp_path / "store").mkdir()
    store = Directory(tmp_path / "store")
    with mounted(store) as first:
        pid = first.status()["pid"]
        other = tmp_path / "other"
        other.mkdir()
        options = f"stage_dir={first.stage}"
        done = first.run(VFS, "mount", "-o", options, store.url, other, check=False)
        assert done.returncode == 1
        assert str(pid) in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert mount_minor(other) is None


def test_a_daemon_that_was_killed_shows_as_dead_and_the_next_mount_takes_over(mount):
    mount.expect_log("bytes that an earlier mount did not store")
    mount.sh("echo stored > a")
    pid = mount.status()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: is_gone(pid), "the daemon is gone")
    assert mount.status()["state"] == "dead"
    done = mount.run(
        VFS, "mount", "-o", f"stage_dir={mount.stage}", mount.url, mount.path, check=False
    )
    assert done.returncode != 0
    assert "umount" in done.stderr
    mount.run(VFS, "umount", mount.path, check=False)
    assert mount_minor(mount.path) is None
    mount.start()
    assert mount.sh("cat a") == "stored\n"


def test_a_mount_that_is_in_use_is_not_unmounted(mount):
    mount.sh("echo x > a")
    with mount.popen("bash", "-c", f"exec 3<{mount.path}/a; echo ready; sleep 60") as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        done = mount.run(VFS, "umount", mount.path, check=False)
        assert done.returncode == 1
        assert "busy" in done.stderr
        os.killpg(holder.pid, signal.SIGKILL)
    assert mount.sh("cat a") == "x\n"


@pytest.mark.promise("S-read-3")
def test_another_host_sees_what_was_closed_here(store):
    with mounted(store, "metadata_ttl=0") as one, mounted(store, "metadata_ttl=0") as two:
        one.sh("echo first > a")
        assert two.sh("cat a") == "first\n"
        two.sh("echo second, and longer > a")
        assert one.sh("cat a") == "second, and longer\n"
        one.sh("rm a")
        assert two.run("ls", two.path / "a", check=False).returncode != 0


@pytest.mark.promise("S-write-5")
def test_the_loser_of_two_writers_keeps_its_bytes_beside_the_winner(tmp_path):
    (tmp_path / "store").mkdir()
    store = Directory(tmp_path / "store")
    with mounted(store, "metadata_ttl=0") as one, mounted(store, "metadata_ttl=0") as two:
        for mount in (one, two):
            mount.expect_log("somebody else")
        one.sh("printf 0000000000 > a")
        script = (
            "import os, sys; f = os.open('a', os.O_RDWR); os.pwrite(f, sys.argv[1].encode(), 0);"
            "print('staged', flush=True); input();\n"
            "try: os.fsync(f)\n"
            "except OSError as error: print(error.errno)\n"
            "else: print(0)"
        )
        winner = _writer(one, script, "1111111111")
        loser = _writer(two, script, "2222222222")
        assert _go(winner) == 0
        assert _go(loser) == 116  # ESTALE
        wait_for(lambda: len(store.keys()) == 2, "the conflict copy")
        [copy] = store.keys() - {"a"}
        assert copy.startswith("a.conflict-")
        assert store.read("a") == b"1111111111"
        assert store.read(copy) == b"2222222222"


def _writer(mount, script: str, argument: str):
    process = subprocess.Popen(
        [sys.executable, "-c", script, argument],
        cwd=mount.path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "staged\n"
    return process


def _go(process) -> int:
    out, _ = process.communicate("go\n", timeout=60)
    return int(out)


def test_the_daemon_keeps_none_of_the_callers_files(tmp_path):
    (tmp_path / "store").mkdir()
    with mounted(Directory(tmp_path / "store")) as one:
        one.umount()
        lock = tmp_path / "lock"
        mount = f"{VFS} mount -o stage_dir={one.stage} {one.url} {one.path}"
        one.run("bash", "-c", f"exec 9>{lock}; flock 9; {mount}")
        assert one.run("flock", "-n", lock, "true", check=False).returncode == 0


def test_a_mount_waits_for_an_earlier_one_that_is_not_done_and_can_be_stopped(tmp_path):
    (tmp_path / "store").mkdir()
    with mounted(Directory(tmp_path / "store")) as one:
        held = (one.path / "held").open("w")
        pid = one.status()["pid"]
        one.run(VFS, "umount", "--lazy", one.path, check=False)
        given = ("-o", f"stage_dir={one.stage}", one.url, one.path)
        done = one.run("timeout", "3", VFS, "mount", *given, check=False)
        assert done.returncode == 124
        assert f"waiting for an earlier mount of {one.url}" in done.stderr
        held.close()
        wait_for(lambda: is_gone(pid), "the earlier daemon ends")
        assert mount_minor(one.path) is None, "the command that was stopped has mounted after all"
        one.start()
