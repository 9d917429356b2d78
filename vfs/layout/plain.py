"""One object is one file, readable by any other tool.

Directories are prefixes; `mkdir` makes a marker object `a/`. What a listing shows that cannot be a
file name is hidden and counted, our own objects likewise. Removing and renaming are conditional
where the store has the condition and checked before and after where it has not.
"""

import secrets
from collections.abc import Mapping, Sequence

from typing_extensions import override

from vfs import names
from vfs.errors import (
    BusyError,
    ConflictError,
    NameTooLongError,
    NotFoundError,
    StaleError,
)
from vfs.layout import parts
from vfs.layout.base import (
    NO_UPLOAD_LOG,
    Begun,
    Content,
    DirectoryPage,
    Draft,
    Entry,
    FileVersion,
    Layout,
    UploadLog,
)
from vfs.layout.commit import WRITE_BYTES, PlainDraft
from vfs.layout.digests import DIGESTS, DIGESTS_OF_DIRECTORY, Digests
from vfs.layout.uploads import DirectUploads, Uploads
from vfs.layout.zeros import ZEROS, ZeroObjects
from vfs.spans import EMPTY, SpanSet
from vfs.store.base import (
    ABSENT,
    COMMIT_ID,
    PLAIN_PROPERTIES,
    Body,
    BytesBody,
    Condition,
    ObjectInfo,
    ObjectVersion,
    Store,
)
from vfs.tasks import open_tasks
from vfs.values import Key, Span, Version

_LASTING = (f"{DIGESTS}/", f"{DIGESTS_OF_DIRECTORY}/", f"{ZEROS}/", f"{names.OWN_DIRECTORY}/lock")
"""What a mount leaves for all to come; anything else of ours belongs to one that lives."""


class _Untouched(Content):
    """A stored file as the content of a commit; what the store cannot copy is fetched."""

    def __init__(self, layout: Layout, file: FileVersion) -> None:
        self._layout = layout
        self._file = file

    @property
    @override
    def size(self) -> int:
        return self._file.size

    @property
    @override
    def changed(self) -> SpanSet:
        return EMPTY

    @override
    async def body(self, span: Span) -> Body:
        data = bytearray(span.size)
        if span:
            await self._layout.read_into(self._file, span, [memoryview(data)])
        return BytesBody(data)

    @override
    def is_latest(self, span: Span) -> bool:
        return True


