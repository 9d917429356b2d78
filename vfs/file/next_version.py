"""The next version of a file in the making: its draft, and whether a commit of it may have landed.

A draft is begun when it is first needed and forgotten when where it goes, or what it is made from,
is not right any more. After a commit whose answer was lost it stays, so that it can be asked what
became of it.
"""

from collections.abc import Callable

from vfs.file.owner import Owner
from vfs.layout.base import Begun, Draft, FileVersion, Layout, UploadLog
from vfs.spans import SpanSet
from vfs.values import Span

MadeFrom = Callable[[], tuple[FileVersion | None, FileVersion | None]]
"""The version whose bytes a draft uses, and the one that its commit replaces."""


class NextVersion:
    """What one content has begun for its next version."""

    def __init__(self, layout: Layout, owner: Owner, log: UploadLog, made_from: MadeFrom) -> None:
        self._layout = layout
        self._owner = owner
        self._log = log
        self._made_from = made_from
        self._draft: Draft | None = None
        self._begun: Begun | None = None  # what an earlier daemon has done for it
        self.tried = False  # a commit of the draft has failed, perhaps after it took effect

    @property
    def sent_bytes(self) -> int:
        """Bytes of the file that were sent already."""
        return self._draft.sent_bytes if self._draft is not None else 0

    @property
    def commit_id(self) -> str | None:
        """That of a commit that may have taken effect."""
        return self._draft.commit_id if self._draft is not None and self.tried else None

    def draft(self) -> Draft:
        """Return the draft, begun when there is none."""
        if self._draft is None:
            base, replaces = self._made_from()
            self._draft = self._layout.draft(
                self._owner.key,
                base=base,
                replaces=replaces,
                metadata=self._owner.object_metadata(),
                log=self._log,
                begun=self._begun,
            )
            self._begun = None
        return self._draft

    def is_made_by(self, draft: Draft) -> bool:
        """Tell whether a draft is not history yet."""
        return self._draft is draft

    def ahead(self, near: Span, complete: SpanSet, size: int) -> list[tuple[Draft, Span]]:
        """Return parts that may be sent before the commit."""
        draft = self.draft()
        return [(draft, span) for span in draft.ahead(near, complete, size)]

    def touch(self, span: Span) -> None:
        """Note that bytes have changed since they were sent."""
        if self._draft is not None:
            self._draft.touch(span)

    def go_on(self, begun: Begun) -> None:
        """Begin with what an earlier daemon has done; its commit may have taken effect."""
        self._begun = begun
        self.tried = True
        self.draft()

    async def landed(self) -> FileVersion | None:
        """Return the version that a commit made whose answer was lost."""
        return await self._draft.landed() if self._draft is not None and self.tried else None

    def made(self) -> Draft | None:
        """Take note that there is such a version; return its draft, which is history now."""
        draft, self._draft, self.tried = self._draft, None, False
        return draft

    async def forget(self) -> None:
        """Drop a draft whose target or condition is not right any more."""
        draft, self._draft = self._draft, None  # at once: no part may follow
        if draft is not None:
            await draft.abandon()
