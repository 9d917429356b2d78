"""The object store: spans in, bytes out. It knows objects, never files.

One abstract class of plain calls without streams, which is what makes each wrapper a page.
Everything a caller may plan with stands in `Features`; a call that the features do not promise is
never made.

Words: an *object* has a key and, at any moment, one current *version*. `ObjectVersion` names which
bytes are meant; every read carries one, so nothing stale or mixed can be read. A key that ends in
`/` is a directory marker: an empty object on object stores, a real directory on `local`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from typing_extensions import override

from vfs.values import GIB, MIB, TIB, Key, Span, Version

COMMIT_ID = "vfs-commit"
"""User metadata key of the random id of the commit that wrote an object.

It settles a lost reply: an object that carries the id we sent is the one we wrote.
"""

SHA256 = "sha256"
"""User metadata key of the SHA-256 of all bytes of an object, in hex, where its writer knew it."""

NO_METADATA: Mapping[str, str] = MappingProxyType({})


def _no_metadata() -> Mapping[str, str]:
    return NO_METADATA


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One object as it was at one moment."""

    key: Key
    version: Version
    version_id: str | None = None  # addresses these bytes for ever, where the bucket keeps versions


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store tells about an object without its bytes."""

    key: Key
    size: int
    version: Version
    mtime_ns: int
    # Lower-case names; filled by head, empty in listings.
    metadata: Mapping[str, str] = field(default_factory=_no_metadata)
    version_id: str | None = None
    storage_class: str = ""
    # Told by a look at the object after it was written, not by the answer to what wrote it.
    looked: bool = field(default=False, compare=False)

    @property
    def pin(self) -> ObjectVersion:
        """Name exactly these bytes."""
        return ObjectVersion(self.key, self.version, self.version_id)


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a listing, ascending by key in UTF-8 byte order."""

    objects: tuple[ObjectInfo, ...]
    prefixes: tuple[Key, ...]  # common prefixes, each ending in the delimiter
    cursor: str | None  # opaque; None on the last page. A page may be empty and not be the last


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold of the target when a write takes effect; the default asks nothing."""

    if_absent: bool = False
    if_version: Version | None = None

    def __bool__(self) -> bool:
        return self.if_absent or self.if_version is not None


ANY = Condition()
ABSENT = Condition(if_absent=True)


@dataclass(frozen=True, slots=True)
class Properties:
    """What is stored with an object besides its bytes."""

    # User metadata: lower-case ASCII names, text values.
    metadata: Mapping[str, str] = field(default_factory=_no_metadata)
    content_type: str = "application/octet-stream"

    @property
    def commit_id(self) -> str | None:
        """The commit id that the object will carry."""
        return self.metadata.get(COMMIT_ID)


PLAIN_PROPERTIES = Properties()


class Body(ABC):
    """Bytes to upload: read in pieces from a worker thread, from the start again on each retry."""

    size: int

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes from `offset` on. Blocking; any thread."""

    def is_hole(self, span: Span) -> bool:
        """Tell whether a span is known to be zeros; False where it is not known."""
        del span
        return False

    def sha256(self) -> bytes:
        """Return the SHA-256 digest of all the bytes. Blocking; reads them once."""
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(self.size, MIB)))
        for piece in Span(0, self.size).pieces(MIB):
            view = buffer[: piece.size]
            self.read_into(piece.start, view)
            digest.update(view)
        return digest.digest()


