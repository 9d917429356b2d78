"""Attributes of a name: mode, owner, times, symlink target, extended attributes.

They never rewrite an object. An entry names the object version that it describes: while the store
shows that version the entry is the truth; when another tool has replaced the object only its
permission bits (without setuid and setgid), owner and group are kept, and the rest comes from the
listing. No entry means the mount's defaults and the store's time.
"""

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from vfs.layout.base import FileVersion
from vfs.values import Version

NO_XATTRS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is kept about a name besides its bytes."""

    mode: int  # type and permission bits
    uid: int
    gid: int
    mtime_ns: int
    ctime_ns: int
    version: Version | None = None  # the object version described; None for directories
    target: str | None = None  # of a symlink
    rdev: int = 0  # of a device
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: NO_XATTRS)

    @property
    def kind(self) -> int:
        """The type bits of the mode."""
        return stat.S_IFMT(self.mode)


@dataclass(frozen=True, slots=True)
class Defaults:
    """Attributes of names that carry none."""

    uid: int
    gid: int
    umask: int
    directory_time_ns: int  # directories have no time in a store: when the mount began

    def file(self, version: FileVersion) -> Attributes:
        """Return the attributes of an object that nobody has described."""
        mode = stat.S_IFREG | (0o666 & ~self.umask)
        time = version.mtime_ns
        return Attributes(mode, self.uid, self.gid, time, time, version.pin.version)

    def directory(self) -> Attributes:
        """Return the attributes of a directory that nobody has described."""
        mode = stat.S_IFDIR | (0o777 & ~self.umask)
        time = self.directory_time_ns
        return Attributes(mode, self.uid, self.gid, time, time)


def effective(entry: Attributes | None, file: FileVersion | None, defaults: Defaults) -> Attributes:
    """Return the attributes of a name whose sidecar entry and object are these."""
    if file is None:
        if entry is not None and entry.kind == stat.S_IFDIR:
            return entry
        return defaults.directory()
    plain = defaults.file(file)
    if entry is None or entry.kind == stat.S_IFDIR:
        return plain
    if entry.version == file.pin.version:
        return entry
    mode = stat.S_IFREG | (stat.S_IMODE(entry.mode) & 0o1777)
    return replace(plain, mode=mode, uid=entry.uid, gid=entry.gid)


def object_metadata(attributes: Attributes) -> dict[str, str]:
    """Return what is stored with an object, by the names that s3fs reads and writes."""
    seconds, rest_ns = divmod(attributes.mtime_ns, 1_000_000_000)
    return {
        "mode": str(attributes.mode),
        "uid": str(attributes.uid),
        "gid": str(attributes.gid),
        "mtime": f"{seconds}.{rest_ns:09d}",
    }
