"""The journal of one staged file on disk, and what it adds up to.

The log is made when there is first something to keep, and gone before the staged bytes are. Its
state is what a restart would read: whoever gives space back asks it which bytes that restart would
still count on.

`note` hands records to the kernel, which is quick and survives the daemon; `sync` brings them to
the disk. Until something was synced a power cut may forget the file, because nobody was told that
it would not.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vfs.spans import SpanSet
from vfs.stage.journal import StagedState, apply, records_of, replay, synced_record
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
        self.boot = boot if boot is not None else boot_id()
        self._log = RecordLog(path, KIND)
        self._limit = COMPACT_BYTES
        # What all records add up to, and what they did before they were synced.
        self._state: StagedState | None = None
        self._earlier: list[SpanSet] = []
        self._tagged = 0  # records with a boot, of all in the log
        self._durable = 0  # of those, the first that a reboot would read

    @property
    def state(self) -> StagedState | None:
        """What a restart would read, were everything appended on the disk."""
        return self._state

    @property
    def promised(self) -> bool:
        """Whether a reboot is to find the file."""
        return self._state is not None and self._state.promised

    @property
    def damaged_bytes(self) -> int:
        """Bytes behind the last valid record when an earlier owner's log was opened."""
        return self._log.damaged_bytes

    def claims(self) -> Sequence[SpanSet]:
        """Return sets of bytes that a restart may count on, whichever record is the last it finds.

        Their place in the staged file must not be given back.
        """
        return self._earlier if self._state is None else [*self._earlier, self._state.extent.dirty]

    def begin(self, state: StagedState) -> None:
        """Make the log of a file of which nothing was written yet, as far as `state` tells.

        Blocking, but short: nothing waits for the disk.
        """
        self._log.open(durable=False)
        self._state = state
        for record in records_of(state):
            self._log.append(record)
        self._log.flush()

    def open(self) -> StagedState | None:
        """Open a log that an earlier owner has left and return its state. Blocking.

        Errors: MetadataError for a newer format; CorruptError.
        """
        records = self._log.open()
        self._tagged = sum(record.get("boot") is not None for record in records)
        self._state = replay(records, self.boot)
        return self._state

    def append(self, *records: Record) -> None:
        """Hand records to the kernel. On an error they stay queued for the next call."""
        for record in records:
            if self._state is not None and self.promised:
                self._earlier.append(self._state.extent.dirty)
            self._state = apply(self._state, record)
            self._tagged += record.get("boot") is not None
            self._log.append(record)
        self._log.flush()

    async def sync(self) -> None:
        """Return when everything appended is on the disk."""
        earlier = len(self._earlier)
        await self._log.sync()
        del self._earlier[:earlier]

    @property
    def is_kept(self) -> bool:
        """Whether a reboot would read all of it, were everything appended on the disk."""
        return self.promised and self._tagged == self._durable

    def promise(self) -> Callable[[], None]:
        """Return what to call when the bytes of all records so far are on the disk.

        It appends that they are; `sync` makes it count.
        """
        tagged = self._tagged

        def kept() -> None:
            if tagged > self._durable or not self.promised:
                self.append(synced_record(tagged))
                self._durable = tagged

        return kept

    async def compact(self) -> None:
        """Rewrite the log when it has grown and a reboot would read all of it.

        Not while a `promise` is open.
        """
        if self._log.size > self._limit and self._tagged == self._durable:
            await self.settle()
            self._limit = max(COMPACT_BYTES, 2 * self._log.size)

    async def settle(self) -> None:
        """Rewrite the log so that it says the same after a reboot: the bytes are on the disk."""
        tagged = self._tagged
        await self._log.rewrite(lambda: self._records(tagged))

    def _records(self, tagged: int) -> list[Record] | None:
        if self._state is None or self._tagged != tagged:
            return None  # something came that is not on the disk: another time
        self._tagged = self._durable = 0
        self._state = replace(self._state, promised=True)
        return records_of(self._state)

    def remove(self) -> None:
        """Remove the log; that nothing of it counts any more was made durable before."""
        if self._state is not None:
            self._log.close()
            self.path.unlink(missing_ok=True)
            self._state = None
