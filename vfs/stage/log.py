"""The journal of one staged file on disk.

The log is made when there is first something to keep, and gone before the staged bytes are. Its
owner says with each record which bytes are dirty by it: whoever gives space back asks which bytes
a restart would still count on.

`append` hands records to the kernel, which is quick and survives the daemon; `sync` brings them to
the disk. Until something was promised a power cut may forget the file, because nobody was told
that it would not.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vfs.spans import EMPTY, SpanSet
from vfs.stage.journal import About, StagedState, records_of, replay, synced_record
from vfs.stage.records import Record, RecordLog, Value
from vfs.values import MIB

COMPACT_BYTES = 4 * MIB
KIND = "stage"


@functools.cache
def boot_id() -> str:
    """Return the id of this boot of the machine: page caches do not outlive it. Blocking."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


LOG_SUFFIX = ".log"


def log_path(path: Path) -> Path:
    """Return where the journal of a staged file lies."""
    return path.with_suffix(LOG_SUFFIX)


class FileLog:
    """Records of one staged file. Errors of every call: OSError of the disk."""

    def __init__(self, path: Path, boot: str | None = None) -> None:
        self.path = path
        self.boot = boot if boot is not None else boot_id()
        self.begun = False
        self.promised = False  # a reboot is to find the file
        self.about: About = {}  # what was told of the name last
        self._log = RecordLog(path, KIND)
        self._limit = COMPACT_BYTES
        self._dirty: SpanSet = EMPTY  # by all records
        self._earlier: list[SpanSet] = []  # by those before one that was not synced
        self.tagged = 0  # records with a boot, of all in the log
        self._durable = 0  # of those, the first that a reboot would read

    @property
    def damaged_bytes(self) -> int:
        """Bytes behind the last valid record when an earlier owner's log was opened."""
        return self._log.damaged_bytes

    def claims(self) -> Sequence[SpanSet]:
        """Return sets of bytes that a restart may count on, whichever record is the last it finds.

        Their place in the staged file must not be given back.
        """
        return [*self._earlier, self._dirty]

    def begin(self, state: StagedState) -> None:
        """Make the log of a file of which nothing was written yet, as far as `state` tells.

        Blocking, but short: nothing waits for the disk.
        """
        try:
            self._log.open(durable=False)
        except OSError:
            self.discard()  # a full disk may take its name and not its header
            raise
        self.begun, self.about = True, state.about
        self.append(*records_of(state, born=self.boot), dirty=state.extent.dirty)

    def open(self) -> StagedState | None:
        """Open a log that an earlier owner has left and return its state. Blocking.

        Errors: MetadataError for a newer format; CorruptError.
        """
        records = self._log.open()
        self.tagged = sum(record.get("boot") is not None for record in records)
        state = replay(records, self.boot)
        self.begun = True
        if state is not None:
            self.promised, self.about = state.promised, state.about
            self._dirty = state.extent.dirty
        return state

    def append(self, *records: Record, dirty: SpanSet) -> None:
        """Hand records to the kernel; `dirty` is what they leave dirty.

        On an error they stay queued for the next call.
        """
        for record in records:
            self.tagged += record.get("boot") is not None
            self._log.append(record)
        if self.promised and self._dirty is not dirty:
            self._earlier.append(self._dirty)
        self._dirty = dirty
        self._log.flush()

    async def sync(self) -> None:
        """Return when everything appended is on the disk."""
        earlier = len(self._earlier)
        await self._log.sync()
        del self._earlier[:earlier]

    @property
    def is_kept(self) -> bool:
        """Whether a reboot would read all of it, were everything appended on the disk."""
        return self.promised and self.tagged == self._durable

    async def promise(self, tagged: int, sync_bytes: Callable[[], None]) -> None:
        """Return when a reboot would read the first so many records with a boot.

        `sync_bytes` is called in a thread and brings their bytes to the disk. Errors: its own.
        """
        self.promised = True  # from now on a reboot may find it
        earlier = len(self._earlier)
        await self._log.sync_behind(sync_bytes, synced_record(tagged))
        del self._earlier[:earlier]
        self._durable = tagged

    async def compact(self) -> None:
        """Rewrite the log when it has grown and a reboot would read all of it.

        Not during a `promise`.
        """
        if self._log.size > self._limit and self.tagged == self._durable:
            await self.settle()
            self._limit = max(COMPACT_BYTES, 2 * self._log.size)

    async def settle(self) -> None:
        """Rewrite the log so that it says the same after a reboot: the bytes are on the disk."""
        tagged, lost = self.tagged, (0, 0)

        def ready() -> bool:
            nonlocal lost
            if self.tagged != tagged:
                return False  # something came that is not on the disk: another time
            self.promised = True
            lost = self.tagged, self._durable
            self.tagged = self._durable = 0
            return True

        try:
            await self._log.shorten(self._shorter, ready)
        except BaseException:  # also when it is cancelled, before or after it was ready
            self.tagged += lost[0]
            self._durable += lost[1]
            raise

    def _shorter(self, records: list[dict[str, Value]]) -> list[Record]:
        state = replay(records, self.boot)
        return [] if state is None else records_of(replace(state, promised=True))

    def leave(self) -> None:
        """Close the log and keep it."""
        self._log.close()

    def discard(self) -> None:
        """Remove the log of an earlier owner, whatever is in it."""
        self._log.close()
        self.path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the log; that nothing of it counts any more was made durable before."""
        if self.begun:
            self._log.close()
            self.path.unlink(missing_ok=True)
            self.begun = False
