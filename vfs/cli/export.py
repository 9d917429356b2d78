"""`vfs recover --export`: write what is left in stages to a local directory."""

import json
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import click
import trio

from vfs.cli.progress import open_meter
from vfs.cli.stages import Chosen, Fields, Places, Verdict, open_ones, row_of, shown
from vfs.daemon import export
from vfs.daemon.leftovers import FoundStage, Leftover, hold
from vfs.errors import ConfigError, TransientError, VfsError
from vfs.runtime import EXIT_CORRUPT, EXIT_DIRTY, EXIT_FAILED, EXIT_UNREACHABLE, exit_code
from vfs.store.base import Store
from vfs.store.open import open_reached

VERSION = 1


def export_leftovers(places: Places, chosen: Chosen, directory: Path, *, json_output: bool) -> None:
    """Write the chosen files out. Errors: ExitError when not all of them are whole."""
    verdict = Verdict()
    usable = [(stage, files) for stage, files in open_ones(chosen, verdict) if files]
    for stage, _ in usable:
        if Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(stage.path)):
            raise ConfigError(f"{directory} is inside the stage {stage.path}; export elsewhere")
    sound = [one for _, files in usable for one in files if one.state is not None]
    export.check_targets(directory, [one.key for one in sound if one.key is not None])
    directory.mkdir(mode=0o700, exist_ok=True)
    rows: list[Fields] = []
    for stage, files in usable:
        rows += trio.run(_export_stage, places, stage, files, directory, verdict)
    if json_output:
        click.echo(json.dumps({"version": VERSION, "files": rows}, indent=2))
    else:
        for row in rows:
            click.echo(shown(f"{row['state']:<8}  {row['name'] or row['id']}"))
        if not rows and not verdict.lines:
            click.echo(f"nothing is left below {', '.join(map(str, places.directories))}")
    verdict.raise_worst(_EXPORT_CODES)


_EXPORT_CODES = (EXIT_CORRUPT, EXIT_FAILED, EXIT_DIRTY, EXIT_UNREACHABLE)


async def _export_stage(
    places: Places,
    stage: FoundStage,
    files: Sequence[Leftover],
    directory: Path,
    verdict: Verdict,
) -> list[Fields]:
    rows: list[Fields] = []
    ids = {one.id for one in files}
    total = sum(one.dirty_bytes + one.needs.size for one in files)
    done = 0
    async with AsyncExitStack() as stack:
        meter = stack.enter_context(open_meter(f"exporting {shown(stage.label)}"))
        held = stack.enter_context(hold(stage.path))
        store = await _open_for_export(places, stage, files, stack)

        def advance(size: int) -> None:
            nonlocal done
            done += size
            meter.update(min(done, total), total)

        for one in (one for one in held.files if one.id in ids):
            try:
                made = await export.export(one, store, directory, advance)
            except VfsError as error:
                rows.append(row_of(stage, one, state="failed", error=error.message))
                code = EXIT_CORRUPT if one.error is not None else exit_code(error)
                verdict.fail(f"{one.label} is not exported: {error.message}", code)
            else:
                rows.append(_tell_export(stage, one, made, verdict))
    return rows


async def _open_for_export(
    places: Places, stage: FoundStage, files: Sequence[Leftover], stack: AsyncExitStack
) -> Store | VfsError:
    """Open the store when a base version is needed; else, and without an answer, say why not."""
    if not any(one.needs for one in files):
        return VfsError("the store is not needed")
    try:
        spec = places.spec(stage)
        return await stack.enter_async_context(open_reached(spec.url, spec.config.store))
    except VfsError as error:
        return error


def _tell_export(
    stage: FoundStage, one: Leftover, made: export.Exported, verdict: Verdict
) -> Fields:
    why = made.why
    if made.spans is not None and why is not None:
        code = EXIT_UNREACHABLE if isinstance(why, TransientError) else EXIT_FAILED
        verdict.fail(
            f"{made.path} has only what was written here, {made.spans.name} says where: "
            f"{why.message}",
            code,
        )
    return row_of(
        stage,
        one,
        state="complete" if made.spans is None else "partial",
        path=str(made.path),
        spans=None if made.spans is None else str(made.spans),
        error=None if why is None else why.message,
    )
