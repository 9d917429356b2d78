"""A mount with little bandwidth is slow, and nothing else."""

import random
from pathlib import Path

import pytest
import trio

from tests.support.tree import Shell, get
from vfs.config import load_config
from vfs.daemon.assembly import open_mount
from vfs.daemon.report import Report
from vfs.store.rates import NO_LIMITS
from vfs.store.wrap.bucket import PIECE_BYTES
from vfs.values import MIB


@pytest.fixture
def mount_with(tmp_path):
    """Mount a store in memory, as the daemon does."""

    def build(*options):
        given = ["memory=64M", "metadata_ttl=0", f"stage_dir={tmp_path / 'stage'}", *options]
        return open_mount(load_config(f"mem://{tmp_path.name}", given, environ={}))

    return build


@pytest.mark.promise("S-mount-8")
async def test_fsync_waits_for_its_turn_however_long_that_takes(mount_with, virtual_time):
    data = random.Random(1).randbytes(8 * MIB)
    async with mount_with("bandwidth=64K:", "stage_wait=10s") as mount:
        shell = Shell(mount)
        await shell.write("a", data)  # at 64 KiB/s: longer than nothing may move
        assert await get(mount.store, "a") == data
        assert trio.current_time() > 100


@pytest.mark.promise("S-mount-8")
async def test_a_small_file_is_stored_while_a_large_one_waits(mount_with, virtual_time):
    async with mount_with("bandwidth=64K:") as mount, trio.open_nursery() as nursery:
        shell = Shell(mount)
        nursery.start_soon(shell.write, "large", random.Random(2).randbytes(32 * MIB))
        while not mount.fs.context.committer.running:
            await trio.sleep(0.1)
        before = mount.limits.up.passed_bytes
        await shell.write("small", b"x")
        assert await get(mount.store, "small") == b"x"
        assert await get(mount.store, "large") is None
        assert mount.limits.up.passed_bytes - before <= 4 * PIECE_BYTES
        mount.limits.change(NO_LIMITS)


@pytest.mark.promise("S-mount-8")
async def test_an_unmount_does_not_take_what_waits_for_its_turn_for_stuck(mount_with, virtual_time):
    spec = load_config("mem://tree", [], environ={})
    async with mount_with("bandwidth=16K:") as mount, trio.open_nursery() as nursery:
        report = Report(spec, Path("/mnt"), mount)
        nursery.start_soon(Shell(mount).write, "a", bytes(range(256)) * 4096)
        while not mount.limits.up.passed_bytes:
            await trio.sleep(0.1)
        for _ in range(10):
            before = report.measure()
            await trio.sleep(5)  # a piece takes 4 s, the file one minute
            assert report.measure() != before
            assert await get(mount.store, "a") is None
        mount.limits.change(NO_LIMITS)
