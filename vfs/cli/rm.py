"""`vfs rm`: remove objects."""

import json
import os
from collections.abc import Callable, Sequence

import click
import trio

from vfs.cli.location import Location, check_ours, locate, walk
from vfs.cli.verb import Verb, as_json, option_strings
from vfs.config import Config, load_options
from vfs.errors import ConfigError, NotFoundError
from vfs.names import OWN_DIRECTORY
from vfs.store.base import ObjectInfo, Store
from vfs.store.open import open_reached
from vfs.values import Key

VERSION = 1


@click.command("rm", cls=Verb)
@click.option("-r", "--recursive", is_flag=True, help="Remove everything below URL.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@as_json()
@option_strings()
@click.argument("url")
def rm_command(
    url: str, recursive: bool, dry_run: bool, json_output: bool, options: Sequence[str]
) -> None:
    """Remove the object at URL."""
    where = locate(url)
    check_ours(url)
    if not recursive and (not where.key or where.directory):
        raise ConfigError(f"{url} is a directory; -r removes everything below it")
    removed: list[str] = []
    word = "would remove" if dry_run else "removed"

    def tell(key: Key) -> None:
        removed.append(where.url_of(key))
        if not json_output:
            click.echo(f"{word} {removed[-1]}")

    trio.run(_remove, where, load_options(options, os.environ), recursive, dry_run, tell)
    if json_output:
        click.echo(
            json.dumps({"version": VERSION, "dry_run": dry_run, "removed": removed}, indent=2)
        )


async def _remove(
    where: Location, config: Config, recursive: bool, dry_run: bool, tell: Callable[[Key], None]
) -> None:
    async with open_reached(where.root, config.store) as store:
        keys = await _keys(store, where, recursive=recursive)
        if not keys and where.key:
            raise NotFoundError(f"{where.url_of(where.key)}: nothing is there")
        # Backwards: what a directory holds goes before its marker.
        keys.reverse()
        step = 1 if dry_run else store.features.remove_max_keys
        for first in range(0, len(keys), step):
            batch = keys[first : first + step]
            if not dry_run:
                await store.remove(batch)
            for key in batch:
                tell(key)


async def _keys(store: Store, where: Location, *, recursive: bool) -> list[Key]:
    keys: list[Key] = []
    if where.key and not where.directory:
        try:
            keys.append((await store.head(where.key)).key)
        except NotFoundError:
            if not recursive and (await store.list(where.prefix, limit=1)).objects:
                raise ConfigError(
                    f"{where.url_of(where.key)} is a directory; -r removes everything below it"
                ) from None
    if recursive:
        kept: set[str] = set()  # markers of directories that stay
        async for entry in walk(store, where.prefix):
            if isinstance(entry, ObjectInfo):
                parts = entry.key.split("/")
                # Temporary objects belong to whoever writes them: only their owner removes them.
                if OWN_DIRECTORY in parts:
                    kept |= {"/".join(parts[:depth]) + "/" for depth in range(1, len(parts))}
                else:
                    keys.append(entry.key)
        keys = [key for key in keys if key not in kept]
    return keys
