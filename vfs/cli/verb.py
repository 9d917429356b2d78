"""What every command shares: how it is declared, and how it refuses what is not built yet."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click
from typing_extensions import override

P = ParamSpec("P")
R = TypeVar("R")


class Verb(click.Command):
    """A command; takes `--debug` like the program itself."""

    @override
    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), DEBUG]


def local(text: str) -> Path:
    """Return a local path; an empty one, of a variable that is not set, is no current directory."""
    if not text:
        raise click.BadParameter("the path is empty.")
    return Path(text)


def seconds(text: str) -> float:
    """Return a number of seconds."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not found >= 0:  # as no NaN is
        raise click.BadParameter(f"{text!r} is not a number of seconds, 0 or more.")
    return found


# Only declared here: `run` in main.py looks for it, also when the line cannot be parsed.
DEBUG = click.Option(
    ["--debug"],
    is_flag=True,
    expose_value=False,
    help="Show where in the program an error arose.",
)


def later(*names: str, value: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare a flag of the contract that this version refuses; `value` names its argument."""

    def refuse(context: click.Context, parameter: click.Parameter, given: object) -> None:
        if given not in (None, False, ()):
            raise NotBuiltError(f"{context.command_path} {parameter.opts[0]}")

    return click.option(
        *names,
        is_flag=value is None,
        metavar=value,
        expose_value=False,
        callback=refuse,
        hidden=True,
    )


class NotBuiltError(click.UsageError):
    """Something of the contract that a later version will have."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not in this version")


def option_strings() -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare `-o OPT[,OPT...]`, which may be repeated."""
    return click.option(
        "-o",
        "options",
        multiple=True,
        metavar="OPT[,OPT...]",
        help="Options, separated by commas; see docs/configuration.md.",
    )


def as_json() -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare `--json`."""
    return click.option("--json", "json_output", is_flag=True, help="Print JSON.")
