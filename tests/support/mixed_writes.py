"""A program that writes in many ways, below a mount and below a local reference alike.

    python mixed_writes.py MOUNT REFERENCE SEED BYTES [LIMIT_S]

It does what programs do that are patient: what fails for a passing reason (EIO, ETIMEDOUT, ENOSPC)
is done again until LIMIT_S seconds have passed, an error of close is noted, anything else ends it.
At the end it prints, as JSON, what it did and what errors it saw. It must not run in the process of
a test: a mount that hangs would hang it.
"""

import errno
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

MIB = 1 << 20
BLOCK = 4096
PASSING = {errno.EIO, errno.ETIMEDOUT, errno.ENOSPC, errno.EAGAIN}
PAUSE_S = 0.2

T = TypeVar("T")


class Writer:
    def __init__(self, mount: Path, reference: Path, seed: int, limit_s: float) -> None:
        self.mount = mount
        self.reference = reference
        self.pick = random.Random(seed)
        self.end_s = time.monotonic() + limit_s
        self.errors: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.open: dict[str, tuple[int, int]] = {}  # name -> descriptors below mount and reference
        self.names: list[str] = []
        self.written = 0
        self.serial = 0

    def again(self, what: str, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except OSError as error:
                if error.errno not in PASSING or time.monotonic() > self.end_s:
                    raise
                self._note(what, error)
                time.sleep(PAUSE_S)  # noqa: TID251 - a program of its own

    def _note(self, what: str, error: OSError) -> None:
        self.errors[f"{what} {errno.errorcode[error.errno or 0]}"] += 1

    # --- what it does ------------------------------------------------------------------------

    def run(self, total: int) -> None:
        """Do one thing after the other until so many bytes are written."""
        deeds = {
            self.make: 2,
            self.write_in_order: 4,
            self.write_at_random: 6,
            self.truncate: 2,
            self.sync: 4,
            self.rename: 3,
            self.close_one: 3,
            self.look: 3,
            self.remove: 1,
        }
        (self.reference / "dir").mkdir()
        self.again("mkdir", lambda: self._mkdir(self.mount / "dir"))
        self.make()
        while self.written < total:
            [deed] = self.pick.choices(list(deeds), list(deeds.values()))
            deed()
            self.done[deed.__name__] += 1
        while self.open:
            self.close_one()

    @staticmethod
    def _mkdir(path: Path) -> None:
        path.mkdir(exist_ok=True)

    def _fds(self, name: str) -> tuple[int, int]:
        if name not in self.open:
            here = self.again("open", lambda: os.open(self.mount / name, os.O_RDWR))
            self.open[name] = here, os.open(self.reference / name, os.O_RDWR)
        return self.open[name]

    def _any(self) -> tuple[int, int]:
        return self._fds(self.pick.choice(self.names))

    def make(self) -> None:
        if len(self.names) >= 12:
            return
        self.serial += 1
        name = f"{self.pick.choice(['', 'dir/'])}file-{self.serial}"
        flags = os.O_RDWR | os.O_CREAT
        here = self.again("create", lambda: os.open(self.mount / name, flags, 0o644))
        self.open[name] = here, os.open(self.reference / name, flags, 0o644)
        self.names.append(name)
        self._write(*self.open[name], 0, self.pick.randbytes(self.pick.randrange(1, 300_000)))

    def write_in_order(self) -> None:
        here, there = self._any()
        at = os.fstat(there).st_size
        for _ in range(self.pick.randrange(4, 25)):
            data = self.pick.randbytes(MIB)
            self._write(here, there, at, data)
            at += len(data)

    def write_at_random(self) -> None:
        here, there = self._any()
        size = max(os.fstat(there).st_size, BLOCK)
        for count in range(self.pick.randrange(1, 64)):
            at = self.pick.randrange(size) // BLOCK * BLOCK
            self._write(here, there, at, self.pick.randbytes(BLOCK))
            if count % 32 == 31:
                self.again("fsync", lambda: os.fsync(here))

    def truncate(self) -> None:
        here, there = self._any()
        size = self.pick.randrange(os.fstat(there).st_size * 5 // 4 + 1)
        self.again("truncate", lambda: os.ftruncate(here, size))
        os.ftruncate(there, size)

    def sync(self) -> None:
        here, _ = self._any()
        self.again("fsync", lambda: os.fsync(here))

    def rename(self) -> None:
        name = self.pick.choice(self.names)
        self.serial += 1
        new = f"{self.pick.choice(['', 'dir/'])}renamed-{self.serial}"
        if len(self.names) > 4 and self.pick.random() < 0.2:
            new = self.pick.choice([one for one in self.names if one != name])
        self.again("rename", lambda: self._rename(name, new))
        os.rename(self.reference / name, self.reference / new)
        if new in self.open:
            self._close(new)
        if name in self.open:
            self.open[new] = self.open.pop(name)
        self.names.remove(name)
        if new not in self.names:
            self.names.append(new)

    def _rename(self, name: str, new: str) -> None:
        try:
            os.rename(self.mount / name, self.mount / new)
        except FileNotFoundError:
            if not self.errors.total() or not (self.mount / new).exists():
                raise
            self.errors["rename that failed had happened"] += 1

    def remove(self) -> None:
        if len(self.names) < 4:
            return
        name = self.pick.choice(self.names)
        if name in self.open and self.pick.random() < 0.5:
            self._close(name)
        self.again("unlink", lambda: self._unlink(self.mount / name))
        (self.reference / name).unlink()
        if name in self.open:
            self._close(name)
        self.names.remove(name)

    def _unlink(self, path: Path) -> None:
        path.unlink(missing_ok=self.errors.total() > 0)

    def look(self) -> None:
        """Compare a piece of a file with what it should be."""
        here, there = self._any()
        size = os.fstat(there).st_size
        at, count = self.pick.randrange(size + 1), self.pick.randrange(1, 300_000)
        found = self.again("read", lambda: os.pread(here, count, at))
        assert found == os.pread(there, count, at), f"other bytes at {at}"
        assert os.fstat(here).st_size == size

    def close_one(self) -> None:
        if self.open:
            self._close(self.pick.choice(list(self.open)))

    def _close(self, name: str) -> None:
        here, there = self.open.pop(name)
        os.close(there)
        try:
            os.close(here)
        except OSError as error:
            if error.errno not in PASSING:
                raise
            self._note("close", error)

    def _write(self, here: int, there: int, at: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            done += self.again("write", partial(os.pwrite, here, data[done:], at + done))
        os.pwrite(there, data, at)
        self.written += len(data)


def main(mount: str, reference: str, seed: str, size: str, limit_s: str = "600") -> None:
    writer = Writer(Path(mount), Path(reference), int(seed), float(limit_s))
    writer.run(int(size))
    print(json.dumps({"errors": writer.errors, "done": writer.done, "bytes": writer.written}))


if __name__ == "__main__":
    main(*sys.argv[1:])
