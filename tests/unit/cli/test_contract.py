"""The verbs, flags and exit codes that users and scripts count on."""

import importlib
import re
import subprocess
import sys

import click
import pytest

from vfs import __version__
from vfs.cli.main import COMMANDS, LATER, program
from vfs.cli.mount_helper import helper_command

BUILT = {
    "mount": ["-f", "-o", "--config", "URL|NAME", "MOUNTPOINT"],
    "umount": ["--timeout", "--lazy", "MOUNTPOINT"],
    "status": ["--json", "--check", "--max-age", "MOUNTPOINT"],
    "flush": ["--timeout", "PATH"],
    "set": ["--json", "MOUNTPOINT", "NAME=VALUE..."],
    "warm": ["--offset", "--length", "--json", "PATH..."],
    "evict": ["--json", "PATH..."],
    "cp": ["--resume", "--checksum", "SRC", "DST", "--json"],
    "ls": ["--versions", "URL", "--json"],
    "stat": ["URL", "--json"],
    "rm": ["-r", "--dry-run", "URL", "--json"],
    "recover": [
        "--list",
        "--upload",
        "--export",
        "--discard",
        "--yes",
        "--json",
        "-o",
        "--config",
        "NAME",
    ],
    "verify": ["--dry-run", "-o", "URL", "--json"],
    "config check": ["FILE", "--json"],
    "config show": ["FILE", "--json"],
}
NOT_BUILT = [
    "doctor --write-test s3://b",
    "doctor --print-policy NAME",
    "sync --delete --dry-run SRC DST",
    "presign URL",
    "mb --region R URL",
    "rb URL",
    "migrate A B",
    "mirror status M",
    "mirror repair M",
    "doctor --help",
]


def command_of(path):
    command = program
    for word in path.split():
        command = command.get_command(click.Context(command), word)
    return command


def test_every_verb_exists():
    verbs = {path.split()[0] for path in BUILT} | {line.split()[0] for line in NOT_BUILT}
    assert set(COMMANDS) | set(LATER) == verbs
    assert set(COMMANDS) == {path.split()[0] for path in BUILT}


@pytest.mark.parametrize("path", BUILT)
def test_every_flag_and_argument_exists(path):
    words = set()
    for parameter in command_of(path).params:
        words.update(parameter.opts)
        words.add(parameter.metavar or parameter.name.upper())
    assert set(BUILT[path]) <= words


@pytest.mark.parametrize("path", BUILT)
def test_every_command_has_help_and_takes_debug(path, vfs):
    outcome = vfs(*path.split(), "--help")
    assert outcome.code == 0
    assert "--debug" in outcome.out
    assert len(outcome.out.splitlines()) > 4


@pytest.mark.parametrize("line", NOT_BUILT)
def test_a_verb_of_a_later_version_is_refused_in_one_line(line, vfs):
    outcome = vfs(*line.split())
    assert (outcome.code, outcome.err) == (2, f"vfs {line.split()[0]}: not in this version\n")


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        ("cp --resume a mem://b/c", "cp --resume"),
        ("cp --checksum abc a mem://b/c", "cp --checksum"),
        ("ls --versions mem://b", "ls --versions"),
    ],
)
def test_a_flag_of_a_later_version_is_refused_in_one_line(line, flag, vfs):
    outcome = vfs(*line.split())
    assert (outcome.code, outcome.err) == (2, f"vfs {flag}: not in this version\n")


def test_the_mount_helper_has_the_switches_of_mount():
    assert {"-s", "-f", "-n", "-v", "-N", "-t", "-o"} <= {
        opt for parameter in helper_command.params for opt in parameter.opts
    }


def test_the_version_is_printed(vfs):
    assert vfs("--version").out == f"vfs {__version__}\n"


def test_the_help_lists_every_command_with_what_it_does(vfs):
    out = vfs("--help").out
    for verb, line in COMMANDS.items():
        assert re.search(rf"^  {verb} +{re.escape(line)}$", out, re.MULTILINE)


def test_the_help_imports_nothing_heavy():
    heavy = {"pydantic", "rich", "boto3", "botocore", "trio", "pyfuse3"}
    code = (
        "import sys; from vfs.cli.main import run; run(['--help']); run(['doctor']);"
        f"print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_every_console_script_leads_to_a_function():
    for module in ("main", "mount_helper", "umount_helper"):
        assert callable(importlib.import_module(f"vfs.cli.{module}").main)


@pytest.mark.parametrize("path", BUILT)
def test_no_path_is_looked_at_while_the_line_is_parsed(path):
    # On a dead or hanging mount a mere stat fails, or never ends.
    assert not any(isinstance(parameter.type, click.Path) for parameter in command_of(path).params)
