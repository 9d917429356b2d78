"""The cache on disk, on real mounts: warm, evict, restarts, kills, and disks that fail."""

import hashlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.kill import bury, kill
from tests.support.mount import VFS, Bucket, Directory, Mount, mounted, wait_until
from tests.support.rgw import rgw

MIB = 1 << 20
SIZE = 48 * MIB
OPTIONS = ("cache_size=256M", "memory=64M")


@pytest.fixture
def directory(tmp_path):
    """A store whose files are counted when they are read: by the mount's own figures."""
    (tmp_path / "store" / "images" / "more").mkdir(parents=True)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    data = random.Random(seed).randbytes(SIZE)
    (tmp_path / "store" / "images" / "disk.raw").write_bytes(data)
    (tmp_path / "store" / "images" / "more" / "small").write_bytes(data[:5000])
    return Directory(tmp_path / "store")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetched(mount: Mount) -> int:
    return mount.status()["stores"][0]["bytes_in"]


def cached(mount: Mount) -> int:
    return mount.status()["cache"]["disk_bytes"]


def cache_of(mount: Mount) -> Path:
    [path] = Path(mount.environ["VFS_CACHE_DIR"]).iterdir()
    return path


def vfs(mount: Mount, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = mount.run(VFS, *words, check=False)
    assert done.returncode == code, done.stderr
    return done


def same(mount: Mount, directory: Directory) -> bool:
    name = "images/disk.raw"
    return sha256(mount.path / name) == sha256(directory.path / name)


def test_warm_fills_and_evict_empties_it(directory):
    with mounted(directory, *OPTIONS) as mount:
        told = json.loads(vfs(mount, "warm", "--json", mount.path / "images").stdout)
        assert told == {
            "version": 1,
            "files": 2,
            "done_bytes": SIZE + 5000,
            "moved_bytes": SIZE + 5000,
        }
        before = fetched(mount)
        assert same(mount, directory)
        assert fetched(mount) == before
        again = json.loads(vfs(mount, "warm", "--json", mount.path / "images").stdout)
        assert again["moved_bytes"] == 0
        told = json.loads(vfs(mount, "evict", "--json", mount.path / "images/disk.raw").stdout)
        assert (told["files"], told["moved_bytes"] >= SIZE) == (1, True)
        assert cached(mount) <= 128 << 10
        told = json.loads(
            vfs(
                mount, "warm", "--json", "--offset", "1M", "--length", "2M",
                mount.path / "images/disk.raw",
            ).stdout
        )  # fmt: skip
        assert told["moved_bytes"] == 2 * MIB
        assert vfs(mount, "evict", mount.path).stdout == "2 files: 2.1 MiB given back\n"
        assert cached(mount) == 0


def test_what_does_not_fit_is_not_begun(directory):
    with mounted(directory, "cache_size=32M", "memory=64M") as mount:
        before = fetched(mount)
        done = vfs(mount, "warm", mount.path / "images/disk.raw", code=1)
        assert "do not fit into the cache of 32 MiB: raise cache_size" in done.stderr
        assert fetched(mount) == before
        done = vfs(mount, "warm", mount.path / "nothing", code=3)
        assert done.stderr == "vfs: nothing: no such file or directory\n"


def test_without_a_cache_on_disk_warming_is_refused(directory):
    with mounted(directory, "cache_size=0") as mount:
        done = vfs(mount, "warm", mount.path, code=1)
        assert "keeps nothing on disk" in done.stderr
        assert not Path(mount.environ["VFS_CACHE_DIR"]).exists()


def test_a_local_store_is_not_copied_to_a_local_disk_unless_asked(directory):
    with mounted(directory) as mount:
        assert same(mount, directory)
        assert mount.status()["cache"]["disk_limit"] == 0


@pytest.mark.promise("S-read-9")
@pytest.mark.rgw
def test_a_remote_store_is_cached_by_default_and_survives_a_restart(mount_of_bucket):
    mount = mount_of_bucket
    data = os.urandom(20 * MIB)
    (mount.path / "image").write_bytes(data)
    mount.remount()
    assert (mount.path / "image").read_bytes() == data
    wait_until(lambda: cached(mount) >= len(data), "the blocks are on the disk")
    mount.remount(fresh=False)
    before = fetched(mount)
    assert (mount.path / "image").read_bytes() == data
    assert fetched(mount) == before


@pytest.fixture
def mount_of_bucket():
    with rgw().bucket() as name, mounted(Bucket(rgw(), name)) as mount:
        yield mount


def test_a_kill_in_the_middle_of_filling_leaves_a_good_cache(directory):
    with mounted(directory, *OPTIONS) as mount:
        for turn in range(3):
            with mount.popen("sha256sum", mount.path / "images/disk.raw") as reader:
                wait_until(lambda turn=turn: cached(mount) > (turn + 1) * 4 * MIB, "it fills")
                kill(mount.status()["pid"])
                reader.communicate(timeout=60)
            bury(mount)
            mount.start()
            assert same(mount, directory)


@pytest.mark.promise("S-read-10")
def test_a_damaged_cache_gives_no_wrong_byte(directory):
    pick = random.Random(9)
    with mounted(directory, *OPTIONS) as mount:
        mount.expect_log("damaged blocks|it starts empty|fails")
        vfs(mount, "warm", mount.path / "images")
        for _ in range(3):
            mount.umount()
            for path in cache_of(mount).rglob("*"):
                if path.is_file() and (size := path.stat().st_size):
                    with path.open("r+b") as file:
                        for _ in range(20):
                            file.seek(pick.randrange(size))
                            file.write(pick.randbytes(64))
            mount.start()
            assert same(mount, directory)


@pytest.mark.promise("S-read-10")
def test_a_cache_that_is_deleted_meanwhile_costs_only_speed(directory):
    (directory.path / "images/other").write_bytes(b"other" * MIB)
    with mounted(directory, *OPTIONS) as mount:
        mount.expect_log("fails")
        assert same(mount, directory)
        shutil.rmtree(cache_of(mount))
        assert sha256(mount.path / "images/other") == sha256(directory.path / "images/other")
        assert same(mount, directory)


@pytest.mark.promise("S-read-11")
def test_two_mounts_share_a_cache_directory(directory, tmp_path):
    """Of different stores each has a place of its own; of one store the second goes without."""
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "b").write_bytes(b"b" * MIB)
    with mounted(directory, *OPTIONS) as first:
        shared = f"cache_dir={first.environ['VFS_CACHE_DIR']}"
        with mounted(Directory(tmp_path / "second"), *OPTIONS, shared) as other:
            assert (other.path / "b").read_bytes() == b"b" * MIB
            assert same(first, directory)
            wait_until(lambda: cached(other) >= MIB and cached(first) >= SIZE, "both keep")
        with mounted(directory, *OPTIONS, shared, "ro") as twin:
            twin.expect_log(f"in use by process {first.status()['pid']}: only one mount can keep")
            assert same(twin, directory)
            assert cached(twin) == 0


def test_what_was_written_is_there_without_being_fetched(directory):
    with mounted(directory, *OPTIONS) as mount:
        data = os.urandom(20 * MIB + 77)
        (mount.path / "new").write_bytes(data)
        wait_until(lambda: cached(mount) >= len(data), "the stage has handed it over")
        mount.remount(fresh=False)
        before = fetched(mount)
        assert (mount.path / "new").read_bytes() == data
        assert fetched(mount) == before
