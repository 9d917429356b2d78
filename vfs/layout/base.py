"""How a file becomes objects.

A layout answers a few calls about files and directories by key and knows neither inodes nor caches.
It names the identity of cached blocks and decides what one commit uploads; nobody above it knows
parts, uploads or conditions. `plain` keeps one object a file; a chunked layout fits behind the same
calls.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import override

from vfs.spans import SpanSet
from vfs.store.base import Body, ObjectInfo, ObjectVersion, Part, Upload
from vfs.values import Key, Span


@dataclass(frozen=True, slots=True)
class FileVersion:
    """One version of a file's content: what readers, caches and commits refer to."""

    pin: ObjectVersion
    size: int  # bytes
    mtime_ns: int  # when the store says it was written

    @classmethod
    def of(cls, info: ObjectInfo) -> "FileVersion":
        """Return the file that one object is."""
        return cls(info.pin, info.size, info.mtime_ns)

    @property
    def identity(self) -> str:
        """Name these bytes in caches: equal identities have equal blocks."""
        return f"{self.pin.key}\0{self.pin.version}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory, as the store tells it."""

    name: str  # key component
    file: FileVersion | None  # None: a directory

    @property
    def is_directory(self) -> bool:
        """Tell whether this is a directory."""
        return self.file is None


@dataclass(frozen=True, slots=True)
class DirectoryPage:
    """Part of a directory's listing."""

    entries: tuple[Entry, ...]
    sidecars: tuple[ObjectInfo, ...]  # our own attribute objects in this directory
    hidden: int  # keys that cannot be file names
    exists: bool  # some key with this prefix was seen, be it only the directory's marker
    marker: bool  # the directory's own marker was seen: it stays when it is empty
    cursor: str | None  # None on the last page


class Content(Protocol):
    """One frozen state of a file, as a commit reads it."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    @property
    def changed(self) -> SpanSet:
        """Bytes that differ from the base version; everything past the base's size is in it."""
        ...

    async def body(self, span: Span) -> Body:
        """Return the bytes of a span, those of the base version fetched first where it is clean."""
        ...

    def is_latest(self, span: Span) -> bool:
        """Tell whether the file still holds these bytes, whatever was written meanwhile."""
        ...


class UploadLog(Protocol):
    """Where a draft records what a restart must know, before and after each step.

    Errors of every call: FullError, VfsError when the disk fails.
    """

    async def upload_begun(self, upload: Upload) -> None:
        """Record an upload in parts before its first part is sent."""
        ...

    def sending(self, number: int) -> None:
        """Record that the upload may have a part of that number from now on."""
        ...

    def progress(self) -> None:
        """Take note that the store has one part more, be it history by now."""
        ...

    def part_sent(self, part: Part, span: Span) -> None:
        """Record a finished part and the bytes of the file that it holds, as they are now."""
        ...


class NoUploadLog(UploadLog):
    """For uploads that a restart need not know."""

    @override
    async def upload_begun(self, upload: Upload) -> None:
        return

    @override
    def sending(self, number: int) -> None:
        return

    @override
    def progress(self) -> None:
        return

    @override
    def part_sent(self, part: Part, span: Span) -> None:
        return


NO_UPLOAD_LOG = NoUploadLog()


@dataclass(frozen=True, slots=True)
class Begun:
    """What an earlier process has done for a draft, as its journal tells."""

    commit_id: str
    upload: Upload | None = None
    sent: frozenset[int] = frozenset()  # numbers of parts that the upload may have
    parts: tuple[tuple[Part, Span], ...] = ()  # those that hold what the file holds


