"""What `vfs recover` finds out about a stage that has no mount, and how it discards of it."""

import os
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import trio

from vfs.daemon.leftovers import FoundStage, Leftover, hold
from vfs.errors import MetadataError, NotFoundError, StaleError, VfsError
from vfs.layout.base import FileVersion
from vfs.stage.log import log_path
from vfs.stage.records import sync_directory
from vfs.store.base import COMMIT_ID, ObjectInfo, Store, Upload
from vfs.tasks import open_tasks
from vfs.values import Key, Span

COMPLETE = "complete"
NEEDS_BASE = "needs base"  # of bytes that the store may have, or not
PARTIAL = "partial"
CONFLICT = "conflict"
DAMAGED = "damaged"
NEWER = "newer"

ASKED_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one staged file, as far as it is known."""

    state: str
    base: FileVersion | None = None  # where its clean bytes come from


def offline(one: Leftover) -> Finding:
    """Return what can be said without the store."""
    if one.error is not None or one.state is None:
        return Finding(NEWER if isinstance(one.error, MetadataError) else DAMAGED)
    return Finding(NEEDS_BASE if one.needs else COMPLETE, one.state.base)


async def examine(store: Store, one: Leftover) -> Finding:
    """Return what an upload and an export of one file will find. Errors: those of the store."""
    state = one.state
    if state is None:
        return offline(one)
    there = await _head(store, state.key)
    base = state.base
    expected = state.replaces.pin.version if state.replaces is not None else None
    lost = (there.version if there is not None else None) != expected
    commit_id = state.commit_id or (state.upload.commit_id if state.upload is not None else None)
    if there is not None and commit_id is not None and there.metadata.get(COMMIT_ID) == commit_id:
        # Our own commit: what is clean now was clean then, so this version has it too.
        base, lost = FileVersion.of(there), False
    if one.needs and (base is None or not await _is_readable(store, base, one)):
        return Finding(PARTIAL, None)
    return Finding(CONFLICT if lost else COMPLETE, base)


async def _head(store: Store, key: Key) -> ObjectInfo | None:
    try:
        return await store.head(key)
    except NotFoundError as error:
        if not error.key:
            raise  # the bucket itself
        return None


async def _is_readable(store: Store, base: FileVersion, one: Leftover) -> bool:
    first = next(iter(one.needs)).start
    try:
        await store.read(base.pin, Span(first, first + 1))
    except StaleError:
        return False
    return True


async def examine_all(
    store: Store, files: Collection[Leftover], limit_s: float
) -> dict[str, Finding]:
    """Return what became of files, by id; those that the store has not told of are left out.

    Errors: those of the store.
    """
    found: dict[str, Finding] = {}
    todo = iter(files)

    async def work() -> None:
        for one in todo:
            found[one.id] = await examine(store, one)

    with trio.move_on_after(limit_s):
        async with open_tasks() as nursery:
            for _ in range(min(ASKED_AT_ONCE, len(files))):
                nursery.start_soon(work)
    return found


async def discard(
    stage: FoundStage, file_id: str, abort: Callable[[Upload], Awaitable[None]]
) -> tuple[Leftover, VfsError | None]:
    """Remove one staged file and its journal; return it, and why its upload could not be aborted.

    Errors: BusyError when the stage has a living owner; NotFoundError when the file is gone;
    MetadataError for a newer version; OSError.
    """
    with hold(stage.path) as now:
        one = next((one for one in now.files if one.id == file_id), None)
        if one is None:
            raise NotFoundError(f"{file_id} is not in the stage {stage.path} any more")
        if isinstance(one.error, MetadataError):
            raise one.error
        refusal: VfsError | None = None
        if one.state is not None and one.state.upload is not None:
            try:
                await abort(one.state.upload)
            except VfsError as error:
                refusal = error
        # What it has replaced would come back under its name.
        for name in sorted(one.hidden & set(os.listdir(one.path.parent))):  # noqa: PTH208 - names
            _remove(one.path.with_name(name))
        _remove(one.path)
        sync_directory(one.path.parent)
    return one, refusal


def _remove(path: Path) -> None:
    # The journal first: bytes without one mean nothing.
    log_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
