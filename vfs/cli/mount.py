"""`vfs mount`: check what can be checked, start the daemon, return when the mount is usable."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import click

from vfs.cli.background import run_in_background
from vfs.cli.mounts import resolve
from vfs.cli.predecessor import await_predecessor
from vfs.cli.preflight import check_mount, hidden_content
from vfs.cli.verb import Verb, local, option_strings
from vfs.config import MountSpec, load_config
from vfs.log import configure_log


class Daemon(Protocol):
    """What `vfs.daemon` offers; it is imported late, in the process that it runs in."""

    def run(self, spec: MountSpec, mountpoint: Path, ready: Callable[[], None]) -> int:
        """Mount, serve, unmount; return the exit code."""
        ...


@click.command("mount", cls=Verb)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground.")
@option_strings()
@click.option(
    "--config",
    "file",
    type=local,
    metavar="FILE",
    help="Read the options, and NAME, from this file.",
)
@click.argument("url", metavar="URL|NAME")
@click.argument("mountpoint", type=local)
def mount_command(
    url: str, mountpoint: Path, foreground: bool, options: Sequence[str], file: Path | None
) -> int:
    """Mount the store at URL, or what the configuration calls NAME, on MOUNTPOINT.

    Returns when the mount is usable.
    """
    spec = load_config(url, options, os.environ, file)
    return mount(spec, mountpoint, foreground=foreground)


def mount(spec: MountSpec, mountpoint: Path, *, foreground: bool) -> int:
    """Mount and return the exit code; in the foreground, when it is unmounted again."""
    real = resolve(mountpoint)
    check_mount(spec, real)
    if hidden_content(real):
        click.echo(f"vfs: {mountpoint} is not empty; the mount hides what is in it", err=True)
    await_predecessor(spec)
    if foreground:
        return serve(spec, real, lambda: None, background=False)
    run_in_background(lambda ready: serve(spec, real, ready, background=True))
    return 0


def serve(spec: MountSpec, mountpoint: Path, ready: Callable[[], None], *, background: bool) -> int:
    """Run the daemon in this process."""
    fallback = spec.config.stage.stage_dir / "vfs.log"
    configure_log(spec.config.log, background=background, fallback=fallback)
    # Late: whoever only mistyped an option need not wait for everything a daemon is made of.
    daemon = cast("Daemon", import_module("vfs.daemon"))
    sys.stdout.flush()
    return daemon.run(spec, mountpoint, ready)
