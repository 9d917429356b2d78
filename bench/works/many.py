"""Many files open at once: memory must not grow with them."""

from typing_extensions import override

from bench import child, direct
from bench.children import CHILD, timed
from bench.work import MIB, Contender, Rows, Sample, Verdict, Work, measure, memory_verdict, work

FILES = 200
SHARE = 256  # a file is this part of the large one


class _ManyOpen(Work):
    """Files that are all open, each read or written by a thread of its own, all at the same time."""

    readers = 0
    writers = 0

    @property
    def _size(self) -> int:
        return max(MIB, self.bench.size_bytes // SHARE // MIB * MIB)

    @override
    def prepare(self) -> None:
        with self.bench.source.open("rb") as file:
            body = file.read(self._size)
        keys = [f"many/in/{child.name(number)}" for number in range(self.readers)]
        direct.put_many(self.bench.near, keys, body, 8)

    @override
    def contenders(self) -> list[Contender]:
        return [Contender("vfs", "vfs", self._hammer)]

    @override
    def judge(self, rows: Rows) -> list[Verdict]:
        return memory_verdict(rows)

    @override
    def finish(self) -> None:
        self.bench.near.remove("many/")

    def _hammer(self) -> Sample:
        with self.bench.vfs(options=self.bench.filling) as daemon:
            path = daemon.path / "many"
            (path / "out").mkdir(exist_ok=True)
            command = (*CHILD, "hammer", path, self.readers, self.writers, self._size)
            moved = (self.readers + self.writers) * self._size
            sample = measure(daemon, lambda: timed(*map(str, command)), moved)
        self.bench.near.remove("many/out")
        return sample


@work
class ManyMixed(_ManyOpen):
    """Half of them are read, half written."""

    name = "many"
    title = f"{FILES} files open, read and written at once"
    readers = writers = FILES // 2


@work
class ManyRead(_ManyOpen):
    """All of them are read."""

    name = "many-read"
    title = f"{FILES} files open and read at once"
    readers = FILES
