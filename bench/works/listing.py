"""`ls -l` of a directory of 10,000 files on a fresh mount."""

from typing_extensions import override

from bench import child, direct
from bench.children import CHILD, BenchError, run, timed
from bench.work import (
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
MOST_REQUESTS = 20


class Listing(Work):
    """`ls -l`, and a plain listing of the same names beside it."""

    prefix = ""

    @override
    def contenders(self) -> list[Contender]:
        return [
            Contender("vfs", "vfs", self._ls),
            Contender("plain listing", "direct", self._list),
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        requests = rows["vfs"].median.requests or 0
        times = rows["vfs"].median.seconds / fastest(rows, "direct").median.seconds
        return [
            at_most("requests to the store", requests, MOST_REQUESTS),
            Verdict("times a plain listing", times),
            *memory_verdict(rows),
        ]

    @override
    def finish(self) -> None:
        self.bench.near.remove(self.prefix)

    def _ls(self) -> Sample:
        with self.bench.vfs() as daemon:
            path = daemon.path / self.prefix
            sample = measure(daemon, lambda: timed("ls", "-l", path))
            lines = run("ls", "-l", path).splitlines()
            if len(lines) != COUNT + 1:  # and the line of the total
                raise BenchError(f"ls shows {len(lines) - 1} files instead of {COUNT}")
            return sample

    def _list(self) -> Sample:
        seconds, count = direct.list_all(self.bench.gateway, f"{self.prefix}/file")
        if count != COUNT:
            raise BenchError(f"the store lists {count} objects instead of {COUNT}")
        return Sample(seconds)


@work
class ForeignListing(Listing):
    """Objects that another tool has written."""

    name = "list-foreign"
    title = f"ls -l of {COUNT:,} objects of another tool"
    prefix = "foreign"

    @override
    def prepare(self) -> None:
        keys = [f"{self.prefix}/{child.name(number)}" for number in range(COUNT)]
        direct.put_many(self.bench.near, keys, child.CONTENT, 16)


@work
class OwnListing(Listing):
    """Files that were all created through a mount, with the attributes that go with it."""

    name = "list-own"
    title = f"ls -l of {COUNT:,} files created through a mount"
    prefix = "own"

    @override
    def prepare(self) -> None:
        with self.bench.vfs() as daemon:
            (daemon.path / self.prefix).mkdir()
            run(*CHILD, "create", daemon.path / self.prefix, str(COUNT))
