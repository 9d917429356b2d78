"""`vfs verify` of what a real mount has stored, and of what became of it behind its back."""

import json
import os
import random

import pytest

from tests.support.mount import VFS, Bucket, mounted

MIB = 1 << 20
LARGE = random.Random(1).randbytes(45 * MIB + 7)
SMALL = random.Random(2).randbytes(100_000)


def verify(mount, *words, code=0, below=""):
    """Run `vfs verify --json` on what is mounted; return the report and what was said."""
    done = mount.run(VFS, "verify", "--json", *words, mount.url + below, check=False)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) <= 1
    return json.loads(done.stdout), done.stderr


def statuses(report):
    return {one["url"].rpartition("/")[2]: one["status"] for one in report["objects"]}


def damage(store, key, place):
    """Change one byte; whatever else is known of the file stays as it is."""
    if isinstance(store, Bucket):
        data = bytearray(store.read(key))
        data[place] ^= 1
        metadata = store.client.head_object(Bucket=store.name, Key=store.prefix + key)["Metadata"]
        store.client.put_object(
            Bucket=store.name, Key=store.prefix + key, Body=bytes(data), Metadata=metadata
        )
        return
    path = store.path / key
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def write(mount):
    def work():
        os.mkdir("vm")
        with open("vm/large", "wb") as file:
            file.write(LARGE)
        with open("small", "wb") as file:
            file.write(SMALL)

    mount.call(work)


@pytest.mark.promise("S-digest-1", "S-digest-6")
def test_what_a_mount_has_stored_is_verified_without_being_hashed_first(mount):
    write(mount)
    mount.umount()
    report, _ = verify(mount)
    assert statuses(report) == {"large": "ok", "small": "ok"}
    assert report["bytes"] == len(LARGE) + len(SMALL)
    report, _ = verify(mount, below="/vm/large")
    assert statuses(report) == {"large": "ok"}


@pytest.mark.promise("S-digest-1", "S-digest-3")
def test_small_changes_and_renames_keep_what_was_known(mount):
    write(mount)
    mount.remount()

    def change():
        with open("vm/large", "r+b") as file:
            file.seek(20 * MIB)
            file.write(b"changed")
        os.rename("vm/large", "renamed")

    mount.call(change)
    mount.umount()
    report, _ = verify(mount)
    # A directory takes pieces of 1 MiB: what was copied beside one in a part of 5 is to be read.
    expected = "ok" if isinstance(mount.store, Bucket) else "filled"
    assert statuses(report) == {"renamed": expected, "small": "ok"}
    report, _ = verify(mount)
    assert statuses(report) == {"renamed": "ok", "small": "ok"}
    assert report["removed_digests"] == 0


@pytest.mark.promise("S-digest-6")
def test_a_byte_that_was_flipped_behind_our_back_is_found(mount):
    write(mount)
    mount.umount()
    damage(mount.store, "small", 77)
    report, said = verify(mount, code=6)
    assert statuses(report) == {"large": "ok", "small": "corrupt"}
    assert "small: bytes 0-100000 are not those that were stored" in said


@pytest.mark.promise("S-digest-6")
def test_a_byte_that_was_flipped_in_a_large_file_is_found_with_its_part(local_mount):
    write(local_mount)
    local_mount.umount()
    damage(local_mount.store, "vm/large", 33 * MIB)
    report, _ = verify(local_mount, code=6)
    (bad,) = [one for one in report["objects"] if one["status"] == "corrupt"]
    assert bad["url"].endswith("/vm/large")
    ((start, stop),) = bad["ranges"]
    assert start <= 33 * MIB < stop <= start + 8 * MIB


def test_files_of_another_program_are_verified_from_the_second_time_on(store):
    store.put("theirs", LARGE)
    with mounted(store) as mount:
        report, _ = verify(mount)  # also while it is mounted
        assert statuses(report) == {"theirs": "filled"}
        assert mount.sh("ls -A").split() == ["theirs"]

        def change():
            with open("theirs", "r+b") as file:
                file.write(b"ours")

        mount.call(change)
        mount.umount()
        report, _ = verify(mount)
        assert statuses(report)["theirs"] in {"ok", "filled"}
        report, _ = verify(mount)
        assert statuses(report) == {"theirs": "ok"}


@pytest.mark.promise("S-mount-4")
def test_a_read_only_mount_leaves_no_digest(store):
    store.put("theirs", LARGE)
    with mounted(store, "ro") as mount:
        mount.sha256("theirs")
    assert store.keys() == {"theirs"}
    if not isinstance(store, Bucket):
        assert not (store.path / ".vfs" / "sha256").exists()


@pytest.mark.promise("S-digest-5")
def test_uploads_that_are_verified_are_read_back(store):
    with mounted(store, "verify_uploads") as mount:
        before = mount.status()["requests"]
        write(mount)
        assert mount.status()["requests"] - before > len(LARGE) // (2 * MIB)
        mount.assert_survives("vm/large", "small")
