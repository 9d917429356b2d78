"""Starting in the background: the command ends when the mount is usable, or says why it is not."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

# In a program of its own: what forks here must not be a test run with its threads and hooks.
PROGRAM = """
import json, os, sys, signal, types
from pathlib import Path
from vfs.cli import mount as command, preflight
from vfs.cli.main import run
from vfs.errors import UnreachableError

COMMAND = os.getpid()

def serve(spec, mountpoint, ready):
{body}

daemon = types.ModuleType("vfs.daemon")
daemon.run = serve
sys.modules["vfs.daemon"] = daemon
command.check_mount = lambda spec, path: None
command.configure_log = lambda *args, **kwargs: None
print("before")
sys.exit(run(["mount", *sys.argv[1:]]))
"""


@pytest.fixture
def start(tmp_path):
    def call(body, *flags):
        script = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "))
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir(exist_ok=True)
        report = tmp_path / "report"
        done = subprocess.run(
            [sys.executable, "-c", script, *flags, "-o", "uid=7", "mem://x", str(mountpoint)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={"REPORT": str(report), "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)},
        )
        return done, report

    return call


# The daemon tells through a FIFO, so that nobody has to guess when it has written.
TELL = """
def tell(told):
    with open(os.environ["REPORT"], "w") as pipe:
        json.dump(told, pipe)
"""


def test_the_command_ends_when_the_mount_is_usable_and_the_daemon_goes_on(start, tmp_path):
    os.mkfifo(tmp_path / "report")
    done, report = start(
        TELL
        + """
ready()
ready()  # a second time does nothing
tell({
    "uid": spec.config.tree.uid,
    "mountpoint": str(mountpoint),
    "cwd": os.getcwd(),
    "umask": os.umask(0),
    "leader": os.getsid(0) == os.getpid(),
    "stdio": [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)],
})
return 0
"""
    )
    # The command has ended; only now is the daemon's report read, so it cannot have ended before.
    told = json.loads(report.read_text())
    assert (done.returncode, done.stdout, done.stderr) == (0, "before\n", "")
    assert told == {
        "uid": 7,
        "mountpoint": str(tmp_path / "mnt"),
        "cwd": "/",
        "umask": 0o077,
        "leader": False,
        "stdio": ["/dev/null"] * 3,
    }


def test_a_daemon_that_cannot_start_says_why_in_one_line(start):
    done, _ = start('raise UnreachableError("s3.example.com: no route")')
    assert (done.returncode, done.stderr) == (5, "vfs: s3.example.com: no route\n")


def test_an_exit_code_without_a_mount_is_a_failure(start):
    done, _ = start("return 3")
    assert (done.returncode, done.stderr) == (
        3,
        "vfs: the daemon ended before the mount was usable\n",
    )


def test_a_mistake_in_the_daemon_is_one_line_too(start):
    done, _ = start("raise ValueError('oops')")
    assert (done.returncode, done.stderr) == (1, "vfs: the daemon failed: ValueError: oops\n")


def test_a_daemon_that_is_killed_is_noticed(start):
    done, _ = start("os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == 1
    assert "ended before the mount was usable; its log says why: journalctl -t vfs" in done.stderr


def test_ctrl_c_stops_the_daemon_that_is_starting(start, tmp_path):
    os.mkfifo(tmp_path / "report")
    done, report = start(
        TELL
        + """
def stop(*_):
    os.closerange(0, 3)  # whoever reads our output need not wait for the line below
    tell("stopped")
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
os.kill(COMMAND, signal.SIGINT)
signal.pause()
"""
    )
    assert done.returncode == 130
    assert json.loads(report.read_text()) == "stopped"


def test_in_the_foreground_the_command_is_the_daemon(start):
    done, _ = start("print('serving', spec.url); ready(); return 8", "-f")
    assert (done.returncode, done.stdout) == (8, "before\nserving mem://x\n")


def test_a_directory_with_something_in_it_is_mentioned(start, tmp_path):
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mnt/file").touch()
    done, _ = start("ready(); return 0")
    assert done.returncode == 0
    assert "is not empty; the mount hides what is in it" in done.stderr
