"""What can be known before mounting: every mistake that would otherwise show late, or in a log.

Nothing here asks the network or changes anything. Each refusal says what to do.
"""

import os
import re
import shutil
import stat
from pathlib import Path

from vfs.cli.client import find_mount
from vfs.cli.mounts import containing, find_entry, is_dead
from vfs.config import MountSpec, local_path
from vfs.errors import BusyError, ConfigError, DeniedError, NotFoundError, VfsError
from vfs.runtime import is_alive, real_mountpoint

FUSE_DEVICE = Path("/dev/fuse")
MEMORY_KINDS = {"tmpfs", "ramfs", "devtmpfs"}
FUSE_CONF = Path("/etc/fuse.conf")


def check_mount(spec: MountSpec, mountpoint: Path) -> None:
    """Refuse what cannot work.

    Errors: ConfigError, NotFoundError, BusyError, DeniedError.
    """
    check_free(mountpoint)
    check_mountpoint(mountpoint)
    check_apart(spec, mountpoint)
    check_stage(spec)
    check_durable(spec)
    check_device()
    if os.getuid() != 0:
        check_user(allow_other=spec.config.mount.allow_other)


def check_free(mountpoint: Path) -> None:
    """Refuse a directory where something is mounted already, alive or dead."""
    entry = find_entry(mountpoint)
    if entry is None:
        return
    try:
        record, _ = find_mount(mountpoint)
    except VfsError:
        pid = None
    else:
        pid = record.pid if is_alive(record.pid) else None
    # Only a dead mount answers at once; a living one of another program may hang.
    if pid is None and entry.kind.startswith("fuse") and is_dead(mountpoint):
        raise BusyError(
            f"{mountpoint} is a dead mount: its daemon is gone; clean it up with"
            f" umount -l {mountpoint}, then mount again"
        )
    owner = f" (pid {pid})" if pid else ""
    raise BusyError(
        f"{mountpoint} is a mount point already: {entry.kind} of {entry.source}{owner};"
        " unmount it first"
    )


def check_mountpoint(mountpoint: Path) -> None:
    """Refuse what is not a directory that we may mount on."""
    try:
        found = mountpoint.stat()
    except FileNotFoundError:
        raise NotFoundError(f"{mountpoint}: no such directory; create it first") from None
    except NotADirectoryError:
        raise ConfigError(f"{mountpoint}: a part of it is not a directory") from None
    except OSError as error:
        raise DeniedError(f"{mountpoint}: cannot be looked at: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{mountpoint}: not a directory; mount on a directory")
    if os.getuid() != 0 and not os.access(mountpoint, os.W_OK):
        raise DeniedError(f"{mountpoint}: mounting on it needs write permission")


def check_apart(spec: MountSpec, mountpoint: Path) -> None:
    """Refuse a stage or a local store inside the mount, or around it: it would wait for itself."""
    inner = _local_places(spec)
    here = Path(os.path.realpath(mountpoint))
    for what, path in inner.items():
        there = Path(os.path.realpath(path))
        if here == there or here in there.parents:
            raise ConfigError(
                f"the {what} {path} is inside the mount point {mountpoint}: it would wait for"
                " itself; keep them apart"
            )
        if there in here.parents:
            raise ConfigError(
                f"the mount point {mountpoint} is inside the {what} {path}; keep them apart"
            )


def check_stage(spec: MountSpec) -> None:
    """Refuse a stage or cache inside a local store, or around it: they would find its files."""
    places = _local_places(spec)
    if "store" not in places:
        return
    store = Path(os.path.realpath(places["store"]))
    for what in ("stage", "cache"):
        if what not in places:
            continue
        there = Path(os.path.realpath(places[what]))
        remedy = f"set {what}_dir to a directory beside it"
        if there == store or store in there.parents:
            raise ConfigError(
                f"the {what} {places[what]} is inside the store {places['store']}: what is there"
                f" would show as files; {remedy}"
            )
        if there in store.parents:
            raise ConfigError(
                f"the store {places['store']} is inside the {what} {places[what]}; {remedy}"
            )


def check_durable(spec: MountSpec) -> None:
    """Refuse to promise that bytes in memory survive a power cut."""
    stage = spec.config.stage
    if stage.fsync != "local" or spec.config.tree.ro:
        return
    entry = containing(real_mountpoint(stage.stage_dir))
    if entry is not None and entry.kind in MEMORY_KINDS:
        raise ConfigError(
            f"the stage {stage.stage_dir} is on a {entry.kind}, which a power cut empties, and"
            " fsync=local promises that it does not: choose another with stage_dir, or fsync=remote"
        )


def _local_places(spec: MountSpec) -> dict[str, Path]:
    found = {"stage": spec.config.stage.stage_dir}
    if spec.config.cache.cache_size != 0:
        found["cache"] = spec.config.cache.cache_dir
    if spec.url.lower().startswith("file://"):
        found["store"] = local_path(spec.url)
    return found


def check_device() -> None:
    """Refuse a machine on which FUSE cannot be used."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise ConfigError(
            f"{FUSE_DEVICE} is missing: load the kernel module with modprobe fuse, or start the"
            f" container with --device {FUSE_DEVICE}"
        ) from None
    except OSError as error:
        raise DeniedError(
            f"{FUSE_DEVICE} cannot be opened: {error.strerror}; in a container, allow the device"
            " and the capability SYS_ADMIN"
        ) from None


def check_user(*, allow_other: bool) -> None:
    """Refuse what only root may do."""
    if shutil.which("fusermount3") is None:
        raise ConfigError("fusermount3 is missing, which mounts for users; install package fuse3")
    if not allow_other:
        return
    try:
        text = FUSE_CONF.read_text()
    except OSError:
        text = ""
    if not re.search(r"^\s*user_allow_other\s*(#.*)?$", text, re.MULTILINE):
        raise ConfigError(
            f"option allow_other: only root may use it, unless {FUSE_CONF} has a line"
            " user_allow_other"
        )


def hidden_content(mountpoint: Path) -> bool:
    """Tell whether the directory holds something that the mount will hide."""
    try:
        with os.scandir(mountpoint) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
