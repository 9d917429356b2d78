"""`vfs recover`: what mounts have left in their stages, without a mount.

A stage that has a living owner is only told of. What is configured for a mount of the same URL
(endpoint, credentials, part size) counts here as it does there.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
import trio

from vfs.cli.export import export_leftovers
from vfs.cli.leftovers import list_leftovers, show_age
from vfs.cli.resume import upload_leftovers
from vfs.cli.stages import Places, not_found, row_of, select, shown
from vfs.cli.text import show_bytes
from vfs.cli.verb import Verb, as_json, local, option_strings
from vfs.clock import wall_ns
from vfs.daemon import recovery
from vfs.daemon.leftovers import FoundStage, choose
from vfs.errors import ConfigError
from vfs.store.base import Upload
from vfs.store.open import open_reached

VERSION = 1


@click.command("recover", cls=Verb)
@click.option("--list", "list_", is_flag=True, help="Show what is left; changes nothing (default).")
@click.option("--upload", "upload_", is_flag=True, help="Store it, as the next mount would.")
@click.option(
    "--export",
    "directory",
    type=local,
    metavar="DIR",
    help="Write the files to DIR instead; the stage keeps them.",
)
@click.option(
    "--discard", "discarded", metavar="NAME", help="Remove one file from the stage; needs --yes."
)
@click.option("--yes", is_flag=True, help="With --discard: really.")
@as_json()
@option_strings()
@click.option(
    "--config", "file", type=local, metavar="FILE", help="Read the options from this file."
)
@click.argument("name", required=False)
def recover_command(  # noqa: PLR0913 - click passes them one by one
    *,
    list_: bool,
    upload_: bool,
    directory: Path | None,
    discarded: str | None,
    yes: bool,
    json_output: bool,
    options: Sequence[str],
    file: Path | None,
    name: str | None,
) -> None:
    """Deal with what was written, not stored, and left behind by a mount that is gone.

    NAME is a file as it was called in the mount, a directory, or an id of the list. The stages are
    those below the option stage_dir, or the one that it names.
    """
    actions = (list_, upload_, directory is not None, discarded is not None)
    if sum(actions) > 1:
        raise click.UsageError("--list, --upload, --export and --discard exclude each other.")
    if yes and discarded is None:
        raise click.UsageError("--yes belongs to --discard.")
    if "" in {name, discarded}:
        raise click.UsageError("NAME is empty.")
    if discarded is not None and name is not None:
        raise click.UsageError("--discard takes one NAME.")
    places = Places(options, file)
    stages = places.stages()
    if discarded is not None:
        _discard(places, stages, discarded, yes=yes, json_output=json_output)
    elif upload_:
        upload_leftovers(places, select(places, stages, name), json_output=json_output)
    elif directory is not None:
        export_leftovers(places, select(places, stages, name), directory, json_output=json_output)
    else:
        list_leftovers(places, select(places, stages, name), json_output=json_output)


def _discard(
    places: Places, stages: Sequence[FoundStage], name: str, *, yes: bool, json_output: bool
) -> None:
    found = choose(stages, name, exact=True)
    if not found:
        raise not_found(places, stages, name)
    if len(found) > 1:
        ids = ", ".join(one.id for _, one in found)
        raise ConfigError(f"{name} is staged more than once; name one of them by its id: {ids}")
    stage, one = found[0]
    age_s = max(0.0, wall_ns() / 1e9 - one.mtime_s)
    what = f"{show_bytes(one.dirty_bytes)} of {shown(one.label)}, written {show_age(age_s)} ago"
    if one.error is not None:
        what = f"what is left of {shown(one.label)}, which is damaged"
    if not yes:
        raise ConfigError(
            f"{what}, would be lost: the store of {shown(stage.label)} does not have it; --yes "
            "discards it, --export DIR keeps a copy"
        )
    gone, refusal = trio.run(recovery.discard, stage, one.id, partial(_abort, places, stage))
    begun = gone.state.upload if gone.state is not None else None
    if refusal is not None and begun is not None:
        click.echo(
            f"vfs: the store still has an unfinished upload of {shown(begun.key)}, id "
            f"{shown(begun.upload_id)}: {shown(refusal.message)}",
            err=True,
        )
    aborted = None if begun is None else refusal is None
    if json_output:
        row = row_of(stage, one, dirty_bytes=one.dirty_bytes, upload_aborted=aborted)
        click.echo(json.dumps({"version": VERSION, "discarded": row}, indent=2))
    else:
        click.echo(f"discarded {what}")


async def _abort(places: Places, stage: FoundStage, begun: Upload) -> None:
    spec = places.spec(stage)
    async with open_reached(spec.url, spec.config.store) as store:
        await store.abort_upload(begun)
