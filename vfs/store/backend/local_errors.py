"""What the operating system says about a directory, as VfsErrors: one table.

The store's own disk being full is `QuotaError`: `FullError` is for the stage, and means something
else to whoever reads it.
"""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager

from vfs.errors import (
    BusyError,
    ConflictError,
    DeniedError,
    InvalidError,
    InvalidNameError,
    IsDirectoryError,
    NameTooLongError,
    NotEmptyError,
    NotFoundError,
    QuotaError,
    ReadOnlyError,
    TooLargeError,
    TransientError,
    UnreachableError,
    UnsupportedError,
    VfsError,
    WrongKindError,
)

_KINDS: dict[int, tuple[type[VfsError], str]] = {
    errno.ENOENT: (NotFoundError, ""),
    errno.EEXIST: (ConflictError, "it is there already"),
    errno.ENOTDIR: (WrongKindError, "a part of its path is a file"),
    # O_NOFOLLOW met a symlink: it is hidden, and it is in the way.
    errno.ELOOP: (DeniedError, "a symbolic link is in the way"),
    errno.EISDIR: (IsDirectoryError, ""),
    errno.ENOTEMPTY: (NotEmptyError, ""),
    errno.EACCES: (DeniedError, "grant this user access to the directory"),
    errno.EPERM: (DeniedError, "grant this user access to the directory"),
    errno.EROFS: (ReadOnlyError, "mount with -o ro or remount its file system"),
    errno.ENOSPC: (QuotaError, "free some space on its file system"),
    errno.EDQUOT: (QuotaError, "raise the quota or free some space"),
    errno.E2BIG: (TooLargeError, "its file system has a smaller limit"),
    errno.EFBIG: (TooLargeError, "its file system has a smaller limit"),
    errno.ENAMETOOLONG: (NameTooLongError, ""),
    errno.EILSEQ: (InvalidNameError, "its file system refuses such names"),
    errno.EINVAL: (InvalidError, ""),
    errno.EXDEV: (UnsupportedError, "another file system is mounted inside the directory"),
    errno.ENOTSUP: (UnsupportedError, ""),
    errno.ENOSYS: (UnsupportedError, ""),
    errno.ENOLCK: (UnsupportedError, "its file system has no locks"),
    errno.EBUSY: (BusyError, ""),
    errno.ETXTBSY: (BusyError, ""),
    errno.EIO: (TransientError, "look for disk errors in the kernel log"),
    errno.ESTALE: (TransientError, "the file server has forgotten it"),
    errno.EAGAIN: (TransientError, ""),
    errno.EINTR: (TransientError, ""),
    errno.ENOMEM: (TransientError, ""),
    errno.EMFILE: (TransientError, "raise LimitNOFILE"),
    errno.ENFILE: (TransientError, "raise fs.file-max"),
    errno.ETIMEDOUT: (UnreachableError, "the file server does not answer"),
    errno.EHOSTDOWN: (UnreachableError, "the file server does not answer"),
    errno.EHOSTUNREACH: (UnreachableError, "the file server does not answer"),
    errno.ENOTCONN: (UnreachableError, "the file server does not answer"),
}


def refusal(kind: type[VfsError], operation: str, url: str, key: str, why: str) -> VfsError:
    """Make an error that names what failed, on what and why."""
    what = f"{key!r} in {url}" if key else url
    message = f"cannot {operation} {what}: {why}"
    return kind(message, operation=operation, store=url, key=key)


@contextmanager
def translated(operation: str, url: str, key: str) -> Generator[None, None, None]:
    """Turn the operating system's errors into ours."""
    try:
        yield
    except OSError as error:
        number = error.errno or errno.EIO
        kind, remedy = _KINDS.get(number, (VfsError, ""))
        why = os.strerror(number)
        raise refusal(kind, operation, url, key, f"{why}; {remedy}" if remedy else why) from error
