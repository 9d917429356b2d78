"""`vfs warm` and `vfs evict`: fill and empty the cache on disk."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from vfs.cli.client import Fields, Patience, ask, find_mount_of, number
from vfs.cli.progress import open_meter
from vfs.cli.text import show_bytes
from vfs.cli.verb import Verb, as_json, local
from vfs.errors import UnreachableError
from vfs.options import parse_size

VERSION = 1
STALL_S = 300.0
"""A daemon that tells nothing for so long is given up; it tells its progress twice a second."""


def size(text: str) -> int:
    """Return a number of bytes, with or without a unit."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no size; for example 64M.") from error


@click.command("warm", cls=Verb)
@click.option("--offset", type=size, metavar="SIZE", help="From here on in each file.")
@click.option("--length", type=size, metavar="SIZE", help="So many bytes of each file.")
@as_json()
@click.argument("paths", nargs=-1, required=True, type=local, metavar="PATH...")
def warm_command(
    paths: Sequence[Path], offset: int | None, length: int | None, json_output: bool
) -> None:
    """Fetch files, and all files below directories, into the cache on disk.

    What is there already is not fetched again. Nothing is fetched when it does not all fit.
    """
    arguments = {"offset": offset or 0, "length": length}
    _run("warm", paths, arguments, json_output=json_output)


@click.command("evict", cls=Verb)
@as_json()
@click.argument("paths", nargs=-1, required=True, type=local, metavar="PATH...")
def evict_command(paths: Sequence[Path], json_output: bool) -> None:
    """Give back the space that files, and all files below directories, take in the cache.

    The store keeps them, of course; what is written and not stored yet is not touched.
    """
    _run("evict", paths, {}, json_output=json_output)


def _run(verb: str, paths: Sequence[Path], arguments: Fields, *, json_output: bool) -> None:
    mounts: dict[Path, list[str]] = {}
    for path in paths:
        _, control, relative = find_mount_of(path)
        mounts.setdefault(control, []).append(relative or "")
    total = {"files": 0, "done_bytes": 0, "moved_bytes": 0}
    for control, inside in mounts.items():
        told = _ask(verb, control, {**arguments, "paths": inside})
        total = {name: count + number(told, name) for name, count in total.items()}
    if json_output:
        click.echo(json.dumps({"version": VERSION, **total}, indent=2))
    elif verb == "warm":
        here = total["done_bytes"] - total["moved_bytes"]
        click.echo(
            f"{total['files']} files: {show_bytes(total['moved_bytes'])} fetched,"
            f" {show_bytes(here)} were there"
        )
    else:
        click.echo(f"{total['files']} files: {show_bytes(total['moved_bytes'])} given back")


def _ask(verb: str, control: Path, arguments: Fields) -> Fields:
    with open_meter(verb) as meter:
        patience = Patience(total_s=None, stall_s=STALL_S)

        def show(fields: Fields) -> None:
            patience.moved(tuple(fields.values()))
            meter.update(number(fields, "done_bytes"), number(fields, "total_bytes"))

        try:
            return ask(control, verb, arguments, patience=patience, progress=show)
        except TimeoutError:
            raise UnreachableError(
                f"{verb}: nothing has moved for {STALL_S:g} s; vfs status shows the store"
            ) from None
