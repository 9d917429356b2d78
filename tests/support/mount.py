"""Real mounts for tests: `vfs mount` in the background, and the way out when one hangs.

    def test_a_file_is_an_object(mount):
        mount.sh("echo hello > file")
        assert mount.store.read("file") == b"hello\\n"

Whatever touches a mount runs in a process of its own with a time limit: a process that waits for a
daemon which does not answer cannot be killed until the connection is aborted, and pytest must never
be that process. So a test uses `sh`, `run` and `call`, never `open` or `os.stat` below `mount.path`.

A line of WARNING or above in the daemon's log fails the test, unless `expect_log` announced it.
"""

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from tests.support.s3_access import S3Access
from vfs.stage.directory import stage_name

VFS = str(Path(sys.executable).with_name("vfs"))
MIB = 1 << 20
TIMEOUT_S = 120.0
CONNECTIONS = Path("/sys/fs/fuse/connections")
JOURNAL = Path("/run/systemd/journal/socket")

_known: dict[str, bytes] = {}  # by scheme: what the first mount found out about its server

T = TypeVar("T")

_FORK = multiprocessing.get_context("fork")
_BAD = re.compile(r"\b(warning|error|critical)\b", re.IGNORECASE)
_LEVEL = re.compile(r"^\S+ \S+ (\w+)")


class Store(Protocol):
    """A store, and how to look into it without vfs; keys are relative to what is mounted."""

    url: str
    environ: dict[str, str]

    def keys(self) -> set[str]:
        """Return the keys of all objects but our own."""
        ...

    def read(self, key: str) -> bytes: ...
    def sha256(self, key: str) -> str: ...
    def put(self, key: str, data: bytes) -> None: ...


def _is_own(key: str) -> bool:
    return any(part == ".vfs" or part.startswith(".vfs.attrs") for part in key.split("/"))


@dataclass
class Directory:
    """A local directory, read as the files that it holds."""

    path: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def keys(self) -> set[str]:
        found = {
            str(path.relative_to(self.path)) for path in self.path.rglob("*") if not path.is_dir()
        }
        return {key for key in found if not _is_own(key)}

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def sha256(self, key: str) -> str:
        with (self.path / key).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def put(self, key: str, data: bytes) -> None:
        target = self.path / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


@dataclass
class Bucket:
    """A prefix of a bucket, read by the SDK."""

    access: S3Access
    name: str
    prefix: str = "images/vm/"

    def __post_init__(self) -> None:
        self.client = self.access.client()

    @property
    def url(self) -> str:
        return self.access.url(self.name, self.prefix.rstrip("/"))

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access.access_key,
            "AWS_SECRET_ACCESS_KEY": self.access.secret_key,
        }

    def keys(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=self.prefix
        )
        found = {
            item["Key"].removeprefix(self.prefix)
            for page in pages
            for item in page.get("Contents", ())
        }
        return {key for key in found if key and not key.endswith("/") and not _is_own(key)}

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=self.prefix + key)["Body"].read()

    def sha256(self, key: str) -> str:
        body = self.client.get_object(Bucket=self.name, Key=self.prefix + key)["Body"]
        digest = hashlib.sha256()
        for piece in body.iter_chunks(4 * MIB):
            digest.update(piece)
        return digest.hexdigest()

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=self.prefix + key, Body=data)


def mount_minor(path: Path) -> str | None:
    """Return the minor device number of the mount there, without asking the mount."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields = line.split(" ")
        if fields[4].encode().decode("unicode_escape") == str(path):
            found = fields[2].partition(":")[2]
    return found


def clean_environ(base: Path, extra: dict[str, str]) -> dict[str, str]:
    """Return an environment in which nothing of this machine's own configuration counts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VFS_", "AWS_", "XDG_"))
    }
    homes = {
        name: str(base / "home")
        for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
    }
    return (
        kept
        | homes
        | {
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "LC_ALL": "C.UTF-8",
            "VFS_CACHE_DIR": str(base / "cache"),
            "PATH": f"{kept['PATH']}:/usr/sbin:/sbin",
        }
        | extra
    )


class ChildError(AssertionError):
    """What a command or a function did wrong in its own process."""


