"""Moving a directory object by object, where the store cannot rename it as a whole.

Each file is copied and removed by itself, so that at every moment it is under at least one of its
names; the attributes of a directory's names follow when all its files have. What is done can be
done again: a restart goes over the same ground.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace

from vfs import names
from vfs.errors import ConflictError, NotEmptyError, VfsError
from vfs.layout.base import Entry, FileVersion, Layout
from vfs.tasks import open_tasks
from vfs.tree.attributes import effective
from vfs.tree.context import Context
from vfs.values import MIB, Key, Span

log = logging.getLogger(__name__)

MOVES_AT_ONCE = 16
COMPARED_BYTES = 64 * MIB
"""Largest files that are compared to know a finished copy; both are read."""


@dataclass(slots=True)
class Moves:
    """What has become of the files of a directory so far."""

    done: dict[Key, tuple[FileVersion, FileVersion]] = field(
        default_factory=dict[Key, tuple[FileVersion, FileVersion]]
    )
    """What has moved, by old key: the version that was taken, and the one that was made of it."""
    left: list[FileVersion] = field(default_factory=list[FileVersion])
    """Versions of those that may still be under their old key: the removal has failed."""
    unsure: list[FileVersion] = field(default_factory=list[FileVersion])
    """What may have a copy under its new key: neither the copy nor a question was answered."""
    error: VfsError | None = None  # the first; then no other file begins to move

    def new(self, key: Key) -> FileVersion | None:
        """Return what has become of the file that was under a key."""
        pair = self.done.get(key)
        return pair[1] if pair is not None else None


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
                len(moves.done),
            )
            raise
        directories += [Key(f"{relative}/{name}") for name in below]
    for relative in reversed(directories):
        await context.sidecars.remove_all(Key(source + relative))
        context.journal.append(context.sidecars.forget(Key(source + relative)))
        with suppress(NotEmptyError):  # of what somebody else has made there meanwhile
            await context.layout.remove_directory(Key(source + relative))


async def move_whole(context: Context, source: Key, target: Key) -> None:
    """Move a directory in one request; what is there already must be an empty one of ours."""
    layout = context.layout
    try:
        await layout.move_directory(source, target)
    except NotEmptyError:
        # What is left of it is ours: its attributes are those of names that are gone.
        await context.sidecars.remove_all(target)
        await layout.remove_directory(target)
        await layout.move_directory(source, target)


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
    todo = iter(entry.file for entry in entries if entry.file is not None)

    async def work() -> None:
        for file in todo:
            if moves.error is not None:
                return
            try:
                await _move_file(context, file, names.child(there, _name(file)), moves)
            except VfsError as error:  # the others end what they have begun
                moves.error = moves.error or error

    async with open_tasks() as nursery:
        for _ in range(min(MOVES_AT_ONCE, len(entries))):
            nursery.start_soon(work)
    if moves.error is not None:
        raise moves.error


def _name(file: FileVersion) -> str:
    return file.pin.key.rpartition("/")[2]


async def _move_file(context: Context, file: FileVersion, key: Key, moves: Moves) -> None:
    layout = context.layout
    present = await layout.find(key)
    there = present.file if present is not None else None
    if there is not None and not await is_copy(layout, file, there):
        # Not what a crash of ours has left: somebody else was faster.
        log.warning("%r and %r differ: both names stay", file.pin.key, key)
        return
    if there is None:
        there = await _copy(layout, file, key, moves)
    moves.done[file.pin.key] = file, there
    try:
        await layout.remove(file)
    except ConflictError:
        log.warning(
            "%r was written by somebody else while it was renamed to %r: both names stay",
            file.pin.key,
            key,
        )
    except VfsError:
        moves.left.append(file)
        raise


async def _copy(layout: Layout, file: FileVersion, key: Key, moves: Moves) -> FileVersion:
    try:
        return await layout.copy(file, key, replaces=None)
    except VfsError:
        try:
            landed = await find_landed(layout, file, key, None)
        except VfsError:
            moves.unsure.append(file)
            landed = None
        if landed is None:
            raise
        return landed


async def find_landed(
    layout: Layout, source: FileVersion, key: Key, replaces: FileVersion | None
) -> FileVersion | None:
    """Return what a copy or a move has made whose answer was lost; None when nothing of it is.

    Errors: any of the store; then nobody knows.
    """
    before = replaces.pin.version if replaces is not None else None
    old, new = await layout.find(source.pin.key), await layout.find(key)
    there = new.file if new is not None else None
    if there is None or there.pin.version == before or there.size != source.size:
        return None
    return there if old is None or await is_copy(layout, source, there) else None


def _keep_attributes(context: Context, here: Key, there: Key, moves: Moves) -> None:
    """Let what has moved keep its attributes, without asking the store."""
    for name, entry in context.sidecars.take(here).items():
        moved = moves.new(names.child(here, name))
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
        moved = moves.new(names.child(here, name))
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
