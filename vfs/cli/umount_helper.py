"""`umount.fuse.vfs`, which umount(8) and systemd call: the same as `vfs umount`."""

import sys
from pathlib import Path

import click

from vfs.cli.main import run
from vfs.cli.umount import unmount
from vfs.cli.verb import local
from vfs.errors import UnsupportedError


@click.command("umount.fuse.vfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-l", "lazy", is_flag=True, help="Detach now, store the rest in the background.")
@click.option("-f", "_force", is_flag=True, help="Accepted; nothing that waits is thrown away.")
@click.option("-n", "_no_mtab", is_flag=True, help="Accepted; there is no mtab to write.")
@click.option("-r", "_read_only", is_flag=True, help="Accepted; the mount is never remounted.")
@click.option("-v", "verbose", is_flag=True, help="Say what is done.")
@click.option("-N", "namespace", metavar="NS", help="Refused: call it in that namespace.")
@click.option("-t", "_type", metavar="TYPE", help="Accepted; always fuse.vfs.")
@click.argument("directory", metavar="DIR", type=local)
def helper_command(
    *,
    directory: Path,
    lazy: bool,
    verbose: bool,
    _force: bool,
    _no_mtab: bool,
    _read_only: bool,
    namespace: str | None,
    _type: str | None,
) -> int:
    """Unmount DIR when everything is stored."""
    if namespace is not None:
        raise UnsupportedError("option -N: call umount.fuse.vfs inside that namespace")
    code = unmount(directory, timeout_s=None, lazy=lazy)
    if verbose and not code:
        click.echo(f"umount.fuse.vfs: {directory} unmounted")
    return code


def main() -> None:
    """Run the helper with the process's arguments."""
    sys.exit(run(sys.argv[1:], command=helper_command, name="umount.fuse.vfs"))
