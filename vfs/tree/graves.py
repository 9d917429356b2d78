"""Objects of files that have lost their name: they go when nobody reads them any more.

Each is decided in the journal before its name is gone, so that a restart removes it, and removed
under the version that was seen: what somebody has put in its place stays. Until then it is hidden.
Where the store moves a file in one request it lies aside meanwhile, so that a directory can take
its name.
"""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import trio

from vfs import names
from vfs.errors import ConflictError, NotFoundError, StaleError, VfsError
from vfs.file.content import Content
from vfs.layout.base import FileVersion, Layout
from vfs.spans import EMPTY
from vfs.stage.records import Value, file_record
from vfs.store.base import ObjectVersion
from vfs.tree.context import Context
from vfs.tree.listing import directory_of
from vfs.tree.node import Grave, Node
from vfs.values import Key, Version

log = logging.getLogger(__name__)


async def remove_aside(layout: Layout, place: Key) -> None:
    """Remove an unlinked file from where it may have been put while it was open."""
    file = FileVersion(ObjectVersion(place, Version("")), 0, 0)
    await layout.remove(file, whichever=True)


async def remove_unlinked(layout: Layout, file: FileVersion, birth: str | None) -> None:
    """Remove a file, unless it was made anew since it was unlinked. Errors: ConflictError then."""
    if birth is not None and await layout.birth(file) not in (birth, None):
        raise ConflictError("an object of equal bytes has its name", key=file.pin.key)
    await layout.remove(file)


