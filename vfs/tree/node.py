"""Nodes: names in the tree, and the table of inode numbers.

A node knows its parent and its name, so its key follows from where it hangs: renaming a directory
moves everything below without touching it. What this mount has changed and the store may not show
yet stands in the parent's `changes` and wins over listings.

A node that was unlinked or replaced while it is open is *detached*: it keeps its inode and content,
has no name any more, and goes with its last handle.
"""

import hashlib
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import trio

from vfs import names
from vfs.file.content import Content
from vfs.layout.base import Entry, FileVersion
from vfs.stage.journal import About
from vfs.tree.attributes import Attributes, object_metadata
from vfs.tree.sidecar import attributes_value
from vfs.values import ROOT_INODE, Inode, Key

CommitHook = Callable[["Node", FileVersion], None]
"""Called with a node and its new version, between two awaits."""


@dataclass(slots=True)
class Change:
    """What this mount did to a name."""

    node: "Node | None"  # None: removed
    pending: bool  # the store does not have it yet; then it never expires
    at_s: float  # when it was settled


@dataclass(slots=True)
class Move:
    """A rename that was answered before the content was stored under the new name."""

    parent: "Node"  # where the old name was
    name: str
    file: FileVersion  # what the old key still holds
    content: Content
    number: int  # of its record in the journal
    over: trio.Event  # set when the old key is nobody's any more


@dataclass(slots=True)
class Grave:
    """An object that goes when nobody reads it any more; its name is gone."""

    number: int  # of the decision in the journal
    file: FileVersion
    parent: "Node"
    name: str
    aside: Key | None = None  # where it is to lie until then
    astray: bool = False  # it may be there as well, or instead: a request has failed
    birth: str | None = None  # of the object, see `Layout.birth`; None: not known
    replaced: bool = False  # by a file of ours: what is there may be like it, and stays
    lock: trio.Lock = field(default_factory=trio.Lock)
    """Held by who removes or replaces the object; taken before the `commits` of a new file."""


def _no_children() -> "dict[str, Node]":
    return {}


@dataclass(slots=True)
class Directory:
    """What is known of a directory's names."""

    entries: dict[str, Entry] | None = None  # a complete listing, or None
    listed_s: float = float("-inf")  # when that listing began
    large: bool = False  # too large to be listed for a look-up
    huge: bool = False  # too large to be kept whole
    streams: int = 0  # open directories: the attributes of its names stay in memory
    doubts: int = 0  # how often its listing was found to be wrong
    doubted_s: float = float("-inf")  # when that was last
    hidden: int = 0  # keys that cannot be names, counted by the last listing
    changes: dict[str, Change] = field(default_factory=dict[str, Change])
    children: "dict[str, Node]" = field(default_factory=_no_children)
    tombstones: dict[str, Grave] = field(default_factory=dict[str, Grave])
    leaving: dict[str, Move] = field(default_factory=dict[str, Move])  # old names of renames
    stuck: dict[str, trio.Event] = field(default_factory=dict[str, trio.Event])  # see `gate`
    vacating: dict[str, trio.Event] = field(default_factory=dict[str, trio.Event])
    """Old names of directories whose objects are still being moved; set when they have."""
    moving: trio.Event | None = None  # while its objects get other keys; set when they have
    has_marker: bool = False  # known to stay when its last child goes

    def forget_listing(self) -> None:
        """Let the next look-up ask the store."""
        self.entries = None
        self.listed_s = float("-inf")
        self.doubts += 1
        self.doubted_s = trio.current_time()

    def gate(self, name: str) -> trio.Event | None:
        """Return what a new file of a name must wait for before it is stored.

        Another file that leaves the name, or a removal of which nobody knows whether it was done.
        """
        move = self.leaving.get(name)
        return move.over if move is not None else self.stuck.get(name)

    def buried(self, name: str) -> FileVersion | None:
        """Return what the store still has under a name that was removed here."""
        grave = self.tombstones.get(name)
        return grave.file if grave is not None else None

    def note(self, name: str, node: "Node | None", *, pending: bool) -> None:
        """Record our own change of a name."""
        self.changes[name] = Change(node, pending, trio.current_time())


