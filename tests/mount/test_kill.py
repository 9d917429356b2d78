"""SIGKILL of the daemon in the middle of work: what was acknowledged is there, nothing is invented.

Each test ends with the next mount of the same stage, a flush that leaves nothing in it, a clean
unmount, and a mount with another stage: another host, which must see the same.
"""

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import workloads
from tests.support.image import copy_tree
from tests.support.kill import (
    aftermath,
    bury,
    endless,
    forgiven,
    is_gone,
    kill,
    moment_of,
    pause,
    reboot,
    small_disk,
    stage_of,
    workload,
)
from tests.support.mount import MIB, Directory, mounted
from tests.support.workloads import BROKEN, DEAD, Wrong, about, files_below

SEED = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
LONG_KILLS = 10
SHORT_S, LONGEST_S = 1.0, 2.5

one_and_more = pytest.mark.parametrize(
    "seed",
    [
        pytest.param(number, marks=[] if number == 0 else [pytest.mark.slow])
        for number in range(LONG_KILLS)
    ],
    indirect=True,
)
"""One kill every day, and more with --long."""


@pytest.fixture
def seed(request):
    print(f"KILL_SEED={SEED}")
    return SEED + request.param


def moment(seed: int, what: str) -> float:
    """Choose when to kill; not late in those of every day, which together have a minute and a half."""
    return moment_of(seed, what, SHORT_S if seed == SEED else LONGEST_S)


@pytest.fixture(params=["remote", "local"])
def victim(request, store):
    """Yield a mount, with either meaning of fsync, that may be killed."""
    with mounted(store, f"fsync={request.param}", start=False) as mount:
        yield mount


@one_and_more
def test_what_fsync_or_close_acknowledged_of_a_file_is_there(victim, seed):
    victim.store.put("old", workloads.old_bytes(seed))
    victim.start()
    pid = victim.status()["pid"]
    with workload(victim, "blocks", seed) as work:
        pause(moment(seed, "a writer of blocks"))
        kill(pid)
        work.ended()
    bury(victim)
    aftermath(victim, workloads.check_blocks, work.log, seed)


@pytest.mark.promise("S-name-3")
@pytest.mark.parametrize("name", ["names", pytest.param("open_names", marks=pytest.mark.slow)])
@one_and_more
def test_every_file_of_a_rename_storm_is_where_it_was_put(victim, name, seed):
    victim.start()
    pid = victim.status()["pid"]
    with forgiven(victim):
        with workload(victim, name, seed) as work:
            pause(moment(seed, "a rename storm"))
            kill(pid)
            work.ended()
        bury(victim)
        aftermath(victim, workloads.check_names, work.log, seed)


def looks_like(directory: Path, image: Path, made: bool) -> str:
    """Compare the image that was moved to its name with its source, and read everything."""
    if made and not (directory / "disk.qcow2").exists():
        raise Wrong("disk.qcow2 is missing")
    for path in directory.glob("disk.qcow2"):
        command = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise Wrong(f"disk.qcow2: {done.stdout}{done.stderr}")
    return digest_of(directory)


def digest_of(directory: Path) -> str:
    """Return a digest of all that a mount shows."""
    found = [(str(path), about(directory / path)) for path in files_below(directory)]
    return hashlib.sha256(repr(found).encode()).hexdigest()


