"""Copies of renames that have failed while nobody could tell whether the copy was made.

The rename was answered with an error, so the old name stands. The new one is hidden, and a new file
of it waits, until the store answers again: then a copy goes that is there. Decided in the journal,
so that a restart does the same.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import trio

from vfs import names
from vfs.errors import ConflictError, TransientError, VfsError
from vfs.file.content import Content, Step
from vfs.layout.base import FileVersion, Layout
from vfs.stage.records import Value, file_record
from vfs.tree.context import Context
from vfs.tree.listing import directory_of
from vfs.tree.node import Node
from vfs.tree.rename_tree import is_copy
from vfs.values import Key

log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Doubt:
    number: int  # of the decision in the journal
    source: FileVersion
    parent: Node  # of the name that may have a copy
    name: str
    content: Content  # of the source; it tries again and again
    step: Step | None = None  # how
    lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def key(self) -> Key:
        return names.child(self.parent.key, self.name)


async def remove_copy(layout: Layout, source: FileVersion, key: Key) -> None:
    """Remove what a rename has copied to a key, as long as the source is as it was."""
    old, new = await layout.find(source.pin.key), await layout.find(key)
    here, there = (entry.file if entry is not None else None for entry in (old, new))
    if here is None or there is None or here.pin.version != source.pin.version:
        return
    if await is_copy(layout, here, there):
        with suppress(ConflictError):  # another host has replaced it
            await layout.remove(there)


class Doubts:
    """All of one mount."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._open: dict[int, _Doubt] = {}

    def note(
        self,
        parent: Node,
        name: str,
        source: FileVersion,
        content: Content,
        number: int | None = None,
    ) -> None:
        """Decide that a copy goes which may have landed; `content` is that of the source.

        Decided with the next sync of the journal.
        """
        key = names.child(parent.key, name)
        fields: dict[str, Value] = {"file": file_record(source), "target": key}
        number = self._context.journal.note("uncopy", fields, number)
        doubt = self._open[number] = _Doubt(number, source, parent, name, content)
        directory = directory_of(parent)
        directory.stuck.setdefault(name, trio.Event())
        directory.note(name, None, pending=True)
        doubt.step = partial(self._settle, doubt)
        content.before.append(doubt.step)
        self._context.committer.start(content)

    async def settle(self, key: Key) -> None:
        """Return when nothing is in doubt at a key or below it, before it changes.

        Errors: any store error.
        """
        for doubt in list(self._open.values()):
            if any(_is_at(one, key) for one in (doubt.source.pin.key, doubt.key)):
                await self._settle(doubt)

    async def _settle(self, doubt: _Doubt) -> None:
        async with doubt.lock:
            if doubt.number not in self._open:
                return
            try:
                await remove_copy(self._context.layout, doubt.source, doubt.key)
            except TransientError:
                raise  # tried again
            except VfsError as error:  # what the file holds must be stored all the same
                log.warning(
                    "%r may be a copy of %r: %s", doubt.key, doubt.source.pin.key, error.message
                )
            del self._open[doubt.number]
            if doubt.step is not None and doubt.step in doubt.content.before:
                doubt.content.before.remove(doubt.step)
            directory, name = directory_of(doubt.parent), doubt.name
            change = directory.changes.get(name)
            if change is not None and change.node is None and name not in directory.leaving:
                del directory.changes[name]  # the store knows
                directory.forget_listing()
            gate = directory.stuck.pop(name, None)
            if gate is not None:
                gate.set()
            await self._context.journal.done(doubt.number)


def _is_at(key: Key, place: Key) -> bool:
    return key == place or key.startswith(names.as_prefix(place))
