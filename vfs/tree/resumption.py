"""A directory's rename that a crash interrupted goes on while the mount is used already.

Where files move one by one that takes minutes. From the beginning the tree shows what it leads to:
the new name is there and whoever wants something below waits, the old one is not, and whoever wants
to make it anew waits. An error ends it for this mount, which then shows what the store has; the
next one goes on.

What is decided or staged about a name of such a directory must not be touched meanwhile, so a
rename that meets anything of that kind is finished before the mount is ready.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from vfs import names
from vfs.errors import MetadataError, VfsError
from vfs.file.content import Content
from vfs.stage.records import Value, number
from vfs.tree.filesystem import FileSystem
from vfs.tree.listing import directory_of
from vfs.tree.node import Node
from vfs.tree.sidecar import decode_entry
from vfs.values import Key

log = logging.getLogger(__name__)

Decision = dict[str, Value]
CarryOut = Callable[[Decision], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Interrupted:
    """One rename, as the tree has it until it is over."""

    record: Decision
    node: Node
    old_parent: Node
    old_name: str
    over: trio.Event


class Resumption:
    """The renames of directories that a mount goes on with."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._all: list[_Interrupted] = []

    def take(self, decisions: Sequence[Decision], staged: Sequence[Content]) -> list[Decision]:
        """Take what can go on later and show it as if it were done; return the other decisions."""
        if self._fs.context.layout.moves_directories:
            return list(decisions)
        left: list[Decision] = []
        for record in decisions:
            others = [key for other in decisions if other is not record for key in _keys(other)]
            others += [content.owner.key for content in staged]
            others += [one.moved_from.pin.key for one in staged if one.moved_from is not None]
            mine = _keys(record)
            if (
                record.get("op") == "move_directory"
                and len(mine) == 2  # noqa: PLR2004 - the old key and the new one
                and not any(_meet(key, other) for key in mine for other in others)
                and not _meet(*mine)
            ):
                self._show(record, *mine)
            else:
                left.append(record)
        return left

    def _show(self, record: Decision, source: Key, target: Key) -> None:
        context = self._fs.context
        old_parent, old_name = self._place(source)
        parent, name = self._place(target)
        try:
            attributes = decode_entry(record.get("entry")).attributes
        except MetadataError:
            attributes = None
        attributes = attributes or context.defaults.directory()
        node = context.inodes.add(parent, name, attributes, None)
        over = trio.Event()
        directory_of(node).moving = directory_of(old_parent).vacating[old_name] = over
        directory_of(parent).note(name, node, pending=True)
        directory_of(old_parent).note(old_name, None, pending=True)
        self._all.append(_Interrupted(record, node, old_parent, old_name, over))

    def _place(self, key: Key) -> tuple[Node, str]:
        context = self._fs.context
        *path, name = key.split("/")
        node = context.inodes.root
        for part in path:
            child = directory_of(node).children.get(part)
            if child is None or not child.is_directory:
                child = context.inodes.add(node, part, context.defaults.directory(), None)
            node = child
        return node, name

    async def run(self, carry_out: CarryOut) -> None:
        """Finish one after the other."""
        for one in self._all:
            try:
                await carry_out(one.record)
                await self._fs.context.journal.done(number(one.record, "id"))
                await self._fs.context.journal.sync()
            except VfsError as error:
                log.warning("a journalled move_directory is not finished yet: %s", error.message)
            except Exception:  # the next mount tries again; this one goes on
                log.exception("a journalled move_directory failed unexpectedly")
            self._let_show(one)

    @staticmethod
    def _let_show(one: _Interrupted) -> None:
        """Show what the store has. No await: the tree changes as a whole."""
        for parent, name in ((one.old_parent, one.old_name), (one.node.parent, one.node.name)):
            if parent is not None:
                directory_of(parent).changes.pop(name, None)
                directory_of(parent).forget_listing()
        directory_of(one.node).forget_listing()
        directory_of(one.node).moving = None
        directory_of(one.old_parent).vacating.pop(one.old_name, None)
        one.over.set()


def _keys(record: Mapping[str, Value]) -> list[Key]:
    """Return the keys that a decision is about."""
    keys = [record.get("source"), record.get("target")]
    file = record.get("file")
    keys.append(file.get("key") if isinstance(file, dict) else None)
    return [Key(key) for key in keys if isinstance(key, str)]


def _meet(one: Key, other: Key) -> bool:
    """Tell whether a key is, or is above or below, another one."""
    return names.as_prefix(one).startswith(names.as_prefix(other)) or names.as_prefix(
        other
    ).startswith(names.as_prefix(one))
