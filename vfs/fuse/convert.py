"""Between the kernel's terms and ours: attributes, errors, setattr fields."""

import errno
import logging
import os
import stat
from types import TracebackType

import pyfuse3
import trio

from vfs.errors import AuthenticationError, TransientError, VfsError
from vfs.repeats import Repeats
from vfs.tree.context import Caller
from vfs.tree.metadata import AttributeChange
from vfs.tree.node import Node

log = logging.getLogger(__name__)

_TOLD = {errno.EIO, errno.EACCES, errno.ENOSPC, errno.ESTALE, errno.ETIMEDOUT}
_OF_THE_STORE = (TransientError, AuthenticationError)  # whatever the object
_repeats = Repeats()  # of the one mount that a process has

BLOCK_BYTES = 512
"""Unit of st_blocks (stat(2))."""
PREFERRED_IO_BYTES = 128 << 10


class reply:  # noqa: N801 - reads as a statement; a generator would cost 4 us a request more
    """Answer failures: a VfsError by its errno, anything unexpected by EIO and a traceback.

    Whatever else left a handler would end pyfuse3's main loop, and with it the mount.
    """

    __slots__ = ("_operation",)

    def __init__(self, operation: str) -> None:
        self._operation = operation

    async def __aenter__(self) -> None:
        return

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, VfsError):
            self._log(error)
            raise pyfuse3.FUSEError(error.errno) from error
        if isinstance(error, Exception) and not isinstance(error, pyfuse3.FUSEError):
            log.error("%s: unexpected error", self._operation, exc_info=error)
            raise pyfuse3.FUSEError(errno.EIO) from error

    def _log(self, error: VfsError) -> None:
        # The kernel looks up again what is stale when it is opened: nobody else hears of it.
        hidden = error.errno == errno.ESTALE and self._operation == "open"
        more = None
        if error.errno in _TOLD and not hidden:
            subject = "" if isinstance(error, _OF_THE_STORE) else error.key
            more = _repeats.turn((error.code, subject), trio.current_time())
        level = logging.DEBUG if more is None else logging.WARNING
        log.log(level, "%s %r: %s%s", self._operation, error.key, error.message, more or "")


def entry_attributes(node: Node, name_s: float, attributes_s: float) -> pyfuse3.EntryAttributes:
    """Return what the kernel is told about a node, and for how many seconds it may believe it."""
    attributes = node.attributes
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(node.inode)
    entry.generation = 0
    entry.entry_timeout = name_s
    entry.attr_timeout = attributes_s
    entry.st_mode = pyfuse3.ModeT(attributes.mode)
    entry.st_nlink = 0 if node.detached else 1  # of a directory: nobody has counted what is in it
    entry.st_uid = attributes.uid
    entry.st_gid = attributes.gid
    entry.st_rdev = attributes.rdev
    entry.st_size = node.size
    entry.st_blksize = PREFERRED_IO_BYTES
    entry.st_blocks = -(-node.stored_bytes // BLOCK_BYTES)
    entry.st_atime_ns = max(node.atime_ns, 0)
    entry.st_mtime_ns = attributes.mtime_ns
    entry.st_ctime_ns = attributes.ctime_ns
    return entry


def no_entry(name_s: float) -> pyfuse3.EntryAttributes:
    """Return that there is no such name, which the kernel may believe for so many seconds."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = name_s
    return entry


def attribute_change(
    fields: pyfuse3.SetattrFields, attr: pyfuse3.EntryAttributes
) -> AttributeChange:
    """Return what a setattr request asks for."""
    return AttributeChange(
        mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
    )


def caller(context: pyfuse3.RequestContext) -> Caller:
    """Return who makes a request."""
    return Caller(context.uid, context.gid, context.umask)


def access_mode(flags: int) -> int:
    """Return the open flags that mean something here."""
    return flags & (os.O_ACCMODE | os.O_TRUNC | os.O_EXCL | os.O_CREAT | os.O_APPEND)
