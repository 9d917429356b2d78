"""What a restart does with removals and renames that a crash interrupted.

Each is carried out under the version that was journalled: what somebody else has written since is
left alone, and the log says so. Doing one twice is harmless.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace

from vfs import names
from vfs.errors import ConflictError, NotFoundError, StaleError, VfsError
from vfs.layout.base import FileVersion
from vfs.stage.records import Value, file_of
from vfs.tree.attributes import Attributes
from vfs.tree.doubts import remove_copy
from vfs.tree.filesystem import FileSystem
from vfs.tree.graves import remove_aside, remove_unlinked
from vfs.tree.rename_tree import Moves, is_copy, move_tree, move_whole
from vfs.tree.sidecar import decode_entry
from vfs.values import Key, Version

log = logging.getLogger(__name__)


async def recover(fs: FileSystem, unfinished: list[dict[str, Value]]) -> None:
    """Carry out what the journal says is unfinished.

    Errors: none of the store: what cannot be done now stays journalled for the next mount.
    """
    await _forget_directories(fs)
    for record in unfinished:
        number = record.get("id")
        if record.get("op") != "unlink":
            # Else a second restart might take what it puts somewhere for what was unlinked there.
            await fs.context.journal.sync()
        try:
            await carry_out(fs, record)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a journalled operation cannot be understood, left alone: %r", error)
            continue
        except VfsError as error:
            log.warning("a journalled %s is not finished yet: %s", record.get("op"), error.message)
            continue
        if isinstance(number, int):
            await fs.context.journal.done(number)
    await fs.context.journal.sync()


async def _forget_directories(fs: FileSystem) -> None:
    """Drop attributes of names in directories that are gone: storing them would bring one back."""
    context = fs.context
    for sidecar in context.sidecars.pending:
        if not sidecar.directory:
            continue
        try:
            page = await context.layout.list(sidecar.directory)
        except VfsError as error:
            log.warning("directory %r cannot be listed: %s", sidecar.directory, error.message)
            continue
        if not page.exists:
            context.journal.append(context.sidecars.forget(sidecar.directory))


async def carry_out(fs: FileSystem, record: Mapping[str, Value]) -> None:
    """Do what one decision says. Errors: any store error."""
    match record.get("op"):
        case "unlink":
            birth = record.get("birth")
            birth = birth if isinstance(birth, str) else None
            await _remove(fs, file_of(_fields(record["file"])), birth)
            if isinstance(aside := record.get("aside"), str):
                await remove_aside(fs.context.layout, Key(aside))
        case "uncopy":
            file, target = file_of(_fields(record["file"])), Key(str(record["target"]))
            await remove_copy(fs.context.layout, file, target)
        case "move":
            await _move(fs, file_of(_fields(record["file"])), Key(str(record["target"])), record)
        case "move_directory":
            source, target = Key(str(record["source"])), Key(str(record["target"]))
            await _move_directory(fs, source, target, record)
        case other:
            log.error("a journalled operation %r is unknown to this version, left alone", other)


def _fields(value: Value) -> Mapping[str, Value]:
    if not isinstance(value, dict):
        raise TypeError("a file was expected")
    return value


async def _remove(fs: FileSystem, file: FileVersion, birth: str | None) -> None:
    try:
        await remove_unlinked(fs.context.layout, file, birth)
    except ConflictError:
        log.info("%r was replaced after it was unlinked: kept", file.pin.key)


async def _move(
    fs: FileSystem, file: FileVersion, target: Key, record: Mapping[str, Value]
) -> None:
    """Finish a rename: both names may be there, or only one of them."""
    layout = fs.context.layout
    old, new = await layout.find(file.pin.key), await layout.find(target)
    there = new.file if new is not None else None
    try:
        if old is None or old.file is None or old.file.pin.version != file.pin.version:
            # The copy was complete, or somebody else has written the old name since.
            moved = there if there is not None and there.size == file.size else None
        elif there is None or there.pin.version == record.get("replaces"):
            log.info("finishing the rename of %r to %r", file.pin.key, target)
            moved = await layout.move(file, target, replaces=there)
        elif await is_copy(layout, file, there):
            await layout.remove(file)
            moved = there
        else:
            log.warning(
                "%r was being renamed to %r, which holds something else now: both names stay",
                file.pin.key,
                target,
            )
            return
    except (NotFoundError, StaleError, ConflictError) as error:
        log.warning("rename of %r not finished: %s", file.pin.key, error.message)
        return
    if moved is not None:
        version = moved.pin.version
        await _move_entry(
            fs, file.pin.key, target, record, version=version, before=file.pin.version
        )


async def _move_directory(
    fs: FileSystem, source: Key, target: Key, record: Mapping[str, Value]
) -> None:
    layout = fs.context.layout
    log.info("finishing the rename of %r to %r", source, target)
    if (await layout.list(source)).exists:
        if not layout.moves_directories:
            await move_tree(fs.context, source, target, Moves())
        elif (await layout.list(target)).entries:
            log.warning("%r and %r are both there: both names stay", source, target)
            return
        else:
            await move_whole(fs.context, source, target)
    if (await layout.list(target)).exists:
        fs.context.journal.append(fs.context.sidecars.forget(source))
        await _move_entry(fs, source, target, record, version=None)


async def _move_entry(
    fs: FileSystem,
    source: Key,
    target: Key,
    record: Mapping[str, Value],
    *,
    version: Version | None,
    before: Version | None = None,
) -> None:
    """Give a renamed name its attributes, unless it has newer ones."""
    context = fs.context
    old_directory, _, old_name = source.rpartition("/")
    directory, _, name = target.rpartition("/")
    attributes, replaced = _attributes(record, "entry"), _attributes(record, "replaced")
    known = (await context.sidecars.refresh(Key(directory), 0)).get(name)
    if known is not None and before is not None and known.version == before:
        attributes = known  # changed after the rename was answered
    if known is not None and known == replaced:
        known = None  # of the empty directory that was there before
    if attributes is not None and (known is None or known.version != version):
        moved = replace(attributes, version=version)
        context.journal.append(context.sidecars.change(Key(directory), name, moved))
    old = (await context.sidecars.refresh(Key(old_directory), 0)).get(old_name)
    gone = await context.layout.find(names.child(Key(old_directory), old_name)) is None
    if old is not None and gone:
        context.journal.append(context.sidecars.change(Key(old_directory), old_name, None))


def _attributes(record: Mapping[str, Value], field: str) -> Attributes | None:
    entry = record.get(field)
    return decode_entry(entry).attributes if entry is not None else None
