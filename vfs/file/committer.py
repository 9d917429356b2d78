"""Turns staged content into stored versions: on demand, ahead of demand, and again after failures.

Callers that wait for one file share one commit: a commit covers every change made before it froze
the file, so a caller waits for the first one that began after its own changes. Commits run in the
committer's nursery, never in the request that asked: a request that gives up at its deadline loses
nothing, the commit goes on and is retried for ever.
"""

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from vfs.errors import ConflictError, DeniedError, StaleError, UnreachableError, VfsError
from vfs.file.content import Content
from vfs.layout.base import Draft, Layout
from vfs.tasks import open_tasks
from vfs.values import Span

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
RETRY_CAP_S = 60.0
PARTS_AHEAD = 8
"""Parts sent ahead at once over all files: enough to overlap requests on any link we measured."""
COMMITS_AT_ONCE = 16
TEND_S = 1.0


class _State:
    """What the committer knows of one dirty content."""

    def __init__(self) -> None:
        self.finished = trio.Event()  # set, and replaced, when a commit ends
        self.running = False
        self.scope = trio.CancelScope()
        self.ended = trio.Event()  # no commit is under way any more
        self.wanted_now = trio.Event()  # ends the pause after a failure
        self.goal = 0  # changes that somebody wants stored
        self.error: VfsError | None = None  # of the last attempt
        self.unreported = False  # the error still has to fail one fsync or close
        self.attempts = 0


