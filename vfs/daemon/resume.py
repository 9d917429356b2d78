"""Storing what a mount has left, without mounting again.

It is what the next mount would do, without the kernel: the same tree on the same stage, and then a
drain. That ends when all is stored, or when each file that is left was tried and failed.
"""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.config import Config
from vfs.daemon.assembly import Mount, open_tree
from vfs.daemon.known import recall
from vfs.daemon.leftovers import FoundStage, Leftover, look
from vfs.errors import BusyError, VfsError
from vfs.metrics import Metrics
from vfs.stage.budget import StageBudget
from vfs.stage.directory import Stage
from vfs.stage.file import StagedFile
from vfs.stage.journal import StagedState
from vfs.store.base import Store
from vfs.store.open import START_S, silent
from vfs.store.wrap.base import Call, WrappedStore
from vfs.tasks import open_tasks
from vfs.values import Key

NO_LIMIT_BYTES = 1 << 62
"""There are no writers to hold back."""

LOOK_S = 0.2

T = TypeVar("T")
Show = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of the files of one stage."""

    stored: tuple[Leftover, ...]
    copies: tuple[tuple[Leftover, Key], ...]  # with the conflict copy that was made
    left: tuple[tuple[Leftover, str], ...]  # with the reason
    decisions: int  # renames and removals that are not carried out yet
    attributes: int  # directories whose attributes are not stored


async def upload(
    stage: FoundStage, ids: Collection[str], store: Store, config: Config, show: Show
) -> Uploaded:
    """Store files of a stage, as a mount would.

    Errors: BusyError when the stage has an owner, or decisions about names that belong to a file
    that is not chosen; FullError, DeniedError, CorruptError of the stage; those of the store while
    nothing is begun.
    """
    _check_apart(stage, ids)
    sound = {one.id for one in stage.files if one.id in ids and one.error is None}
    budget = StageBudget(NO_LIMIT_BYTES, config.stage.stage_wait)
    chosen = _ChosenStage(stage.path, stage.url or "", budget, sound)
    await trio.to_thread.run_sync(chosen.open)
    try:
        await _reach(store, stage.path)
        witness = _Witness(store)
        async with open_tree(witness, chosen, config, Metrics()) as mount:
            drain = _Drain(mount, witness, config.daemon.stop_wait, show)
            await drain.run()
            await mount.uploads.abort_due(all_of_them=True)
            if mount.digests is not None:
                await mount.digests.drain()
        after = await trio.to_thread.run_sync(look, stage.path)
    finally:
        chosen.close()
    still = {one.id for one in after.files}
    files = [one for one in stage.files if one.id in ids]
    gone = [one for one in files if one.id not in still]
    copies = [(one, copy) for one in gone if (copy := witness.copy_of(one.key)) is not None]
    lost = {one.id for one, _ in copies}
    return Uploaded(
        tuple(one for one in gone if one.id not in lost),
        tuple(copies),
        tuple((one, drain.why(one)) for one in files if one.id in still),
        after.decisions,
        drain.attributes,
    )


def _check_apart(stage: FoundStage, ids: Collection[str]) -> None:
    """Refuse to carry out what was decided about names while a file of theirs is left out."""
    if any(one.claims for one in stage.files if one.id not in ids):
        raise BusyError(
            f"{stage.label}: a rename or removal that is not finished belongs to a file that was "
            "not chosen; upload all of the stage, without NAME"
        )


async def _reach(store: Store, path: Path) -> None:
    known = await trio.to_thread.run_sync(recall, path)
    with trio.move_on_after(START_S):
        await store.probe(write=True, known=known)
        return
    raise silent(store.url)


class _ChosenStage(Stage):
    """A stage of which only some files are taken up."""

    def __init__(self, path: Path, url: str, budget: StageBudget, ids: Collection[str]) -> None:
        super().__init__(path, url, budget)
        self._ids = frozenset(ids)

    @override
    async def take_up(self) -> list[tuple[StagedFile, StagedState]]:
        found = await super().take_up()
        over = {name for _, state in found for name in state.over}
        return [one for one in found if one[0].path.name in self._ids | over]


class _Witness(WrappedStore):
    """Sees what reaches the store."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.calls = 0
        self.sent_bytes = 0
        self._written: set[Key] = set()

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        answer = await run()
        self.calls += 1
        self.sent_bytes += call.bytes_out
        if call.operation in {"write", "copy", "move", "finish_upload"}:
            self._written.add(call.key)
        return answer

    def copy_of(self, key: Key | None) -> Key | None:
        """Return the conflict copy that was made of a file."""
        return next((one for one in self._written if one.startswith(f"{key}.conflict-")), None)


class _Drain:
    """Stores everything once, with progress."""

    def __init__(self, mount: Mount, witness: _Witness, stall_s: float, show: Show) -> None:
        self._context = mount.fs.context
        self._conflicts = mount.conflicts
        self._witness = witness
        self._stall_s = stall_s
        self._show = show
        self.attributes = 0  # directories whose attributes are not stored
        self._partial: set[str] = set()
        self._error: str | None = None

    async def run(self) -> None:
        """Return when all is stored, or when what is left was tried and failed."""
        async with open_tasks() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            await self._context.committer.drain()
            while self._conflicts.active:  # noqa: ASYNC110 - rare, and short
                await trio.sleep(LOOK_S)
            await self._store_attributes()
            nursery.cancel_scope.cancel()
        self.attributes = len(self._context.sidecars.pending)
        self._partial = {path.name for path in self._conflicts.partial}
        self._error = self._context.committer.last_error

    def why(self, one: Leftover) -> str:
        """Return why a file stays in the stage."""
        if one.error is not None:
            return one.error.message
        if one.id in self._partial:
            return "somebody else has written it, and what it was made from is gone"
        return self._error or "nothing has moved for too long"

    async def _store_attributes(self) -> None:
        for sidecar in self._context.sidecars.pending:
            with suppress(VfsError):  # they stay in the journal, and are counted
                await self._context.sidecars.upload(sidecar.directory)
        await self._context.journal.settle(0)

    async def _watch(self, scope: trio.CancelScope) -> None:
        committer = self._context.committer
        total = self._dirty_bytes
        seen, since = self._witness.calls, trio.current_time()
        while True:
            await trio.sleep(LOOK_S)
            stored = total - self._dirty_bytes
            self._show(max(stored, min(self._witness.sent_bytes, total)), total)
            if self._witness.calls != seen:
                seen, since = self._witness.calls, trio.current_time()
            failed = len(committer.dirty) == committer.failing > 0
            if not self._conflicts.active and (
                failed or trio.current_time() - since > self._stall_s
            ):
                scope.cancel()

    @property
    def _dirty_bytes(self) -> int:
        return sum(content.dirty_bytes for content in self._context.committer.dirty)
