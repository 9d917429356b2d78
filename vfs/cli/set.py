"""`vfs set`: change options of a running mount."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import click

from vfs.cli.client import ask, find_mount
from vfs.cli.mounts import resolve
from vfs.cli.verb import Verb, as_json, local
from vfs.daemon.settings import read_settings
from vfs.errors import MetadataError, UnreachableError
from vfs.options import normal_name

VERSION = 1


@click.command("set", cls=Verb)
@as_json()
@click.argument("mountpoint", type=local)
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE...")
def set_command(mountpoint: Path, settings: Sequence[str], json_output: bool) -> None:
    r"""Change options of the mount at MOUNTPOINT, until it is unmounted.

    \b
    bandwidth=UP:DOWN   most bytes a second, 0 for no limit: bandwidth=20M:100M
    log_level=LEVEL     debug, info, warning or error

    Several are changed together, or none of them. Printed is what holds afterwards.
    """
    given = dict(_pair(text) for text in settings)
    read_settings(given)  # a mistake is told without a daemon
    real = resolve(mountpoint)
    _, control = find_mount(real)
    try:
        told = ask(control, "set", {"settings": given}).get("settings")
    except TimeoutError:
        raise UnreachableError(f"the daemon of {mountpoint} does not answer") from None
    if not isinstance(told, dict):
        raise MetadataError(f"the daemon of {mountpoint} does not say what holds now")
    now = cast("Mapping[str, object]", told)
    if json_output:
        shown = {"version": VERSION, "mountpoint": str(real), "settings": now}
        click.echo(json.dumps(shown, indent=2))
        return
    for name, value in now.items():
        click.echo(f"{name} = {value}".rstrip())


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise click.UsageError(f"{text!r} is not a change; write NAME=VALUE.")
    return normal_name(name), value
