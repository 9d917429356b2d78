"""Cold sequential read: one large object, through a mount that has nothing cached."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from typing_extensions import override

from bench import direct
from bench.children import CHILD, run, timed
from bench.mounts import Daemon
from bench.work import (
    Contender,
    Rows,
    Sample,
    Verdict,
    Work,
    at_least,
    fastest,
    measure,
    memory_verdict,
    work,
)

KEY = "read/large"
MUST_REACH = 0.6


@work
class ColdRead(Work):
    """`dd` of the whole file on a fresh mount, so that the kernel has none of its pages either."""

    name = "read"
    title = "cold sequential read"

    @override
    def prepare(self) -> None:
        direct.upload(self.bench.near, self.bench.source, KEY, 8)

    @override
    def contenders(self) -> list[Contender]:
        bench = self.bench
        key = (bench.gateway, KEY, bench.size_bytes)
        direct_ways = {f"sockets x{n}": partial(direct.download, *key, n) for n in (4, 8, 16, 32)}
        direct_ways["curl x8"] = partial(direct.download_by_curl, *key, 8)
        return [
            Contender("vfs", "vfs", lambda: self._through(bench.vfs())),
            *(
                Contender(name, "direct", partial(self._direct, f))
                for name, f in direct_ways.items()
            ),
            *(Contender(name, "other", partial(self._other, name)) for name in bench.others),
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        best = fastest(rows, "direct")
        share = best.median.seconds / rows["vfs"].median.seconds
        return [
            at_least(f"speed of the fastest direct client ({best.name})", share, MUST_REACH),
            *memory_verdict(rows),
        ]

    @override
    def finish(self) -> None:
        self.bench.near.remove(KEY)

    def _direct(self, download: Callable[[], float]) -> Sample:
        return Sample(download(), self.bench.size_bytes)

    def _other(self, name: str) -> Sample:
        return self._through(self.bench.other(name))

    def _through(self, mount: AbstractContextManager[Daemon]) -> Sample:
        with mount as daemon:
            path = daemon.path / KEY
            sample = measure(daemon, lambda: _read(path), self.bench.size_bytes)
            run(*CHILD, "compare", self.bench.source, path)
            return sample


def _read(path: Path) -> float:
    return timed("dd", f"if={path}", "of=/dev/null", "bs=1M")
