"""qemu-img on a mount does with disk images what it does on a disk."""

import json

import pytest

WAYS = {
    "plain": [],
    "out of order": ["-W", "-m", "8"],
    "direct": ["-t", "none", "-T", "none"],
    "compressed": ["-c", "-o", "compression_type=zstd"],
}


@pytest.fixture(params=["image", pytest.param("large_image", marks=pytest.mark.slow)])
def disk(request, way):
    """Return an image; in a long run one of more than 1 GiB as well, and for every way."""
    if request.param == "image" and way != "plain":
        return request.getfixturevalue("small_image")
    return request.getfixturevalue(request.param)


def back(way: str) -> list[str]:
    """Return the options for writing raw, which cannot be compressed."""
    return [] if way == "compressed" else WAYS[way]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", WAYS)
def test_an_image_converted_to_qcow2_and_back_is_the_same_image(mount, disk, way):
    qcow2, raw = mount.path / "disk.qcow2", mount.path / "disk.raw"
    mount.run("qemu-img", "convert", *WAYS[way], "-f", "raw", "-O", "qcow2", disk, qcow2)
    mount.run("qemu-img", "check", "-q", qcow2)
    mount.run("qemu-img", "convert", *back(way), "-f", "qcow2", "-O", "raw", qcow2, raw)
    mount.run("cmp", disk, raw)
    mount.assert_survives("disk.qcow2", "disk.raw")


def test_an_image_converted_from_one_file_of_the_mount_to_another_is_the_same(mount, small_image):
    mount.sh(
        'cp -- "$1" disk.raw && qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2', small_image
    )
    mount.run("qemu-img", "compare", "-q", small_image, mount.path / "disk.qcow2")
    mount.assert_survives("disk.raw", "disk.qcow2")


def test_info_and_map_tell_what_an_image_is(mount):
    mount.sh("qemu-img create -q -f qcow2 disk.qcow2 8G")
    told = json.loads(mount.sh("qemu-img info --output=json disk.qcow2"))
    assert (told["format"], told["virtual-size"]) == ("qcow2", 8 << 30)
    [extent] = json.loads(mount.sh("qemu-img map --output=json disk.qcow2"))
    assert (extent["length"], extent["data"]) == (8 << 30, False)


def test_compare_finds_the_byte_that_differs(mount, small_image):
    mount.sh('qemu-img convert -f raw -O qcow2 "$1" disk.qcow2', small_image)
    mount.sh("qemu-io -c 'write -q -P 0x5a 21M 512' disk.qcow2")
    found = mount.run("qemu-img", "compare", small_image, mount.path / "disk.qcow2", check=False)
    assert (found.returncode, found.stdout.strip()) == (
        1,
        f"Content mismatch at offset {21 << 20}!",
    )


def test_an_overlay_is_committed_into_its_base(mount):
    mount.sh("""
        qemu-img create -q -f qcow2 base.qcow2 64M
        qemu-io -c 'write -q -P 1 0 8M' -c 'write -q -P 2 32M 8M' base.qcow2
        qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
        qemu-io -c 'write -q -P 3 4M 8M' -c 'read -q -P 2 32M 8M' top.qcow2
        qemu-img commit -q top.qcow2
        qemu-img check -q base.qcow2
    """)
    mount.assert_survives("base.qcow2", "top.qcow2")
    read = "qemu-io -r -c 'read -P 1 0 4M' -c 'read -P 3 4M 8M' -c 'read -P 2 32M 8M' base.qcow2"
    assert "failed" not in mount.sh(read)


def test_an_overlay_is_rebased_onto_another_base(mount):
    mount.sh("""
        qemu-img create -q -f qcow2 old.qcow2 32M
        qemu-io -c 'write -q -P 1 0 32M' old.qcow2
        qemu-img convert -O qcow2 old.qcow2 new.qcow2
        qemu-io -c 'write -q -P 9 16M 1M' new.qcow2
        qemu-img create -q -f qcow2 -b old.qcow2 -F qcow2 top.qcow2
        qemu-io -c 'write -q -P 4 1M 1M' top.qcow2
        qemu-img convert -O raw top.qcow2 before.raw
        qemu-img rebase -q -b new.qcow2 -F qcow2 top.qcow2
        qemu-img convert -O raw top.qcow2 after.raw
        cmp before.raw after.raw
        qemu-img rebase -q -b '' top.qcow2
        qemu-img compare -q -f qcow2 -F raw top.qcow2 before.raw
    """)
    told = json.loads(mount.sh("qemu-img info --output=json top.qcow2"))
    assert "backing-filename" not in told
    mount.assert_survives("top.qcow2", "new.qcow2")


