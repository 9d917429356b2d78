"""One FUSE session: mount, tune the kernel's side, serve, unmount."""

import errno
import os
import select
import subprocess
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import pyfuse3

from vfs.config import MountConfig
from vfs.errors import BusyError, DeniedError, NotFoundError, VfsError
from vfs.fuse.ops import Operations

MIN_TASKS = 8
MAX_TASKS = 1_000
"""Requests served at once: blocked closes must leave room for everything else."""

WATCH_MS = 5_000

READ_AHEAD_KIB = 4096
"""The kernel's own read-ahead on our mount; 128 KiB, its default, caps a stream at 1.6 GB/s and at
25 MB/s when the store is 20 ms away (docs/performance.md)."""


def mount_options(
    config: MountConfig, url: str, kernel_options: Iterable[str], *, read_only: bool
) -> set[str]:
    """Return the options of libfuse and of mount(2): nodev, nosuid and such."""
    options = {f"fsname={_escaped(url)}", "subtype=vfs", *kernel_options}
    if config.allow_other:
        options.add("allow_other")
    if config.default_permissions:
        options.add("default_permissions")
    if read_only:
        options.add("ro")
    return options


def _escaped(url: str) -> str:
    return url.replace("\\", "\\\\").replace(",", "\\,")


@contextmanager
def mounted(
    operations: Operations, mountpoint: Path, options: set[str], in_use: Callable[[], bool]
) -> Generator[None]:
    """Mount; leaving the block unmounts what is still there.

    Unless `in_use` and by an error: then the mount point stays and is dead, because an empty
    directory must not be mistaken for data.

    Errors: NotFoundError, DeniedError, BusyError with what to do.
    """
    if not Path("/dev/fuse").exists():
        raise NotFoundError("/dev/fuse is missing: load the fuse module, or pass the device in")
    try:
        pyfuse3.init(operations, str(mountpoint), options)
    except RuntimeError as error:
        raise VfsError(
            f"{mountpoint} could not be mounted: {error}; see the messages of fusermount3 above",
        ) from error
    except OSError as error:
        raise _mount_error(error, mountpoint) from error
    failed = True
    try:
        yield
        failed = False
    finally:
        stays = failed and in_use()
        pyfuse3.close(unmount=not stays and device_of(mountpoint) is not None)


def _mount_error(error: OSError, mountpoint: Path) -> VfsError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return DeniedError(f"{mountpoint} may not be mounted by this user: {error.strerror}")
    if error.errno == errno.EBUSY:
        return BusyError(f"{mountpoint} is in use: choose another mount point")
    return VfsError(f"{mountpoint} could not be mounted: {error.strerror}")


def device_of(mountpoint: Path) -> str | None:
    """Return the minor device number of a mount, without asking the mount itself."""
    wanted = str(mountpoint)
    found: str | None = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if _unescape(fields[4]) == wanted:
            found = fields[2].partition(":")[2]
    return found


def _unescape(path: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path


def tune_kernel(mountpoint: Path, max_background: int) -> list[str]:
    """Raise read-ahead and request limits of our own mount; return what could not be set."""
    minor = device_of(mountpoint)
    if minor is None:
        return ["the mount was not found"]
    settings = {
        Path(f"/sys/class/bdi/0:{minor}/read_ahead_kb"): READ_AHEAD_KIB,
        Path(f"/sys/fs/fuse/connections/{minor}/max_background"): max_background,
        Path(f"/sys/fs/fuse/connections/{minor}/congestion_threshold"): max_background * 3 // 4,
    }
    refused: list[str] = []
    for path, value in settings.items():
        try:
            path.write_text(f"{value}\n")
        except OSError as error:  # not root, or no such file in this kernel
            refused.append(f"{path}: {error.strerror}")
    return refused


def unmount(mountpoint: Path) -> bool:
    """Detach the mount; False when it is busy. Blocking."""
    if os.getuid() == 0:
        command = ["umount", "-i", str(mountpoint)]
    else:
        command = ["fusermount3", "-u", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - fixed words
    return done.returncode == 0


def wait_until_detached(mountpoint: Path) -> None:
    """Return when the mount is not in this mount namespace any more. Blocking.

    The session itself may outlive that: a container or a service with a namespace of its own keeps
    a copy of the mount, and open files keep one that was detached lazily.
    """
    with Path("/proc/self/mountinfo").open("rb") as table:
        watcher = select.poll()
        # The kernel marks the table with POLLPRI when it has changed (proc_pid_mountinfo(5)).
        watcher.register(table, select.POLLPRI)
        while device_of(mountpoint) is not None:
            watcher.poll(WATCH_MS)


async def serve() -> None:
    """Answer the kernel until the mount is gone."""
    await pyfuse3.main(min_tasks=MIN_TASKS, max_tasks=MAX_TASKS)


def stop_serving() -> None:
    """Make `serve` return."""
    pyfuse3.terminate()
