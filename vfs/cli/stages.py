"""Which stages a command means, and what is configured for the mounts that they belong to."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from vfs.config import MountSpec, config_files, load_config, read_config_file
from vfs.daemon.leftovers import FoundStage, Leftover, choose, find_stages, read_stage
from vfs.errors import ConfigError, NotFoundError
from vfs.runtime import EXIT_DIRTY, ExitError
from vfs.stage.config import default_stage_directory

_NO_URL = "mem://none"


class Places:
    """The stage directories, and the options of each stage's mount."""

    def __init__(self, options: Sequence[str], file: Path | None) -> None:
        self._options = options
        self._file = file
        files = [file] if file is not None else config_files(os.environ)
        self._mounts = [
            load_config(name, options, os.environ, path)
            for path in files
            for name in read_config_file(path).mounts
        ]
        plain = load_config(_NO_URL, options, os.environ, file)
        chosen = plain.config.stage.stage_dir
        self.directories = [chosen]
        if plain.sources["stage_dir"] == "default":
            found = dict.fromkeys(spec.config.stage.stage_dir for spec in self._mounts)
            self.directories = list(dict.fromkeys([chosen, *found]))

    def stages(self) -> list[FoundStage]:
        """Return all stages. Errors: NotFoundError for a directory that is not there; OSError."""
        found: list[Path] = []
        for directory in self.directories:
            try:
                found += find_stages(directory)
            except FileNotFoundError:
                if directory != default_stage_directory():
                    raise NotFoundError(
                        f"{directory}: no such stage directory; name another with -o stage_dir=DIR"
                    ) from None
        return [read_stage(path) for path in found]

    def spec(self, stage: FoundStage) -> MountSpec:
        """Return what a mount of the stage's URL means. Errors: ConfigError."""
        if stage.url is None:
            raise ConfigError(
                f"{stage.path}: nothing says which URL it belongs to; export what is in it, or "
                "mount that URL with the same stage_dir"
            )
        same = [spec for spec in self._mounts if spec.url == stage.url]
        here = [spec for spec in same if spec.config.stage.stage_dir == stage.path.parent]
        for spec in (*here, *same):
            return spec
        return load_config(stage.url, self._options, os.environ, self._file)


Chosen = list[tuple[FoundStage, list[Leftover]]]
"""Stages, each with the files that are meant."""


def select(places: Places, stages: Sequence[FoundStage], name: str | None) -> Chosen:
    """Return what is meant. Errors: NotFoundError."""
    if name is None:
        return [(stage, list(stage.files)) for stage in stages]
    found = choose(stages, name, exact=False)
    if not found:
        raise not_found(places, stages, name)
    return [
        (stage, files)
        for stage in stages
        if (files := [one for where, one in found if where is stage])
    ]


def not_found(places: Places, stages: Sequence[FoundStage], name: str) -> NotFoundError:
    """Return what to say when nothing has a name."""
    closed = [refusal.message for stage in stages if (refusal := stage.refuse()) is not None]
    where = ", ".join(map(str, places.directories))
    hint = "; ".join(closed) or "vfs recover --list shows what is"
    return NotFoundError(f"{name}: nothing of that name is staged below {where}; {hint}")


def shown(text: str) -> str:
    """Return a name that does nothing to a terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


Fields = dict[str, object]

TOLD = 3
"""Troubles that one line names."""


@dataclass(slots=True)
class Verdict:
    """What a command has done, and how it ends."""

    lines: list[str] = field(default_factory=list[str])  # what went wrong
    codes: set[int] = field(default_factory=set[int])

    def fail(self, line: str, code: int) -> None:
        """Note that something is not as it should be."""
        self.lines.append(line)
        self.codes.add(code)

    def raise_worst(self, order: Sequence[int]) -> None:
        """End with one line, and the first code of an order. Errors: ExitError."""
        if self.codes:
            code = next((code for code in order if code in self.codes), min(self.codes))
            rest = len(self.lines) - TOLD
            more = f"; and {rest} more" if rest > 0 else ""
            raise ExitError(shown("; ".join(self.lines[:TOLD]) + more), code)


def open_ones(chosen: Chosen, verdict: Verdict) -> Chosen:
    """Return the stages that may be touched; tell of the others."""
    usable: Chosen = []
    for stage, files in chosen:
        refusal = stage.refuse()
        if refusal is None:
            usable.append((stage, files))
        elif stage.mounted:
            # What it holds is its own to store; where there is nothing else, nothing was done.
            if len(chosen) == 1:
                raise refusal
            click.echo(f"vfs: {shown(refusal.message)}", err=True)
        else:
            verdict.fail(refusal.message, EXIT_DIRTY)
    return usable


def row_of(stage: FoundStage, one: Leftover, **more: object) -> Fields:
    """Return what JSON says of a file, with more."""
    return {"stage": str(stage.path), "url": stage.url, "id": one.id, "name": one.key, **more}
