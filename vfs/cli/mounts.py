"""The kernel's table of mounts, and how a mount is undone."""

import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vfs.errors import BusyError, ConfigError, DeniedError, VfsError
from vfs.runtime import real_mountpoint

FILESYSTEM_TYPE = "fuse.vfs"
MOUNTINFO = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo, proc_pid_mountinfo(5)."""

    mountpoint: Path
    kind: str  # file system type
    source: str


def parse_mountinfo(text: str) -> list[MountEntry]:
    """Return the mounts in the order in which they were made."""
    found: list[MountEntry] = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(" "), right.split(" ")
        if len(fields) > 4 and len(kinds) > 1:  # noqa: PLR2004 - the 5th is the mount point
            found.append(MountEntry(Path(_plain(fields[4])), kinds[0], _plain(kinds[1])))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def find_entry(mountpoint: Path) -> MountEntry | None:
    """Return the topmost mount at a path, None where there is none."""
    # Bytes that are not UTF-8 come back as the surrogates that os.fsdecode makes of them.
    text = os.fsdecode(MOUNTINFO.read_bytes())
    at = [entry for entry in parse_mountinfo(text) if entry.mountpoint == mountpoint]
    return at[-1] if at else None


def containing(path: Path) -> MountEntry | None:
    """Return the mount that a path without links lies in, also one that is not there yet."""
    text = os.fsdecode(MOUNTINFO.read_bytes())
    around = {path, *path.parents}
    found = [entry for entry in parse_mountinfo(text) if entry.mountpoint in around]
    deepest = max((len(entry.mountpoint.parts) for entry in found), default=0)
    at = [entry for entry in found if len(entry.mountpoint.parts) == deepest]
    return at[-1] if at else None


def resolve(mountpoint: Path) -> Path:
    """Return the path without links.

    A mount itself is not touched: where its daemon hangs, so would whoever looks at it.
    """
    path = Path(os.path.abspath(mountpoint))  # noqa: PTH100 - resolve() looks at the last name, too
    beside = real_mountpoint(path.parent) / path.name
    return beside if find_entry(beside) else real_mountpoint(path)


def is_dead(mountpoint: Path) -> bool:
    """Tell whether a mount's daemon is gone."""
    try:
        os.listdir(mountpoint)  # noqa: PTH208 - a stat may be answered from the kernel's memory
    except OSError as error:
        return error.errno in {errno.ENOTCONN, errno.ECONNABORTED}
    return False


def detach(mountpoint: Path, *, lazy: bool) -> None:
    """Take the mount out of the tree.

    Errors: BusyError while files in it are open (not when lazy); DeniedError; VfsError.
    """
    # -i: without it umount(8) would call our own helper, which is what called us.
    command = ["umount", "-i", *(["-l"] if lazy else [])]
    if os.getuid() != 0:
        command = ["fusermount3", "-u", *(["-z"] if lazy else [])]
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(f"{command[0]} is missing; install the package fuse3")
    done = subprocess.run(  # noqa: S603 - our own words, the path after "--"
        [program, *command[1:], "--", str(mountpoint)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},  # its message is looked at
    )
    if done.returncode == 0:
        return
    said = done.stderr.strip().splitlines()
    reason = said[-1].removeprefix(f"{command[0]}: ") if said else f"exit code {done.returncode}"
    if "busy" in reason:
        raise BusyError(
            f"{mountpoint} is busy: files in it are open; close them (fuser -vm {mountpoint} shows"
            " whose they are) or detach it with vfs umount --lazy"
        )
    if "permitted" in reason or "permission" in reason.lower():
        raise DeniedError(f"{mountpoint} cannot be unmounted: {reason}")
    raise VfsError(f"{mountpoint} cannot be unmounted: {reason}")