class BytesBody(Body):
    """A body that is in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data).cast("B")
        self.size = self._view.nbytes

    @override
    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self._view[offset : offset + buffer.nbytes]


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload in parts that has begun. Plain data, so that a journal can keep it."""

    key: Key
    upload_id: str
    commit_id: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One stored part of an upload."""

    number: int
    tag: str  # what finish_upload must repeat: the part's ETag or block id
    size: int
    sha256: str | None = None  # hex digest of the bytes that were sent; None for a copied range


@dataclass(frozen=True, slots=True)
class PartRules:
    """How an upload may be cut. Defaults are those of Amazon S3 ("Multipart upload limits")."""

    min_bytes: int = 5 * MIB  # every part but the last
    max_bytes: int = 5 * GIB
    max_parts: int = 10_000
    max_object_bytes: int = 5 * TIB
    max_write_bytes: int = 5 * GIB  # one `write`, one `copy`
    equal_parts: bool = False  # all parts but the last must have one size


@dataclass(frozen=True, slots=True)
class Features:
    """What a store is proved to do. Absent unless proved; decided per endpoint and bucket."""

    write_if_absent: bool = False
    write_if_version: bool = False
    finish_if_absent: bool = False
    finish_if_version: bool = False
    copy_if_absent: bool = False
    copy_if_version: bool = False  # the target's version
    copy_pins_source: bool = False  # `copy` fails when the source is another version
    copy_part_pins_source: bool = False  # `copy_part` likewise
    remove_if_version: bool = False
    multipart: bool = False
    copy_part: bool = False
    sparse: bool = False  # a hole in what is written takes neither time nor space
    move: bool = False  # atomic, also of a whole directory (both keys end in `/`)
    versions: bool = False  # the bucket keeps older versions, readable by version_id
    metadata: bool = False  # user metadata is kept
    remove_max_keys: int = 1  # keys of one remove call
    max_key_bytes: int = 1024
    parts: PartRules = field(default_factory=PartRules)
    quirks: frozenset[str] = frozenset()  # words that only the backend itself understands


class Store(ABC):
    """An object store below one prefix.

    Every call may be made by any number of tasks at once. Every call may raise DeniedError,
    AuthenticationError, TransientError (ThrottledError, UnreachableError), NotFoundError (for a
    missing bucket too, then with an empty key); the docstrings name what is particular to the call.
    Cancelling a read has no effect on the store; cancelling a mutation leaves it undecided.
    """

    url: str
    """Where the store is, as a person would write it; never holds a secret."""

    @property
    def ends_reads_early(self) -> bool:
        """Whether a cancelled read ends at once: only then is it of use to ask for one twice."""
        return False

    @property
    @abstractmethod
    def features(self) -> Features:
        """What this store can do: known by its kind, refined by `probe`."""

    @abstractmethod
    async def probe(self, *, write: bool, known: Features | None = None) -> Features:
        """Reach the store, check that it can be listed and find out what it can do.

        With `write`, tries conditions and range copy on objects below `.vfs/tmp/` and removes them;
        with `known`, what an earlier probe found, tries only what may have changed since.
        Errors: those of every call, with a message that tells an operator what to mend.
        """

    @abstractmethod
    async def head(self, key: Key) -> ObjectInfo:
        """Describe the current version, with its user metadata.

        Errors: NotFoundError.
        """

    @abstractmethod
    async def list(
        self,
        prefix: Key,
        *,
        delimiter: str = "",
        start_after: Key | None = None,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        """List the keys that start with `prefix`, a page at a time.

        Shape: with `delimiter="/"`, keys that have it after the prefix are folded into `prefixes`.
        `cursor` is that of the page before; `start_after` (without a cursor) begins after a key. A
        directory marker `a/` is an object in the listing of prefix `a/` and a prefix in that of
        its parent. A page holds at most `limit` objects and prefixes, often fewer.
        """

    @abstractmethod
    async def read_into(
        self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]
    ) -> None:
        """Fill the buffers, in order, with exactly the bytes of a non-empty span.

        Shape: the buffers' sizes add up to `span.size`; the span lies inside the object. By version
        id where `source` has one, else under the condition that `source.version` is current.
        Errors: StaleError when that version is not there any more (also when the key is gone);
        CorruptError when the answer is not exactly the span; NotFoundError for a missing bucket.
        """

    async def read(self, source: ObjectVersion, span: Span) -> bytes:
        """Return exactly the bytes of a span; an empty one costs no request. For small reads."""
        if not span:
            return b""
        buffer = bytearray(span.size)
        await self.read_into(source, span, [memoryview(buffer)])
        return bytes(buffer)

    @abstractmethod
    async def write(
        self,
        key: Key,
        body: Body,
        *,
        condition: Condition = ANY,
        properties: Properties = PLAIN_PROPERTIES,
    ) -> ObjectInfo:
        """Store a whole object atomically and describe it.

        Errors: ConflictError when the condition does not hold; TooLargeError, QuotaError.
        """

    @abstractmethod
    async def copy(
        self,
        source: ObjectVersion,
        target: Key,
        *,
        condition: Condition = ANY,
        properties: Properties | None = None,
    ) -> ObjectInfo:
        """Copy a whole object inside the store; `properties=None` keeps those of the source.

        Errors: StaleError when the source is another version (where `copy_pins_source`),
        ConflictError when the condition on the target does not hold.
        """

    @abstractmethod
    async def remove(self, keys: Sequence[Key], *, if_version: Version | None = None) -> None:
        """Remove objects; one that is not there is no error.

        Shape: at most `features.remove_max_keys` keys; `if_version` only with a single key.
        Errors: ConflictError; NotEmptyError for a directory marker on `local`; RetainedError.
        """

    @abstractmethod
    async def move(
        self, source: ObjectVersion, target: Key, *, condition: Condition = ANY
    ) -> ObjectInfo:
        """Rename atomically, where `features.move`; a directory (`a/` to `b/`) with all in it.

        Errors: StaleError when the source is another version (not checked for directories),
        ConflictError.
        """

    @abstractmethod
    async def begin_upload(self, key: Key, *, properties: Properties = PLAIN_PROPERTIES) -> Upload:
        """Begin an upload in parts; nothing is visible until it is finished."""

    @abstractmethod
    async def upload_part(
        self, upload: Upload, number: int, body: Body, *, offset: int | None = None
    ) -> Part:
        """Store one part, replacing an earlier one of the same number (1 to `parts.max_parts`).

        Parts are concatenated in the order of their numbers, which may have gaps. `offset` is where
        the part begins in the finished object; callers that may meet `local` must give it, because
        that store writes parts to their final place. Object stores ignore it.
        Errors: NotFoundError when the upload was aborted or has expired.
        """

    @abstractmethod
    async def copy_part(
        self,
        upload: Upload,
        number: int,
        source: ObjectVersion,
        span: Span,
        *,
        offset: int | None = None,
    ) -> Part:
        """Make a part from a range of an object of the same store, without moving its bytes here.

        `offset` as for `upload_part`.
        Errors: StaleError when the source is another version (where `copy_part_pins_source`).
        """

    @abstractmethod
    async def finish_upload(
        self, upload: Upload, parts: Sequence[Part], *, condition: Condition = ANY
    ) -> ObjectInfo:
        """Make the parts, ascending by number, the new version of the object, atomically.

        Errors: ConflictError (the upload stays and may be finished or aborted); NotFoundError when
        the upload is gone, which is also the answer to a finish whose first reply was lost (some
        stores repeat that reply).
        """

    @abstractmethod
    async def abort_upload(self, upload: Upload) -> None:
        """Drop an upload and its parts; one that is gone is no error."""

    async def renew(self) -> bool:
        """Look for other credentials; True when a call that was refused may succeed with them."""
        return False

    async def aclose(self) -> None:  # noqa: B027 - most stores have nothing to give up
        """Give up connections. No call may follow."""
