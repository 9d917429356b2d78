"""What every test must leave as it found it: mounts, devices, processes, and a quiet log.

Both checks are autouse fixtures. Nothing is asked of a test, except that one which provokes a
warning says so:

    async def test_a_full_stage_is_logged(expect_log):
        expect_log("stage is full")
        ...

What a module- or session-scoped fixture starts (a server, say) may live until the session ends; it
is noticed while the fixture is set up, and must be gone at the end.

Several sessions may run on one machine, so only what can be told to be ours counts: processes carry
our mark in their environment (their children too, also after daemonising), mounts and devices lie
in pytest's temporary directory. A server that is meant to stay, for other sessions to share, is
started with `MARK` taken out of its environment.
"""

import contextlib
import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

MARK = "TEST_SESSION_MARK"  # not VFS_*: those are options, and unknown ones are refused
GRACE_S = 10.0  # a daemon that was asked to end may still be at it when its test returns


@dataclass(frozen=True)
class Leftover:
    """Something outside this process that outlives what made it."""

    kind: str  # process, mount, loop or nbd
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass
class Watch:
    """What this session is known to have left outside, and where to look for more."""

    base: Path
    mark: str
    foreign: set[str] = field(default_factory=set)  # pids that were looked at and are not ours
    kept: set[Leftover] = field(default_factory=set)  # made by fixtures that live longer

    def look(self) -> set[Leftover]:
        """Return all that is ours and lives now."""
        return set(self._processes()) | set(self._mounts()) | set(self._devices())

    def new_since(self, before: set[Leftover]) -> set[Leftover]:
        """Return what has come since `before`, after giving it time to go by itself."""
        deadline = time.monotonic() + GRACE_S
        while left := self.look() - before - self.kept:
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)  # noqa: TID251 - no loop is running between tests
        return left

    def _processes(self) -> Iterator[Leftover]:
        pids = {path.name for path in Path("/proc").iterdir() if path.name.isdigit()}
        self.foreign &= pids
        for pid in pids - self.foreign - {str(os.getpid())}:
            with contextlib.suppress(OSError):
                state, parent = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[:2]
                # A child that was forked and has not called exec shows our own first environment.
                if parent != str(os.getpid()).encode() and not self._marked(pid):
                    self.foreign.add(pid)
                elif state not in b"ZX":
                    command = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode().strip()
                    yield Leftover("process", f"{pid} ({command})")

    def _marked(self, pid: str) -> bool:
        return f"{MARK}={self.mark}".encode() in _read(f"/proc/{pid}/environ").split(b"\0")

    def _mounts(self) -> Iterator[Leftover]:
        for line in _read("/proc/self/mountinfo").decode(errors="surrogateescape").splitlines():
            before, _, _ = line.partition(" - ")
            point = before.split()[4].encode().decode("unicode_escape")
            if Path(point).is_relative_to(self.base):
                yield Leftover("mount", point)

    def _devices(self) -> Iterator[Leftover]:
        for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if Path(backing.read_text().strip()).is_relative_to(self.base):
                    yield Leftover("loop", f"/dev/{backing.parts[3]}")
        for owner in Path("/sys/block").glob("nbd*/pid"):
            with contextlib.suppress(OSError):
                if self._marked(owner.read_text().strip()):
                    yield Leftover("nbd", f"/dev/{owner.parts[3]}")


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


def _remove(leftover: Leftover) -> None:
    """Take away what a failed test left, so that the next one starts clean."""
    match leftover.kind:
        case "mount":
            _run("umount", "-l", leftover.name)
        case "loop":
            _run("losetup", "-d", leftover.name)
        case "nbd":
            _run("qemu-nbd", "-d", leftover.name)
        case "process":
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(leftover.name.split()[0]), signal.SIGKILL)


def _run(*command: str) -> None:
    subprocess.run(command, check=False, timeout=30, capture_output=True)


def _sweep(left: set[Leftover]) -> str:
    for kind in ("nbd", "loop", "mount", "process"):  # users before what they use
        for leftover in left:
            if leftover.kind == kind:
                _remove(leftover)
    return ", ".join(sorted(map(str, left)))


@pytest.fixture(scope="session", autouse=True)
def _watch(tmp_path_factory, request) -> Iterator[Watch]:
    mark = f"{os.getpid()}.{time.time_ns()}"
    os.environ[MARK] = mark
    watch = Watch(tmp_path_factory.getbasetemp(), mark)
    request.config.stash[_WATCH] = watch
    yield watch
    watch.kept.clear()
    left = watch.new_since(set())
    del os.environ[MARK]
    if left:
        pytest.fail(f"left behind by a fixture: {_sweep(left)}", pytrace=False)


_WATCH = pytest.StashKey[Watch]()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request) -> Generator[None, object]:
    watch = request.config.stash.get(_WATCH, None)
    if watch is None or fixturedef.scope == "function":
        return (yield)
    before = watch.look()
    try:
        return (yield)
    finally:
        watch.kept |= watch.look() - before


@pytest.fixture(autouse=True)
def _leaves_nothing_behind(_watch: Watch) -> Iterator[None]:
    before = _watch.look()
    yield
    left = _watch.new_since(before)
    if left:
        pytest.fail(f"the test left behind: {_sweep(left)}", pytrace=False)


class _Gate(logging.Handler):
    """Keeps every record of WARNING and above, and which of them were announced."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self.expected: list[tuple[re.Pattern[str], list[logging.LogRecord]]] = []
        self.tolerated: list[tuple[re.Pattern[str], list[logging.LogRecord]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def sort(self) -> list[str]:
        """File the records under what was expected; return a line for each that was not."""
        unexpected = []
        for record in self.records:
            text = record.getMessage()
            known = self.expected + self.tolerated
            found = [records for pattern, records in known if pattern.search(text)]
            for records in found:
                records.append(record)
            if not found:
                unexpected.append(f"{record.levelname} {record.name}: {text}")
        return unexpected


@pytest.fixture(autouse=True)
def _log_gate() -> Iterator[_Gate]:
    gate = _Gate()
    logger = logging.getLogger("vfs")
    logger.addHandler(gate)
    yield gate
    logger.removeHandler(gate)
    unexpected = gate.sort()
    if unexpected:
        pytest.fail("logged unexpectedly:\n" + "\n".join(unexpected), pytrace=False)
    for pattern, records in gate.expected:
        if not records:
            pytest.fail(f"expected in the log, but not there: {pattern.pattern}", pytrace=False)


@pytest.fixture
def expect_log(_log_gate: _Gate) -> Callable[..., None]:
    """Announce, by a regular expression, warnings that the test must (or `maybe`) provoke."""

    def expect(pattern: str, *, maybe: bool = False) -> None:
        expected = _log_gate.tolerated if maybe else _log_gate.expected
        expected.append((re.compile(pattern), []))

    return expect