class Graves:
    """All of one mount."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._read: dict[Node, Grave] = {}  # of unlinked files that are open
        self._all: dict[int, Grave] = {}  # that are not cleared, by decision

    @staticmethod
    def holds(parent: Node, name: str, file: FileVersion) -> bool:
        """Tell whether it is decided already that a file goes."""
        buried = directory_of(parent).buried(name)
        return buried is not None and buried.identity == file.identity

    def dig(
        self,
        parent: Node,
        name: str,
        file: FileVersion,
        *,
        over: tuple[str, ...] = (),
        number: int | None = None,
        aside: bool = False,
    ) -> Grave:
        """Decide that an object goes; `over` names what is staged and goes with it.

        `aside`: until then it may lie elsewhere, where the store moves it in one request.
        """
        layout = self._context.layout
        place = layout.place_aside() if aside and layout.moves_files else None
        fields: dict[str, Value] = {"file": file_record(file), "over": list(over), "aside": place}
        number = self._context.journal.note("unlink", fields, number)
        grave = self._all[number] = Grave(number, file, parent, name, place)
        directory_of(parent).tombstones[name] = grave
        return grave

    def dig_replaced(self, parent: Node, name: str, node: Node, content: Content) -> Grave | None:
        """Decide that what a rename was to replace under a name goes: the file moves on."""
        old, stored = content.replaces, node.file
        if old is None or old.pin.key != node.key or self.holds(parent, name, old):
            return None
        if stored is not None and stored.identity == old.identity:
            return None
        return self.dig(parent, name, old)

    async def keep(self, node: Node, grave: Grave) -> None:
        """Let an object stay until the file is closed."""
        self._read[node] = grave
        content = node.content
        if content is not None and grave.aside is not None:
            with suppress(VfsError):  # it stays where it is
                await self._put_aside(content, grave, grave.aside)
        elif not self._context.layout.moves_files:
            with suppress(VfsError):  # then only its version tells it from another one
                await self._tell_apart(grave)

    async def _tell_apart(self, grave: Grave) -> None:
        """Take note which object it is: until it goes another host may make one of equal bytes."""
        file = grave.file
        birth = await self._context.layout.birth(file)
        if birth is not None and grave.file is file and not grave.replaced:
            grave.birth = birth
            fields: dict[str, Value] = {"file": file_record(file), "birth": birth}
            self._context.journal.note("unlink", fields, grave.number)
            await self._context.journal.sync()

    async def _put_aside(self, content: Content, grave: Grave, place: Key) -> None:
        """Make its name free for a directory, and its directory for removal."""
        directory, file = directory_of(grave.parent), grave.file
        # Who reads meanwhile waits for the last of them.
        async with grave.lock, self._heir_waits(grave), content.commits:
            if grave.replaced:  # while we waited: what is there may be like it
                return
            moved = await self._bring_aside(grave, place)
            await self._leave_nothing(grave, file)
            self._refile(grave, moved)
        if directory.tombstones.get(grave.name) is grave:
            del directory.tombstones[grave.name]
            directory.note(grave.name, None, pending=False)

    async def _bring_aside(self, grave: Grave, place: Key) -> FileVersion:
        found = await self._find_aside(grave, place) if grave.astray else None
        if found is not None:
            return found
        grave.astray = True
        try:
            moved = await self._context.layout.move(grave.file, place, replaces=None)
        except VfsError:
            found = await self._find_aside(grave, place)
            if found is None:
                raise
            return found
        grave.astray = False
        return moved

    async def _find_aside(self, grave: Grave, place: Key) -> FileVersion | None:
        """Return what a failed request has put aside; what it has only copied is removed."""
        layout, file = self._context.layout, grave.file
        old, new = await layout.find(file.pin.key), await layout.find(place)
        here, there = (entry.file if entry is not None else None for entry in (old, new))
        if there is not None and here is not None and here.pin.version == file.pin.version:
            await layout.remove(there)
            there = None
        grave.astray = False
        return there

    async def vacate(self, directory: Key) -> None:
        """Let nothing of unlinked files lie below a directory that goes: it would come back."""
        for grave in list(self._all.values()):
            if not grave.file.pin.key.startswith(names.as_prefix(directory)) or grave.replaced:
                continue
            reader = next((node for node, one in self._read.items() if one is grave), None)
            if reader is None or reader.content is None:
                await self._clear(grave)
                continue
            place = grave.aside = grave.aside or self._context.layout.place_aside()
            fields: dict[str, Value] = {"file": file_record(grave.file), "aside": place}
            self._context.journal.note("unlink", fields, grave.number)
            await self._context.journal.sync()
            # Else a new file of its name has replaced it.
            with suppress(ConflictError, NotFoundError, StaleError):
                await self._put_aside(reader.content, grave, place)

    def follow(
        self,
        source: Key,
        target: Key,
        moved: Mapping[Key, tuple[FileVersion, FileVersion]] | None,
    ) -> None:
        """Let objects that wait for their last close be where a renamed directory has taken them.

        `moved` tells by old key what was taken and what became of it; None: all went as they were.
        One that a new file of its name has replaced is nowhere: what was taken is that file.
        """
        for grave in self._all.values():
            old = grave.file
            if not old.pin.key.startswith(names.as_prefix(source)) or grave.replaced:
                continue
            key = Key(target + old.pin.key[len(source) :])
            new = replace(old, pin=replace(old.pin, key=key, version_id=None))
            if moved is not None:
                taken, new = moved.get(old.pin.key, (None, new))
                if taken is None or taken.identity != old.identity:
                    continue
            self._refile(grave, new)

    def _refile(self, grave: Grave, new: FileVersion) -> None:
        grave.file, grave.birth = new, None
        self._context.journal.note("unlink", {"file": file_record(new)}, grave.number)
        for node, one in self._read.items():
            content = node.content
            if one is grave and content is not None and content.base is not None:
                self._context.fetcher.hand_over(content.base, new, EMPTY)
                content.base = new

    async def last_close(self, node: Node) -> None:
        """Remove the object of an unlinked file, now that nobody has it open."""
        grave = self._read.pop(node, None)
        if grave is not None:
            await self.clear(node, grave)

    async def clear(self, node: Node, grave: Grave) -> None:
        """Remove an object that nobody reads any more; what fails is tried again."""
        directory_of(grave.parent).stuck.setdefault(grave.name, trio.Event())
        try:
            await self._clear(grave)
        except VfsError as error:
            log.warning("removal of unlinked %r failed: %s", grave.file.pin.key, error.message)
            self.clear_later(node, grave)

    def clear_later(self, node: Node, grave: Grave) -> None:
        """Remove an object in the background, with what else a file has to do in the store."""
        directory = directory_of(grave.parent)
        gate = directory.stuck.setdefault(grave.name, trio.Event())
        heir = directory.children.get(grave.name)
        if heir is not None and heir.content is not None and not heir.content.is_gated:
            heir.content.gate = gate
        content = self._context.content(node)
        content.left.append(partial(self._clear, grave))
        self._context.committer.start(content)

    async def _clear(self, grave: Grave) -> None:
        file, name, directory = grave.file, grave.name, directory_of(grave.parent)
        async with grave.lock, self._heir_waits(grave):
            await self._remove_buried(grave, file)
            await self._leave_nothing(grave, file)
            await self._context.journal.done(grave.number)
        self._all.pop(grave.number, None)
        if directory.tombstones.get(name) is grave:
            del directory.tombstones[name]
        change = directory.changes.get(name)
        if change is not None and change.node is None and name not in directory.tombstones:
            directory.note(name, None, pending=False)
        gate = directory.stuck.pop(name, None)
        if gate is not None:
            gate.set()

    @asynccontextmanager
    async def _heir_waits(self, grave: Grave) -> AsyncGenerator[None]:
        """Let a new file of the name wait: its first version replaces the buried one, or not."""
        heir = directory_of(grave.parent).children.get(grave.name)
        content = heir.content if heir is not None else None
        if content is None:
            yield
            return
        async with content.commits:
            await content.settle()  # it may have replaced it, and nobody heard of it
            yield

    async def _leave_nothing(self, grave: Grave, file: FileVersion) -> None:
        replaced = grave.replaced  # equal bytes may be one version
        changed = None if replaced else self.inherit(grave.parent, grave.name, file, None)
        if changed is not None:
            await changed.retarget()
            # First: a restart that finds the decision gone asks what the file says.
            changed.journal.retarget()
            with suppress(VfsError):  # of the stage's disk
                await changed.journal.sync()

    @staticmethod
    def inherit(
        parent: Node, name: str, before: FileVersion | None, after: FileVersion | None
    ) -> Content | None:
        """Tell a new file of the name what its first commit will find there."""
        heir = directory_of(parent).children.get(name)
        content = heir.content if heir is not None else None
        if heir is None or content is None or content.replaces != before:
            return None
        if content.base is not None and content.base.pin.key == heir.key:
            return None  # it is stored already, under this name
        content.replaces = after
        return content

    async def _remove_buried(self, grave: Grave, file: FileVersion) -> None:
        """Carry a journalled removal out, if the object is still the one that was unlinked."""
        try:
            if grave.astray and grave.aside is not None:
                await remove_aside(self._context.layout, grave.aside)
            if not grave.replaced:
                await remove_unlinked(self._context.layout, file, grave.birth)
        except ConflictError:
            log.info("%r was replaced after it was unlinked here: kept", file.pin.key)
