"""Disk images in use: guests' writes, loop mounts, exports, and who may write when."""

import random
import re

import pytest

from tests.support.mount import ChildError, wait_until

MIB = 1 << 20


def random_writes(seed: int, size: int, count: int) -> list[tuple[int, int, int]]:
    """Return (offset, length, pattern), no two of them overlapping."""
    chance = random.Random(seed)
    cells = chance.sample(range(size // (64 << 10)), count)
    return [
        (
            cell * (64 << 10) + 512 * chance.randrange(32),
            512 * chance.randint(1, 96),
            chance.randint(1, 255),
        )
        for cell in cells
    ]


def commands(verb: str, writes: list[tuple[int, int, int]]) -> list[str]:
    return [
        word
        for offset, length, pattern in writes
        for word in ("-c", f"{verb} -q -P {pattern} {offset} {length}")
    ]


def batched(words: list[str]) -> list[list[str]]:
    """Return the commands with a flush after every fifth."""
    return [[*words[at : at + 10], "-c", "flush"] for at in range(0, len(words), 10)]


@pytest.mark.parametrize("cache", ["writeback", "none", "writethrough"])
@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_random_writes_of_a_guest_read_back_by_pattern(mount, kind, cache):
    disk = mount.path / "disk"
    count = 200 if cache != "writethrough" else 20  # each of which waits for the store
    writes = random_writes(count, 64 * MIB, count)
    mount.run("qemu-img", "create", "-q", "-f", kind, disk, "64M")
    io = ("qemu-io", "-f", kind, "-t", cache)
    mount.run(*io, *commands("write", writes), disk)
    mount.run(*io, *commands("read", sorted(writes)), disk)
    mount.assert_survives("disk")
    mount.run("qemu-io", "-r", "-f", kind, *commands("read", writes), disk)


def test_writes_between_flushes_and_after_a_remount_all_count(mount):
    disk = mount.path / "disk.qcow2"
    mount.run("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    done = []
    for seed in range(2):
        writes = [
            (seed * 16 * MIB + offset, length, pattern)
            for offset, length, pattern in random_writes(seed, 16 * MIB, 15)
        ]
        flushed = [word for pair in batched(commands("write", writes)) for word in pair]
        mount.run("qemu-io", "-f", "qcow2", *flushed, disk)
        done += writes
        mount.remount()
        mount.run("qemu-io", "-r", "-f", "qcow2", *commands("read", done), disk)
    mount.run("qemu-img", "check", "-q", disk)
    mount.assert_survives("disk.qcow2")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "size", [pytest.param("image"), pytest.param("large_image", marks=pytest.mark.slow)]
)
def test_a_system_image_is_loop_mounted_written_and_clean_afterwards(mount, request, size):
    image = request.getfixturevalue(size)
    point = mount.base / "loop"
    point.mkdir()
    mount.sh('cp -- "$1" disk.raw', image)
    mount.sh(
        """
        trap 'mountpoint -q "$1" && umount "$1"' EXIT
        mount -o loop disk.raw "$1"
        ls -lR "$1" >/dev/null
        mkdir "$1/new"
        for i in $(seq 200); do echo "file $i" > "$1/new/$i"; done
        dd if=/dev/urandom of="$1/new/large" bs=1M count=8 status=none
        rm -rf "$1"/usr/bin/a*
        sha256sum "$1/new/large" > /dev/null
        sync -f "$1"
        umount "$1"
        """,
        point,
    )
    mount.sh("e2fsck -fn disk.raw")
    mount.assert_survives("disk.raw")
    mount.sh(
        "e2fsck -fn disk.raw && debugfs -R 'cat /new/200' disk.raw 2>/dev/null | grep -x 'file 200'"
    )


def test_a_file_system_is_made_on_a_loop_device_of_a_sparse_file(mount):
    point = mount.base / "loop"
    point.mkdir()
    mount.sh(
        """
        truncate -s 96M disk.raw
        mke2fs -q -F -t ext4 disk.raw
        trap 'mountpoint -q "$1" && umount "$1"' EXIT
        mount -o loop,discard disk.raw "$1"
        cp -a /usr/include/asm-generic "$1/"
        umount "$1"
        e2fsck -fn disk.raw
        """,
        point,
    )
    mount.assert_survives("disk.raw")


def test_an_exported_image_is_read_and_written_through_its_socket(mount):
    disk, socket = mount.path / "disk.qcow2", mount.base / "nbd.sock"
    url = f"nbd+unix:///?socket={socket}"
    writes = random_writes(7, 64 * MIB, 60)
    mount.run("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    with mount.popen("qemu-nbd", "-f", "qcow2", "-k", socket, "-t", "-e", "4", disk) as server:
        try:
            wait_until(lambda: socket.exists() or server.poll() is not None, "qemu-nbd")
            mount.run("qemu-io", "-f", "raw", *commands("write", writes), "-c", "flush", url)
            mount.run("qemu-io", "-r", "-f", "raw", *commands("read", writes), url)
            assert mount.status()["dirty_bytes"] == 0  # what was flushed is stored
        finally:
            server.terminate()
            said = server.communicate(timeout=60)
    assert "rror" not in said[1]
    mount.run("qemu-img", "check", "-q", disk)
    mount.assert_survives("disk.qcow2")
    mount.run("qemu-io", "-r", "-f", "qcow2", *commands("read", writes), disk)


@pytest.mark.promise("S-mount-7")
def test_a_second_writer_gets_the_lock_error_of_qemu(mount):
    disk, socket = mount.path / "disk.qcow2", mount.base / "nbd.sock"
    mount.run("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    with mount.popen("qemu-nbd", "-f", "qcow2", "-k", socket, "-t", disk) as holder:
        try:
            wait_until(lambda: socket.exists() or holder.poll() is not None, "qemu-nbd")
            with pytest.raises(ChildError, match=r'Failed to get "(write|consistent read)" lock'):
                mount.run("qemu-io", "-f", "qcow2", "-c", "write 0 4k", disk)
            with pytest.raises(ChildError, match="lock"):
                mount.run("qemu-img", "resize", disk, "128M")
            mount.run("qemu-img", "info", "-U", disk)  # reading by force is allowed
        finally:
            holder.terminate()
            holder.communicate(timeout=60)
    mount.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 4k", disk)


def test_a_bench_of_qemu_ends_without_an_error(mount):
    disk = mount.path / "disk.qcow2"
    mount.run("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    for direction in ("-w", "-q"):  # all written, then all read
        options = ["-w"] if direction == "-w" else []
        said = mount.run(
            "qemu-img", "bench", *options, "-f", "qcow2", "-t", "none", "-c", "1000", "-d", "16",
            "-s", "16k", disk,
        )  # fmt: skip
        assert re.search(r"Run completed", said.stdout)
    mount.run("qemu-img", "check", "-q", disk)
    mount.assert_survives("disk.qcow2")
