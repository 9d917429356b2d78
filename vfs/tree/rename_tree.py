"""Moving a directory object by object, where the store cannot rename it as a whole.

Each file is copied and removed by itself, so that at every moment it is under at least one of its
names; the attributes of a directory's names follow when all its files have. What is done can be
done again: a restart goes over the same ground.
"""

import logging
from contextlib import suppress
from dataclasses import replace

from vfs import names
from vfs.errors import NotEmptyError, VfsError
from vfs.layout.base import Entry, FileVersion, Layout
from vfs.tasks import open_tasks
from vfs.tree.attributes import effective
from vfs.tree.context import Context
from vfs.values import MIB, Key, Span

log = logging.getLogger(__name__)

MOVES_AT_ONCE = 16
COMPARED_BYTES = 64 * MIB
"""Largest files that are compared to know a finished copy; both are read."""


Moves = dict[Key, tuple[FileVersion, FileVersion]]
"""What has moved, by old key: the version that was taken, and what has become of it."""


async def move_tree(context: Context, source: Key, target: Key, moves: Moves) -> None:
    """Move every object below a prefix; also what a restart does with one that was interrupted.

    Notes in `moves` each file that was moved.
    """
    directories = [Key("")]
    for relative in directories:  # grows while we walk
        here = Key(source + relative)
        there = Key(target + relative)
        try:
            below = await _move_level(context, here, there, moves)
        except VfsError:
            _keep_attributes(context, here, there, moves)
            log.warning(
                "%r was renamed to %r only in part: %d files have moved, the others have their "
                "old names; move the rest when the store answers again",
                source,
                target,
                len(moves),
            )
            raise
        directories += [Key(f"{relative}/{name}") for name in below]
    for relative in reversed(directories):
        await context.sidecars.remove_all(Key(source + relative))
        context.journal.append(context.sidecars.forget(Key(source + relative)))
        with suppress(NotEmptyError):  # of what somebody else has made there meanwhile
            await context.layout.remove_directory(Key(source + relative))


async def check_keys(context: Context, source: Key, target: Key) -> None:
    """Make sure that the store can hold every key below a directory's new name.

    Errors: NameTooLongError, before anything is moved.
    """
    layout = context.layout
    if layout.moves_directories or len(names.encode(target)) <= len(names.encode(source)):
        return
    directories = [Key("")]
    for relative in directories:  # grows while we walk
        layout.check_key(names.child(Key(target + relative), names.LONGEST_SIDECAR))
        cursor: str | None = None
        while True:
            page = await layout.list(Key(source + relative), cursor)
            for entry in page.entries:
                layout.check_key(names.child(Key(target + relative), entry.name))
                if entry.is_directory:
                    directories.append(Key(f"{relative}/{entry.name}"))
            cursor = page.cursor
            if cursor is None:
                break


async def _move_level(context: Context, here: Key, there: Key, moves: Moves) -> list[str]:
    """Move the files of one directory and their attributes; return the directories in it."""
    await context.layout.make_directory(there)
    await context.sidecars.refresh(here, 0)
    below: list[str] = []
    sources: dict[str, FileVersion] = {}
    cursor: str | None = None
    while True:
        page = await context.layout.list(here, cursor)
        below += [entry.name for entry in page.entries if entry.is_directory]
        files = [entry for entry in page.entries if entry.file is not None]
        sources |= {entry.name: entry.file for entry in files if entry.file is not None}
        await _move_files(context, files, there, moves)
        cursor = page.cursor
        if cursor is None:
            break
    await _move_attributes(context, here, there, moves, sources)
    await context.sidecars.upload(there)
    return below


async def _move_files(context: Context, entries: list[Entry], there: Key, moves: Moves) -> None:
    todo = iter(entries)

    async def work() -> None:
        for entry in todo:
            if entry.file is None:
                continue
            key = names.child(there, entry.name)
            present = await context.layout.find(key)
            replaces = present.file if present is not None else None
            if replaces is not None and not await is_copy(context.layout, entry.file, replaces):
                # Not what a crash of ours has left: somebody else was faster.
                log.warning("%r and %r differ: both names stay", entry.file.pin.key, key)
                continue
            moved = await context.layout.move(entry.file, key, replaces=replaces)
            moves[entry.file.pin.key] = entry.file, moved

    async with open_tasks() as nursery:
        for _ in range(min(MOVES_AT_ONCE, len(entries))):
            nursery.start_soon(work)


def _keep_attributes(context: Context, here: Key, there: Key, moves: Moves) -> None:
    """Let what has moved keep its attributes, without asking the store."""
    for name, entry in context.sidecars.take(here).items():
        _, moved = moves.get(names.child(here, name), (None, None))
        if moved is not None and entry.attributes is not None:
            attributes = replace(entry.attributes, version=moved.pin.version)
            context.journal.append(context.sidecars.change(there, name, attributes))


async def _move_attributes(
    context: Context,
    here: Key,
    there: Key,
    moves: Moves,
    sources: dict[str, FileVersion],
) -> None:
    await context.sidecars.refresh(there, 0)
    for name, entry in context.sidecars.take(here).items():
        attributes = entry.attributes
        if attributes is None:
            continue
        _, moved = moves.get(names.child(here, name), (None, None))
        if moved is None and attributes.version is not None:
            # Moved already, before a crash, unless it was never there.
            found = await context.layout.find(names.child(there, name))
            moved = found.file if found is not None else None
            known = context.sidecars.of(there).get(name)
            if moved is None or (known is not None and known.version == moved.pin.version):
                continue
        if moved is not None:
            if name in sources:  # of what another tool has written since, little is true
                attributes = effective(attributes, sources[name], context.defaults)
            attributes = replace(attributes, version=moved.pin.version)
        context.journal.append(context.sidecars.change(there, name, attributes))


async def is_copy(layout: Layout, one: FileVersion, other: FileVersion) -> bool:
    """Tell whether one file is a copy of another; of large ones of other programs nobody knows."""
    if one.size != other.size:
        return False
    if await layout.is_one_commit(one, other):
        return True
    if one.size > COMPARED_BYTES:
        return False
    for span in Span(0, one.size).pieces(MIB):
        pair = [bytearray(span.size), bytearray(span.size)]
        for file, buffer in zip((one, other), pair, strict=True):
            await layout.read_into(file, span, [memoryview(buffer)])
        if pair[0] != pair[1]:
            return False
    return True
