"""`vfs stat`: describe one object."""

import json
import os
from collections.abc import Sequence

import click
import trio

from vfs.cli.location import Location, locate
from vfs.cli.ls import object_fields
from vfs.cli.verb import Verb, as_json, option_strings
from vfs.config import Config, load_options
from vfs.errors import NotFoundError
from vfs.store.open import open_reached

VERSION = 1


@click.command("stat", cls=Verb)
@as_json()
@option_strings()
@click.argument("url")
def stat_command(url: str, json_output: bool, options: Sequence[str]) -> None:
    """Describe the object, or the directory, at URL."""
    fields = trio.run(_stat, locate(url), load_options(options, os.environ))
    if json_output:
        click.echo(json.dumps({"version": VERSION, "object": fields}, indent=2))
        return
    width = max(map(len, fields))
    for name, value in fields.items():
        if value not in (None, "", {}):
            click.echo(f"{name:<{width}}  {value}")


async def _stat(where: Location, config: Config) -> dict[str, object]:
    async with open_reached(where.root, config.store) as store:
        if where.key and not where.directory:
            try:
                info = await store.head(where.key)
            except NotFoundError:
                pass  # a directory, then
            else:
                return {**object_fields(info, where), "metadata": dict(info.metadata)}
        page = await store.list(where.prefix, limit=1)
        if where.key and not page.objects and page.cursor is None:
            raise NotFoundError(f"{where.url_of(where.key)}: nothing is there")
        name = where.key.rpartition("/")[2]
        return {"name": name, "kind": "directory", "url": where.url_of(where.prefix)}