class PlainLayout(Layout):
    """Files as objects of the same name."""

    def __init__(
        self,
        store: Store,
        *,
        part_bytes: int | None = None,
        uploads: Uploads | None = None,
        digests: Digests | None = None,
        verify_uploads: bool = False,
    ) -> None:
        self._store = store
        self._uploads = uploads or DirectUploads(store)
        self._zeros = ZeroObjects(store, self._uploads)
        self._part_bytes = part_bytes
        self._digests = digests
        self._verify_uploads = verify_uploads
        self._with_own: set[Key] = set()  # directories that were seen to hold a `.vfs/` of ours

    @override
    def check_size(self, size: int) -> None:
        parts.check_size(size, self._store.features.parts)

    @override
    def check_key(self, key: Key) -> None:
        limit = self._store.features.max_key_bytes
        used = len(key.encode("utf-8", "surrogatepass"))
        if used > limit:
            raise NameTooLongError(
                f"the path has {used} bytes; the store allows keys of {limit}", key=key
            )

    @override
    async def find(self, key: Key) -> Entry | None:
        name = key.rpartition("/")[2]
        file: FileVersion | None = None
        is_directory = False

        async def look_for_file() -> None:
            nonlocal file
            try:
                file = FileVersion.of(await self._store.head(key))
            except NotFoundError as error:
                if not error.key:
                    raise  # the bucket itself

        async def look_for_directory() -> None:
            nonlocal is_directory
            page = await self._store.list(names.as_prefix(key), limit=1)
            while not page.objects and page.cursor is not None:
                page = await self._store.list(names.as_prefix(key), limit=1, cursor=page.cursor)
            is_directory = bool(page.objects)

        async with open_tasks() as nursery:
            nursery.start_soon(look_for_file)
            nursery.start_soon(look_for_directory)
        if is_directory:
            return Entry(name, None)
        return Entry(name, file) if file is not None else None

    @override
    async def list(self, directory: Key, cursor: str | None = None) -> DirectoryPage:
        prefix = names.as_prefix(directory)
        page = await self._store.list(prefix, delimiter="/", cursor=cursor)
        entries: list[Entry] = []
        sidecars: list[ObjectInfo] = []
        hidden = 0
        marker = not directory
        for info in page.objects:
            name = info.key[len(prefix) :]
            if not name:
                marker = True
                continue
            if names.is_reserved(name):
                sidecars.append(info)
            elif names.is_name(name):
                entries.append(Entry(name, FileVersion.of(info)))
            else:
                hidden += 1
        for common in page.prefixes:
            name = common[len(prefix) : -1]
            if names.is_name(name) and not names.is_reserved(name):
                entries.append(Entry(name, None))
            elif not names.is_reserved(name):
                hidden += 1
            elif name == names.OWN_DIRECTORY:
                self._with_own.add(directory)
        return DirectoryPage(
            entries=tuple(entries),
            sidecars=tuple(sidecars),
            hidden=hidden,
            exists=bool(page.objects or page.prefixes) or not directory,
            marker=marker,
            cursor=page.cursor,
        )

    @override
    async def read_into(self, file: FileVersion, span: Span, buffers: Sequence[memoryview]) -> None:
        await self._store.read_into(file.pin, span, buffers)

    @override
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
        return PlainDraft(
            self._store,
            target,
            base=base,
            replaces=replaces,
            metadata=metadata,
            part_bytes=self._part_bytes,
            log=log,
            uploads=self._uploads,
            zeros=self._zeros,
            begun=begun,
            digests=self._digests,
            verify=self._verify_uploads,
        )

    @override
    async def remove(self, file: FileVersion, *, whichever: bool = False) -> None:
        await self._remove(file, whichever=whichever)
        if self._digests is not None and file.size > WRITE_BYTES:
            self._digests.removed(file.pin.key)

    async def _remove(self, file: FileVersion, *, whichever: bool) -> None:
        key = file.pin.key
        if whichever:
            await self._store.remove([key])
            return
        if self._store.features.remove_if_version:
            await self._store.remove([key], if_version=file.pin.version)
            return
        try:
            now = await self._store.head(key)
        except NotFoundError as error:
            if not error.key:
                raise
            return
        if now.version != file.pin.version:
            raise ConflictError("not removed: somebody else has written it", key=key)
        await self._store.remove([key])

    @override
    async def move(
        self, file: FileVersion, target: Key, *, replaces: FileVersion | None
    ) -> FileVersion:
        if not self.moves_files:
            copied = await self.copy(file, target, replaces=replaces)
            await self.remove(file)
            return copied
        condition = Condition(if_version=replaces.pin.version) if replaces else ABSENT
        moved = FileVersion.of(await self._store.move(file.pin, target, condition=condition))
        self._moved(file, moved)
        if self._digests is not None and file.size > WRITE_BYTES:
            self._digests.removed(file.pin.key)
        return moved

    @override
    async def copy(
        self, file: FileVersion, target: Key, *, replaces: FileVersion | None
    ) -> FileVersion:
        features = self._store.features
        condition = Condition(if_version=replaces.pin.version) if replaces else ABSENT
        if file.size > features.parts.max_write_bytes:
            return await self._copy_large(file, target, replaces)
        asked = features.copy_if_absent if replaces is None else features.copy_if_version
        if not asked:
            await self._check_target(target, replaces)
        if not features.copy_pins_source:
            await self._check_source(file)
        info = await self._store.copy(
            file.pin, target, condition=condition if asked else Condition()
        )
        copied = await self._store.head(target)
        if copied.size != file.size or copied.version != info.version:
            raise ConflictError("the copy is not what was renamed", key=target)
        self._moved(file, FileVersion.of(copied))
        return FileVersion.of(copied)

    def _moved(self, old: FileVersion, new: FileVersion) -> None:
        # Smaller files have their digest in their metadata, which went with them.
        if self._digests is not None and old.size > WRITE_BYTES:
            self._digests.moved(old, new)

    async def _copy_large(
        self, file: FileVersion, target: Key, replaces: FileVersion | None
    ) -> FileVersion:
        """Copy what is too large for a single copy: its ranges become the parts of an upload."""
        metadata = dict((await self._store.head(file.pin.key)).metadata)
        metadata.pop(COMMIT_ID, None)
        draft = self.draft(
            target, base=file, replaces=replaces, metadata=metadata, log=NO_UPLOAD_LOG
        )
        try:
            return await draft.commit(_Untouched(self, file), metadata)
        except BaseException:  # cancelled when the copy of another file of its directory has failed
            await draft.abandon()
            raise

    async def _check_target(self, target: Key, replaces: FileVersion | None) -> None:
        try:
            now: ObjectInfo | None = await self._store.head(target)
        except NotFoundError as error:
            if not error.key:
                raise
            now = None
        found = now.version if now else None
        if found != (replaces.pin.version if replaces else None):
            raise ConflictError("somebody else has written the new name", key=target)

    async def _check_source(self, file: FileVersion) -> None:
        now = await self._store.head(file.pin.key)
        if now.version != file.pin.version:
            raise StaleError("somebody else has written it meanwhile", key=file.pin.key)

    @property
    @override
    def moves_files(self) -> bool:
        return self._store.features.move

    @override
    async def is_one_commit(self, one: FileVersion, other: FileVersion) -> bool:
        found = [await self._store.head(file.pin.key) for file in (one, other)]
        if [info.version for info in found] != [one.pin.version, other.pin.version]:
            return False
        first, second = (info.metadata.get(COMMIT_ID) for info in found)
        return first is not None and first == second

    @override
    async def birth(self, file: FileVersion) -> str | None:
        try:
            now = await self._store.head(file.pin.key)
        except NotFoundError as error:
            if not error.key:
                raise
            return None
        if now.version != file.pin.version:
            return None
        return f"{now.metadata.get(COMMIT_ID, '')}@{now.mtime_ns}"

    @override
    def place_aside(self) -> Key:
        name = f"unlinked-{secrets.token_hex(12)}"
        return Key(f"{names.OWN_DIRECTORY}/tmp/{name}")  # noqa: S108 - below the mounted prefix

    @property
    @override
    def moves_directories(self) -> bool:
        return self._store.features.move

    @override
    async def move_directory(self, source: Key, target: Key) -> None:
        pin = ObjectVersion(names.as_prefix(source), Version(""))
        await self._store.move(pin, names.as_prefix(target))

    @override
    async def make_directory(self, directory: Key) -> None:
        await self._store.write(
            names.as_prefix(directory), BytesBody(b""), properties=PLAIN_PROPERTIES
        )

    @override
    async def remove_directory(self, directory: Key) -> None:
        if directory in self._with_own:
            await self._remove_own(directory)
        await self._store.remove([names.as_prefix(directory)])

    async def _remove_own(self, directory: Key) -> None:
        """Remove what vfs has left in a directory that was mounted, or verified, by itself.

        Errors: BusyError while somebody's temporary objects live there.
        """
        own = Key(f"{names.as_prefix(directory)}{names.OWN_DIRECTORY}/")
        left: list[Key] = []
        cursor: str | None = None
        while True:
            page = await self._store.list(own, cursor=cursor)
            left += [info.key for info in page.objects]
            cursor = page.cursor
            if cursor is None:
                break
        for key in left:
            inside = names.OWN_DIRECTORY + "/" + key[len(own) :]
            if not key.endswith("/") and not inside.startswith(_LASTING):
                raise BusyError("temporary objects of another mount live there", key=directory)
        left.reverse()  # what a directory holds goes before the directory
        for first in range(0, len(left), self._store.features.remove_max_keys):
            await self._store.remove(left[first : first + self._store.features.remove_max_keys])
        self._with_own.discard(directory)