@one_and_more
def test_a_converted_image_is_whole_once_it_has_its_name(victim, small_image, seed):
    victim.start()
    pid = victim.status()["pid"]
    script = """
        for round in $(seq 1000); do
            size=$((64 << round % 4))K
            qemu-img convert -f raw -O qcow2 -o cluster_size=$size "$1" "$2/part.qcow2"
            mv "$2/part.qcow2" "$2/disk.qcow2"
            echo $round
        done
    """
    with endless(victim, script, small_image, victim.path) as work:
        pause(moment(seed, "qemu-img convert"))
        kill(pid)
        made = work.failed() != []
    bury(victim)
    aftermath(victim, looks_like, small_image, made)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Yield some hundred files of this machine."""
    base = tmp_path_factory.mktemp("tree") / "tree"
    copy_tree(base, 12 * MIB)
    yield base
    shutil.rmtree(base)


def has_copies(directory: Path, tree: Path, left: Path, rounds: int) -> str:
    """Compare what rsync was told is there, and whatever else has its name."""
    for path in files_below(tree):
        wanted = about(tree / path)
        for number in range(rounds + 1):
            copy = directory / str(number) / path
            answered = number < rounds or not os.path.lexists(left / path)
            if os.path.lexists(copy):
                if not answered and (tree / path).is_symlink():
                    continue  # see tests/core/test_ghosts.py
                if about(copy) != wanted:
                    raise Wrong(f"{copy} is {about(copy)}, not {wanted}")
            elif answered:
                raise Wrong(f"{copy} is missing")
    return digest_of(directory)


@one_and_more
def test_what_rsync_has_removed_at_its_source_is_there(victim, tree, seed):
    victim.start()
    pid, left = victim.status()["pid"], victim.base / "left"
    script = """
        for round in $(seq 0 1000); do
            rm -rf "$2"
            cp -al "$1" "$2"
            rsync -a --remove-source-files "$2/" "$3/$round/"
            echo $round
        done
    """
    with endless(victim, script, tree, left, victim.path) as work:
        pause(moment(seed, "rsync"))
        kill(pid)
        rounds = len(work.failed())
    bury(victim)
    aftermath(victim, has_copies, tree, left, rounds)


# --- a guest --------------------------------------------------------------------------------------


def boots(directory: Path, point: Path, log: Path, seed: int) -> str:
    """Let the guest's file system replay its journal, compare it with the log, and check it."""
    disk = directory / "disk.raw"
    subprocess.run(["mount", "-o", "loop", disk, point], check=True, timeout=60)
    try:
        digest = workloads.check_guest(point, log, seed)
    finally:
        subprocess.run(["umount", point], check=True, timeout=60)
    done = subprocess.run(
        ["e2fsck", "-fn", disk], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        raise Wrong(f"e2fsck finds: {done.stdout}{done.stderr}")
    return digest


@one_and_more
def test_a_guest_finds_what_it_had_synced_on_a_clean_file_system(store, tmp_path, seed):
    point = tmp_path / "guest"
    point.mkdir()
    with mounted(store, "fsync=local") as mount:
        pid = mount.status()["pid"]
        mount.sh("truncate -s 64M disk.raw; mke2fs -q -F -t ext4 disk.raw")
        mount.run("mount", "-o", "loop", mount.path / "disk.raw", point)
        try:
            with workload(mount, "synced_names", seed, where=point) as work:
                pause(moment(seed, "a guest"))
                kill(pid)
                work.ended(by=BROKEN)
        finally:
            mount.run("umount", point)  # and the loop device lets go of its file
        bury(mount)
        aftermath(mount, boots, point, work.log, seed)


# --- the whole machine ----------------------------------------------------------------------------


@pytest.fixture(params=[pytest.param("remote", marks=pytest.mark.slow), "local"])
def machine(request, tmp_path):
    """Yield a mount whose stage has a disk of its own, and that disk."""
    store = Directory(tmp_path / "store")
    store.path.mkdir()
    options = (f"fsync={request.param}", "stage_size=256M")
    with small_disk(tmp_path, 512 * MIB) as disk, mounted(store, *options, start=False) as mount:
        mount.stage = disk.path
        yield mount, disk


@pytest.mark.promise("S-write-2")
@pytest.mark.parametrize("name", ["blocks", "names"])
@one_and_more
def test_a_power_cut_takes_nothing_that_was_acknowledged(machine, name, seed):
    mount, disk = machine
    mount.store.put("old", workloads.old_bytes(seed))
    if name == "names":
        (mount.store.path / "old").unlink()
    mount.start()
    pid = mount.status()["pid"]
    with workload(mount, name, seed) as work:
        pause(moment(seed, f"the power under {name}"))
        disk.cut_power()
        assert not is_gone(pid)
        kill(pid)
        work.ended(by=DEAD | BROKEN)
    bury(mount)
    disk.detach()
    disk.attach()
    reboot(stage_of(mount))
    aftermath(mount, getattr(workloads, f"check_{name}"), work.log, seed)
