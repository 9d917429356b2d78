"""`vfs config`: check the configuration, or show what it comes to."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from vfs.cli.verb import Verb, as_json, local
from vfs.config import (
    SECTIONS,
    MountSpec,
    config_files,
    file_specs,
    load_config,
    read_config_file,
)

VERSION = 1

FILE = click.argument("file", type=local, required=False)


@click.group("config", context_settings={"help_option_names": ["-h", "--help"]})
def config_command() -> None:
    """Check or show the configuration."""


@config_command.command("check", cls=Verb)
@as_json()
@FILE
def check_command(file: Path | None, json_output: bool) -> None:
    """Check FILE, or the files of this host and user."""
    files = _specs(file)
    if json_output:
        told = [{"path": str(path), "mounts": list(specs)} for path, specs in files.items()]
        click.echo(json.dumps({"version": VERSION, "files": told}, indent=2))
        return
    for path, specs in files.items():
        click.echo(f"{path}: {len(specs)} mounts, no mistakes")
    if not files:
        click.echo("there is no configuration file; the defaults hold")


@config_command.command("show", cls=Verb)
@as_json()
@FILE
def show_command(file: Path | None, json_output: bool) -> None:
    """Show every option as it takes effect, and where it was said."""
    shown = {name: spec for specs in _specs(file).values() for name, spec in specs.items()}
    if not shown:  # what a mount of a URL would get
        shown = {"": load_config("mem://defaults", (), os.environ, file)}
    if json_output:
        mounts = [_fields(name, spec) for name, spec in shown.items()]
        click.echo(json.dumps({"version": VERSION, "mounts": mounts}, indent=2))
        return
    for name, spec in shown.items():
        click.echo(f"[mount.{name}]\nurl = {spec.url}" if name else "[any mount]")
        for option, value, source in _options(spec, "json"):
            click.echo(f"{option} = {'' if value is None else _text(value)}  # {source}")


def _specs(file: Path | None) -> Mapping[Path, Mapping[str, MountSpec]]:
    paths = config_files(os.environ) if file is None else [file]
    # What is said for every mount may be wrong without any mount.
    load_config("mem://defaults", (), os.environ, None)
    for path in paths:
        load_config("mem://defaults", (), os.environ, path)
    return {path: file_specs(read_config_file(path), os.environ) for path in paths}


def _options(spec: MountSpec, mode: str) -> Sequence[tuple[str, object, str]]:
    found: list[tuple[str, object, str]] = []
    for section in SECTIONS:
        values: Mapping[str, object] = spec.config.section(section).model_dump(mode=mode)
        found += [(option, value, spec.sources[option]) for option, value in values.items()]
    return found


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _fields(name: str, spec: MountSpec) -> dict[str, object]:
    options = {
        option: {"value": str(value) if isinstance(value, Path) else value, "source": source}
        for option, value, source in _options(spec, "python")
    }
    return {"name": name or None, "url": spec.url if name else None, "options": options}
