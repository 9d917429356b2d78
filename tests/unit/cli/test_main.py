"""How a command ends: one line, one exit code."""

import subprocess
import sys

import click
import pytest
import trio

from vfs import errors
from vfs.errors import ConfigError, NotFoundError, UnreachableError, VfsError
from vfs.runtime import ExitError, exit_code

EXITS = {
    "VfsError": 1,
    "NotFoundError": 3,
    "ExistsError": 7,
    "NotEmptyError": 1,
    "WrongKindError": 1,
    "IsDirectoryError": 1,
    "DeniedError": 4,
    "NotPermittedError": 4,
    "AuthenticationError": 4,
    "RetainedError": 4,
    "ReadOnlyError": 4,
    "StaleError": 7,
    "ConflictError": 7,
    "CorruptError": 6,
    "MetadataError": 6,
    "FullError": 1,
    "QuotaError": 4,
    "TooLargeError": 1,
    "InvalidNameError": 2,
    "NameTooLongError": 2,
    "InvalidError": 1,
    "UnsupportedError": 1,
    "BusyError": 1,
    "BadHandleError": 1,
    "TransientError": 5,
    "ThrottledError": 5,
    "UnreachableError": 5,
    "ConfigError": 2,
    "NotInThisVersionError": 2,
}


def raising(error):
    def fail():
        raise error

    return click.Command(
        "fail", callback=fail, params=[click.Option(["--debug"], is_flag=True, expose_value=False)]
    )


def test_every_error_has_its_exit_code():
    tree = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, VfsError)
    }
    assert {name: exit_code(kind("x")) for name, kind in tree.items()} == EXITS
    assert exit_code(ExitError("still dirty", 8)) == 8


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (NotFoundError("a: nothing there"), 3, "vfs: a: nothing there"),
        (ConfigError("two\nlines"), 2, "vfs: two lines"),
        (ExitError("not stored", 8), 8, "vfs: not stored"),
        (FileNotFoundError(2, "No such file", "/x"), 3, "vfs: /x: No such file"),
        (PermissionError(13, "Permission denied", "/x"), 4, "vfs: /x: Permission denied"),
        (OSError(28, "No space left"), 1, "vfs: No space left"),
        (click.UsageError("wrong"), 2, "vfs: wrong. Try vfs --help."),
        (ValueError("oops"), 1, "vfs: unexpected ValueError: oops; --debug shows more"),
        (
            ExceptionGroup("g", [ValueError("x"), ExceptionGroup("h", [UnreachableError("far")])]),
            5,
            "vfs: far",
        ),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(error, code, line, vfs):
    outcome = vfs(command=raising(error))
    assert (outcome.code, outcome.err, outcome.out) == (code, f"{line}\n", "")


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        click.Abort(),
        BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError()]),
    ],
)
def test_ctrl_c_is_130_without_a_word(error, vfs):
    outcome = vfs(command=raising(error))
    assert (outcome.code, outcome.err.strip()) == (130, "")


def test_debug_shows_the_traceback_too(vfs):
    outcome = vfs("--debug", command=raising(NotFoundError("x")))
    assert "Traceback" in outcome.err
    assert outcome.err.endswith("vfs: x\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "No such command 'nonsense'."),
        ("mount", "Missing argument 'URL|NAME'. Try vfs mount --help."),
        ("mount --nonsense", "No such option"),
        ("status --max-age 5", "--max-age belongs to --check."),
        ("flush --timeout x /", "'--timeout': 'x' is not a number of seconds, 0 or more. Try"),
        ("umount --timeout -1 /", "'-1' is not a number of seconds, 0 or more."),
        ("status --check --max-age nan", "'nan' is not a number of seconds, 0 or more."),
        ("ls a b", "Got unexpected extra argument (b). Try vfs ls --help."),
        ("stat /tmp", "a local directory is written file:///tmp"),
        ("ls ftp://x", "ftp://x: unknown kind of store"),
        ("ls gs://x", "not in this version"),
        ("ls -o memry=1 mem://x", "did you mean memory?"),
        ("config show nofile.toml", "no such configuration file"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(line, message, vfs):
    outcome = vfs(*line.split())
    assert outcome.code == (3 if "nofile" in line else 2)
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mount", "mem://x", ""], "'MOUNTPOINT': the path is empty."),
        (["mount", "", "/nowhere"], "neither a URL nor a name is given"),
        (["mount", "--config", "", "x", "/nowhere"], "'--config': the path is empty."),
        (["umount", ""], "'MOUNTPOINT': the path is empty."),
        (["status", ""], "'[MOUNTPOINT]': the path is empty."),
        (["flush", ""], "'PATH': the path is empty."),
        (["config", "check", ""], "'[FILE]': the path is empty."),
        (["ls", ""], "the URL is empty"),
        (["stat", ""], "the URL is empty"),
        (["rm", "-r", ""], "the URL is empty"),
    ],
)
def test_a_variable_that_was_not_set_is_not_the_current_directory(words, message, vfs):
    outcome = vfs(*words)
    assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert outcome.err.count("\n") == 1


def test_without_a_command_the_help_is_shown(vfs):
    outcome = vfs()
    assert outcome.code == 2
    assert "Commands:" in outcome.err


def test_a_reader_that_has_seen_enough_is_no_error():
    code = "import click; [click.echo('x' * 1000) for _ in range(1000)]"
    script = f"import sys, click; from vfs.cli.main import run\ndef f():\n {code}\nsys.exit(run([], command=click.Command('c', callback=f)))"
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "$SCRIPT" | head -1 >/dev/null'],
        env={"SCRIPT": script, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""


def test_an_interrupt_inside_the_loop_is_130(vfs):
    def work():
        async def main():
            raise KeyboardInterrupt

        trio.run(main)

    assert vfs(command=click.Command("work", callback=work)).code == 130
