"""`vfs umount`: unmount when everything is stored.

The daemon stores what is left and says so; then the kernel lets go of the mount; then the daemon
ends. Only after all three does the command succeed, because whoever calls it is about to turn
something off.
"""

import os
import select
from pathlib import Path
from typing import cast

import click

from vfs.cli.client import Fields, ask, find_mount, number
from vfs.cli.drain import drain
from vfs.cli.mounts import FILESYSTEM_TYPE, MountEntry, detach, find_entry, is_dead, resolve
from vfs.cli.verb import Verb, local, seconds
from vfs.errors import ConfigError, NotFoundError, UnreachableError, VfsError
from vfs.runtime import EXIT_DIRTY, ExitError, Record, is_alive, record_path

END_S = 60.0
"""A daemon without a mount and with nothing left to store ends at once, on a machine at rest."""


@click.command("umount", cls=Verb)
@click.option("--timeout", "timeout_s", type=seconds, metavar="SECONDS", help="Give up then.")
@click.option("--lazy", is_flag=True, help="Detach now and let the daemon store the rest.")
@click.argument("mountpoint", type=local)
def umount_command(mountpoint: Path, timeout_s: float | None, lazy: bool) -> int:
    """Unmount MOUNTPOINT when everything is stored.

    Exit code 8 when something is not stored yet; it stays mounted, and the upload goes on. Ctrl-C
    stops waiting, never the upload.
    """
    return unmount(mountpoint, timeout_s=timeout_s, lazy=lazy)


def unmount(mountpoint: Path, *, timeout_s: float | None, lazy: bool) -> int:
    """Unmount and return the exit code."""
    real = resolve(mountpoint)
    entry = find_entry(real)
    if entry is not None and entry.kind != FILESYSTEM_TYPE:
        raise ConfigError(f"{mountpoint} is a mount of {entry.kind}, not of vfs; use umount")
    try:
        record, control = find_mount(real)
    except NotFoundError:
        if entry is None:
            raise NotFoundError(f"{mountpoint} is not a mount point") from None
        return _bury(real, entry, None, None)
    if not is_alive(record.pid):
        return _bury(real, entry, record, control)
    if lazy:
        return _let_go(real, entry, record, control)
    label = f"unmounting {mountpoint}"
    drain(control, "umount", {"lazy": False}, label=label, total_s=timeout_s)
    if entry is not None:  # else it was detached before, and the daemon was only draining
        detach(real, lazy=False)
    _await_end(record.pid, END_S if timeout_s is None else timeout_s)
    return 0


def _let_go(real: Path, entry: MountEntry | None, record: Record, control: Path) -> int:
    try:
        told = ask(control, "status").get("mount")
    except (VfsError, TimeoutError):
        told = None  # it hangs, which is a reason more to get rid of the mount
    if entry is not None:
        detach(real, lazy=True)  # the daemon sees that, stores the rest and ends
    if isinstance(told, dict) and not number(cast("Fields", told), "dirty_files"):
        return 0
    click.echo(record.pid)
    return EXIT_DIRTY


def _bury(real: Path, entry: MountEntry | None, record: Record | None, control: Path | None) -> int:
    """Clean up after a daemon that has died; what it had staged cannot be judged from here."""
    if record is None and entry is not None and not is_dead(real):
        raise UnreachableError(
            f"{real} is mounted, but its daemon is not one of ours: call this as the user who"
            " mounted it, or as root"
        )
    if entry is not None:
        detach(real, lazy=True)
    if record is not None and control is not None:
        record_path(control.parent, real).unlink(missing_ok=True)
        control.unlink(missing_ok=True)
    if entry is None:
        raise NotFoundError(f"{real} is not a mount point; its daemon had died before")
    stage = f" in {record.stage}" if record and record.stage else ""
    url = record.url if record else entry.source
    raise ExitError(
        f"{real} is unmounted, but its daemon had died: what it had not stored stays staged{stage}"
        f" and is uploaded when {url} is mounted again",
        EXIT_DIRTY,
    )


def _await_end(pid: int, limit_s: float) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        waiter = select.poll()
        waiter.register(handle, select.POLLIN)
        if not waiter.poll(limit_s * 1000):
            raise VfsError(
                f"unmounted, all is stored, but the daemon (pid {pid}) has not ended yet"
            )
    finally:
        os.close(handle)
