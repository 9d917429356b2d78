"""Every expected failure, as one tree.

    VfsError                    EIO
      NotFoundError             ENOENT
      ExistsError               EEXIST
      NotEmptyError             ENOTEMPTY
      WrongKindError            ENOTDIR
        IsDirectoryError        EISDIR
      DeniedError               EACCES     the store or a mode bit says no
        NotPermittedError       EPERM      refused by design: hard links, reserved names
      AuthenticationError       EACCES     credentials missing, wrong or expired
      RetainedError             EPERM      a retention rule of the store forbids it
      ReadOnlyError             EROFS
      StaleError                ESTALE     the version that was asked for is not there any more
      ConflictError             ESTALE     a condition of a write did not hold: somebody else wrote
      CorruptError              EIO        a checksum, a length or a range is not what it must be
      MetadataError             EIO        metadata that cannot be understood
      FullError                 ENOSPC     the stage is full
      QuotaError                EDQUOT     the store's quota is used up
      TooLargeError             EFBIG
      InvalidNameError          EILSEQ
        NameTooLongError        ENAMETOOLONG
      InvalidError              EINVAL
      UnsupportedError          ENOTSUP    refused early, by design (docs/semantics.md)
      BusyError                 EBUSY
      BadHandleError            EBADF
      TransientError            EIO        may work when it is tried again
        ThrottledError          EIO        has retry_after_s
        UnreachableError        ETIMEDOUT
      ConfigError               EINVAL     names the option; exit code 2
      NotInThisVersionError     EINVAL     in the contract, not built yet; exit code 2

A class is admitted when some caller reacts differently to it. Translation happens at two boundaries
only: SDK -> VfsError (one table per backend) and VfsError -> errno (`fuse/convert.py`) or exit code
(`cli/main.py`).
"""

import errno as _errno
from typing import ClassVar


class VfsError(Exception):
    """Base of every expected failure.

    `message` is one line for a person: what failed, on what, why, and what to do. `detail` is what
    the other side said; neither ever holds a secret.
    """

    errno: ClassVar[int] = _errno.EIO
    code: ClassVar[str] = "FAILED"
    transient: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        operation: str = "",
        store: str = "",
        key: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.operation = operation
        self.store = store
        self.key = key
        self.detail = detail

    def to_dict(self) -> dict[str, str | int]:
        """Return the stable, secret-free fields for logs and JSON output."""
        return {
            "code": self.code,
            "errno": _errno.errorcode[self.errno],
            "message": self.message,
            "operation": self.operation,
            "store": self.store,
            "key": self.key,
            "detail": self.detail,
        }


class NotFoundError(VfsError):
    errno = _errno.ENOENT
    code = "NOT_FOUND"


class ExistsError(VfsError):
    errno = _errno.EEXIST
    code = "EXISTS"


class NotEmptyError(VfsError):
    errno = _errno.ENOTEMPTY
    code = "NOT_EMPTY"


class WrongKindError(VfsError):
    errno = _errno.ENOTDIR
    code = "NOT_A_DIRECTORY"


class IsDirectoryError(WrongKindError):
    errno = _errno.EISDIR
    code = "IS_A_DIRECTORY"


class DeniedError(VfsError):
    errno = _errno.EACCES
    code = "DENIED"


class NotPermittedError(DeniedError):
    errno = _errno.EPERM
    code = "NOT_PERMITTED"


class AuthenticationError(VfsError):
    errno = _errno.EACCES
    code = "AUTHENTICATION"


class RetainedError(VfsError):
    errno = _errno.EPERM
    code = "RETAINED"


class ReadOnlyError(VfsError):
    errno = _errno.EROFS
    code = "READ_ONLY"


class StaleError(VfsError):
    errno = _errno.ESTALE
    code = "STALE"


class ConflictError(VfsError):
    errno = _errno.ESTALE
    code = "CONFLICT"


class CorruptError(VfsError):
    errno = _errno.EIO
    code = "CORRUPT"


class MetadataError(VfsError):
    errno = _errno.EIO
    code = "METADATA"


class FullError(VfsError):
    errno = _errno.ENOSPC
    code = "STAGE_FULL"


class QuotaError(VfsError):
    errno = _errno.EDQUOT
    code = "QUOTA"


class TooLargeError(VfsError):
    errno = _errno.EFBIG
    code = "TOO_LARGE"


class InvalidNameError(VfsError):
    errno = _errno.EILSEQ
    code = "INVALID_NAME"


class NameTooLongError(InvalidNameError):
    errno = _errno.ENAMETOOLONG
    code = "NAME_TOO_LONG"


class InvalidError(VfsError):
    errno = _errno.EINVAL
    code = "INVALID"


class UnsupportedError(VfsError):
    errno = _errno.ENOTSUP
    code = "UNSUPPORTED"


class BusyError(VfsError):
    errno = _errno.EBUSY
    code = "BUSY"


class BadHandleError(VfsError):
    errno = _errno.EBADF
    code = "BAD_HANDLE"


class TransientError(VfsError):
    """May work when it is tried again."""

    code = "TRANSIENT"
    transient = True
    waited_s = 0.0  # that the request waited for bandwidth before it was made


class ThrottledError(TransientError):
    """The store asks for fewer requests; `retry_after_s` is its own word, None without one."""

    code = "THROTTLED"

    def __init__(
        self,
        message: str,
        *,
        operation: str = "",
        store: str = "",
        key: str = "",
        detail: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, operation=operation, store=store, key=key, detail=detail)
        self.retry_after_s = retry_after_s


class UnreachableError(TransientError):
    errno = _errno.ETIMEDOUT
    code = "UNREACHABLE"


class ConfigError(VfsError):
    errno = _errno.EINVAL
    code = "CONFIG"


class NotInThisVersionError(ConfigError):
    code = "NOT_IN_THIS_VERSION"
