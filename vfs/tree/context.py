"""What the operations of the tree work on, put together once by the daemon."""

import stat
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from vfs.cache.fill import Fetcher
from vfs.clock import WallClock
from vfs.errors import MetadataError, ReadOnlyError
from vfs.file.committer import Committer
from vfs.file.content import Content
from vfs.layout.base import Entry, FileVersion, Layout
from vfs.stage.directory import Stage
from vfs.stage.records import file_record
from vfs.tree.attributes import Attributes, Defaults
from vfs.tree.journal import Journal
from vfs.tree.listing import Listings, directory_of
from vfs.tree.node import Directory, Inodes, Node
from vfs.tree.sidecars import Sidecars


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    uid: int
    gid: int
    umask: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """The collaborators of the tree's operations."""

    layout: Layout
    inodes: Inodes
    listings: Listings
    sidecars: Sidecars
    journal: Journal
    stage: Stage
    committer: Committer
    fetcher: Fetcher
    defaults: Defaults
    wall_ns: WallClock
    read_only: bool
    keep_xattrs: bool
    statfs_bytes: int

    def check_writable(self) -> None:
        """Refuse a change on a read-only mount. Errors: ReadOnlyError."""
        if self.read_only:
            raise ReadOnlyError("the mount is read-only")

    def content(self, node: Node) -> Content:
        """Return the shared content of a file, made when nobody has it open."""
        if node.content is None:
            node.content = Content(self.layout, self.fetcher, self.stage, node, node.file)
            node.on_committed = self.committed
            node.content.gate = node.moving
        return node.content

    def committed(self, node: Node, version: FileVersion) -> None:
        """Publish a new version of a file: between two awaits, by its commit."""
        node.attributes = replace(node.attributes, version=version.pin.version)
        node.pages_of = version.identity  # the kernel's pages are what was just stored
        if node.detached or node.parent is None:
            return
        directory = directory_of(node.parent)
        node.checked_s = trio.current_time()
        directory.note(node.name, node, pending=False)
        self.replace_buried(directory, node.name)
        if directory.entries is not None:
            directory.entries[node.name] = Entry(node.name, version)
        self.note_attributes(node)
        move = node.move
        if move is not None and version.pin.key != move.file.pin.key:
            # The rename is done but for this, whatever the new name will hold by then.
            self.journal.note("unlink", {"file": file_record(move.file)}, move.number)

    def replace_buried(self, directory: Directory, name: str) -> bool:
        """Let nobody remove what was unlinked under a name that holds a file of ours again.

        By its version nobody can tell the two where the store names versions by their bytes.
        """
        grave = directory.tombstones.pop(name, None)
        if grave is None:
            return False
        grave.replaced = True
        return self.journal.end(grave.number)

    def keep_attributes(self, node: Node) -> None:
        """Queue a name's attributes for the journal and the sidecar.

        Errors: MetadataError where the stored sidecar cannot be understood.
        """
        if node.detached:
            return
        parent = node.parent or node  # the root's own are in its own sidecar
        name = node.name if node.parent is not None else ""
        self.journal.append(self.sidecars.change(parent.key, name, node.attributes))

    def note_attributes(self, node: Node) -> None:
        """Keep a name's attributes where they can be kept: what was done to it is done."""
        with suppress(MetadataError):  # logged when the sidecar was read
            self.keep_attributes(node)

    def drop_attributes(self, parent: Node, name: str) -> None:
        """Queue the removal of a name's attributes."""
        sidecar = self.sidecars.of(parent.key)
        # One that is not in memory may have something of the name.
        if not sidecar.is_loaded or sidecar.get(name) is not None:
            with suppress(MetadataError):
                self.journal.append(self.sidecars.change(parent.key, name, None))

    def forget_name(self, parent: Node, name: str, *, pending: bool) -> None:
        """Let a name be free whose file or directory has another one now."""
        directory = directory_of(parent)
        # What is buried there and not removed yet must not be seen again.
        directory.note(name, None, pending=pending or name in directory.tombstones)
        if directory.entries is not None:
            directory.entries.pop(name, None)
        self.drop_attributes(parent, name)

    def touch_directory(self, parent: Node) -> None:
        """Note that a directory's names have changed; its times live in memory."""
        now = self.wall_ns()
        parent.attributes = replace(parent.attributes, mtime_ns=now, ctime_ns=now)

    def new_attributes(self, parent: Node, mode: int, caller: Caller) -> Attributes:
        """Return the attributes of a new name, with the group of a setgid directory."""
        now = self.wall_ns()
        gid = caller.gid
        if parent.attributes.mode & stat.S_ISGID:
            gid = parent.attributes.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return Attributes(mode, caller.uid, gid, now, now)
