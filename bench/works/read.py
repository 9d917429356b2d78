"""Cold sequential read: one large object, through a mount that has nothing cached."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from typing_extensions import override

from bench import direct
from bench.children import CHILD, run, timed
from bench.gateway import Line
from bench.mounts import Daemon
from bench.work import (
    MIB,
    Bench,
    Contender,
    LargeObject,
    Rows,
    Sample,
    Verdict,
    at_least,
    at_most,
    busy_verdict,
    done,
    fastest,
    measure,
    memory_verdict,
    work,
)

FAR_MS = 50


class _ColdRead(LargeObject):
    """`dd` of the whole file on a fresh mount, so that the kernel has none of its pages either."""

    least_of_direct = 0.85

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._line = Line(bench.gateway)
        self._kept: list[int] = []  # bytes on the SSD tier after each turn

    def direct_ways(self) -> dict[str, Callable[[], float]]:
        """Return the clients without a file system to compare with."""
        key = (self.bench.gateway, self.key, self.bench.size_bytes)
        ways = {f"sockets x{n}": partial(direct.download, *key, n) for n in (4, 8, 16, 32)}
        return {**ways, "curl x8": partial(direct.download_by_curl, *key, 8)}

    @override
    def contenders(self) -> list[Contender]:
        return [
            Contender("vfs", "vfs", self._vfs),
            *(
                Contender(name, "direct", partial(self._direct, way))
                for name, way in self.direct_ways().items()
            ),
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        best = fastest(rows, "direct")
        share = best.median.seconds / rows["vfs"].median.seconds
        says = f"speed of the fastest direct client ({best.name})"
        return [
            at_least(says, share, self.least_of_direct),
            *memory_verdict(rows),
            Verdict("MiB on the SSD tier after a turn, at least", min(self._kept) / MIB),
        ]

    def _direct(self, way: Callable[[], float]) -> Sample:
        return Sample(self._line.watch(way), self.bench.size_bytes)

    def _vfs(self) -> Sample:
        with self.bench.vfs(options=self.bench.filling) as daemon:
            sample = self._read(daemon)
            self._kept.append(daemon.kept_bytes())
            return sample

    def _through(self, mount: AbstractContextManager[Daemon]) -> Sample:
        with mount as daemon:
            return self._read(daemon)

    def _read(self, daemon: Daemon) -> Sample:
        path = daemon.path / self.key
        command = ("dd", f"if={path}", "of=/dev/null", "bs=1M")
        sample = measure(
            daemon, lambda: self._line.watch(lambda: timed(*command)), self.bench.size_bytes
        )
        run(*CHILD, "compare", self.bench.source, path)
        return sample


class _CountedRead(_ColdRead):
    """What the daemon may take of the processor has a limit where no delay is in the line."""

    most_cpu_s_per_gib = 0.8

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        taken = rows["vfs"].median.cpu_s_per_gib or 0
        says = "CPU-s of the daemon per GiB, the SSD tier filling"
        return [*super().judge(rows), at_most(says, taken, self.most_cpu_s_per_gib)]


@work
class PlainRead(_CountedRead):
    """Over plain HTTP, other mounts beside it."""

    name = "read"
    title = "cold sequential read"
    least_of_others = 1.15

    @override
    def contenders(self) -> list[Contender]:
        bench = self.bench
        return [
            *super().contenders(),
            *(Contender(name, "other", partial(self._other, name)) for name in bench.others),
        ]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        verdicts = super().judge(rows)
        if done(rows, "other"):
            best = fastest(rows, "other")
            times = best.median.seconds / rows["vfs"].median.seconds
            says = f"times the speed of the fastest other mount ({best.name})"
            verdicts.append(at_least(says, times, self.least_of_others))
        return verdicts

    def _other(self, name: str) -> Sample:
        return self._through(self.bench.other(name))


@work
class TlsRead(_CountedRead):
    """The same over TLS."""

    name = "read-tls"
    title = "cold sequential read over TLS"
    most_cpu_s_per_gib = 1.1

    @override
    def prepare(self) -> None:
        super().prepare()
        self.go_far(self.bench.near.over_tls(), self.bench.round_trip_ms)

    @override
    def direct_ways(self) -> dict[str, Callable[[], float]]:
        key = (self.bench.gateway, self.key, self.bench.size_bytes)
        return {
            "sockets x8": partial(direct.download, *key, 8),
            "curl x8": partial(direct.download_by_curl, *key, 8),
            "two curl x8": partial(direct.download_by_curl, *key, 8, 2),
        }


@work
class FarRead(_ColdRead):
    """The same behind a delay that this work puts into the line by itself."""

    name = "read-far"
    title = f"cold sequential read, round trip {FAR_MS} ms"
    least_of_direct = 0.8

    @override
    def prepare(self) -> None:
        super().prepare()
        self._line = self.go_far(self.bench.near, FAR_MS)

    @override
    def direct_ways(self) -> dict[str, Callable[[], float]]:
        key = (self.bench.gateway, self.key, self.bench.size_bytes)
        return {"sockets x32": partial(direct.download, *key, 32)}

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        return [*super().judge(rows), busy_verdict(self._line)]
