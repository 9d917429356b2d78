"""`vfs flush`: wait until what was written is stored."""

import os
from pathlib import Path

import click

from vfs.cli.client import find_mount_of
from vfs.cli.drain import drain
from vfs.cli.verb import Verb, local, seconds
from vfs.errors import NotFoundError


@click.command("flush", cls=Verb)
@click.option("--timeout", "timeout_s", type=seconds, metavar="S", help="Give up then.")
@click.argument("path", type=local)
def flush_command(path: Path, timeout_s: float | None) -> None:
    """Wait until everything below PATH, or on the mount point, is stored.

    Exit code 8 when that has not happened in time; the upload goes on.
    """
    _, control, relative = find_mount_of(path)
    drain(control, "flush", {"path": relative}, label=f"storing {path}", total_s=timeout_s)
    # Only now it is known that the daemon answers. Of a mistyped name nothing is stored.
    if not os.path.lexists(path):
        raise NotFoundError(f"{path}: no such file or directory")
