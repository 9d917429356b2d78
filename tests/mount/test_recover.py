"""`vfs recover` on the stage of a real mount that was killed."""

import hashlib
import json
import os
import random
import signal
from pathlib import Path

from tests.support.mount import VFS, mount_minor, mounted, wait_until

BASE = random.Random(1).randbytes(12 << 20)

WRITER = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(fd, b"changed", 6 << 20)
os.fsync(fd)
fresh = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
os.pwrite(fresh, b"12345", 0)
os.fsync(fresh)
print("synced", flush=True)
time.sleep(60)
"""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def recover(mount, *words, code=0):
    command = (VFS, "recover", "-o", f"stage_dir={mount.stage}", *map(str, words))
    done = mount.run(*command, check=False)
    assert done.returncode == code, done.stderr
    return done


def files(mount, *words):
    return {
        one["name"]: one for one in json.loads(recover(mount, "--json", *words).stdout)["files"]
    }


def killed_while_writing(mount):
    """Leave two files, synced and not stored, and no mount."""
    command = ("python3", "-c", WRITER, mount.path / "base", mount.path / "new")
    with mount.popen(*command) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() in ("synced", b"synced")
        pid = mount.status()["pid"]
        told = recover(mount, "--upload", code=1).stderr
        assert f"is mounted by process {pid}: unmount it, or let it finish" in told
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: is_gone(pid), "the daemon is gone")
        os.killpg(writer.pid, signal.SIGKILL)
    mount.run(VFS, "umount", mount.path, check=False)
    assert mount_minor(mount.path) is None


def test_what_a_killed_mount_left_is_exported_and_uploaded(store):
    store.put("base", BASE)
    want = BASE[: 6 << 20] + b"changed" + BASE[(6 << 20) + 7 :]
    with mounted(store, "fsync=local") as mount:
        killed_while_writing(mount)
        found = files(mount)
        assert {name: one["state"] for name, one in found.items()} == {
            "base": "complete",
            "new": "complete",
        }
        assert found["base"]["dirty_bytes"] <= 1 << 20
        recover(mount, "--export", mount.base / "out")
        out = mount.base / "out"
        assert hashlib.sha256((out / "base").read_bytes()).digest() == hashlib.sha256(want).digest()
        assert (out / "new").read_bytes() == b"12345"
        assert store.keys() == {"base"}
        recover(mount, "--upload")
        assert store.read("base") == want
        assert store.read("new") == b"12345"
        assert files(mount) == {}
        mount.start()
        assert mount.sh("cat new; ls") == "12345base\nnew\n"


def test_another_hosts_version_and_ours_both_stay(store):
    store.put("base", BASE)
    with mounted(store, "fsync=local") as mount:
        killed_while_writing(mount)
        store.put("new", b"theirs")
        assert files(mount)["new"]["state"] == "conflict"
        (one,) = json.loads(recover(mount, "--upload", "--json", "new", code=7).stdout)["files"]
        assert store.read(one["copy"]) == b"12345"
        assert store.read("new") == b"theirs"
        store.put("base", b"theirs")
        assert files(mount)["base"]["state"] == "partial"
        recover(mount, "--upload", code=8)
        recover(mount, "--export", mount.base / "out", code=1)
        told = json.loads((mount.base / "out/base.spans.json").read_text())
        assert told["spans"] == [[6 << 20, (6 << 20) + 7]]
        recover(mount, "--discard", "base", "--yes")
        assert store.read("base") == b"theirs"
        assert files(mount) == {}
        mount.start()
