"""`vfs set` on a mount that works."""

import json
import os

import pytest

from tests.support.mount import VFS, Bucket, ChildError, Directory, mounted, wait_until
from tests.support.rgw import rgw

MIB = 1 << 20
SLOWEST = "16K:"  # a file of 4 MiB takes four minutes
SIZE = 4 * MIB


@pytest.fixture
def local(tmp_path):
    (tmp_path / "store").mkdir()
    return Directory(tmp_path / "store")


def write_in_background(mount, name):
    return mount.popen("dd", "if=/dev/urandom", f"of={mount.path}/{name}", "bs=4M", "count=1")


def wait_until_it_is_uploaded(mount, files):
    wait_until(lambda: mount.status()["uploads_in_progress"] == files, "the upload begins")


def settings(mount, *changes):
    done = mount.run(VFS, "set", "--json", mount.path, *changes)
    return json.loads(done.stdout)["settings"]


def refused(mount, *changes):
    done = mount.run(VFS, "set", mount.path, *changes, check=False)
    return done.returncode, done.stderr


def stored_bytes(store):
    return sum(len(store.read(key)) for key in sorted(store.keys()))


@pytest.mark.promise("S-mount-8")
@pytest.mark.parametrize("kind", ["local", pytest.param("rgw", marks=pytest.mark.rgw)])
def test_a_new_bandwidth_holds_for_what_waits_already(kind, local):
    # No test of time: by its limit the upload would take four minutes, and who waits for it less.
    if kind == "local":
        _check_bandwidth(local)
        return
    with rgw().bucket() as name:
        _check_bandwidth(Bucket(rgw(), name))


def _check_bandwidth(store):
    with mounted(store) as mount:
        assert settings(mount, f"bandwidth={SLOWEST}")["bandwidth"] == SLOWEST
        with write_in_background(mount, "a") as first:
            wait_until_it_is_uploaded(mount, 1)
            with write_in_background(mount, "b") as second:
                wait_until_it_is_uploaded(mount, 2)
                shown = mount.status()
                assert (shown["dirty_bytes"], stored_bytes(store)) == (2 * SIZE, 0)
                assert mount.sh("ls").split() == ["a", "b"]  # names do not wait for bandwidth
                assert settings(mount, "bandwidth=0")["bandwidth"] == ""
                for process in (first, second):
                    process.communicate(timeout=60)
                    assert process.returncode == 0
        assert stored_bytes(store) == 2 * SIZE
        assert mount.status()["dirty_bytes"] == 0


@pytest.mark.promise("S-mount-8")
def test_the_option_limits_a_mount_from_its_beginning(local):
    with mounted(local, f"bandwidth={SLOWEST}") as mount:
        with write_in_background(mount, "a") as writer:
            wait_until_it_is_uploaded(mount, 1)
            assert stored_bytes(local) == 0
            assert settings(mount, "log_level=info")["bandwidth"] == SLOWEST
            settings(mount, "bandwidth=")
            writer.communicate(timeout=60)
        assert stored_bytes(local) == SIZE


@pytest.mark.promise("S-mount-8")
def test_reads_wait_for_their_own_direction(local):
    local.put("a", os.urandom(SIZE))
    with mounted(local, "bandwidth=:16K,read_ahead=0") as mount:
        with mount.popen("sha256sum", mount.path / "a") as reader:
            mount.sh("echo x > b; ls; stat a")
            assert local.read("b") == b"x\n"
            assert reader.poll() is None
            settings(mount, "bandwidth=0:0")
            out, _ = reader.communicate(timeout=60)
        assert out.split()[0] == local.sha256("a")


@pytest.mark.promise("S-mount-10")
def test_settings_are_changed_together_or_not_at_all(local):
    with mounted(local) as mount:
        before = {"bandwidth": "", "log_level": "info"}
        code, said = refused(mount, "log_level=debug", "memory=1G")
        assert (code, said.count("\n")) == (2, 1)
        assert "bandwidth and log_level can be changed" in said
        for changes in (("log_level=debug", "bandwidth=fast"), ("bandwidth=1M", "log_level=loud")):
            assert refused(mount, *changes)[0] == 2
        assert settings(mount, "bandwidth=") == before
        assert settings(mount, "bandwidth=1M:2M", "log_level=warning") == {
            "bandwidth": "1M:2M",
            "log_level": "warning",
        }
        mount.sh("echo works > a")


def test_what_is_no_mount_cannot_be_changed(local):
    with mounted(local) as mount, pytest.raises(ChildError, match="not a mount point"):
        mount.run(VFS, "set", mount.base, "bandwidth=1M")