class Draft(ABC):
    """The next version of one file in the making: parts sent ahead, then one commit."""

    commit_id: str
    """Random, fixed before the first request, carried by the object."""

    @abstractmethod
    def ahead(self, near: Span, complete: SpanSet, size_hint: int) -> Sequence[Span]:
        """Return the spans, each one part, at `near` that may be sent now: `complete` covers them.

        Each is offered once; one that changes after it was sent waits for the commit.
        """

    @abstractmethod
    async def send(self, span: Span, body: Body) -> None:
        """Send one of the spans of `ahead`; it counts until a `touch` of it."""

    @property
    @abstractmethod
    def sent_bytes(self) -> int:
        """Bytes of the file, as it is now, that were sent already."""

    @abstractmethod
    def touch(self, span: Span) -> None:
        """Note that bytes have changed since they were sent: their parts count no more."""

    @abstractmethod
    async def commit(self, content: Content, metadata: Mapping[str, str]) -> FileVersion:
        """Make `content` the current version of the target, atomically, or change nothing.

        Errors: ConflictError when somebody else wrote the target or the base; any store error,
        after which it may be called again with a newer content.
        """

    @abstractmethod
    async def landed(self) -> FileVersion | None:
        """Return the version that an earlier `commit` made if only its answer was lost.

        It may hold an older content than the last one given. None: nothing of ours is there.
        """

    @abstractmethod
    async def abandon(self) -> None:
        """Drop what was sent ahead. Errors: none."""


class Layout(ABC):
    """Files and directories by key. Keys of directories end in no slash; the root is empty."""

    @abstractmethod
    def check_size(self, size: int) -> None:
        """Refuse a size that could never be stored.

        Errors: TooLargeError.
        """

    @abstractmethod
    def check_key(self, key: Key) -> None:
        """Refuse a key that the store cannot hold.

        Errors: NameTooLongError.
        """

    @abstractmethod
    async def find(self, key: Key) -> Entry | None:
        """Look one key up, asking for a file and a directory at once; a directory wins."""

    @abstractmethod
    async def list(self, directory: Key, cursor: str | None = None) -> DirectoryPage:
        """List a directory, a page at a time; a name may come as a file and then as a directory."""

    @abstractmethod
    async def read_into(self, file: FileVersion, span: Span, buffers: Sequence[memoryview]) -> None:
        """Fill the buffers with a non-empty span of a version. Errors: StaleError."""

    @abstractmethod
    def draft(
        self,
        target: Key,
        *,
        base: FileVersion | None,
        replaces: FileVersion | None,
        metadata: Mapping[str, str],
        log: UploadLog,
        begun: Begun | None = None,
    ) -> Draft:
        """Begin the next version of `target`, made from `base` (which may lie at another key).

        `replaces` is what the target must hold when the commit takes effect; None: nothing.
        `metadata` goes with an upload that begins before the commit. `begun` is gone on with.
        """

    @abstractmethod
    async def remove(self, file: FileVersion, *, whichever: bool = False) -> None:
        """Remove a file if it is still that version, or whichever it is; gone is no error.

        Errors: ConflictError when it is another version now.
        """

    @abstractmethod
    async def move(
        self, file: FileVersion, target: Key, *, replaces: FileVersion | None
    ) -> FileVersion:
        """Make `file` the content of `target` and remove the old key, never losing both names.

        Errors: StaleError, ConflictError; then the old name stands unchanged.
        """

    @abstractmethod
    async def copy(
        self, file: FileVersion, target: Key, *, replaces: FileVersion | None
    ) -> FileVersion:
        """Make `file` the content of `target` as well. Errors: as of `move`."""

    @abstractmethod
    async def is_one_commit(self, one: FileVersion, other: FileVersion) -> bool:
        """Tell whether two files are known to come from one commit, as a file and its copy do."""

    @abstractmethod
    async def birth(self, file: FileVersion) -> str | None:
        """Return what tells a file from one of equal bytes that is made later under its key.

        None when that version is not there. Stores may name versions by their bytes.
        """

    @abstractmethod
    def place_aside(self) -> Key:
        """Return a key outside of the tree for a file that has lost its name and is still read."""

    @property
    @abstractmethod
    def moves_files(self) -> bool:
        """Whether `move` is one atomic request."""

    @property
    @abstractmethod
    def moves_directories(self) -> bool:
        """Whether `move_directory` is one atomic request."""

    @abstractmethod
    async def move_directory(self, source: Key, target: Key) -> None:
        """Rename a directory with everything in it, where `moves_directories`."""

    @abstractmethod
    async def make_directory(self, directory: Key) -> None:
        """Make a directory that exists without children; one that is there is no error."""

    @abstractmethod
    async def remove_directory(self, directory: Key) -> None:
        """Remove an empty directory's own trace. Errors: NotEmptyError where the store knows."""
