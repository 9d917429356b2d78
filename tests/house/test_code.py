"""House rules of the code that the linters do not know."""

import ast
import re
from pathlib import Path

import pytest

from vfs.cli.main import LATER

ROOT = Path(__file__).parents[2]
MODULES = sorted(ROOT.joinpath("vfs").rglob("*.py"))
MAX_LINES = 500


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_fits_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=name)
def test_a_package_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_directory_of_modules_is_a_package():
    assert [name(path) for path in MODULES if not path.with_name("__init__.py").exists()] == []


def test_only_the_command_line_prints():
    printing = [
        f"{name(path)}:{node.lineno}"
        for path in MODULES
        if "cli" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert printing == []


def test_no_text_recommends_a_command_of_a_later_version():
    later = re.compile(rf"\bvfs ({'|'.join(LATER)})\b")
    found = [
        f"{name(path)}:{number}: {line.strip()}"
        for path in [*MODULES, ROOT / "README.md"]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if later.search(line)
    ]
    assert found == []
