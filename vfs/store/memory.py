"""A store in a dict: the reference for the contract, and what tests stand on.

It can do everything that `Features` has a word for. Take features away to see how callers do
without: a condition that is not supported is refused, or, on a store that is *lying*, ignored
without a word, as some servers do. Stores of one name share their content, so that two mounts
can meet on `mem://NAME`.

Nothing here leaves the trio loop: bodies are read inline, which keeps virtual clocks honest, and
every call is one step that no other task can look into.
"""

import dataclasses
import hashlib
import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import trio
from typing_extensions import override

from vfs.clock import WallClock, wall_ns
from vfs.errors import (
    ConflictError,
    CorruptError,
    InvalidError,
    NameTooLongError,
    NotEmptyError,
    NotFoundError,
    StaleError,
    TooLargeError,
    UnsupportedError,
    VfsError,
)
from vfs.store.base import (
    ANY,
    NO_METADATA,
    PLAIN_PROPERTIES,
    Body,
    Condition,
    Features,
    ListPage,
    ObjectInfo,
    ObjectVersion,
    Part,
    PartRules,
    Properties,
    Store,
    Upload,
)
from vfs.values import MIB, Key, Span, Version

SCHEME = "mem://"


def everything(rules: PartRules | None = None, *, versions: bool = False) -> Features:
    """Return the features of a store that can do all there is."""
    return Features(
        write_if_absent=True,
        write_if_version=True,
        finish_if_absent=True,
        finish_if_version=True,
        copy_if_absent=True,
        copy_if_version=True,
        copy_pins_source=True,
        copy_part_pins_source=True,
        remove_if_version=True,
        multipart=True,
        copy_part=True,
        move=True,
        versions=versions,
        metadata=True,
        remove_max_keys=1000,
        parts=rules or PartRules(),
    )


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    version: Version
    mtime_ns: int
    metadata: Mapping[str, str]


@dataclass(slots=True)
class _Upload:
    key: str
    metadata: Mapping[str, str]
    parts: dict[int, tuple[str, bytes]] = field(default_factory=dict[int, tuple[str, bytes]])


