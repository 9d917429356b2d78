"""What every command shares: how it is declared, and how it refuses what is not built yet."""

from collections.abc import Callable
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
