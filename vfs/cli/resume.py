"""`vfs recover --upload`: store what is left in stages, as the next mount would."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import trio

from vfs.cli.progress import Meter, open_meter
from vfs.cli.stages import Chosen, Fields, Places, Verdict, open_ones, row_of, shown
from vfs.daemon.leftovers import FoundStage, Leftover
from vfs.errors import ConfigError, VfsError
from vfs.runtime import EXIT_CONFLICT, EXIT_DIRTY, EXIT_UNREACHABLE, exit_code
from vfs.store.open import open_store

if TYPE_CHECKING:
    from vfs.daemon.resume import Uploaded

VERSION = 1


def upload_leftovers(places: Places, chosen: Chosen, *, json_output: bool) -> None:
    """Store the chosen files. Errors: ExitError when not all of them are stored."""
    verdict = Verdict()
    rows: list[Fields] = []
    for stage, files in open_ones(chosen, verdict):
        if not (files or stage.decisions or stage.attributes or stage.error):
            continue
        try:
            done = _upload_stage(places, stage, files)
        except VfsError as error:
            rows += [row_of(stage, one, state="left", error=error.message) for one in files]
            verdict.fail(f"{stage.label}: nothing is uploaded: {error.message}", exit_code(error))
        else:
            rows += _tell_upload(stage, done, verdict)
    if json_output:
        click.echo(json.dumps({"version": VERSION, "files": rows}, indent=2))
    else:
        for row in rows:
            click.echo(_upload_line(row))
        if not rows and not verdict.lines:
            click.echo(f"nothing is left below {', '.join(map(str, places.directories))}")
    verdict.raise_worst(_UPLOAD_CODES)


_UPLOAD_CODES = (EXIT_UNREACHABLE, EXIT_DIRTY)


def _upload_stage(places: Places, stage: FoundStage, files: Sequence[Leftover]) -> "Uploaded":
    spec = places.spec(stage)
    if spec.config.tree.ro:
        raise ConfigError("its mount is configured as ro; -o ro=no uploads nevertheless")
    from vfs.daemon.resume import upload  # noqa: PLC0415 - pyfuse3 and the whole tree: late

    async def run(meter: Meter) -> "Uploaded":
        async with open_store(spec.url, spec.config.store) as store:
            ids = [one.id for one in files]
            return await upload(stage, ids, store, spec.config, meter.update)

    with open_meter(f"storing what is left of {shown(stage.label)}") as meter:
        return trio.run(run, meter)


def _tell_upload(stage: FoundStage, done: "Uploaded", verdict: Verdict) -> list[Fields]:
    rows = [row_of(stage, one, state="stored") for one in done.stored]
    for one, copy in done.copies:
        rows.append(row_of(stage, one, state="conflict", copy=copy))
        verdict.fail(
            f"{one.label}: somebody else has written it first; what was written here is {copy}",
            EXIT_CONFLICT,
        )
    for one, why in done.left:
        rows.append(row_of(stage, one, state="left", error=why))
        verdict.fail(f"{one.label} is not stored and stays in {stage.path}: {why}", EXIT_DIRTY)
    if done.decisions:
        verdict.fail(
            f"{stage.label}: {done.decisions} renames or removals could not be finished", EXIT_DIRTY
        )
    if done.attributes:
        verdict.fail(f"{stage.label}: {done.attributes} attributes are not stored", EXIT_DIRTY)
    return rows


def _upload_line(row: Fields) -> str:
    tail = f": kept as {row['copy']}" if row.get("copy") else ""
    return shown(f"{row['state']:<8}  {row['name'] or row['id']}{tail}")
