"""Levels of the tests: a table of what ran, what may be skipped, what only runs with `--long`.

A level is the first directory below `tests/`. `VFS_REQUIRE=fuse,rgw` (names of markers or levels)
turns a skip that concerns one of them into a failure: on a machine that is meant to have them, a
test that could not run must not look like one that passed.
"""

import os
import re
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ORDER = (
    "unit",
    "contract",
    "core",
    "model",
    "crash",
    "faults",
    "mount",
    "semantics",
    "cloud",
    "house",
)
NOT_LEVELS = {"support", "formats", "__pycache__"}

# Taken out of the environment: to vfs itself, VFS_* are options, and it refuses unknown ones.
REQUIRED = frozenset(filter(None, re.split(r"[,\s]+", os.environ.pop("VFS_REQUIRE", ""))))

# The outcomes under which the terminal reporter files its reports, in the order of the columns.
COLUMNS = ("passed", "failed", "error", "skipped", "xfailed", "deselected")
TITLES = ("passed", "failed", "errors", "skipped", "expected failures", "not selected")


@dataclass
class Level:
    """What became of the tests of one level."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)  # (outcome, reason)
    duration_s: float = 0.0


def level_of(nodeid: str) -> str:
    """Return the first directory below tests/, of a node id or a path."""
    parts = nodeid.partition("::")[0].split("/")
    below = parts[parts.index("tests") + 1 :] if "tests" in parts else parts
    return below[0] if len(below) > 1 else "other"


def concerned(level: str, markers: set[str], reason: str, required: frozenset[str]) -> set[str]:
    """Return the required names that a skip is about: by marker, by level or named in its reason."""
    words = set(re.findall(r"[a-z0-9_]+", reason.lower()))
    return {name for name in required if name in markers or name == level or name in words}


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests marked slow as well")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport]:
    report = yield
    if report.outcome == "skipped" and call.excinfo is not None:
        _restore_reason(report, call.excinfo.value)
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        markers = {mark.name for mark in item.iter_markers()}
        _fail_if_required(report, level_of(item.nodeid), markers)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport]:
    report = yield
    if report.outcome == "skipped":
        markers = {mark.name for mark in collector.iter_markers()}
        _fail_if_required(report, level_of(collector.nodeid), markers)
    return report


def _restore_reason(report: pytest.TestReport, error: BaseException) -> None:
    """Put back the reason of a skip in an async test, which pytest-trio raises anew without it."""
    group = error.__context__
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        [group] = group.exceptions
    if str(error) or not isinstance(group, pytest.skip.Exception | pytest.xfail.Exception):
        return
    if hasattr(report, "wasxfail"):
        report.wasxfail = f"reason: {group}"
    elif isinstance(report.longrepr, tuple):
        report.longrepr = (*report.longrepr[:2], f"Skipped: {group}")


def _fail_if_required(
    report: pytest.TestReport | pytest.CollectReport, level: str, markers: set[str]
) -> None:
    reason = _skip_reason(report)
    names = concerned(level, markers, reason, REQUIRED)
    if names:
        report.outcome = "failed"
        report.longrepr = f"skipped ({reason}), but VFS_REQUIRE names {', '.join(sorted(names))}"


def _skip_reason(report: object) -> str:
    longrepr = getattr(report, "longrepr", None)
    text = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    return text.removeprefix("Skipped").removeprefix(": ") or "no reason given"


def _tally(stats: dict[str, list]) -> dict[str, Level]:
    levels: dict[str, Level] = {}
    for outcome, reports in stats.items():
        for report in reports:
            nodeid = getattr(report, "nodeid", None)
            if not nodeid:  # warnings and other notes are no tests
                continue
            level = levels.setdefault(level_of(nodeid), Level())
            level.duration_s += getattr(report, "duration", 0.0)  # set-up and teardown too
            if outcome in COLUMNS:
                level.counts[outcome] += 1
            if outcome == "skipped":
                level.reasons[outcome, _skip_reason(report)] += 1
            elif outcome == "xfailed":
                level.reasons[outcome, report.wasxfail.removeprefix("reason: ")] += 1
    return levels


def _names(levels: dict[str, Level], config: pytest.Config) -> list[str]:
    names = set(levels)
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        # A full run: a level that has a directory and no tests should be seen to have none.
        tests = Path(config.rootpath, "tests")
        names |= {path.name for path in tests.iterdir() if path.is_dir()} - NOT_LEVELS
    return sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else 99, name))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config):
    levels = _tally(terminalreporter.stats)
    names = _names(levels, config)
    if not names:
        return
    terminalreporter.section("levels")
    widths = [max(7, len(title)) for title in TITLES]
    heads = " ".join(title.rjust(width) for title, width in zip(TITLES, widths, strict=True))
    terminalreporter.write_line(f"{'level':<10} {heads} {'seconds':>8}")
    for name in names:
        level = levels.get(name, Level())
        cells = " ".join(
            str(level.counts[column]).rjust(width)
            for column, width in zip(COLUMNS, widths, strict=True)
        )
        terminalreporter.write_line(f"{name:<10} {cells} {level.duration_s:>8.1f}")
    for name in names:
        for (outcome, reason), count in sorted(levels.get(name, Level()).reasons.items()):
            word = "skipped" if outcome == "skipped" else "expected to fail"
            terminalreporter.write_line(f"{name}: {count} {word}: {reason}")
