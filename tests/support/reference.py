"""A file system as simple as can be: what a tree must look like to its programs.

Every operation either changes the model or raises `OSError` with the errno that POSIX wants. It
knows nothing of stores, versions or time.
"""

import errno
from dataclasses import dataclass, field


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """What an operation must answer instead."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode[code])
        self.errno = code


@dataclass(eq=False)
class File:
    """A regular file, alive as long as it has a name or is open."""

    data: bytearray = field(default_factory=bytearray)
    mode: int | None = 0o644  # None: unknown
    mtime_ns: int | None = None  # only when it was set on purpose
    may_be_stale: bool = False  # replaced while open: its old bytes may be gone
    opened: int = 0

    def write(self, offset: int, data: bytes) -> None:
        self.data.extend(bytes(max(0, offset + len(data) - len(self.data))))
        self.data[offset : offset + len(data)] = data
        self.mtime_ns = None

    def truncate(self, size: int) -> None:
        if size != len(self.data):
            self.mtime_ns = None
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))


@dataclass(eq=False)
class Link:
    target: str


@dataclass(eq=False)
class Directory:
    names: dict[str, "File | Link | Directory"] = field(default_factory=dict)
    mode: int = 0o755


Entry = File | Link | Directory


class Reference:
    """The tree, by paths without a slash at either end; the root is empty."""

    def __init__(self) -> None:
        self.root = Directory()

    def find(self, path: str) -> Entry:
        here: Entry = self.root
        for part in filter(None, path.split("/")):
            if not isinstance(here, Directory):
                raise Refused(errno.ENOTDIR)
            if part not in here.names:
                raise Refused(errno.ENOENT)
            here = here.names[part]
        return here

    def _parent(self, path: str) -> tuple[Directory, str]:
        above, _, name = path.rpartition("/")
        parent = self.find(above)
        if not isinstance(parent, Directory):
            raise Refused(errno.ENOTDIR)
        return parent, name

    def walk(self, path: str = "") -> list[tuple[str, Entry]]:
        here = self.find(path)
        found: list[tuple[str, Entry]] = []
        if isinstance(here, Directory):
            for name in sorted(here.names):
                full = f"{path}/{name}" if path else name
                found += [(full, here.names[name]), *self.walk(full)]
        return found

    def make(self, path: str, entry: Entry) -> None:
        parent, name = self._parent(path)
        if name in parent.names:
            raise Refused(errno.EEXIST)
        parent.names[name] = entry

    def open(self, path: str) -> File:
        found = self.find(path)
        if isinstance(found, Directory):
            raise Refused(errno.EISDIR)
        if isinstance(found, Link):
            raise Refused(errno.ELOOP)
        found.opened += 1
        return found

    def unlink(self, path: str) -> None:
        parent, name = self._parent(path)
        if isinstance(self.find(path), Directory):
            raise Refused(errno.EISDIR)
        del parent.names[name]

    def rmdir(self, path: str) -> None:
        parent, name = self._parent(path)
        found = self.find(path)
        if not isinstance(found, Directory):
            raise Refused(errno.ENOTDIR)
        if found.names:
            raise Refused(errno.ENOTEMPTY)
        del parent.names[name]

    def rename(self, old: str, new: str, *, replace: bool = True) -> None:
        old_parent, old_name = self._parent(old)
        new_parent, new_name = self._parent(new)
        moving = self.find(old)
        there = new_parent.names.get(new_name)
        if there is moving:
            return
        if there is not None and not replace:
            raise Refused(errno.EEXIST)
        if isinstance(there, Directory) and not isinstance(moving, Directory):
            raise Refused(errno.EISDIR)
        if isinstance(moving, Directory):
            if there is not None and not isinstance(there, Directory):
                raise Refused(errno.ENOTDIR)
            if f"{new}/".startswith(f"{old}/"):
                raise Refused(errno.EINVAL)
            if there is not None and there.names:
                raise Refused(errno.ENOTEMPTY)
        if isinstance(there, File):
            there.may_be_stale = True
        new_parent.names[new_name] = moving
        del old_parent.names[old_name]

    def chmod(self, path: str, mode: int) -> None:
        found = self.find(path)
        if isinstance(found, Link):
            raise Refused(errno.ELOOP)
        found.mode = mode
