"""How often a gateway that ignores conditions loses an update: two hosts commit one file at once.

    python -m bench.overwrite_window [--rounds 40] [--size 12]

Where the server does not check the condition of a finish, a commit looks at the object, finishes
and looks again. An update is lost when both hosts looked before either finished, and the first has
looked again before the second finishes. Both commits are led to their first look; the second then
waits for so many milliseconds. Each of two rows: how often both were told that they won, and how
long the window was (from the look to the answer of the finish).
"""

import argparse
import os
import random
import statistics
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio
from typing_extensions import override

from bench.gateway import open_gateway
from vfs.errors import ConflictError, StaleError
from vfs.layout.base import NO_UPLOAD_LOG, Content, FileVersion
from vfs.layout.plain import PlainLayout
from vfs.spans import SpanSet
from vfs.store.base import Body, BytesBody, Store
from vfs.store.open import open_store
from vfs.store.wrap.base import Call, WrappedStore
from vfs.values import MIB, Key, Span

FILE = Key("file")
DELAYS_MS = (0, 1, 2, 5, 10, 20, 50, 100)
CHANGED = Span(0, MIB)


@dataclass
class Meeting:
    """Where two commits wait for each other before their first look."""

    delay_s: float
    waiting: int = 0
    both: trio.Event = field(default_factory=trio.Event)


class LedStore(WrappedStore):
    """Leads the commits of one host to the meeting, and takes the time."""

    def __init__(self, inner: Store, *, second: bool) -> None:
        super().__init__(inner)
        self.meeting: Meeting | None = None
        self.windows_s: list[float] = []
        self._second = second
        self._looked_s = 0.0

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[object]]) -> object:  # type: ignore[override]
        if call.operation == "head" and self.meeting is not None:
            meeting, self.meeting = self.meeting, None
            await self._meet(meeting)
        if call.operation == "head":
            self._looked_s = trio.current_time()
        answer = await run()
        if call.operation == "finish_upload":
            self.windows_s.append(trio.current_time() - self._looked_s)
        return answer

    async def _meet(self, meeting: Meeting) -> None:
        meeting.waiting += 1
        if meeting.waiting == 2:
            meeting.both.set()
        await meeting.both.wait()
        if self._second:
            await trio.sleep(meeting.delay_s)


class Changed(Content):
    """A file whose first MiB is new."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    @override
    def size(self) -> int:
        return len(self._data)

    @property
    @override
    def changed(self) -> SpanSet:
        return SpanSet([CHANGED])

    @override
    async def body(self, span: Span) -> Body:
        return BytesBody(self._data[span.start : span.stop])

    @override
    def is_latest(self, span: Span) -> bool:
        return True


async def commit(store: LedStore, base: FileVersion, data: bytes) -> bool:
    """Commit a change; tell whether it was said to be stored."""
    layout = PlainLayout(store)
    draft = layout.draft(FILE, base=base, replaces=base, metadata={}, log=NO_UPLOAD_LOG)
    try:
        await draft.commit(Changed(data), {})
    except (ConflictError, StaleError):
        await draft.abandon()
        return False
    return True


async def one_round(stores: list[LedStore], base: bytes, delay_s: float) -> tuple[int, bool]:
    """Return how many hosts were told that they won, and whether what is stored is a version."""
    written = await stores[0].write(FILE, BytesBody(base))
    version = FileVersion.of(written)
    contents = [os.urandom(MIB) + base[MIB:] for _ in stores]
    told = [False, False]

    async def work(number: int) -> None:
        told[number] = await commit(stores[number], version, contents[number])

    meeting = Meeting(delay_s)
    for store in stores:
        store.meeting = meeting
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, 0)
        nursery.start_soon(work, 1)
    now = await stores[0].head(FILE)
    stored = await stores[0].read(now.pin, Span(0, now.size))
    return sum(told), stored in contents


async def measure(url: str, rounds: int, size: int) -> None:
    """Measure, and print one row for each delay."""
    base = random.Random(1).randbytes(size)
    async with AsyncExitStack() as stack:
        stores = [
            LedStore(await stack.enter_async_context(open_store(url)), second=second)
            for second in (False, True)
        ]
        features = await stores[0].probe(write=True)
        await stores[1].probe(write=True, known=features)
        print(f"conditions of a finish: {'heeded' if features.finish_if_version else 'ignored'}")
        print("second looks after   both told they won   neither   mixtures   window median / max")
        for delay_ms in DELAYS_MS:
            for store in stores:
                store.windows_s.clear()
            both = neither = mixtures = 0
            for _ in range(rounds):
                told, whole = await one_round(stores, base, delay_ms / 1000)
                both += told == 2
                neither += told == 0
                mixtures += not whole
            windows = [1000 * s for store in stores for s in store.windows_s]
            print(
                f"{delay_ms:>12} ms {both:>14} of {rounds} {neither:>9} {mixtures:>10}"
                f" {statistics.median(windows):>14.1f} / {max(windows):.1f} ms",
                flush=True,
            )


def main() -> None:
    """Run it on the test gateway."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--size", type=int, default=12, help="of the file, in MiB (12)")
    given = parser.parse_args()
    with open_gateway() as gateway:
        os.environ.update(gateway.environ())
        trio.run(measure, gateway.url("window"), given.rounds, given.size * MIB)


if __name__ == "__main__":
    main()
