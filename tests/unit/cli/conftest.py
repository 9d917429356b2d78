"""Commands in this process, with their output and exit code."""

from dataclasses import dataclass

import pytest

from vfs.cli.main import program, run


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def vfs(capfd, monkeypatch, tmp_path):
    """Run one command line; nothing of this machine's configuration is seen."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("vfs.config.SYSTEM_DIRECTORY", tmp_path / "etc")

    def call(*arguments, command=program, name="vfs"):
        capfd.readouterr()
        code = run([str(argument) for argument in arguments], command=command, name=name)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """A runtime directory of our own."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    monkeypatch.setattr("vfs.cli.client.directories", lambda: [directory])
    return directory
