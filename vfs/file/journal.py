"""The journal of one open file: what a restart must know of its staged bytes.

It begins with the first upload in parts, the first fsync that only the disk has to keep, a failure,
or a second of writing, whichever is first: a small file that goes to the store at once costs no
journal. Until then a crash forgets what nobody was promised.

What the journal cannot take because its disk is full is queued and does not hold up an upload,
which is what makes room; only what a caller waits for fails.
"""

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager

from typing_extensions import override

from vfs.errors import VfsError
from vfs.layout.base import UploadLog
from vfs.stage.file import StagedFile
from vfs.stage.journal import (
    StagedState,
    about_record,
    part_record,
    sending_record,
    target_record,
    upload_record,
)
from vfs.stage.records import Record
from vfs.store.base import Part, Upload
from vfs.values import Span

log = logging.getLogger(__name__)


class FileJournal(UploadLog):
    """What is told of one content; without staged bytes there is nothing to tell."""

    def __init__(
        self, staged: Callable[[], StagedFile | None], describe: Callable[[], StagedState]
    ) -> None:
        self._staged = staged
        self._describe = describe  # where the file goes, and what it is made from
        self.on_progress: Callable[[], None] = lambda: None  # called when the store has a part

    def begin(self) -> None:
        """Journal from now on. Errors: FullError, VfsError when the disk fails."""
        staged = self._staged()
        if staged is not None and not staged.log.begun:
            staged.begin_log(self._describe())

    def note(self) -> None:
        """Let what was written survive a crash of the daemon."""
        staged = self._staged()
        if staged is not None:
            with self._disk_may_fail():
                self.begin()
                staged.note()

    async def persist(self) -> None:
        """Return when what was written before the call survives a power cut.

        Errors: FullError, VfsError when the disk fails.
        """
        staged = self._staged()
        if staged is not None:
            self.begin()
            self._tell_about(staged)
            await staged.persist()

    async def keep(self) -> None:
        """Return when a reboot would find the file, whatever it finds of its bytes.

        A full disk is no error: storing the file is what makes room.
        """
        staged = self._staged()
        if staged is not None:
            with self._disk_may_fail():
                self.begin()
                self._tell_about(staged)
                await staged.keep_log()

    async def sync(self) -> None:
        """Return when what was told is on the disk, if a reboot is to read it.

        Errors: FullError, VfsError when the disk fails.
        """
        staged = self._staged()
        if staged is not None:
            await staged.sync_log()

    async def describe(self) -> None:
        """Keep what the tree says of the name. Errors: FullError, VfsError when the disk fails."""
        staged = self._staged()
        if staged is not None:
            self._tell_about(staged)
            await staged.sync_log()

    def _tell_about(self, staged: StagedFile) -> None:
        about = self._describe().about
        if staged.log.begun and staged.log.about != about:
            staged.log.about = about
            staged.tell(about_record(about))

    def retarget(self, *over: StagedFile) -> None:
        """Tell where the file goes and what it is made from, after either has changed.

        `over` are the staged files of a name that it has replaced.
        """
        names = tuple(one.path.name for one in over if one.log.begun)
        self._tell(lambda: target_record(self._describe(), over=names))

    async def forget(self) -> None:
        """Return when no restart takes the file up any more.

        Errors: FullError, VfsError when the disk fails.
        """
        staged = self._staged()
        if staged is not None:
            await staged.forget()

    # What the layout tells

    @override
    async def upload_begun(self, upload: Upload) -> None:
        with self._disk_may_fail():
            self.begin()
            self._tell(lambda: upload_record(upload))
            await self.sync()

    @override
    def sending(self, number: int) -> None:
        self._tell(lambda: sending_record(number))

    @override
    def progress(self) -> None:
        self.on_progress()

    @override
    def part_sent(self, part: Part, span: Span) -> None:
        staged = self._staged()
        if staged is not None:
            self._tell(lambda: part_record(part, span, staged.log.boot))

    def _tell(self, record: Callable[[], Record]) -> None:
        staged = self._staged()
        if staged is not None and staged.log.begun:
            with self._disk_may_fail():
                staged.tell(record())

    @contextmanager
    def _disk_may_fail(self) -> Generator[None]:
        try:
            yield
        except VfsError as error:
            log.warning("journal of %r: %s", self._describe().key, error.message)
