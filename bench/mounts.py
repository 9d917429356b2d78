"""Mounts of our bucket by vfs and by others, and what each daemon uses meanwhile."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from bench import machine
from bench.children import VFS, BenchError, environment, run
from bench.gateway import Gateway

MOUNT_S = 30.0
KEEP_S = 60.0  # the SSD tier has this long to write what it was given


@dataclass(frozen=True)
class Usage:
    """What a daemon has used up to one moment."""

    cpu_s: float
    requests: int | None = None  # to the store; None where the daemon does not tell
    fetched_bytes: int | None = None  # of content, from the store
    sent_bytes: int | None = None  # of content, to the store


@dataclass(frozen=True)
class Daemon:
    """A mount and the process behind it."""

    path: Path
    pid: int
    environ: dict[str, str]
    counts: bool  # whether it is vfs, which tells how many requests it sent

    def usage(self) -> Usage:
        """Return what it has used so far."""
        cpu_s = machine.cpu_s(self.pid)
        if not self.counts:
            return Usage(cpu_s)
        status = self.status()
        [store] = cast("list[dict[str, int]]", status["stores"])
        requests = cast("int", status["requests"])
        return Usage(cpu_s, requests, store["bytes_in"], store["bytes_out"])

    def kept_bytes(self) -> int:
        """Return how much of the store's content lies on the SSD tier."""
        return cast("dict[str, int]", self.status()["cache"])["disk_bytes"]

    def warm(self, path: Path, size_bytes: int) -> int:
        """Read a file, and complete what the SSD tier did not keep of it; return how much that was."""
        run("dd", f"if={path}", "of=/dev/null", "bs=1M")
        before, kept = -1, self.kept_bytes()
        while before < kept < size_bytes:
            time.sleep(1)
            before, kept = kept, self.kept_bytes()
        run(*VFS, "warm", path, env=self.environ)
        _await(lambda: self.kept_bytes() >= size_bytes, f"{path} on the SSD tier", KEEP_S)
        return max(0, size_bytes - kept)

    def peak_bytes(self) -> int:
        """Return the most memory that it ever had."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        if found is None:
            raise BenchError(f"process {self.pid} tells nothing about its memory")
        return int(found[1]) << 10

    def status(self) -> dict[str, object]:
        """Return what `vfs status` says."""
        return _status(self.path, self.environ)


def _status(path: Path, environ: dict[str, str]) -> dict[str, object]:
    answer = json.loads(run(*VFS, "status", "--json", path, env=environ))
    [found] = cast("list[dict[str, object]]", answer["mounts"])
    return found


@contextlib.contextmanager
def vfs(gateway: Gateway, base: Path, options: str, prefix: str = "") -> Iterator[Daemon]:
    """Mount with vfs on a new mount point with an empty stage; unmount, all stored, at the end."""
    stage, cache = base / "stage", base / "cache"
    stage.mkdir()
    environ = gateway.environ()
    with _mountpoint(base) as path:
        given = f"stage_dir={stage},cache_dir={cache},{options}"
        if gateway.ca is not None:
            given += f",ca_bundle={gateway.ca}"
        run(*VFS, "mount", "-o", given, gateway.url(prefix), path, env=environ, timeout=60)
        try:
            yield Daemon(path, cast("int", _status(path, environ)["pid"]), environ, counts=True)
        finally:
            run(*VFS, "umount", path, env=environ, timeout=600)
    shutil.rmtree(stage)
    shutil.rmtree(cache, ignore_errors=True)


@contextlib.contextmanager
def s3fs(gateway: Gateway, base: Path) -> Iterator[Daemon]:
    """Mount with s3fs, without a cache of its own."""
    keys = base / "s3fs-keys"
    keys.touch(mode=0o600)
    keys.write_text(f"{gateway.access_key}:{gateway.secret_key}\n")
    options = (
        f"url={gateway.endpoint},use_path_request_style,passwd_file={keys},tmpdir={base},"
        "parallel_count=16,multipart_size=10"
    )
    with _mountpoint(base) as path:
        command = ("s3fs", gateway.bucket, str(path), "-f", "-o", options)
        with _foreground(path, command, environment()) as daemon:
            yield daemon


@contextlib.contextmanager
def rclone(gateway: Gateway, base: Path) -> Iterator[Daemon]:
    """Mount with rclone, whole files in its cache, an empty one."""
    cache = base / "rclone"
    remote = f":s3,provider=Ceph,endpoint='{gateway.endpoint}':{gateway.bucket}"
    keys = {
        "RCLONE_S3_ACCESS_KEY_ID": gateway.access_key,
        "RCLONE_S3_SECRET_ACCESS_KEY": gateway.secret_key,
        "RCLONE_CONFIG": "",
    }
    options = ("--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--cache-dir", str(cache))
    with _mountpoint(base) as path:
        command = ("rclone", "mount", remote, str(path), *options)
        with _foreground(path, command, environment(keys)) as daemon:
            yield daemon
    shutil.rmtree(cache, ignore_errors=True)


OTHERS: dict[str, Callable[[Gateway, Path], contextlib.AbstractContextManager[Daemon]]] = {
    "s3fs": s3fs,
    "rclone": rclone,
}


@contextlib.contextmanager
def _foreground(path: Path, command: tuple[str, ...], environ: dict[str, str]) -> Iterator[Daemon]:
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            _await(lambda: is_mounted(path) or process.poll() is not None, f"mount by {command[0]}")
            if process.poll() is not None:
                assert process.stderr is not None
                said = process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
                raise BenchError(f"{command[0]} does not mount: {said}")
            yield Daemon(path, process.pid, environ, counts=False)
        finally:
            if is_mounted(path):
                run("fusermount3", "-u", path, timeout=60)
            process.terminate()


@contextlib.contextmanager
def _mountpoint(base: Path) -> Iterator[Path]:
    path = base / "mnt"
    path.mkdir()
    try:
        yield path
    finally:
        if is_mounted(path):
            run("fusermount3", "-u", "-z", path, timeout=60)
    path.rmdir()


def is_mounted(path: Path) -> bool:
    """Tell whether something is mounted there, without asking the mount."""
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return any(line.split(" ")[4] == str(path) for line in lines)


def _await(condition: Callable[[], bool], what: str, limit_s: float = MOUNT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.02)
