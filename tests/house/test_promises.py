"""Each numbered promise of docs/semantics.md (`S-read-3`) is kept by a test that cites it.

A test cites with `@pytest.mark.promise("S-read-3")`.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEMANTICS = ROOT / "docs" / "semantics.md"
PROMISE = re.compile(r"\bS-[a-z]+-\d+\b")


def promised() -> set[str]:
    return set(PROMISE.findall(SEMANTICS.read_text())) if SEMANTICS.exists() else set()


def cited() -> set[str]:
    calls = [
        call
        for path in ROOT.joinpath("tests").rglob("test_*.py")
        if path != Path(__file__)
        for call in re.findall(r"\bmark\.promise\(([^)]*)\)", path.read_text())
    ]
    return {promise for call in calls for promise in PROMISE.findall(call)}


def test_every_promise_has_a_test():
    assert promised() - cited() == set()


def test_every_promise_that_a_test_cites_is_made():
    assert cited() - promised() == set()
