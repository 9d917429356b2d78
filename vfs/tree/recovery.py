"""What a restart does with removals and renames that a crash interrupted.

Each is carried out under the version that was journalled: what somebody else has written since is
left alone, and the log says so. Doing one twice is harmless.
"""

import logging
from collections.abc import Mapping

from vfs.errors import ConflictError, NotFoundError, StaleError, VfsError
from vfs.layout.base import FileVersion
from vfs.stage.records import Value
from vfs.tree.filesystem import FileSystem
from vfs.tree.journal import file_of
from vfs.values import Key

log = logging.getLogger(__name__)


async def recover(fs: FileSystem, unfinished: list[dict[str, Value]]) -> None:
    """Carry out what the journal says is unfinished.

    Errors: none of the store: what cannot be done now stays journalled for the next mount.
    """
    for record in unfinished:
        number = record.get("id")
        try:
            await _carry_out(fs, record)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("a journalled operation cannot be understood, left alone: %r", error)
            continue
        except VfsError as error:
            log.warning("a journalled %s is not finished yet: %s", record.get("op"), error.message)
            continue
        if isinstance(number, int):
            await fs.context.journal.done(number)


async def _carry_out(fs: FileSystem, record: Mapping[str, Value]) -> None:
    match record.get("op"):
        case "unlink":
            await _remove(fs, file_of(_fields(record["file"])))
        case "move":
            await _move(fs, file_of(_fields(record["file"])), Key(str(record["target"])))
        case "move_directory":
            source, target = Key(str(record["source"])), Key(str(record["target"]))
            log.info("finishing the rename of %r to %r", source, target)
            await fs.rename.move_tree(source, target)
        case other:
            log.error("a journalled operation %r is unknown to this version, left alone", other)


def _fields(value: Value) -> Mapping[str, Value]:
    if not isinstance(value, dict):
        raise TypeError("a file was expected")
    return value


async def _remove(fs: FileSystem, file: FileVersion) -> None:
    try:
        await fs.context.layout.remove(file)
    except ConflictError:
        log.info("%r was replaced after it was unlinked: kept", file.pin.key)


async def _move(fs: FileSystem, file: FileVersion, target: Key) -> None:
    """Finish a rename: both names may be there, or only one of them."""
    layout = fs.context.layout
    old = await layout.find(file.pin.key)
    if old is None or old.file is None or old.file.pin.version != file.pin.version:
        return  # the copy was complete, or somebody else has written the old name since
    new = await layout.find(target)
    if new is not None and new.file is not None and new.file.size != file.size:
        log.warning(
            "%r was being renamed to %r, which holds something else now: both names stay",
            file.pin.key,
            target,
        )
        return
    replaces = new.file if new is not None else None
    log.info("finishing the rename of %r to %r", file.pin.key, target)
    try:
        await layout.move(file, target, replaces=replaces)
    except (NotFoundError, StaleError, ConflictError) as error:
        log.warning("rename of %r not finished: %s", file.pin.key, error.message)
