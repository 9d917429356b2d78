"""The program `vfs`: which commands there are, and how each of them ends.

A command's module is imported when the command is called, so `vfs --help` and completion are quick.
Here is the one place where a failure becomes a line on stderr and an exit code.
"""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import cast

import click
from typing_extensions import override

from vfs import __version__
from vfs.cli.verb import DEBUG, NotBuiltError
from vfs.errors import VfsError
from vfs.runtime import EXIT_DENIED, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_USAGE, exit_code

EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""

# Verb -> its line in the help; the module is vfs.cli.VERB, the command in it VERB_command.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "mount": "Mount a store as a directory.",
        "umount": "Unmount when everything is stored.",
        "status": "Show what is mounted and how it does.",
        "flush": "Wait until what was written is stored.",
        "set": "Change options of a running mount.",
        "warm": "Fetch files into the cache on disk.",
        "evict": "Give back the space of files in the cache.",
        "cp": "Copy files to, from and between stores.",
        "ls": "List what is below a URL.",
        "stat": "Describe one object.",
        "rm": "Remove objects.",
        "verify": "Read everything and check its SHA-256.",
        "recover": "Deal with what a mount left behind that is not stored.",
        "config": "Check or show the configuration.",
    }
)
LATER = (
    "doctor",
    "sync",
    "presign",
    "mb",
    "rb",
    "migrate",
    "mirror",
)


# A command's last word is its error, in one line; nobody has asked for the log before it.
logging.getLogger("vfs").addHandler(logging.NullHandler())


class Program(click.Group):
    """The group of all commands, each loaded when it is called."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in LATER:
            return _not_built(cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"vfs.cli.{cmd_name}")
        return cast("click.Command", getattr(module, f"{cmd_name}_command"))

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _not_built(verb: str) -> click.Command:
    def refuse(**_: object) -> None:
        raise NotBuiltError(f"vfs {verb}")

    return click.Command(
        verb,
        callback=refuse,
        params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        add_help_option=False,
    )


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vfs", message="%(prog)s %(version)s")
def program() -> None:
    """Remote storage as files, for virtual machine disk images."""


program.params.append(DEBUG)


def main() -> None:
    """Run the program with the process's arguments."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], *, command: click.Command = program, name: str = "vfs") -> int:
    """Run one command line and return its exit code; errors are one line on stderr."""
    try:
        result: object = command.main(list(arguments), name, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILED
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BaseException as error:  # noqa: BLE001 - the end of every story
        return report(error, name, debug="--debug" in arguments)
    return result if isinstance(result, int) else 0


def report(error: BaseException, name: str, *, debug: bool) -> int:
    """Print an error as one line and return its exit code."""
    found = _innermost(error)
    if debug:
        traceback.print_exception(error)
    if isinstance(found, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(found, SystemExit):
        return found.code if isinstance(found.code, int) else EXIT_FAILED
    message, code = _describe(found)
    prefix = "" if isinstance(found, NotBuiltError) else f"{name}: "
    click.echo(prefix + " ".join(message.split()), err=True)
    return code


def _innermost(error: BaseException) -> BaseException:
    """Return the one failure that stands for a group: an interrupt first, then what we know."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    leaves = [_innermost(member) for member in group.exceptions]
    for kind in (KeyboardInterrupt, VfsError, OSError):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0]


def _describe(error: BaseException) -> tuple[str, int]:
    match error:
        case NotBuiltError():
            return error.message, EXIT_USAGE
        case click.UsageError():
            path = error.ctx.command_path if error.ctx else "vfs"
            said = error.format_message().rstrip(".")
            return f"{said}. Try {path} --help.", EXIT_USAGE
        case click.ClickException():
            return error.format_message(), EXIT_FAILED
        case VfsError():
            return error.message, exit_code(error)
        case OSError():
            where = f"{error.filename}: " if error.filename is not None else ""
            return f"{where}{error.strerror or error}", _OS_EXITS.get(error.errno or 0, EXIT_FAILED)
        case _:
            return f"unexpected {type(error).__name__}: {error}; --debug shows more", EXIT_FAILED


_OS_EXITS = {
    errno.ENOENT: EXIT_NOT_FOUND,
    errno.ENOTDIR: EXIT_NOT_FOUND,
    errno.EACCES: EXIT_DENIED,
    errno.EPERM: EXIT_DENIED,
    errno.EROFS: EXIT_DENIED,
}