class Node:
    """One name."""

    __slots__ = (
        "atime_ns",
        "attributes",
        "checked_s",
        "content",
        "detached",
        "directory",
        "file",
        "inode",
        "lookups",
        "move",
        "name",
        "on_committed",
        "pages_of",
        "parent",
        "renewed",
    )  # there may be as many as the kernel has in its cache

    def __init__(
        self,
        inode: Inode,
        parent: "Node | None",
        name: str,
        attributes: Attributes,
        file: FileVersion | None,
    ) -> None:
        self.inode = inode
        self.parent = parent
        self.name = name
        self.attributes = attributes
        self.atime_ns = attributes.mtime_ns
        self.file = file  # version in the store; None for directories and files never stored
        self.content: Content | None = None  # while open or dirty
        self.directory = Directory() if attributes.kind == stat.S_IFDIR else None
        self.checked_s = float("-inf")  # when the store was last seen to have it like this
        self.renewed = False  # shows another host's version that the kernel has not been told of
        self.lookups = 0  # references that the kernel holds
        self.detached = False
        self.move: Move | None = None  # a rename of this file that is not finished
        self.pages_of = ""  # identity of the version that the kernel has pages of
        self.on_committed: CommitHook | None = None

    @property
    def is_directory(self) -> bool:
        """Whether this is a directory."""
        return self.directory is not None

    @property
    def key(self) -> Key:
        """Key of the object; of a directory without the slash at the end."""
        if self.parent is None:
            return Key("")
        return names.child(self.parent.key, self.name)

    @property
    def size(self) -> int:
        """Bytes, as `stat` tells."""
        if self.attributes.target is not None:
            return len(names.encode(self.attributes.target))
        if self.content is not None:
            return self.content.size
        return self.file.size if self.file is not None else 0

    @property
    def stored_bytes(self) -> int:
        """Bytes that are really there, here or in the store: what `du` counts."""
        if self.content is not None and self.content.staged is not None:
            return self.size - self.content.staged.holes.size
        return self.size

    @property
    def is_fragile(self) -> bool:
        """Whether what the name is goes beyond what an object tells, or two names depend on it."""
        about = self.attributes
        special = about.kind != stat.S_IFREG or about.mode & (stat.S_ISUID | stat.S_ISGID)
        return self.move is not None or bool(special or about.xattrs)

    @property
    def moving(self) -> trio.Event | None:
        """What is set when a directory that this is, or is in, has its new name."""
        node: Node | None = self
        while node is not None:
            if node.directory is not None and node.directory.moving is not None:
                return node.directory.moving
            node = node.parent
        return None

    async def settled(self) -> None:
        """Return when no directory above is on its way to another name: keys change by that."""
        while (moving := self.moving) is not None:
            await moving.wait()

    async def vacated(self, name: str) -> None:
        """Return when no objects are being moved away from a name of this directory."""
        while self.directory is not None and name in self.directory.vacating:
            await self.directory.vacating[name].wait()

    async def settled_below(self) -> None:
        """Return when nothing is moving in this directory, or from or to anywhere below it."""
        for node in self.below():
            await node.settled()
            for name in list(node.directory.vacating) if node.directory is not None else ():
                await node.vacated(name)

    def object_metadata(self) -> Mapping[str, str]:
        """Return what is stored with the object."""
        return object_metadata(self.attributes)

    def about(self) -> About:
        """Return what a restart must know of the name."""
        return attributes_value(self.attributes)

    def committed(self, version: FileVersion) -> None:
        """Take note of a new version of the content."""
        self.file = version
        if self.on_committed is not None:
            self.on_committed(self, version)

    def detach(self) -> None:
        """Take the name away; the inode lives as long as somebody has it open."""
        self.detached = True
        if self.parent is not None and self.parent.directory is not None:
            children = self.parent.directory.children
            if children.get(self.name) is self:
                del children[self.name]

    def below(self) -> "Iterator[Node]":
        """Yield this node and every known one below it."""
        yield self
        if self.directory is not None:
            for child in list(self.directory.children.values()):
                yield from child.below()


