"""What was written and is stored now is still in the stage: the SSD tier takes it from there.

A block counts only while the stage holds all of it as the store has it; whatever is written, stored
or given back meanwhile ends its turn, and then it is fetched when somebody reads it.
"""

import logging
from collections.abc import Callable
from contextlib import suppress

from vfs.cache.fill import Fetcher
from vfs.errors import VfsError
from vfs.layout.base import FileVersion
from vfs.spans import EMPTY, SpanSet
from vfs.stage.file import StagedFile
from vfs.values import Span

log = logging.getLogger(__name__)

Stored = Callable[[], tuple[FileVersion | None, StagedFile | None]]
"""What the file's base version and its stage are now."""


class Adoption:
    """The blocks of one file that its stage still has to hand over."""

    def __init__(self, fetcher: Fetcher, stored: Stored, when_done: Callable[[], None]) -> None:
        self._fetcher = fetcher
        self._stored = stored
        self._when_done = when_done
        self._todo: SpanSet = EMPTY
        self.is_running = False  # the stage stays until it is done

    def note(self, changed: SpanSet) -> None:
        """Hand over what a commit has stored, some time later."""
        if self._fetcher.disk is None:
            return
        self._todo = self._todo.union(changed)
        if not self.is_running:
            self.is_running = True
            self._fetcher.spawn(self._run)

    async def _run(self) -> None:
        try:
            with suppress(VfsError):  # the stage's disk fails: somebody who needs it will tell
                while self._todo:
                    file, _ = self._stored()
                    if file is None:
                        break
                    blocks = self._next(file)
                    await self._fetcher.adopt(file, blocks, self._read)
        except Exception:  # a fault of ours: the blocks are fetched when they are read
            log.exception("what was stored could not be handed to the cache")
        finally:
            self._todo = EMPTY
            self.is_running = False
            self._when_done()

    def _next(self, file: FileVersion) -> range:
        """Take blocks that lie together out of what is to be done; they may be none."""
        size = self._fetcher.block_bytes
        span = next(iter(self._todo))
        first, last = -(-span.start // size), span.stop // size
        if span.stop >= file.size:  # the last block ends with the file
            last = -(-file.size // size)
        stop = min(last, first + self._fetcher.request_blocks)
        done = stop * size if stop < last else span.stop
        self._todo = self._todo.remove(Span(0, done))
        return range(first, max(stop, first))

    async def _read(self, file: FileVersion, span: Span, view: memoryview) -> bool:
        """Fill the buffer; False when the stage does not hold these bytes as they are stored."""
        staged = self._right(file, span)
        if staged is None:
            return False
        with staged.reading():
            await staged.read_into(span, view)
        return self._right(file, span) is staged

    def _right(self, file: FileVersion, span: Span) -> StagedFile | None:
        base, staged = self._stored()
        if base != file or staged is None or not staged.is_stored(span):
            return None
        return staged