class Mount:
    """One mount point: the store behind it, and processes that work on it."""

    def __init__(self, store: Store, base: Path, options: Sequence[str] = ()) -> None:
        self.store = store
        self.url = store.url
        self.base = base
        self.path = base / "mnt"
        self.options = tuple(options)
        self.environ = clean_environ(base, store.environ)
        self.expected: list[re.Pattern[str]] = []
        self._stages = itertools.count(1)
        self._logs: list[str] = []
        self.stage = base / "stage-0"
        (base / "home").mkdir(mode=0o700)
        self.path.mkdir()

    # --- the mount ---------------------------------------------------------------------------

    def start(self) -> None:
        """Run `vfs mount`; usable when it returns."""
        given = ",".join((f"stage_dir={self.stage}", *self.options))
        known = self.stage / stage_name(self.url) / "known.json"
        server = self.url.partition("://")[0]
        if server in _known and not known.exists():
            # What a server can do is tried once in a run, as on a host, and not by each mount.
            known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            known.write_bytes(_known[server])
        done = self.run(VFS, "mount", "-o", given, self.url, self.path, check=False)
        if done.returncode != 0:
            raise ChildError(f"vfs mount exits {done.returncode}: {done.stderr}\n{self.log()}")
        if known.exists():
            _known.setdefault(server, known.read_bytes())

    def umount(self, *, timeout: float = TIMEOUT_S) -> None:
        """Run `vfs umount`: all is stored when it returns."""
        # One daemon, one log: a journal is asked while it is known whose lines are wanted.
        pid = self.status()["pid"] if JOURNAL.exists() else None
        self.run(VFS, "umount", self.path, timeout=timeout)
        if pid is not None:
            self._logs.append(_journal(pid))

    def remount(self, *, fresh: bool = True) -> None:
        """Unmount and mount again; fresh: nothing cached and nothing staged is left."""
        self.umount()
        if fresh:
            self.stage = self.base / f"stage-{next(self._stages)}"
            shutil.rmtree(self.base / "cache", ignore_errors=True)
        self.start()

    def status(self) -> dict:
        """Return what `vfs status --json` says about this mount."""
        done = self.run(VFS, "status", "--json", self.path)
        [found] = json.loads(done.stdout)["mounts"]
        return found

    def peak_rss(self) -> int:
        """Return the most memory that the daemon ever had, in bytes."""
        text = Path(f"/proc/{self.status()['pid']}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", text)[1]) * 1024

    # --- work on it --------------------------------------------------------------------------

    def run(
        self,
        *command: str | bytes | Path,
        timeout: float = TIMEOUT_S,
        check: bool = True,
        environ: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; one that hangs takes the mount with it."""
        with self.popen(*command, environ=environ) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                self.abort()
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate(timeout=30)
                raise ChildError(f"{command} did not end within {timeout} s: {out}{err}") from None
        done = subprocess.CompletedProcess(command, process.returncode, out, err)
        if check and done.returncode != 0:
            raise ChildError(f"{command} exits {done.returncode}: {out[-2000:]}{err[-2000:]}")
        return done

    def popen(
        self,
        *command: str | bytes | Path,
        environ: dict[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            env=self.environ | (environ or {}),
            start_new_session=True,
        )

    def sh(self, script: str, *arguments: str | Path, timeout: float = TIMEOUT_S) -> str:
        """Run a shell script whose directory is the root of the mount; return what it printed."""
        # The shell changes directory: done here, a hanging mount would catch this process.
        head = ("bash", "-euo", "pipefail", "-c", f'cd -- "$0"\n{script}', self.path)
        return self.run(*head, *arguments, timeout=timeout).stdout

    def call(self, function: Callable[..., T], *arguments: object, timeout: float = 60.0) -> T:
        """Run a function in a child process whose directory is the mount; return what it returns.

        What it raises is raised here, as ChildError with its traceback.
        """
        reading, writing = _FORK.Pipe(duplex=False)
        child = _FORK.Process(target=_work, args=(writing, self.path, function, arguments))
        child.start()
        writing.close()
        answered = reading.poll(timeout)
        if not answered:
            self.abort()
            child.kill()
        try:
            kind, value = reading.recv() if answered else ("raised", f"nothing within {timeout} s")
        except EOFError:
            kind, value = "raised", "it ended without an answer"
        reading.close()
        child.join(30)
        if kind == "raised":
            raise ChildError(f"{function.__name__} in its child:\n{value}")
        return value

    def sha256(self, name: str) -> str:
        """Return the digest of a file, read through the mount."""
        return self.run("sha256sum", "--", self.path / name).stdout.split()[0].lstrip("\\")

    def assert_survives(self, *names: str) -> None:
        """Compare files: through this mount, in the store without vfs, on a fresh mount."""
        shown = {name: self.sha256(name) for name in names}
        self.remount()
        assert {name: self.store.sha256(name) for name in names} == shown
        assert {name: self.sha256(name) for name in names} == shown

    # --- its log, and its end ----------------------------------------------------------------

    def expect_log(self, pattern: str) -> None:
        """Announce, by a regular expression, lines of WARNING and above."""
        self.expected.append(re.compile(pattern))

    def log(self) -> str:
        """Return what the daemons of this mount point have logged, where they use a file."""
        texts = list(self._logs)
        for path in sorted({*self.base.glob("stage-*/vfs.log"), self.stage / "vfs.log"}):
            with contextlib.suppress(OSError):  # a stage on a disk that died takes its log along
                texts.append(path.read_text(errors="replace"))
        return "".join(texts)

    def unexpected(self) -> list[str]:
        """Return the lines of WARNING and above that nobody announced."""
        bad = [line for line in self.log().splitlines() if _is_bad(line)]
        return [line for line in bad if not any(found.search(line) for found in self.expected)]

    def abort(self) -> None:
        """Cut the kernel's connection to the daemon: who waits gets an error, and the daemon ends."""
        minor = mount_minor(self.path)
        if minor is None:
            return
        if not any(CONNECTIONS.iterdir()):
            subprocess.run(["mount", "-t", "fusectl", "none", CONNECTIONS], check=False, timeout=10)
        with contextlib.suppress(OSError):
            (CONNECTIONS / minor / "abort").write_text("1\n")

    def end(self) -> None:
        """Unmount by whatever means; complain about all that was not as it should be."""
        troubles = []
        if mount_minor(self.path) is not None:
            try:
                self.umount()
            except ChildError as error:
                troubles.append(str(error))
                self.abort()
                subprocess.run(["umount", "-l", self.path], check=False, timeout=30)
        if unexpected := self.unexpected():
            troubles.append("logged unexpectedly:\n" + "\n".join(unexpected))
        if troubles:
            pytest.fail("\n".join([*troubles, "the daemon's log:", self.log()]), pytrace=False)


def _is_bad(line: str) -> bool:
    level = _LEVEL.match(line)
    return bool(level and _BAD.fullmatch(level[1]))


def _journal(pid: int) -> str:
    command = ("journalctl", "--quiet", "--output=json", f"_PID={pid}")
    text = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
    lines = []
    for entry in map(json.loads, text.splitlines()):
        level = "warning" if int(entry.get("PRIORITY", 6)) <= 4 else "info"
        lines.append(f"- - {level} {entry.get('MESSAGE')}\n")
    return "".join(lines)


def _work(writing: Connection, path: Path, function: Callable[..., object], arguments) -> None:
    try:
        os.chdir(path)
        answer = ("returned", function(*arguments))
    except BaseException:  # noqa: BLE001 - whatever it is, it is the test's
        answer = ("raised", traceback.format_exc())
    writing.send(answer)


LIVE: list[Mount] = []
"""Mounts that tests hold now: what a report shows the logs of."""


@contextlib.contextmanager
def mounted(store: Store, *options: str, start: bool = True) -> Iterator[Mount]:
    """Mount a store on a new mount point with a new stage; unmount at the end."""
    base = Path(tempfile.mkdtemp(prefix="mount-", dir=_base()))
    mount = Mount(store, base, options)
    LIVE.append(mount)
    try:
        if start:
            mount.start()
        yield mount
    finally:
        LIVE.remove(mount)
        try:
            mount.end()
        finally:
            if not _mounted_below(base):
                shutil.rmtree(base, ignore_errors=True)


_BASE: list[Path] = []


def set_base(path: Path) -> None:
    """Say where mount points and stages are made."""
    _BASE[:] = [path]


def _base() -> Path:
    return _BASE[0]


def _mounted_below(base: Path) -> bool:
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    points = (Path(line.split(" ")[4].encode().decode("unicode_escape")) for line in lines)
    return any(point.is_relative_to(base) for point in points)


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    """Wait for something outside this process that cannot be waited for in any other way."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise ChildError(f"{what}: not within {limit_s} s")
        time.sleep(0.05)  # noqa: TID251 - no loop is running here
