"""`vfs recover --list`: what is left in stages, and what became of it in the store.

The stores are asked, because only they know whether somebody else has written a file meanwhile, and
whether the version that it was made from is still there. Where one does not answer the list says
what is known without it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
import trio

from vfs.cli.stages import Chosen, Places, shown
from vfs.cli.text import show_bytes
from vfs.clock import wall_ns
from vfs.daemon import recovery
from vfs.daemon.leftovers import FoundStage, Leftover
from vfs.daemon.recovery import Finding
from vfs.errors import VfsError
from vfs.store.open import open_reached
from vfs.tasks import open_tasks

VERSION = 1

ASK_S = 20.0
"""How long it waits for a store."""


@dataclass(slots=True)
class _Asked:
    """What a stage's store has told."""

    findings: dict[str, Finding] = field(default_factory=dict[str, Finding])
    error: str | None = None


def list_leftovers(places: Places, chosen: Chosen, *, json_output: bool) -> None:
    """Show the chosen files, and the stages with something to say."""
    asked = trio.run(_ask_all, places, chosen)
    rows = [
        _fields(stage, one, told.findings.get(one.id) or recovery.offline(one))
        for (stage, files), told in zip(chosen, asked, strict=True)
        for one in files
    ]
    notes = [
        _stage_fields(stage, told.error) for (stage, _), told in zip(chosen, asked, strict=True)
    ]
    if json_output:
        click.echo(json.dumps({"version": VERSION, "stages": notes, "files": rows}, indent=2))
        return
    for line in _table(rows):
        click.echo(line)
    said = [
        line for (stage, _), told in zip(chosen, asked, strict=True) for line in _say(stage, told)
    ]
    for line in said:
        click.echo(line)
    if not rows and not said:
        click.echo(f"nothing is left below {', '.join(map(str, places.directories))}")


async def _ask_all(places: Places, chosen: Chosen) -> list[_Asked]:
    asked = [_Asked() for _ in chosen]
    async with open_tasks() as nursery:
        for (stage, files), told in zip(chosen, asked, strict=True):
            if files and stage.url is not None:
                nursery.start_soon(_ask, places, stage, files, told)
    return asked


async def _ask(places: Places, stage: FoundStage, files: Sequence[Leftover], told: _Asked) -> None:
    try:
        spec = places.spec(stage)
        async with open_reached(spec.url, spec.config.store) as store:
            told.findings = await recovery.examine_all(store, files, ASK_S)
    except VfsError as error:
        told.error = error.message
    else:
        if len(told.findings) < len(files):
            told.error = f"{stage.url} has not answered within {ASK_S:g} s"


def _fields(stage: FoundStage, one: Leftover, found: Finding) -> dict[str, object]:
    return {
        "stage": str(stage.path),
        "url": stage.url,
        "id": one.id,
        "name": one.key,
        "size": one.size,
        "dirty_bytes": one.dirty_bytes,
        "age_s": round(max(0.0, wall_ns() / 1e9 - one.mtime_s), 1),
        "state": found.state,
        "error": one.error.message if one.error is not None else None,
    }


def _stage_fields(stage: FoundStage, error: str | None) -> dict[str, object]:
    return {
        "path": str(stage.path),
        "url": stage.url,
        "pid": stage.pid,
        "state": "mounted" if stage.mounted else "newer" if stage.is_newer else "left",
        "error": stage.error.message if stage.error is not None else None,
        "store_error": error,
        "unfinished_names": stage.decisions,
        "unstored_attributes": stage.attributes,
    }


def _table(rows: Sequence[dict[str, object]]) -> list[str]:
    if not rows:
        return []
    head = ("NAME", "SIZE", "NOT STORED", "AGE", "STATE", "ID", "URL")
    cells = [head, *map(_cells, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    errors = [f"{row['id']}: {row['error']}" for row in rows if row["error"]]
    return [*lines, *map(shown, errors)]


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    return (
        shown(str(row["name"] or "?")),
        show_bytes(int(str(row["size"]))),
        show_bytes(int(str(row["dirty_bytes"]))),
        show_age(float(str(row["age_s"]))),
        str(row["state"]),
        str(row["id"]),
        shown(str(row["url"] or "?")),
    )


def show_age(age_s: float) -> str:
    """Return an age in the unit that suits it."""
    amount = age_s
    for unit, step in (("s", 60), ("min", 60), ("h", 24)):
        if amount < step:
            return f"{amount:.0f} {unit}"
        amount /= step
    return f"{amount:.0f} d"


def _say(stage: FoundStage, told: _Asked) -> list[str]:
    refusal = stage.refuse() or stage.error
    said = [refusal.message] if refusal is not None else []
    if told.error is not None:
        said.append(f"{stage.label}: not asked, so the states are what is known here: {told.error}")
    if stage.decisions:
        said.append(
            f"{stage.label}: {stage.decisions} renames or removals are not finished; --upload, or "
            "the next mount, finishes them"
        )
    return [shown(line) for line in said]
