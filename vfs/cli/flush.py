"""`vfs flush`: wait until what was written is stored."""

from pathlib import Path

import click

from vfs.cli.client import find_mount_of
from vfs.cli.drain import drain
from vfs.cli.verb import Verb


@click.command("flush", cls=Verb)
@click.option("--timeout", "timeout_s", type=click.FloatRange(0), metavar="S", help="Give up then.")
@click.argument("path", type=Path)
def flush_command(path: Path, timeout_s: float | None) -> None:
    """Wait until everything below PATH, or on the mount point, is stored.

    Exit code 8 when that has not happened in time; the upload goes on.
    """
    _, control, relative = find_mount_of(path)
    drain(control, "flush", {"path": relative}, label=f"storing {path}", total_s=timeout_s)
