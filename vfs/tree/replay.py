"""What a mount takes up of an earlier one: staged files become dirty files of the tree again.

Nothing is asked of the store here: each file hangs where its journal says, changed and not stored,
and its next commit settles what became of it. The base version still there: upload. Our own commit
id: it had landed. Anything else: a conflict, which keeps every byte.

Decisions about names that belong to a staged file are taken up with it; the others are carried out
by `vfs.tree.recovery`.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import trio

from vfs.errors import MetadataError, VfsError
from vfs.file.content import Content
from vfs.file.taken_up import TakenUp
from vfs.layout.base import FileVersion
from vfs.stage.file import StagedFile
from vfs.stage.journal import Extent, StagedState
from vfs.stage.records import Record, Value, file_of, number, text
from vfs.store.base import ObjectVersion
from vfs.tree.attributes import Attributes
from vfs.tree.filesystem import FileSystem
from vfs.tree.listing import directory_of
from vfs.tree.node import Move, Node
from vfs.tree.sidecar import decode_entry
from vfs.values import MIB, Key, Version

log = logging.getLogger(__name__)

Leftover = tuple[StagedFile, StagedState]
Decision = dict[str, Value]


async def take_up(
    fs: FileSystem, leftovers: Sequence[Leftover], decisions: Sequence[Decision]
) -> tuple[list[Decision], list[Content]]:
    """Make dirty files of staged ones; return the decisions that are left, and the files.

    The files are to be stored when those decisions are carried out. Errors: FullError, VfsError
    when the disk of the stage fails.
    """
    open_decisions, nodes = list(decisions), list[Node]()
    replaced = {name for record in decisions for name in _over(record)}
    replaced |= {name for _, state in leftovers for name in state.over}
    for staged, state in leftovers:
        move = _claim(open_decisions, "move", state.base)
        if staged.path.name in replaced:  # unlinked, or a rename has given its name to another file
            fs.context.stage.uploads.discard(state.upload)
            if move is not None:  # what it was made from goes with it
                open_decisions.append({**move, "op": "unlink"})
                fs.context.journal.note("unlink", {"file": move["file"]}, number(move, "id"))
                await fs.context.journal.sync()
            await staged.forget()
            staged.close()
            continue
        replaces = state.replaces
        if move is not None and move["target"] != state.key:
            replaces = _expected(Key(str(move.get("target"))), move.get("replaces"))
        # Its object is replaced by the next commit.
        buried = _claim(open_decisions, "unlink", replaces)
        freed = buried is not None and await _is_gone(fs, replaces)
        try:
            nodes.append(await _Resumed(fs, state).go_on(staged, move, freed=freed))
        except (KeyError, TypeError, ValueError) as error:
            log.warning("%s cannot be taken up, left alone: %r", staged.path, error)
            staged.preserved = True
            continue
        if buried is not None:
            await fs.context.journal.done(number(buried, "id"))
    for record in list(open_decisions):
        node = _wait_for_name(fs, record)
        if node is not None:
            open_decisions.remove(record)
            nodes.append(node)
    return open_decisions, [_gated(node, fs.context.content(node)) for node in nodes]


def _wait_for_name(fs: FileSystem, record: Decision) -> Node | None:
    """Let a clean file that was renamed wait, as it did, for the one that is leaving its name."""
    if record.get("op") != "move":
        return None
    target, file = Key(text(record, "target")), file_of(_fields(record["file"]))
    entry = _fields(record["entry"])
    replaces = _expected(target, record["replaces"])
    state = StagedState(target, replaces, file, Extent(file.size, file.size), entry)
    resumed = _Resumed(fs, state)
    if not resumed.must_wait:
        return None
    return resumed.rename(record)


async def _is_gone(fs: FileSystem, file: FileVersion | None) -> bool:
    """Tell whether a removal was carried out that nobody has heard of."""
    try:
        return file is None or await fs.context.layout.find(file.pin.key) is None
    except VfsError as error:
        log.warning("%s", error.message)  # the next commit finds out
        return False


def _gated(node: Node, content: Content) -> Content:
    """Let a file wait that has the old name of another one, which is not stored yet."""
    if node.parent is not None:
        leaving = directory_of(node.parent).leaving.get(node.name)
        if leaving is not None and leaving.content is not content:
            content.gate = leaving.over
    return content


def _over(record: Record) -> list[str]:
    names = record.get("over")
    return [str(name) for name in names] if isinstance(names, list) else []


def _claim(decisions: list[Decision], op: str, file: FileVersion | None) -> Decision | None:
    """Take the decision about a version of a file out of the list."""
    if file is None:
        return None
    for record in decisions:
        about = record.get("file")
        if (
            record.get("op") == op
            and isinstance(about, dict)
            and (about.get("key"), about.get("version")) == (file.pin.key, file.pin.version)
        ):
            decisions.remove(record)
            return record
    return None


class _Resumed:
    """One staged file on its way back into the tree."""

    def __init__(self, fs: FileSystem, state: StagedState) -> None:
        self._fs = fs
        self._context = fs.context
        self._state = state

    @property
    def must_wait(self) -> bool:
        """Whether the name is one that another file is leaving."""
        directory, _, name = self._state.key.rpartition("/")
        return name in directory_of(self._directory(Key(directory))).leaving

    def rename(self, move: Decision) -> Node:
        """Make a file of it that is not staged and stands under its new name."""
        node = self._node(self._state)
        content = self._context.content(node)
        content.replaces = self._state.replaces
        content.changed()
        self._resume_move(node, move)
        return node

    async def go_on(self, staged: StagedFile, move: Decision | None, *, freed: bool) -> Node:
        """Make a dirty file of it; `freed`: what it was to replace is not there any more."""
        state, elsewhere = self._state, move is not None and move["target"] != self._state.key
        if move is not None and elsewhere:
            # The rename was decided, and the staged file not told of it yet.
            target = Key(text(move, "target"))
            state = replace(state, key=target, replaces=_expected(target, move["replaces"]))
        if freed:
            state = replace(state, replaces=None)
        node = self._node(state)
        content = self._context.content(node)
        taken = TakenUp(content, staged, state)
        await self._keep(staged.settle_log)
        if elsewhere or freed:
            content.journal.retarget()
            await content.retarget()
        if move is not None:
            self._resume_move(node, move)
        await self._keep(taken.settle)
        await self._keep(content.persist)
        log.info(
            "%r: %.1f MiB that an earlier mount has not stored are taken up",
            state.key,
            staged.dirty.size / MIB,
        )
        return node

    @staticmethod
    async def _keep(step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except VfsError as error:
            # It is as safe as it was, and storing it is what makes room on a full disk.
            log.warning("what is taken up: %s", error.message)

    def _node(self, state: StagedState) -> Node:
        """Hang a file where its journal says, with directories that nobody has looked up yet."""
        directory, _, name = state.key.rpartition("/")
        parent = self._directory(Key(directory))
        attributes = self._attributes(state)
        node = self._context.inodes.add(parent, name, attributes, state.base)
        directory_of(parent).note(name, node, pending=True)
        return node

    def _attributes(self, state: StagedState) -> Attributes:
        try:
            kept = decode_entry(state.about).attributes
        except MetadataError:
            kept = None
        if kept is None:
            pin = ObjectVersion(state.key, Version(""))
            file = FileVersion(pin, state.extent.size, self._context.wall_ns())
            kept = self._context.defaults.file(file)
        return kept

    def _directory(self, key: Key) -> Node:
        context, node = self._context, self._context.inodes.root
        for name in filter(None, key.split("/")):
            child = directory_of(node).children.get(name)
            if child is None or not child.is_directory:
                child = context.inodes.add(node, name, context.defaults.directory(), None)
            node = child
        return node

    def _resume_move(self, node: Node, move: Decision) -> None:
        """Let the old name go when the new one is stored."""
        file = file_of(_fields(move["file"]))
        content = self._context.content(node)
        directory, _, name = file.pin.key.rpartition("/")
        parent = self._directory(Key(directory))
        node.move = Move(parent, name, file, content, number(move, "id"), trio.Event())
        directory_of(parent).leaving[name] = node.move
        if name not in directory_of(parent).changes:
            directory_of(parent).note(name, None, pending=True)
        content.moved_from = file
        content.after_move = lambda: self._fs.namespace.moved(node)


def _expected(target: Key, version: Value) -> FileVersion | None:
    """Return what a rename found under the new name, as far as its condition goes."""
    if not isinstance(version, str):
        return None
    return FileVersion(ObjectVersion(target, Version(version)), 0, 0)


def _fields(value: Value) -> Mapping[str, Value]:
    if not isinstance(value, dict):
        raise TypeError("a file was expected")
    return value
