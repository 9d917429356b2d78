"""`vfs config`, and the manual that is made from the options."""

import json
from pathlib import Path

import pytest

from vfs.cli.docs import render
from vfs.config import CONTRACT_OPTIONS

MANUAL = Path(__file__).parents[3] / "docs/configuration.md"


def test_the_manual_is_in_step_with_the_options():
    assert MANUAL.read_text() == render(), "run python -m vfs.cli.docs > docs/configuration.md"


@pytest.mark.parametrize("option", CONTRACT_OPTIONS)
def test_the_manual_names_every_option(option):
    words = MANUAL.read_text().replace("`", " ").split()
    assert option in words


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f.toml"
    path.write_text('memory = "2G"\n[mount.a]\nurl = "mem://a"\nro = true\n')
    return path


def test_a_file_without_mistakes_passes(vfs, file):
    assert vfs("config", "check", file).out == f"{file}: 1 mounts, no mistakes\n"
    told = json.loads(vfs("config", "check", "--json", file).out)
    assert told == {"version": 1, "files": [{"path": str(file), "mounts": ["a"]}]}


def test_a_mistake_in_a_file_is_exit_code_2_with_its_place(vfs, file):
    file.write_text('memory = "2Q"\n[mount.a]\nurl = "mem://a"\n')
    outcome = vfs("config", "check", file)
    assert outcome.code == 2
    assert f"option memory ({file}: memory): '2Q' is not a size" in outcome.err


def test_mistakes_that_are_of_no_mount_are_found_too(vfs, file, monkeypatch):
    file.write_text('memory = "2Q"\n')
    outcome = vfs("config", "check", file)
    assert (outcome.code, "'2Q' is not a size" in outcome.err) == (2, True)
    monkeypatch.setenv("VFS_MEMORY", "lots")
    outcome = vfs("config", "check")
    assert (outcome.code, "VFS_MEMORY" in outcome.err) == (2, True)


def test_show_tells_every_value_and_where_it_was_said(vfs, file, monkeypatch):
    monkeypatch.setenv("VFS_UID", "7")
    lines = vfs("config", "show", file).out.splitlines()
    assert lines[:2] == ["[mount.a]", "url = mem://a"]
    assert f"memory = 2G  # {file}: memory" in lines
    assert f"ro = yes  # {file}: mount.a.ro" in lines
    assert "uid = 7  # environment VFS_UID" in lines
    assert "umask = 0022  # default" in lines


def test_show_as_json_has_plain_numbers(vfs, file):
    (mount,) = json.loads(vfs("config", "show", "--json", file).out)["mounts"]
    assert (mount["name"], mount["url"]) == ("a", "mem://a")
    assert mount["options"]["memory"] == {"value": 2 << 30, "source": f"{file}: memory"}
    assert mount["options"]["timeout"] == {"value": 300.0, "source": "default"}


def test_without_files_the_defaults_are_shown(vfs):
    assert vfs("config", "show").out.startswith("[any mount]\nendpoint = ")
    assert "the defaults hold" in vfs("config", "check").out
