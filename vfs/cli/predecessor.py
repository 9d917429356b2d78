"""An earlier mount of the same URL that is gone and still stores what it had: it is waited for.

Here, in the command, and not in the daemon that is to come: whoever waits sees why, and can stop.
"""

import os
import select
from pathlib import Path
from typing import cast

import click

from vfs.cli.client import Fields, all_mounts, ask, number
from vfs.cli.mounts import find_entry
from vfs.cli.progress import open_meter
from vfs.config import MountSpec
from vfs.errors import VfsError
from vfs.runtime import Record, is_alive
from vfs.stage.directory import stage_name

PAUSE_S = 0.5


def await_predecessor(spec: MountSpec) -> None:
    """Return when no unmounted daemon has the stage of this URL any more, telling progress."""
    if spec.config.tree.ro:
        return
    stage = str(spec.config.stage.stage_dir / stage_name(spec.url))
    for record, control in all_mounts():
        if record.stage == stage and _is_draining(record):
            click.echo(
                f"vfs: waiting for an earlier mount of {record.url} on {record.mountpoint} (pid"
                f" {record.pid}) that still has something to store, or files open",
                err=True,
            )
            _await_end(record, control)


def _is_draining(record: Record) -> bool:
    return is_alive(record.pid) and find_entry(Path(record.mountpoint)) is None


def _await_end(record: Record, control: Path) -> None:
    largest = 0
    with open_meter("waiting") as meter:
        while _is_draining(record):
            try:
                told = ask(control, "status").get("mount")
            except (VfsError, TimeoutError):
                told = None  # it is ending
            if isinstance(told, dict):
                left = number(cast("Fields", told), "dirty_bytes")
                largest = max(largest, left)
                meter.update(largest - left, largest)
            _pause(record.pid)


def _pause(pid: int) -> None:
    """Wait a moment, or until the process ends."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        waiter = select.poll()
        waiter.register(handle, select.POLLIN)
        waiter.poll(PAUSE_S * 1000)
    finally:
        os.close(handle)
