"""The journal of one staged file on disk, and what it adds up to.

The log is made when there is first something to keep, and gone before the staged bytes are. Its
state is what a restart would read: whoever gives space back asks it which bytes that restart would
still count on.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import trio

from vfs.spans import SpanSet
from vfs.stage.journal import StagedState, apply, records_of, replay
from vfs.stage.records import Record, RecordLog
from vfs.values import MIB

COMPACT_BYTES = 4 * MIB
KIND = "stage"


@functools.cache
def boot_id() -> str:
    """Return the id of this boot of the machine: page caches do not outlive it. Blocking."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class FileLog:
    """Records of one staged file. Errors of every call: OSError of the disk."""

    def __init__(self, path: Path, boot: str | None = None) -> None:
        self.path = path
        self._boot = boot if boot is not None else boot_id()
        self._log = RecordLog(path, KIND)
        self._limit = COMPACT_BYTES
        # What all records add up to, and what they did before they were synced.
        self._state: StagedState | None = None
        self._earlier: list[SpanSet] = []

    @property
    def state(self) -> StagedState | None:
        """What a restart would read, were everything appended on the disk."""
        return self._state

    def claims(self) -> Sequence[SpanSet]:
        """Return sets of bytes that a restart may count on, whichever record is the last it finds.

        Their place in the staged file must not be given back.
        """
        return self._earlier if self._state is None else [*self._earlier, self._state.extent.dirty]

    async def begin(self, state: StagedState) -> None:
        """Make the log, with a state whose bytes are on the disk; durable on return."""
        await trio.to_thread.run_sync(self._log.open)
        for record in records_of(state):
            self._log.append(record)
        await self._log.sync()
        self._state = state

    def open(self) -> StagedState | None:
        """Open a log that an earlier owner has left and return its state. Blocking.

        Errors: MetadataError for a newer format; CorruptError.
        """
        self._state = replay(self._log.open(), self._boot)
        return self._state

    def append(self, record: Record) -> None:
        """Queue a record for the next sync."""
        if self._state is not None:
            self._earlier.append(self._state.extent.dirty)
        self._state = apply(self._state, record, self._boot)
        self._log.append(record)

    async def sync(self) -> None:
        """Return when everything appended is on the disk."""
        earlier = len(self._earlier)
        await self._log.sync()
        del self._earlier[:earlier]
        if self._log.size > self._limit:
            await self._log.rewrite(self._records)
            self._limit = max(COMPACT_BYTES, 2 * self._log.size)

    def _records(self) -> list[Record]:
        return [] if self._state is None else records_of(self._state)

    def remove(self) -> None:
        """Remove the log; that nothing of it counts any more was made durable before."""
        if self._state is not None:
            self._log.close()
            self.path.unlink(missing_ok=True)
