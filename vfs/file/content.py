"""The content of one file: the base version in the store, with staged changes over it.

All handles of a file share one. Reads take staged bytes where they are present and the base version
elsewhere; every write goes to the stage; `Committer` turns the staged state into the next version.
It knows no names: its owner, a node of the tree, tells where it belongs.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from vfs.cache.fill import Fetcher
from vfs.errors import ConflictError, StaleError, VfsError
from vfs.file.adoption import Adoption
from vfs.file.frozen import FrozenContent
from vfs.file.journal import FileJournal
from vfs.file.next_version import NextVersion
from vfs.file.owner import Owner
from vfs.file.window import History, advance
from vfs.layout.base import NO_UPLOAD_LOG, Draft, FileVersion, Layout
from vfs.stage.directory import Stage
from vfs.stage.file import StagedFile
from vfs.stage.frozen import LiveBody
from vfs.stage.journal import Extent, StagedState
from vfs.tasks import either
from vfs.values import Key, Span

log = logging.getLogger(__name__)

IDLE_S = 5.0
"""A file that is written in the background is stored when nobody has written for so long."""
LATE_S = 60.0
"""And never later than this after its oldest change."""


Step = Callable[[], Awaitable[None]]
"""Something in the store that is tried until it succeeds. Errors: any store error."""


class Content:
    """What a file holds now."""

    def __init__(
        self,
        layout: Layout,
        fetcher: Fetcher,
        stage: Stage,
        owner: Owner,
        base: FileVersion | None,
    ) -> None:
        self.layout = layout
        self.owner = owner
        self.base = base  # where clean bytes come from
        self.replaces = base  # what the target must hold when the next version is committed
        self.moved_from: FileVersion | None = None  # an old name, removed after the next commit
        self.after_move: Callable[[], Awaitable[None]] | None = None  # called when it is removed
        self.left: list[Step] = []  # removals that have failed
        self.before: list[Step] = []  # what must be settled before the next version is stored
        self.staged: StagedFile | None = None
        self.lost: VfsError | None = None  # somebody else won: this content can never be stored
        self.discarded = False  # unlinked: must not be stored any more
        self.rescuing = False  # what a lost content holds is being kept elsewhere
        self.commits = trio.Lock()  # held by a commit, and by whoever changes where it goes
        self._gate: trio.Event | None = None  # until it is set the name belongs to another file
        self._regated = trio.Event()  # set, and replaced, when it is another one
        self.handles = 0
        self.writers = 0
        self.changes = 0  # reasons to commit, counted
        self.stored = 0  # the count that the last commit covered
        self.dirty_since_s: float | None = None
        self._changed_s = 0.0
        self._fetcher = fetcher
        self._adoption = Adoption(fetcher, lambda: (self.base, self.staged), self._may_release)
        self._stage = stage
        self._staging = trio.Lock()
        self._telling = False
        self._described_by = 0  # calls that wait for the journal
        self.journal = FileJournal(lambda: self.staged, self._described)
        self.next = NextVersion(layout, owner, self.journal, self._made_from)

    @property
    def size(self) -> int:
        """Bytes of the file as it is now."""
        if self.staged is not None:
            return self.staged.size
        return self.base.size if self.base is not None else 0

    @property
    def needs_commit(self) -> bool:
        """Whether the store does not have what the file holds, or has what is not its any more."""
        if self.has_steps:
            return True
        if self.discarded or self.lost is not None:
            return False
        return self.changes != self.stored or self.moved_from is not None

    @property
    def has_steps(self) -> bool:
        """Whether something else is to be done in the store that nobody waits for."""
        return bool(self.left or self.before)

    @property
    def is_gated(self) -> bool:
        """Whether another file must be stored first: what is under the name belongs to it."""
        return self._gate is not None and not self._gate.is_set()

    async def pass_gate(self) -> None:
        """Return when the name is this file's, or it has another name by now that is."""
        while self._gate is not None and self.is_gated:
            await either(self._gate, self._regated)

    @property
    def gate(self) -> trio.Event | None:
        """Set when the name is this file's; None when it is."""
        return self._gate

    @gate.setter
    def gate(self, gate: trio.Event | None) -> None:
        self._gate = gate
        self._regated.set()
        self._regated = trio.Event()

    @property
    def dirty_bytes(self) -> int:
        """Staged bytes that the store does not have."""
        if self.staged is None or self.discarded:
            return 0
        return self.staged.dirty.size

    @property
    def unsent_bytes(self) -> int:
        """Those that must still be sent."""
        return max(self.dirty_bytes - self.next.sent_bytes, 0)

    @property
    def is_due(self) -> bool:
        """Whether a commit that nobody waits for should begin."""
        now = trio.current_time()
        return now - self._changed_s >= IDLE_S or now - (self.dirty_since_s or now) >= LATE_S

    def changed(self) -> None:
        """Note a reason to commit."""
        self.changes += 1
        self._changed_s = trio.current_time()
        if self.dirty_since_s is None:
            self.dirty_since_s = self._changed_s

    def refuse_if_lost(self) -> None:
        """Raise what a write or fsync of a lost content must answer. Errors: StaleError."""
        if self.lost is not None:
            raise StaleError(
                "somebody else has written this file; what was written here is kept apart: "
                f"{self.lost.message}",
                key=self.owner.key,
            )

    # Reading

    def read_ahead(self, span: Span, history: History) -> History:
        """Start fetching what a reader will ask for next; return its new history.

        Before its read, and without an await: requests of one reader arrive together.
        """
        span = span.clip(Span(0, self.size))
        base, staged = self.base, self.staged
        if base is None or not span:
            return history
        history, wanted = advance(history, span, self._fetcher.ahead_bytes(), self.size)
        for ahead in wanted:
            if staged is None or not staged.present.covers(ahead):
                self._fetcher.prefetch(base, ahead)
        return history

    async def read(self, span: Span) -> bytes | memoryview:
        """Return the bytes of a span up to the end of the file.

        Shape: a memoryview is valid until the caller's next await.
        """
        while True:
            base = self.base
            try:
                return await self._read(span.clip(Span(0, self.size)), base)
            except StaleError:
                if self.base is base and (
                    self.next.tried or self.discarded or self.commits.statistics().locked
                ):
                    async with self.commits:  # or it is just being put aside, or its directory
                        await self.settle()
                if self.base is base:
                    raise
                # Our own commit has replaced the base meanwhile: its blocks have the same bytes.

    async def _read(self, span: Span, base: FileVersion | None) -> bytes | memoryview:
        if not span:
            return b""
        if self.staged is not None:
            return await self._read_staged(span, self.staged, base)
        if base is None:
            return bytes(span.size)
        return await self._fetcher.read(base, span)

    async def _read_staged(
        self, span: Span, staged: StagedFile, base: FileVersion | None
    ) -> memoryview:
        out = memoryview(bytearray(span.size))
        present = staged.present  # one state for the whole read, whatever is written meanwhile
        with staged.reading():
            for part in present.within(span):
                view = out[part.start - span.start : part.stop - span.start]
                await staged.read_into(part, view)
            for gap in present.missing(span):
                if base is not None:
                    piece = gap.clip(Span(0, base.size))
                    data = await self._fetcher.read(base, piece)
                    out[piece.start - span.start : piece.stop - span.start] = data
        return out

    # Writing

    async def stage_for_writing(self) -> StagedFile:
        """Return the staged file, made when there is none."""
        async with self._staging:
            if self.staged is None:
                size = self.base.size if self.base is not None else 0
                return self._hold(await self._stage.new_file(size))
            return self.staged

    def adopt(
        self, staged: StagedFile, *, base: FileVersion | None, replaces: FileVersion | None
    ) -> None:
        """Go on with what an earlier daemon has staged."""
        self._hold(staged)
        self.base, self.replaces = base, replaces

    def _hold(self, staged: StagedFile) -> StagedFile:
        # Also what is only being written: a restart must not take parts for what the file holds.
        staged.on_write, staged.on_change = self.next.touch, self._on_change
        self.staged = staged
        return staged

    def _on_change(self, span: Span) -> None:
        self.changed()
        self.next.touch(span)

    async def write(self, offset: int, data: bytes) -> int:
        """Stage bytes. Errors: StaleError when lost, TooLargeError, FullError."""
        self.refuse_if_lost()
        if not data:
            return 0
        if offset + len(data) > self.size:
            self.layout.check_size(offset + len(data))
        await (self.staged or await self.stage_for_writing()).write(offset, data)
        return len(data)

    async def truncate(self, size: int) -> None:
        """Set the size."""
        self.refuse_if_lost()
        self.layout.check_size(size)
        await (self.staged or await self.stage_for_writing()).truncate(size)

    # Committing

    def _made_from(self) -> tuple[FileVersion | None, FileVersion | None]:
        base_is_used = self.staged is None or self.staged.base_size > 0
        return self.base if base_is_used else None, self.replaces

    def parts_ahead(self, near: Span) -> list[tuple[Draft, Span]]:
        """Return parts that the writer has completed and that may be sent before the commit."""
        staged = self.staged
        if staged is None or self.lost or self.discarded or staged.is_frozen:
            return []
        return self.next.ahead(near, staged.dirty, staged.size)

    async def send_ahead(self, draft: Draft, span: Span) -> None:
        """Send one of `parts_ahead`, unless its draft is history."""
        if self.staged is not None and self.next.is_made_by(draft):
            await draft.send(span, LiveBody(self.staged, span))

    async def retarget(self) -> None:
        """Forget a draft whose target or condition is not right any more."""
        await self.next.forget()

    async def settle(self) -> None:
        """Find out whether a commit whose answer was lost has taken effect, and take note of it.

        With `commits` held.
        """
        landed = await self.next.landed()
        if landed is not None:
            await self._settle_landed(landed)

    async def _settle_landed(self, version: FileVersion) -> None:
        # Bytes that are clean now were clean when that commit was made, so it has them too.
        if self.base is not None and self.staged is not None:
            end = self.staged.base_size
            changed = self.staged.dirty.add(Span(end, max(end, self.base.size, version.size)))
            self._fetcher.hand_over(self.base, version, changed)
        self.base = self.replaces = version
        draft = self.next.made()
        self.owner.committed(version)
        with suppress(VfsError):
            # First what the tree knows by it: a restart that believes it stored asks nobody.
            await self._stage.sync_names()
            self.journal.retarget()
        if draft is not None:  # what it has begun since is nobody's
            await draft.abandon()

    async def commit(self) -> None:
        """Store what the file holds now. One at a time: only `Committer` calls this.

        Errors: ConflictError when somebody else wrote the name; any store error, then nothing is
        lost.
        """
        await self._carry_out(self.before)
        async with self.commits:
            if not self.discarded and self.lost is None and not self.is_gated:
                if self.changes != self.stored:
                    await self._commit()
                await self.finish_move()
        await self._carry_out(self.left)

    @staticmethod
    async def _carry_out(steps: list[Step]) -> None:
        while steps:
            step = steps[0]
            await step()
            with suppress(ValueError):  # done by somebody else meanwhile
                steps.remove(step)

    async def _commit(self) -> None:
        self._telling = True  # the stage stays until its journal says what has become of it
        try:
            while not await self._commit_frozen():
                pass
        except Exception:  # not when it is cancelled: then the next owner of the stage finds out
            self._telling = False
            raise
        self._telling = False

    async def _commit_frozen(self) -> bool:
        """Commit what the file holds; False when an earlier commit had landed: once more."""
        staged = await self.stage_for_writing()
        if self.owner.is_fragile:
            await self.journal.keep()
        frozen = await staged.freeze(self.next.draft().commit_id)
        covered = self.changes
        stored: FileVersion | None = None
        try:
            await staged.sync_log()
            version = await self._put(FrozenContent(staged, frozen, self._read_base))
            if version is None:
                return False
            base = self.base
            # No await from here on: base, stage and tree change together.
            if base is not None:
                end = min(base.size, frozen.base_size)
                changed = frozen.changed.add(Span(end, max(end, base.size, frozen.size)))
                self._fetcher.hand_over(base, version, changed)
            self.base = self.replaces = version
            self.next.made()
            self.stored = covered
            self.dirty_since_s = None if covered == self.changes else trio.current_time()
            stored = version
            self.owner.committed(version)
        finally:
            staged.thaw(stored=stored)
        self._adoption.note(frozen.changed)
        with suppress(VfsError):  # the store has it, and a restart asks the store
            await self.tell_stored(staged, version)
        return True

    def take_back(self) -> None:
        """Live on: its removal, for which a commit was cancelled, has failed."""
        self.discarded = False
        if self._telling:
            self.left.append(self._finish_telling)

    async def _finish_telling(self) -> None:
        with suppress(VfsError):
            if self._telling and self.staged is not None and self.base is not None:
                await self.tell_stored(self.staged, self.base)
        self._telling = False

    async def tell_stored(self, staged: StagedFile, version: FileVersion) -> None:
        """Let the journal of a file say that it is stored.

        Errors: FullError, VfsError when the disk fails.
        """
        if staged.log.promised:
            # The attributes of the new version first: a restart that believes it stored would
            # know none.
            await self._stage.sync_names()
        await staged.tell_stored(version)

    async def _put(self, content: FrozenContent) -> FileVersion | None:
        draft, again = self.next.draft(), self.next.tried
        self.next.tried = True
        try:
            version = await draft.commit(content, self.owner.object_metadata())
        except (ConflictError, StaleError):
            landed = await draft.landed() if again else None
            if landed is None:
                raise
            await self._settle_landed(landed)
            return None  # the next draft has an id of its own, to be journalled first
        self.next.tried = False
        return version

    # What a restart takes up

    def _described(self) -> StagedState:
        # Of a commit that may have taken effect a restart must know, or it meets itself.
        key, about, tried = self.owner.key, self.owner.about(), self.next.commit_id
        return StagedState(key, self.replaces, self.base, Extent(0, 0), about, commit_id=tried)

    async def persist(self) -> None:
        """Return when what was written before the call survives a power cut.

        Errors: FullError, VfsError when the disk fails.
        """
        if not self.discarded and self.changes != self.stored:
            await self.stage_for_writing()
            await self.journal.persist()

    async def describe(self, *, stored: bool) -> None:
        """Keep what the tree says of the name: for a `stored` file it must survive the next commit.

        Errors: FullError, VfsError when the disk fails.
        """
        self._described_by += 1
        try:
            if stored:
                await self.stage_for_writing()
                await self.journal.keep()
            else:
                await self.journal.describe()
        finally:
            self._described_by -= 1
            self._may_release()  # a commit has ended meanwhile

    async def commit_copy(self, target: Key) -> FileVersion:
        """Store what the file holds under another key, without the base being current any more.

        Errors: StaleError when bytes of the base are needed and gone; ConflictError when `target`
        is taken.
        """
        await self.retarget()
        staged = await self.stage_for_writing()
        frozen = await staged.freeze()
        about = self.owner.object_metadata()
        draft = self.layout.draft(
            target, base=None, replaces=None, metadata=about, log=NO_UPLOAD_LOG
        )
        try:
            return await draft.commit(FrozenContent(staged, frozen, self._read_base), about)
        except BaseException:  # cancelled, too
            await draft.abandon()
            raise
        finally:
            staged.thaw(stored=None)

    async def finish_move(self) -> None:
        """Finish a rename whose new name is stored: remove the old one. With `commits` held."""
        old, after = self.moved_from, self.after_move
        if old is None or self.base is None or old.pin.key == self.base.pin.key:
            return
        try:
            await self.layout.remove(old)
        except ConflictError:
            log.warning(
                "%r was written by somebody else while it was renamed to %r: both names stay",
                old.pin.key,
                self.base.pin.key,
            )
        self.moved_from = self.after_move = None
        if after is not None:
            await after()

    async def _read_base(self, span: Span) -> bytes | memoryview:
        if self.base is None:
            raise VfsError("bytes are neither staged nor stored", key=self.owner.key)
        return await self._fetcher.read(self.base, span)

    @property
    def _is_used(self) -> bool:
        frozen = self.staged is not None and self.staged.is_frozen
        telling = (self._telling and not self.discarded) or self._described_by > 0
        return frozen or telling or self.rescuing or self._adoption.is_running

    def _may_release(self) -> None:
        if not self.handles and not self.needs_commit:
            self.release_stage()

    def release_stage(self) -> None:
        """Let the staged bytes go when the store has them all and nobody writes."""
        if self.staged is not None and not self._is_used:
            self.staged.close()
            self.staged = None