class Inodes:
    """All nodes that the kernel or we hold, by inode number."""

    def __init__(self, root_attributes: Attributes) -> None:
        self.root = Node(ROOT_INODE, None, "", root_attributes, None)
        self._nodes: dict[Inode, Node] = {ROOT_INODE: self.root}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        """Yield the nodes, the oldest first."""
        return iter(self._nodes.values())

    def get(self, inode: Inode) -> Node:
        """Return a node that the kernel knows."""
        return self._nodes[inode]

    def changed(self) -> list[Node]:
        """Return the directories in which this mount has changed a name, as far as that counts."""
        return [node for node in self if node.directory is not None and node.directory.changes]

    def add(
        self, parent: Node, name: str, attributes: Attributes, file: FileVersion | None
    ) -> Node:
        """Make the node of a name; an earlier node of that name is detached."""
        children = _children(parent)
        old = children.get(name)
        if old is not None:
            old.detach()
        node = Node(self._number(parent, name), parent, name, attributes, file)
        self._nodes[node.inode] = node
        children[name] = node
        return node

    def _number(self, parent: Node, name: str) -> Inode:
        """Return an inode number that is the same after a restart wherever that is possible."""
        key = names.child(parent.key, name).encode("utf-8", "surrogatepass")
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) >> 1
        while number <= ROOT_INODE or Inode(number) in self._nodes:
            number += 1
        return Inode(number)

    def idle(self, count: int) -> list[Node]:
        """Return some names of files that only the kernel's cache keeps, and let them be the last.

        Those of the longest standing. Directories are never among them: a program that works in
        one could not tell any more where it is.
        """
        found: list[Node] = []
        for node in self:
            if len(found) == count:
                break
            if node.lookups and node.directory is None and not self._held(node):
                found.append(node)
        for node in found:
            self._nodes[node.inode] = self._nodes.pop(node.inode)
        return found

    def move(self, node: Node, parent: Node, name: str) -> None:
        """Hang a node elsewhere; an earlier node of that name is detached."""
        if node.parent is not None:
            siblings = _children(node.parent)
            if siblings.get(node.name) is node:
                del siblings[node.name]
        children = _children(parent)
        old = children.get(name)
        if old is not None and old is not node:
            old.detach()
        node.parent, node.name = parent, name
        children[name] = node

    def forget(self, inode: Inode, count: int) -> None:
        """Give up references of the kernel."""
        node = self._nodes.get(inode)
        if node is not None:
            node.lookups = max(node.lookups - count, 0)
            self.reap(node)

    def reap(self, node: Node) -> None:
        """Drop a node that nobody needs, and parents that only it kept."""
        while node.parent is not None and not self._needed(node):
            parent = node.parent
            self._nodes.pop(node.inode, None)
            children = _children(parent)
            if children.get(node.name) is node:
                del children[node.name]
            node = parent

    def _needed(self, node: Node) -> bool:
        return bool(node.lookups) or self._held(node)

    @staticmethod
    def _held(node: Node) -> bool:
        """Tell whether a node is needed even if the kernel forgets it."""
        content = node.content
        if content is not None and (content.handles or content.needs_commit):
            return True
        directory = node.directory
        if directory is not None and (directory.children or directory.changes):
            return True
        if node.parent is None or node.detached or node.parent.directory is None:
            return False
        change = node.parent.directory.changes.get(node.name)
        return change is not None and change.node is node


def _children(parent: Node) -> dict[str, Node]:
    if parent.directory is None:
        raise ValueError("not a directory")
    return parent.directory.children
