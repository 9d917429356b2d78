"""`ls -l` of a directory of 10,000 files and `find` in 200 of them, on a fresh mount."""

import time
from collections.abc import Callable
from typing import ClassVar

from typing_extensions import override

from bench import child, direct
from bench.children import CHILD, BenchError, run
from bench.gateway import Gateway
from bench.work import (
    Bench,
    Contender,
    Rows,
    Sample,
    Verdict,
    Work,
    at_most,
    fastest,
    measure,
    memory_verdict,
    work,
)

COUNT = 10_000
LEAST_COUNT = 1000
MOST_REQUESTS = 20
MOST_TIMES = 1.2
DIRECTORIES = 200
LEAST_DIRECTORIES = 4
FILES_EACH = 500
REQUESTS_PER_DIRECTORY = 3

Lister = Callable[[Gateway, str], tuple[float, int]]


class _Listing(Work):
    """A command that lists, and plain listings of the same names beside it."""

    prefix = ""
    command: tuple[str, ...] = ()
    more_lines = 1  # that the command prints than there are files
    listers: ClassVar[dict[str, Lister]] = {"plain listing": direct.list_all}

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.count = bench.scaled(COUNT, LEAST_COUNT)
        self.most_requests = MOST_REQUESTS

    @override
    def contenders(self) -> list[Contender]:
        return [
            Contender("vfs", "vfs", self._vfs),
            *(
                Contender(name, "direct", lambda w=way: self._list(w))
                for name, way in self.listers.items()
            ),
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        ours, best = rows["vfs"].median, fastest(rows, "direct")
        times = ours.seconds / best.median.seconds
        return [
            at_most(
                f"requests to the store, {self.count:,} files",
                ours.requests or 0,
                self.most_requests,
            ),
            at_most(f"times the fastest ({best.name})", times, MOST_TIMES),
            *memory_verdict(rows),
        ]

    @override
    def finish(self) -> None:
        self.bench.near.remove(f"{self.prefix}/")

    def _vfs(self) -> Sample:
        with self.bench.vfs() as daemon:
            return measure(daemon, lambda: self._run(daemon.path / self.prefix))

    def _run(self, path: object) -> float:
        before = time.perf_counter()
        printed = run(*self.command, str(path))
        seconds = time.perf_counter() - before
        found = printed.count("\n") - self.more_lines
        if found != self.count:
            raise BenchError(f"{self.command[0]} shows {found} files instead of {self.count}")
        return seconds

    def _list(self, lister: Lister) -> Sample:
        seconds, found = lister(self.bench.gateway, f"{self.prefix}/")
        # The store may hold what vfs knows about a directory as well, one object each.
        if not self.count <= found <= self.count + self.most_requests:
            raise BenchError(f"the store lists {found} objects instead of {self.count}")
        return Sample(seconds)


class _LongListing(_Listing):
    """`ls -l` of one directory."""

    command = ("ls", "-l")


@work
class ForeignListing(_LongListing):
    """Objects that another tool has written."""

    name = "list-foreign"
    title = "ls -l of a directory that another tool has written"
    prefix = "foreign"

    @override
    def prepare(self) -> None:
        keys = [f"{self.prefix}/{child.name(number)}" for number in range(self.count)]
        direct.put_many(self.bench.near, keys, child.CONTENT, 16)


@work
class OwnListing(_LongListing):
    """Files that were all created through a mount, with the attributes that go with it."""

    name = "list-own"
    title = "ls -l of a directory of files created through a mount"
    prefix = "own"

    @override
    def prepare(self) -> None:
        with self.bench.vfs() as daemon:
            (daemon.path / self.prefix).mkdir()
            run(*CHILD, "create", daemon.path / self.prefix, str(self.count))


@work
class Find(_Listing):
    """`find` in many directories, and each of them listed by itself."""

    name = "find"
    title = "find in many directories that another tool has written"
    prefix = "tree"
    command = ("find",)
    listers: ClassVar = {
        "plain listing": direct.list_all,
        "plain listing of each directory": direct.list_directories,
    }

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._directories = bench.scaled(DIRECTORIES, LEAST_DIRECTORIES)
        self.count = self._directories * FILES_EACH
        self.more_lines = self._directories + 1
        self.most_requests = REQUESTS_PER_DIRECTORY * (self._directories + 1)

    @override
    def prepare(self) -> None:
        keys = [
            f"{self.prefix}/directory-{number // FILES_EACH:03}/{child.name(number)}"
            for number in range(self.count)
        ]
        direct.put_many(self.bench.near, keys, child.CONTENT, 16)
