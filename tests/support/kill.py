"""Mounts whose daemon is killed at a chosen moment, and what must be true of what they leave.

kill(pid), bury(mount)       SIGKILL, and the dead mount is taken away
aftermath(mount, look)       the next mount, its end, and another host: all see the same
"""

import ctypes
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.mount import VFS, Bucket, Mount, mount_minor, wait_until
from tests.support.workloads import DEAD, read_log
from vfs.stage.directory import stage_name
from vfs.stage.records import decode_record, encode_record

ROOT = Path(__file__).parents[2]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def stage_of(mount: Mount) -> Path:
    """Return the stage directory of this mount's URL."""
    return mount.stage / stage_name(mount.url)


def staged(mount: Mount) -> list[str]:
    """Return the names of all staged files and journals."""
    return sorted(path.name for path in (stage_of(mount) / "files").iterdir())


def kill(pid: int) -> None:
    """End a daemon as nothing else does."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), "the daemon is gone")


def bury(mount: Mount) -> None:
    """Take a dead mount away."""
    subprocess.run(["umount", "-l", mount.path], check=True, timeout=60)
    assert mount_minor(mount.path) is None


def moment_of(seed: int, what: str, longest_s: float) -> float:
    """Choose the moment of a kill; a test that fails shows it."""
    moment_s = random.Random(f"{what} {seed}").uniform(0.02, longest_s)
    print(f"seed {seed}: {what} is killed {moment_s:.3f} s after it began")
    return moment_s


def pause(seconds: float) -> None:
    time.sleep(seconds)  # noqa: TID251 - real processes do their work meanwhile


@dataclass
class Workload:
    """A program of `tests.support.workloads` at work on a mount."""

    process: subprocess.Popen[str]
    log: Path

    def failed(self) -> list[str]:
        """It was at work until the daemon was gone; return what it printed."""
        _, said = self.process.communicate(timeout=60)
        assert self.process.returncode > 0, f"it ended by itself: {said}"
        print("killed after", self.log.read_text().split("\n"), said[-300:])
        return self.log.read_text().splitlines()

    def ended(self, *, by: Collection[int] = DEAD) -> None:
        """It was at work until the daemon was gone, and not before."""
        _, said = self.process.communicate(timeout=60)
        steps, error = read_log(self.log)
        assert self.process.returncode == 0, said
        assert error in by, f"it ended by itself after {len(steps)} steps: {error}"
        print(f"killed in step {len(steps)}: {steps[-1]}")


@contextmanager
def workload(
    mount: Mount, name: str, seed: int, *, where: Path | None = None
) -> Iterator[Workload]:
    """Run a program until its daemon is killed; at work when this returns."""
    log = mount.base / f"{name}.log"
    command = (sys.executable, "-m", "tests.support.workloads", name)
    with mount.popen(
        *command, where or mount.path, log, str(seed), environ={"PYTHONPATH": str(ROOT)}
    ) as process:
        try:
            wait_until(
                lambda: (log.exists() and log.stat().st_size > 0) or process.poll() is not None,
                f"{name} is at work",
            )
            yield Workload(process, log)
        finally:
            if process.poll() is None:
                mount.abort()
                process.kill()


@contextmanager
def forgiven(mount: Mount) -> Iterator[None]:
    """Let what fails here be one failure: its dead mount and its log are no further ones."""
    try:
        yield
    except BaseException:
        mount.expect_log(".")
        if mount_minor(mount.path) is not None:
            mount.abort()
            subprocess.run(["umount", "-l", mount.path], check=False, timeout=60)
        raise


@contextmanager
def endless(mount: Mount, script: str, *arguments: str | Path) -> Iterator[Workload]:
    """Run a shell script until the daemon is killed; its directory is not the mount."""
    log = mount.base / "script.log"
    command = ("bash", "-euo", "pipefail", "-c", f"exec >>{log}\n{script}", "-", *arguments)
    with mount.popen(*command) as process:
        try:
            yield Workload(process, log)
        finally:
            if process.poll() is None:
                mount.abort()
                process.kill()


def aftermath(mount: Mount, look: Callable[..., str], *arguments: object) -> None:
    """Mount again and look; then nothing is left staged, and another host sees the same."""
    mount.start()
    shown = mount.call(look, mount.path, *arguments)
    mount.run(VFS, "flush", mount.path)
    assert_nothing_left(mount)
    assert mount.call(look, mount.path, *arguments) == shown
    mount.umount()
    mount.stage = mount.base / "stage-other-host"
    mount.start()
    assert mount.call(look, mount.path, *arguments) == shown
    mount.umount()


def assert_nothing_left(mount: Mount) -> None:
    """Nothing is staged, no upload is unfinished, nothing temporary lies about, no conflict."""
    status, store_keys = mount.status(), mount.store.keys()
    found = {
        "staged": staged(mount),
        "not stored": status["dirty_files"],
        "failed": status["failed_uploads"],
        "conflicts": sorted(key for key in store_keys if ".conflict-" in key),
    }
    if isinstance(mount.store, Bucket):
        found["uploads"] = uploads(mount.store)
        found["temporary"] = temporary(mount.store)
    left = {what: value for what, value in found.items() if value}
    assert not left, f"left behind: {left}"


def uploads(store: Bucket) -> list[str]:
    """Return the keys of uploads in parts that are neither finished nor aborted.

    One without a part does not count yet: the daemon was killed before it was answered, and what
    becomes of those is asked in tests/faults/test_network.py.
    """
    pages = store.client.get_paginator("list_multipart_uploads").paginate(Bucket=store.name)
    found = [(one["Key"], one["UploadId"]) for page in pages for one in page.get("Uploads", [])]
    return [key for key, upload_id in found if _has_parts(store, key, upload_id)]


def _has_parts(store: Bucket, key: str, upload_id: str) -> bool:
    listed = store.client.list_parts(Bucket=store.name, Key=key, UploadId=upload_id)
    if not listed.get("Parts"):
        print(f"begun and never used: upload {upload_id} of {key}")
    return bool(listed.get("Parts"))


def temporary(store: Bucket) -> list[str]:
    """Return the keys of our own temporary objects."""
    where = f"{store.prefix}.vfs/tmp/"
    found = store.client.list_objects_v2(Bucket=store.name, Prefix=where)
    return [item["Key"] for item in found.get("Contents", [])]


# --- a disk of its own for a stage ---------------------------------------------------------------

EXT4_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32), linux/ext4.h
NO_LOG_FLUSH = 2


@contextmanager
def small_disk(base: Path, size: int) -> Iterator["SmallDisk"]:
    """Mount an ext4 file system of its own."""
    disk = SmallDisk(base / "disk.ext4", base / "disk")
    with disk.image.open("wb") as file:
        file.truncate(size)
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", disk.image],
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    disk.path.mkdir()
    disk.attach()
    try:
        yield disk
    finally:
        disk.detach()


@dataclass
class SmallDisk:
    """A file system that can fill up, become read-only, or lose its power."""

    image: Path
    path: Path

    def attach(self, options: str = "rw") -> None:
        command = ["mount", "-o", f"loop,{options}", self.image, self.path]
        subprocess.run(command, check=True, timeout=60)

    def detach(self) -> None:
        """Unmount it, when nobody has files open in it any more."""
        try:
            wait_until(self._is_off, f"{self.path} is not busy")
        finally:
            if mount_minor(self.path) is not None:
                subprocess.run(["umount", "-l", self.path], check=True, timeout=60)

    def _is_off(self) -> bool:
        command = ["umount", self.path]
        return (
            mount_minor(self.path) is None  # a file system without power cannot be asked
            or subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
        )

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True, timeout=60)

    def cut_power(self) -> None:
        """Lose everything that was not synced: nothing reaches the disk any more."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, ctypes.c_uint32(NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def fill(self) -> Path:
        """Leave no space; removing the file that is returned makes room again."""
        ballast = self.path / "ballast"
        with ballast.open("wb", buffering=0) as file:
            free = os.statvfs(self.path)
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize * 9 // 10)
            file.seek(0, os.SEEK_END)
            for piece in (1 << 20, 1 << 12):
                try:
                    while True:
                        file.write(bytes(piece))
                except OSError:
                    continue
        return ballast


def reboot(stage: Path) -> None:
    """Make the journals of a stage those of an earlier boot of the machine."""
    for path in stage.rglob("files/*.log"):
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines):
            record = decode_record(line)
            if record is not None and record.get("boot") is not None:
                record["boot"] = "0" * len(str(record["boot"]))
                lines[number] = encode_record(record)[:-1]
        path.write_bytes(b"\n".join(lines))