def test_an_unsafe_rebase_changes_only_the_header(mount):
    mount.sh("""
        qemu-img create -q -f qcow2 a.qcow2 32M && qemu-io -c 'write -q -P 1 0 32M' a.qcow2
        cp a.qcow2 b.qcow2
        qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2
        qemu-img rebase -u -b b.qcow2 -F qcow2 top.qcow2
        rm a.qcow2
        qemu-io -c 'read -q -P 1 0 32M' top.qcow2
    """)
    mount.assert_survives("b.qcow2", "top.qcow2")


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_an_image_grows_and_shrinks_by_resize(mount, kind):
    mount.sh(
        """
        kind=$1
        qemu-img create -q -f $kind disk 24M
        qemu-io -f $kind -c 'write -q -P 7 0 16M' disk
        qemu-img resize -q -f $kind disk 64M
        qemu-io -f $kind -c 'read -q -P 7 0 16M' -c 'read -q -P 0 16M 48M' disk
        qemu-io -f $kind -c 'write -q -P 8 63M 1M' disk
        qemu-img resize -q -f $kind --shrink disk 8M
        qemu-img resize -q -f $kind disk 20M
        qemu-io -f $kind -c 'read -q -P 7 0 8M' -c 'read -q -P 0 8M 12M' disk
        """,
        kind,
    )
    mount.assert_survives("disk")
    mount.sh(f"qemu-io -r -f {kind} -c 'read -q -P 7 0 8M' -c 'read -q -P 0 8M 12M' disk")


def test_snapshots_are_made_applied_and_deleted(mount):
    mount.sh("""
        qemu-img create -q -f qcow2 disk.qcow2 64M
        qemu-io -c 'write -q -P 1 0 4M' disk.qcow2
        qemu-img snapshot -c first disk.qcow2
        qemu-io -c 'write -q -P 2 2M 4M' disk.qcow2
        qemu-img snapshot -c second disk.qcow2
        qemu-img snapshot -a first disk.qcow2
        qemu-io -c 'read -q -P 1 0 4M' -c 'read -q -P 0 4M 2M' disk.qcow2
        qemu-img snapshot -d first disk.qcow2
        qemu-img snapshot -a second disk.qcow2
        qemu-io -c 'read -q -P 1 0 2M' -c 'read -q -P 2 2M 4M' disk.qcow2
        qemu-img check -q disk.qcow2
    """)
    mount.assert_survives("disk.qcow2")
    assert "second" in mount.sh("qemu-img snapshot -l disk.qcow2")


@pytest.mark.parametrize("mode", ["off", "metadata", "falloc", "full"])
def test_every_preallocation_makes_a_disk_that_reads_as_zeros(mount, mode):
    mount.sh(
        """
        qemu-img create -q -f qcow2 -o preallocation=$1 disk.qcow2 12M
        qemu-io -c 'read -q -P 0 0 12M' -c 'write -q -P 5 11M 1M' disk.qcow2
        qemu-img check -q disk.qcow2
        """,
        mode,
    )
    mount.assert_survives("disk.qcow2")


@pytest.mark.parametrize("kind", ["vmdk", "vdi", "vhdx", "vpc", "qcow"])
def test_other_formats_survive_the_way_there_and_back(local_mount, kind):
    local_mount.sh(
        """
        qemu-img create -q -f raw disk.raw 24M
        qemu-io -f raw -c 'write -q -P 1 1M 3M' -c 'write -q -P 2 20M 4M' disk.raw
        qemu-img convert -f raw -O $1 disk.raw disk.$1
        qemu-img convert -f $1 -O raw disk.$1 back.raw
        qemu-img compare -q -f raw -F raw disk.raw back.raw
        """,
        kind,
    )
    local_mount.assert_survives(f"disk.{kind}", "back.raw")
