"""What one ranged read of 128 KiB costs the process that makes it, apart from the kernel's side."""

import sys
from functools import partial

from typing_extensions import override

from bench import direct
from bench.children import run
from bench.work import Contender, Rows, Sample, Verdict, Work, at_most, work

KEY = "request-cost/large"
RANGE_BYTES = 128 << 10
COUNT = 4000
AT_ONCE = 8
MOST_US = 200.0


@work
class RequestCost(Work):
    """Small ranges in a process without a mount: by the store alone, and through the cache."""

    name = "request-cost"
    title = "processor time of a read of 128 KiB"

    @override
    def prepare(self) -> None:
        direct.upload(self.bench.near, self.bench.source, KEY, 8)

    @override
    def contenders(self) -> list[Contender]:
        return [Contender(way, "vfs", partial(self._read, way)) for way in ("store", "cache")]

    def _read(self, way: str) -> Sample:
        gateway = self.bench.gateway
        words = (way, gateway.url(), KEY, str(COUNT), str(AT_ONCE))
        said = run(sys.executable, "-m", "bench.many_ranges", *words, env=gateway.environ())
        seconds, cpu_s = map(float, said.split())
        return Sample(seconds, COUNT * RANGE_BYTES, cpu_s, requests=COUNT)

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        return [
            at_most(
                f"us of processor time a request of 128 KiB ({name})",
                (row.median.cpu_s or 0.0) / COUNT * 1e6,
                MOST_US,
            )
            for name, row in rows.items()
        ]

    @override
    def finish(self) -> None:
        self.bench.near.remove(KEY)