class Committer:
    """Commits of all files of a mount.

    `local`: fsync and close wait for the stage only; what they leave is committed when it is due
    (`Content.is_due`), at the last close and when the stage is full.
    """

    def __init__(
        self, layout: Layout, nursery: trio.Nursery, wait_s: float, *, local: bool = False
    ) -> None:
        self._layout = layout
        self._nursery = nursery
        self._wait_s = wait_s
        self.local = local
        self._arrived = trio.Event()  # set, and replaced, when there is something to tend
        self._states: dict[Content, _State] = {}
        self._commit_slots = trio.CapacityLimiter(COMMITS_AT_ONCE)
        self._ahead_slots = trio.CapacityLimiter(PARTS_AHEAD)
        self._last_progress = float("-inf")
        self._sent = 0
        self.on_conflict: Callable[[Content, VfsError], None] = lambda _content, _error: None
        self.on_progress: Callable[[], None] = lambda: None
        self.failed_uploads = 0
        self.last_error: str | None = None

    @property
    def dirty(self) -> list[Content]:
        """Contents that the store does not have yet, the oldest change first."""
        waiting = [one for one in self._states if one.needs_commit]
        return sorted(waiting, key=lambda one: one.dirty_since_s or 0.0)

    @property
    def running(self) -> int:
        """Commits under way."""
        return sum(state.running for state in self._states.values())

    @property
    def failing(self) -> int:
        """Contents whose last attempt failed."""
        return sum(state.error is not None for state in self._states.values())

    def note(self, content: Content) -> None:
        """Keep track of a content that has changed."""
        if content not in self._states:
            content.journal.on_progress = self.progress
            self._states[content] = _State()
            self._arrived.set()

    def progress(self) -> None:
        """Note that bytes reach the store, so that waiting callers keep waiting."""
        self._last_progress = trio.current_time()
        self.on_progress()

    async def keep(self, content: Content) -> None:
        """Return when the content is as safe as fsync and close promise.

        Errors: those of `store`; with `local`, of the stage's disk instead.
        """
        if not self.local:
            await self.store(content)
            return
        content.refuse_if_lost()
        self._raise_unreported(content)
        if content.needs_commit:
            self.note(content)
            await content.persist()

    async def tend(self) -> None:
        """Look after what is dirty, once a second: journal what was written, start what is due."""
        while True:
            while not self._states:
                self._arrived = trio.Event()
                await self._arrived.wait()
            await trio.sleep(TEND_S)
            sent = sum(
                content.staged.bytes_sent
                for content, state in self._states.items()
                # One that has failed reads its bytes again and again: no progress.
                if content.staged is not None and state.error is None
            )
            if sent != self._sent:
                self._sent = sent
                self.progress()  # a part that takes a minute moves all the same
            for content in list(self._states):
                try:
                    self._tend(content)
                except Exception:  # one file's trouble, never the mount's
                    log.exception("looking after %r failed unexpectedly", content.owner.key)

    def _tend(self, content: Content) -> None:
        if content.needs_commit:
            content.journal.note()
            if self.local and not self._states[content].running and content.is_due:
                self.start(content)

    async def store(self, content: Content) -> None:
        """Return when the store holds every change made before the call.

        Errors: StaleError when somebody else won; UnreachableError when nothing moved for the time
        limit; any store error. Nothing is lost by any of them: the upload goes on in the
        background.
        """
        content.refuse_if_lost()
        self._raise_unreported(content)
        if not content.needs_commit:
            return
        self.note(content)
        state = self._states[content]
        goal = content.changes
        attempts = state.attempts
        self.start(content)
        since = trio.current_time()
        while content.stored < goal and not content.discarded:
            content.refuse_if_lost()
            if state.error is not None and state.attempts > attempts:
                state.unreported = False
                raise state.error.with_traceback(None)
            limit = max(since, self._last_progress) + self._wait_s
            with trio.move_on_at(limit) as scope:
                await state.finished.wait()
            if scope.cancelled_caught and trio.current_time() >= self._last_progress + self._wait_s:
                await self._persist(content)
                raise UnreachableError(
                    f"not stored: nothing has moved for {self._wait_s:g} s; the bytes stay staged "
                    "and the upload goes on",
                    key=content.owner.key,
                )
        content.refuse_if_lost()

    def refusal(self, content: Content) -> DeniedError | None:
        """Return why the store does not take a content at all, as far as the last attempt tells."""
        state = self._states.get(content)
        error = state.error if state is not None else None
        return error if isinstance(error, DeniedError) else None

    def _raise_unreported(self, content: Content) -> None:
        state = self._states.get(content)
        if state is not None and state.unreported and state.error is not None:
            state.unreported = False
            raise state.error.with_traceback(None)

    def start(self, content: Content) -> None:
        """Begin to commit what the content holds now, in the background."""
        self.note(content)
        state = self._states[content]
        state.goal = content.changes
        state.wanted_now.set()
        if not state.running:
            state.running = True
            state.scope = trio.CancelScope()
            state.ended = trio.Event()
            self._nursery.start_soon(self._run, content, state)

    async def _run(self, content: Content, state: _State) -> None:
        try:
            with state.scope:
                await self._commit_until_stored(content, state)
        finally:
            state.running = False
            state.ended.set()
            self._signal(state)
            if not content.needs_commit:
                self._states.pop(content, None)
                # What is removed is let go by who removes it, after its journal says so.
                if content.handles == 0 and not content.discarded:
                    content.release_stage()

    async def _commit_until_stored(self, content: Content, state: _State) -> None:
        while content.needs_commit and (
            content.stored < state.goal or content.stored == content.changes
        ):
            if not content.has_steps:  # they may be what the other file waits for
                await content.pass_gate()  # before a slot is taken: the other file may need it
            async with self._commit_slots:
                await self._attempt(content, state)
            if state.error is not None and content.lost is None:
                pause = min(RETRY_CAP_S, RETRY_FIRST_S * 2 ** min(state.attempts - 1, 10))
                state.wanted_now = trio.Event()
                with trio.move_on_after(pause):
                    await state.wanted_now.wait()

    async def _attempt(self, content: Content, state: _State) -> None:
        try:
            await content.commit()
        except (ConflictError, StaleError) as error:
            if not content.discarded:
                self.on_conflict(content, error)
            state.error = error
        except VfsError as error:
            self._failed(content, state, error)
            await self._persist(content)
        except Exception as error:
            # A fault of ours fails this file's callers and is tried again, never ends the mount.
            log.exception("commit of %r failed unexpectedly", content.owner.key)
            self._failed(content, state, VfsError(f"unexpected error: {error}"))
            await self._persist(content)
        else:
            state.error = None
            state.unreported = False
            state.attempts = 0
            self.progress()
        self._signal(state)

    def _failed(self, content: Content, state: _State, error: VfsError) -> None:
        state.error = error
        # That a removal has failed is nothing that a close could tell.
        state.unreported = content.changes != content.stored or content.moved_from is not None
        state.attempts += 1
        self.failed_uploads += 1
        self.last_error = error.message
        log.warning(
            "upload of %r failed (attempt %d), kept in the stage and tried again: %s",
            content.owner.key,
            state.attempts,
            error.message,
        )

    @staticmethod
    async def _persist(content: Content) -> None:
        """Let what the store does not take survive a restart."""
        try:
            await content.persist()
        except VfsError as error:
            log.warning("%r is not safe in the stage either: %s", content.owner.key, error.message)

    @staticmethod
    def _signal(state: _State) -> None:
        state.finished.set()
        state.finished = trio.Event()

    async def cancel(self, content: Content) -> bool:
        """End the commits of a discarded content; True when one was under way.

        That one may have succeeded: the caller looks what the store holds.
        """
        state = self._states.pop(content, None)
        if state is None or not state.running:
            return False
        state.scope.cancel()
        await state.ended.wait()
        return True

    def send_ahead(self, content: Content, near: Span) -> None:
        """Send parts that a writer has just completed, while it goes on."""
        for draft, span in content.parts_ahead(near):
            self._nursery.start_soon(self._send_ahead, content, draft, span)

    async def _send_ahead(self, content: Content, draft: Draft, span: Span) -> None:
        async with self._ahead_slots:
            try:
                await content.send_ahead(draft, span)
                self.progress()
            except VfsError as error:
                # The commit sends the part again and reports what is wrong then.
                log.debug("part ahead of %r failed: %s", content.owner.key, error.message)
            except Exception:
                log.exception("part ahead of %r failed unexpectedly", content.owner.key)

    def relieve(self) -> None:
        """Make room in the stage: commit the oldest change."""
        dirty = self.dirty
        if dirty:
            self.start(dirty[0])

    async def drain(self) -> None:
        """Return when everything is stored or cannot be; errors stay with their contents."""
        while pending := self.dirty:
            for content in pending:
                # Not those that pause after a failure: a store that is down is asked at its pace.
                if not self._state(content).running:
                    self.start(content)
            await self._states[pending[0]].finished.wait()

    async def persist(self) -> None:
        """Let what is not stored survive a restart, as far as the stage's disk takes it."""
        for content in self.dirty:
            await self._persist(content)

    def _state(self, content: Content) -> _State:
        self.note(content)
        return self._states[content]


@asynccontextmanager
async def open_committer(
    layout: Layout, wait_s: float, *, local: bool = False
) -> AsyncGenerator[Committer]:
    """Run a committer; leaving the block cancels its uploads, staged bytes stay."""
    async with open_tasks() as nursery:
        committer = Committer(layout, nursery, wait_s, local=local)
        nursery.start_soon(committer.tend)
        yield committer
        nursery.cancel_scope.cancel()