class _Bucket:
    """What all stores of one name share."""

    def __init__(self) -> None:
        self.objects: dict[str, _Object] = {}
        self.older: dict[str, dict[Version, _Object]] = {}
        self.uploads: dict[str, _Upload] = {}
        self.serial = itertools.count(1)
        self._sorted: list[str] | None = None

    def put(self, key: str, made: _Object, *, versions: bool) -> None:
        if key not in self.objects:
            self._sorted = None
        self.objects[key] = made
        if versions:
            self.older.setdefault(key, {})[made.version] = made

    def drop(self, key: str) -> _Object | None:
        self._sorted = None
        return self.objects.pop(key, None)

    def below(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield the keys of a prefix beyond `after`; code point order is UTF-8 byte order."""
        if self._sorted is None:
            self._sorted = sorted(self.objects)
        keys = self._sorted
        for index in range(bisect_left(keys, max(prefix, after)), len(keys)):
            if not keys[index].startswith(prefix):
                return
            if keys[index] > after:
                yield keys[index]


_BUCKETS: dict[str, _Bucket] = {}


def forget(name: str) -> None:
    """Empty the store of a name, for tests that use names twice."""
    _BUCKETS.pop(name, None)


class MemoryStore(Store):
    """Objects in memory, shared by name."""

    def __init__(
        self,
        url: str = "",
        *,
        features: Features | None = None,
        lying: bool = False,
        tags: bool = False,
        clock: WallClock = wall_ns,
    ) -> None:
        """Make a store; with `tags` equal bytes are equal versions, as S3's ETags are."""
        if url and not url.startswith(SCHEME):
            raise InvalidError(f"not a {SCHEME} URL: {url!r}")
        name, _, prefix = url.removeprefix(SCHEME).strip("/").partition("/")
        self.url = url or SCHEME
        self._bucket = _BUCKETS.setdefault(name, _Bucket()) if name else _Bucket()
        self._prefix = f"{prefix}/" if prefix else ""
        self._features = features or everything()
        self._lying = lying
        self._tags = tags
        self._clock = clock

    @property
    @override
    def features(self) -> Features:
        return self._features

    @override
    async def probe(self, *, write: bool, known: Features | None = None) -> Features:
        await trio.lowlevel.checkpoint()
        return self._features

    @override
    async def head(self, key: Key) -> ObjectInfo:
        await trio.lowlevel.checkpoint()
        found = self._find(key)
        if found is None:
            raise self._error(NotFoundError, "head", key, "there is no such object")
        return self._info(key, found)

    @override
    async def list(
        self,
        prefix: Key,
        *,
        delimiter: str = "",
        start_after: Key | None = None,
        cursor: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        await trio.lowlevel.checkpoint()
        after = self._prefix + (cursor or start_after or "")
        objects: list[ObjectInfo] = []
        prefixes: list[Key] = []
        last = None
        for full in self._bucket.below(self._prefix + prefix, after):
            key = full[len(self._prefix) :]
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            folded = Key(prefix + head + cut)
            if cut and (self._prefix + folded <= after or prefixes[-1:] == [folded]):
                continue
            if len(objects) + len(prefixes) == limit:
                return ListPage(tuple(objects), tuple(prefixes), last)
            if cut:
                prefixes.append(folded)
            else:
                found = self._bucket.objects[full]
                objects.append(
                    dataclasses.replace(self._info(Key(key), found), metadata=NO_METADATA)
                )
            last = folded if cut else key
        return ListPage(tuple(objects), tuple(prefixes), None)

    @override
    async def read_into(
        self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]
    ) -> None:
        await trio.lowlevel.checkpoint()
        found = self._pinned(source)
        if found is None:
            raise self._error(StaleError, "read", source.key, "this version is not there any more")
        data = memoryview(self._slice("read", source.key, found, span))
        for buffer in buffers:
            buffer[:] = data[: buffer.nbytes]
            data = data[buffer.nbytes :]

    @override
    async def write(
        self,
        key: Key,
        body: Body,
        *,
        condition: Condition = ANY,
        properties: Properties = PLAIN_PROPERTIES,
    ) -> ObjectInfo:
        await trio.lowlevel.checkpoint()
        features = self._features
        if body.size > features.parts.max_write_bytes:
            raise self._error(TooLargeError, "write", key, "too large for a single write")
        self._check(
            "write", key, condition, absent=features.write_if_absent, at=features.write_if_version
        )
        return self._put(key, _bytes_of(body), properties.metadata)

    @override
    async def copy(
        self,
        source: ObjectVersion,
        target: Key,
        *,
        condition: Condition = ANY,
        properties: Properties | None = None,
    ) -> ObjectInfo:
        await trio.lowlevel.checkpoint()
        features = self._features
        found = self._source("copy", source, pinned=features.copy_pins_source)
        if len(found.data) > features.parts.max_write_bytes:
            raise self._error(TooLargeError, "copy", target, "too large for a single copy")
        self._check(
            "copy", target, condition, absent=features.copy_if_absent, at=features.copy_if_version
        )
        return self._put(target, found.data, properties.metadata if properties else found.metadata)

    @override
    async def remove(self, keys: Sequence[Key], *, if_version: Version | None = None) -> None:
        await trio.lowlevel.checkpoint()
        if len(keys) > self._features.remove_max_keys or (if_version and len(keys) != 1):
            raise self._error(InvalidError, "remove", keys[0], f"not {len(keys)} keys in one call")
        for key in keys:
            if if_version is not None and self._find(key) is not None:
                condition = Condition(if_version=if_version)
                self._check("remove", key, condition, at=self._features.remove_if_version)
            self._bucket.drop(self._full(key))

    @override
    async def move(
        self, source: ObjectVersion, target: Key, *, condition: Condition = ANY
    ) -> ObjectInfo:
        await trio.lowlevel.checkpoint()
        self._require("move", target, offered=self._features.move)
        if source.key.endswith("/") != target.endswith("/"):
            raise self._error(InvalidError, "move", target, "a directory moves to a directory")
        if source.key.endswith("/"):
            return self._move_directory(source.key, target, condition)
        found = self._source("move", source, pinned=True)
        self._check("move", target, condition)
        self._bucket.drop(self._full(source.key))
        self._bucket.put(self._full(target), found, versions=self._features.versions)
        return self._info(target, found)

    def _move_directory(self, source: Key, target: Key, condition: Condition) -> ObjectInfo:
        bucket = self._bucket
        moving = list(bucket.below(self._full(source)))
        if not moving:
            raise self._error(NotFoundError, "move", source, "there is no such directory")
        if target.startswith(source) and target != source:
            raise self._error(InvalidError, "move", target, "a directory cannot move into itself")
        there = list(bucket.below(self._full(target)))
        if condition.if_absent and there:
            raise self._error(ConflictError, "move", target, "it is there already")
        self._check("move", target, condition)
        if target != source and any(full != self._full(target) for full in there):
            raise self._error(NotEmptyError, "move", target, "the directory is not empty")
        for full in moving:
            found = bucket.drop(full)
            if found is not None:
                renamed = self._full(target) + full[len(self._full(source)) :]
                bucket.put(renamed, found, versions=self._features.versions)
        marker = self._find(target)
        if marker is None:
            return ObjectInfo(target, 0, Version("implied"), self._clock())
        return self._info(target, marker)

    @override
    async def begin_upload(self, key: Key, *, properties: Properties = PLAIN_PROPERTIES) -> Upload:
        await trio.lowlevel.checkpoint()
        self._require("begin_upload", key, offered=self._features.multipart)
        upload = Upload(key, f"upload-{next(self._bucket.serial)}", properties.commit_id)
        self._bucket.uploads[upload.upload_id] = _Upload(self._full(key), properties.metadata)
        return upload

    @override
    async def upload_part(
        self, upload: Upload, number: int, body: Body, *, offset: int | None = None
    ) -> Part:
        await trio.lowlevel.checkpoint()
        part = self._put_part("upload_part", upload, number, body.size, lambda: _bytes_of(body))
        sent = self._open_upload("upload_part", upload).parts[number][1]
        return dataclasses.replace(part, sha256=hashlib.sha256(sent).hexdigest())

    @override
    async def copy_part(
        self,
        upload: Upload,
        number: int,
        source: ObjectVersion,
        span: Span,
        *,
        offset: int | None = None,
    ) -> Part:
        await trio.lowlevel.checkpoint()
        self._require("copy_part", upload.key, offered=self._features.copy_part)
        found = self._source("copy_part", source, pinned=self._features.copy_part_pins_source)
        data = self._slice("copy_part", source.key, found, span)
        return self._put_part("copy_part", upload, number, span.size, lambda: data)

    @override
    async def finish_upload(
        self, upload: Upload, parts: Sequence[Part], *, condition: Condition = ANY
    ) -> ObjectInfo:
        await trio.lowlevel.checkpoint()
        state = self._open_upload("finish_upload", upload)
        self._check_parts(upload, state, parts)
        self._check(
            "finish_upload",
            upload.key,
            condition,
            absent=self._features.finish_if_absent,
            at=self._features.finish_if_version,
        )
        data = b"".join(state.parts[part.number][1] for part in parts)
        del self._bucket.uploads[upload.upload_id]
        return self._put(upload.key, data, state.metadata)

    @override
    async def abort_upload(self, upload: Upload) -> None:
        await trio.lowlevel.checkpoint()
        self._bucket.uploads.pop(upload.upload_id, None)

    def _put_part(
        self, operation: str, upload: Upload, number: int, size: int, load: Callable[[], bytes]
    ) -> Part:
        state = self._open_upload(operation, upload)
        rules = self._features.parts
        if not 1 <= number <= rules.max_parts:
            message = f"part number {number} is not in 1..{rules.max_parts}"
            raise self._error(InvalidError, operation, upload.key, message)
        if size > rules.max_bytes:
            raise self._error(TooLargeError, operation, upload.key, "too large for a part")
        tag = f"part-{next(self._bucket.serial)}"
        state.parts[number] = (tag, load())
        return Part(number, tag, size)

    def _open_upload(self, operation: str, upload: Upload) -> _Upload:
        state = self._bucket.uploads.get(upload.upload_id)
        if state is None or state.key != self._full(upload.key):
            raise self._error(NotFoundError, operation, upload.key, "the upload is gone")
        return state

    def _check_parts(self, upload: Upload, state: _Upload, parts: Sequence[Part]) -> None:
        rules = self._features.parts
        numbers = [part.number for part in parts]
        if not parts or numbers != sorted(set(numbers)):
            raise self._error(InvalidError, "finish_upload", upload.key, "parts must ascend")
        for part in parts:
            tag, data = state.parts.get(part.number, ("", b""))
            if tag != part.tag:
                message = f"part {part.number} is gone or was replaced"
                raise self._error(NotFoundError, "finish_upload", upload.key, message)
            if len(data) < rules.min_bytes and part is not parts[-1]:
                message = f"part {part.number} is smaller than {rules.min_bytes} bytes"
                raise self._error(InvalidError, "finish_upload", upload.key, message)
        sizes = [len(state.parts[number][1]) for number in numbers]
        if rules.equal_parts and (len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]):
            raise self._error(InvalidError, "finish_upload", upload.key, "parts must be equal")
        if sum(sizes) > rules.max_object_bytes:
            raise self._error(TooLargeError, "finish_upload", upload.key, "too large an object")

    def _check(
        self,
        operation: str,
        key: Key,
        condition: Condition,
        *,
        absent: bool = True,
        at: bool = True,
    ) -> None:
        """Refuse, ignore or check the condition on a target, as the features say."""
        if not condition:
            return
        if not (absent if condition.if_absent else at):
            if not self._lying:
                raise self._error(UnsupportedError, operation, key, "no such condition here")
            return
        found = self._find(key)
        if condition.if_absent and found is not None:
            raise self._error(ConflictError, operation, key, "it is there already")
        if condition.if_version and (found is None or found.version != condition.if_version):
            raise self._error(ConflictError, operation, key, "somebody else has changed it")

    def _require(self, operation: str, key: Key, *, offered: bool) -> None:
        if not offered:
            raise self._error(UnsupportedError, operation, key, "this store cannot do that")

    def _source(self, operation: str, source: ObjectVersion, *, pinned: bool) -> _Object:
        current = self._find(source.key)
        found = self._pinned(source)
        if found is None and not pinned:
            found = current
        if found is not None:
            return found
        if current is None:
            raise self._error(NotFoundError, operation, source.key, "there is no such object")
        raise self._error(StaleError, operation, source.key, "the source is another version")

    def _slice(self, operation: str, key: Key, found: _Object, span: Span) -> bytes:
        if span.stop > len(found.data):
            message = f"there are {len(found.data)} bytes, not {span.stop}"
            raise self._error(CorruptError, operation, key, message)
        return found.data[span.start : span.stop]

    def _find(self, key: Key) -> _Object | None:
        return self._bucket.objects.get(self._full(key))

    def _pinned(self, source: ObjectVersion) -> _Object | None:
        if source.version_id is not None and self._features.versions:
            kept = self._bucket.older.get(self._full(source.key), {})
            return kept.get(Version(source.version_id))
        found = self._find(source.key)
        return found if found is not None and found.version == source.version else None

    def _put(self, key: Key, data: bytes, metadata: Mapping[str, str]) -> ObjectInfo:
        full = self._full(key)
        if len(full.encode("utf-8", "surrogatepass")) > self._features.max_key_bytes:
            raise self._error(NameTooLongError, "write", key, "the key is too long")
        kept = dict(metadata) if self._features.metadata else NO_METADATA
        tag = hashlib.sha256(data).hexdigest() if self._tags else str(next(self._bucket.serial))
        made = _Object(data, Version(tag), self._clock(), kept)
        self._bucket.put(full, made, versions=self._features.versions)
        return self._info(key, made)

    def _info(self, key: Key, found: _Object) -> ObjectInfo:
        version_id = str(found.version) if self._features.versions else None
        return ObjectInfo(
            key,
            len(found.data),
            found.version,
            found.mtime_ns,
            metadata=found.metadata,
            version_id=version_id,
        )

    def _full(self, key: Key) -> str:
        return self._prefix + key

    def _error(self, kind: type[VfsError], operation: str, key: Key, why: str) -> VfsError:
        return kind(
            f"cannot {operation} {key!r} in {self.url}: {why}",
            operation=operation,
            store=self.url,
            key=key,
        )


def _bytes_of(body: Body) -> bytes:
    data = bytearray(body.size)
    view = memoryview(data)
    for piece in Span(0, body.size).pieces(MIB):
        body.read_into(piece.start, view[piece.start : piece.stop])
    view.release()
    return bytes(data)
