"""Uploads in parts of this mount: none is left behind in the bucket, where parts cost money.

Each stands in the journal of names from its beginning until it is finished or aborted. What nobody
wants any more is aborted in the background, again and again until the store has done it; what a
crash leaves is aborted by the next mount, unless a staged file goes on with it. Only uploads that
are journalled here are ever touched: whose the others are nobody knows. One whose beginning was
never answered is among those.
"""

import logging
import math
from collections.abc import AsyncGenerator, Iterable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress

import trio
from typing_extensions import override

from vfs.errors import VfsError
from vfs.layout.uploads import Uploads
from vfs.stage.journal import upload_of, upload_record
from vfs.stage.records import Value
from vfs.store.base import Properties, Store, Upload
from vfs.tasks import open_tasks
from vfs.tree.journal import Journal
from vfs.tree.uploader import Backoff
from vfs.values import Key

log = logging.getLogger(__name__)

OP = "upload"
GRACE_S = 5.0
"""At the end so long for an answer to what was begun: without its name nobody can abort it."""


class _Beginning:
    """One request to begin an upload, and who waits for it."""

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.wanted = True
        self.upload: Upload | None = None
        self.error: Exception | None = None


class JournalledUploads(Uploads):
    """Begins uploads and aborts them."""

    def __init__(self, store: Store, journal: Journal, nursery: trio.Nursery) -> None:
        self._store = store
        self._journal = journal
        self._nursery = nursery
        self._numbers: dict[Upload, int] = {}  # of those that are neither finished nor aborted
        self._unwanted: dict[Upload, Backoff] = {}
        self._aborting = trio.Lock()
        self._asked = trio.Event()  # set, and replaced, when there is something to abort
        self._beginning = 0
        self._begun = trio.Event()  # set, and replaced, when a beginning was answered

    @property
    def unwanted(self) -> int:
        """Uploads that the store still has and nobody wants."""
        return len(self._unwanted)

    @override
    async def begin(self, target: Key, properties: Properties) -> Upload:
        beginning = _Beginning()
        # In a task of its own: whoever asked may go, the answer tells what is to be aborted.
        self._nursery.start_soon(self._begin, target, properties, beginning)
        try:
            await beginning.settled.wait()
        except trio.Cancelled:
            beginning.wanted = False
            raise
        if beginning.upload is None:
            raise beginning.error or VfsError("the upload was not begun", key=target)
        return beginning.upload

    async def _begin(self, target: Key, properties: Properties, beginning: _Beginning) -> None:
        self._beginning += 1
        try:
            upload = await self._store.begin_upload(target, properties=properties)
            self._numbers[upload] = self._journal.note(OP, upload_record(upload))
            beginning.upload = upload
            try:
                await self._journal.sync()
            except VfsError as error:  # a full disk: it is uploads that make room
                log.warning("the upload of %r is not journalled yet: %s", target, error.message)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            beginning.error = error
        finally:
            self._beginning -= 1
            self._begun.set()
            self._begun = trio.Event()
        beginning.settled.set()
        if beginning.upload is not None and not beginning.wanted:
            await self.abort(beginning.upload)

    @override
    async def finished(self, upload: Upload) -> None:
        self._unwanted.pop(upload, None)
        number = self._numbers.pop(upload, None)
        if number is not None:
            with suppress(VfsError):  # of the stage's disk: aborting it once more is harmless
                await self._journal.done(number)

    @override
    async def abort(self, upload: Upload) -> None:
        self._unwanted[upload] = Backoff()
        self._asked.set()

    def replay(self, records: Iterable[dict[str, Value]]) -> list[dict[str, Value]]:
        """Take the uploads of an earlier mount over; return the records of something else."""
        others: list[dict[str, Value]] = []
        for record in records:
            number = record.get("id")
            if record.get("op") == OP and isinstance(number, int):
                self._numbers[upload_of(record)] = number
            else:
                others.append(record)
        return others

    async def keep_only(self, kept: AbstractSet[Upload | None]) -> None:
        """Abort what was replayed, but for the uploads that go on."""
        for upload in self._numbers.keys() - kept:
            await self.abort(upload)

    async def run(self) -> None:
        """Abort what nobody wants, for ever."""
        while True:
            due_s = min((pause.until_s for pause in self._unwanted.values()), default=math.inf)
            with trio.move_on_at(due_s):
                await self._asked.wait()
            self._asked = trio.Event()
            await self.abort_due()

    async def abort_due(self, *, all_of_them: bool = False) -> None:
        """Try to abort what is not paused after a failure, or all; failures are logged and kept."""
        async with self._aborting:
            for upload, pause in list(self._unwanted.items()):
                if all_of_them or pause.until_s <= trio.current_time():
                    await self._abort(upload, pause)

    async def _abort(self, upload: Upload, pause: Backoff) -> None:
        try:
            await self._store.abort_upload(upload)
            await self.finished(upload)
        except VfsError as error:
            pause.fail(trio.current_time())
            if pause.is_doubling:
                log.info(
                    "an upload of %r that is not wanted any more is not aborted yet (failure %d), "
                    "tried again: %s",
                    upload.key,
                    pause.failures,
                    error.message,
                )
        except Exception:  # a fault of ours is tried again, never ends the mount
            log.exception("aborting an upload of %r failed unexpectedly", upload.key)
            pause.fail(trio.current_time())

    async def answered(self) -> None:
        """Return when every beginning was answered."""
        while self._beginning:
            await self._begun.wait()


@asynccontextmanager
async def open_uploads(store: Store, journal: Journal) -> AsyncGenerator[JournalledUploads]:
    """Look after the uploads of a mount; leaving the block leaves to the journal what is open."""
    async with open_tasks() as nursery:
        uploads = JournalledUploads(store, journal, nursery)
        nursery.start_soon(uploads.run)
        yield uploads
        with trio.move_on_after(GRACE_S):
            await uploads.answered()
        nursery.cancel_scope.cancel()
