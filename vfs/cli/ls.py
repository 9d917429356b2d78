"""`vfs ls`: what is below a URL."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import trio

from vfs.cli.location import Location, is_own, locate, walk
from vfs.cli.verb import Verb, as_json, later, option_strings
from vfs.config import Config, load_options
from vfs.errors import NotFoundError
from vfs.store.base import ObjectInfo
from vfs.store.open import open_reached
from vfs.values import Key

VERSION = 1


@click.command("ls", cls=Verb)
@as_json()
@option_strings()
@later("--versions")
@click.argument("url")
def ls_command(url: str, json_output: bool, options: Sequence[str]) -> None:
    """List the directory, or the one object, at URL."""
    where = locate(url)
    entries = trio.run(_list, where, load_options(options, os.environ))
    if json_output:
        shown = [_entry_fields(entry, where) for entry in entries]
        click.echo(json.dumps({"version": VERSION, "entries": shown}, indent=2))
        return
    width = max(
        (len(str(entry.size)) for entry in entries if isinstance(entry, ObjectInfo)), default=0
    )
    for entry in entries:
        name = entry.key if isinstance(entry, ObjectInfo) else entry
        size = str(entry.size) if isinstance(entry, ObjectInfo) else ""
        time = show_time(entry.mtime_ns) if isinstance(entry, ObjectInfo) else ""
        click.echo(f"{size:>{width}}  {time:<20}  {name[_base(name, where) :]}")


async def _list(where: Location, config: Config) -> list[ObjectInfo | Key]:
    async with open_reached(where.root, config.store) as store:
        if where.key and not where.directory:
            try:
                return [await store.head(where.key)]
            except NotFoundError:
                pass  # a directory, then
        found = [
            entry
            async for entry in walk(store, where.prefix, delimiter="/")
            if not is_own(_key(entry), where.prefix)
        ]
        if not found and where.key:
            raise NotFoundError(f"{where.url_of(where.key)}: nothing is there")
        # The marker of the directory itself is no entry of it.
        return [entry for entry in found if _key(entry) != where.prefix]


def _key(entry: ObjectInfo | Key) -> Key:
    return entry.key if isinstance(entry, ObjectInfo) else entry


def _base(key: Key, where: Location) -> int:
    """Return where the name begins in a key."""
    return len(where.prefix) if key.startswith(where.prefix) else key.rfind("/") + 1


def _entry_fields(entry: ObjectInfo | Key, where: Location) -> dict[str, object]:
    if isinstance(entry, ObjectInfo):
        return object_fields(entry, where)
    name = entry[_base(entry, where) :].rstrip("/")
    return {"name": name, "kind": "directory", "url": where.url_of(entry)}


def object_fields(info: ObjectInfo, where: Location) -> dict[str, object]:
    """Return what JSON output says of an object."""
    return {
        "name": info.key.rstrip("/").rpartition("/")[2],
        "kind": "directory" if info.key.endswith("/") else "object",
        "url": where.url_of(info.key),
        "size": info.size,
        "mtime": show_time(info.mtime_ns),
        "version": info.version,
        "version_id": info.version_id,
        "storage_class": info.storage_class or None,
    }


def show_time(time_ns: int) -> str:
    """Return a time as RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
