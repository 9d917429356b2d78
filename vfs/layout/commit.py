"""The next version of a plain object: parts sent ahead, one conditional commit.

While a file is written, parts of the ladder that are complete are sent ahead; a later write to one
voids it. The commit plans the rest (`vfs.layout.parts`), sends it and finishes under the condition
that the target is still what the writer began with. Where the store ignores that condition the
target is looked at before and after instead, and where it does not pin the source of a range copy
the base is looked at after the last copy: what is left is a window, named in docs/stores.md, never
a mixture.

What was stored is looked at once more after every upload in parts: its size, its commit id and its
version. With `verify_uploads` the bytes that were sent are read back as well and compared with the
digests of what was sent; what differs is sent again.
"""

import secrets
from collections.abc import Mapping, Sequence

import trio
from typing_extensions import override

from vfs.errors import ConflictError, CorruptError, NotFoundError, StaleError, VfsError
from vfs.layout import parts
from vfs.layout.base import Begun, Content, Draft, FileVersion, UploadLog
from vfs.layout.digest import Digest, Leaf
from vfs.layout.digests import Digests
from vfs.layout.parts import SentPart, SentParts, Step
from vfs.layout.read_back import read_back
from vfs.layout.uploads import Uploads
from vfs.layout.zeros import ZeroObjects
from vfs.spans import EMPTY, SpanSet
from vfs.store.base import (
    ABSENT,
    ANY,
    COMMIT_ID,
    SHA256,
    Body,
    Condition,
    ObjectInfo,
    Part,
    Properties,
    Store,
    Upload,
)
from vfs.tasks import open_tasks
from vfs.values import MIB, Key, Span

WRITE_BYTES = 8 * MIB
"""Up to here one `write` is cheaper than begin + part + finish, and a lost reply costs less."""

PARTS_AT_ONCE = 8
"""Parts of one file in flight; the store's own limits bound the sum over files."""


class PlainDraft(Draft):
    """A draft of one object."""

    def __init__(  # noqa: PLR0913 - each is one plain fact about the commit
        self,
        store: Store,
        target: Key,
        *,
        base: FileVersion | None,
        replaces: FileVersion | None,
        metadata: Mapping[str, str],
        part_bytes: int | None,
        log: UploadLog,
        uploads: Uploads,
        zeros: ZeroObjects,
        begun: Begun | None = None,
        digests: Digests | None = None,
        verify: bool = False,
    ) -> None:
        self.commit_id = secrets.token_hex(16) if begun is None else begun.commit_id
        self._store = store
        self._target = target
        self._base = base
        self._replaces = replaces
        self._part_bytes = part_bytes
        self._log = log
        self._uploads = uploads
        self._zeros = zeros
        self._digests = digests
        self._verify = verify
        self._rules = store.features.parts
        self._grid: parts.Grid | None = None
        self._upload: Upload | None = None
        self._beginning = trio.Lock()
        self._metadata = metadata
        self._sent = SentParts()
        self._uploaded: set[int] = set()  # part numbers that the upload may have, wanted or not
        self._has_copies = False  # some of its parts may come from the base
        if begun is not None and begun.upload is not None:
            self._upload = begun.upload
            self._uploaded.update(begun.sent)
            self._sent = SentParts(SentPart(part, span) for part, span in begun.parts)
            self._has_copies = base is not None
        self._offered: set[int] = set()
        self._committing = False
        self._over = False  # given up: nothing may be sent any more
        self._quiet = trio.Event()  # set, and replaced, when the last part ahead has been sent
        self._sending: dict[int, bool] = {}  # number -> still what was read

    @override
    def ahead(self, near: Span, complete: SpanSet, size_hint: int) -> Sequence[Span]:
        if not self._store.features.multipart:
            return []
        if self._grid is None:
            self._grid = parts.ladder(self._rules, part_bytes=self._part_bytes, size=size_hint)
        ready = [
            (number, span)
            for number, span in self._grid.parts(near)
            if number not in self._offered and complete.covers(span)
        ]
        self._offered.update(number for number, _ in ready)
        return [span for _, span in ready]

    @override
    async def send(self, span: Span, body: Body) -> None:
        if self._grid is None:
            raise ValueError("send before ahead")
        number = self._grid.number(span.start)
        if self._committing:
            return  # the commit sends what is still missing itself
        self._sending[number] = True
        try:
            part = await self._send(number, span, body)
            if self._sending[number]:
                self._keep(part, span)
        finally:
            del self._sending[number]
            if not self._sending:
                self._quiet.set()
                self._quiet = trio.Event()

    async def _send(self, number: int, span: Span, body: Body) -> Part:
        upload = await self._begun()
        self._starting(number)
        if body.is_hole(Span(0, body.size)):
            part = await self._zeros.copy_part(upload, number, body.size, span.start)
            if part is not None:
                return part
        return await self._store.upload_part(upload, number, body, offset=span.start)

    @property
    @override
    def sent_bytes(self) -> int:
        return sum(sent.span.size for sent in self._sent)

    def _starting(self, number: int) -> None:
        """Take note that the upload may have a part of that number from now on."""
        self._log.sending(number)
        self._uploaded.add(number)
        self._sent.replaced(number)

    def _keep(self, part: Part, span: Span) -> None:
        """Take note of a part that holds what the file holds."""
        self._sent.add(SentPart(part, span))
        self._log.part_sent(part, span)

    async def _begun(self) -> Upload:
        async with self._beginning:
            self._refuse_if_over()
            upload = self._upload
            if upload is None:
                properties = Properties({**self._metadata, COMMIT_ID: self.commit_id})
                upload = await self._uploads.begin(self._target, properties)
                try:
                    self._refuse_if_over()
                except VfsError:
                    await self._uploads.abort(upload)
                    raise
                self._upload = upload
                await self._log.upload_begun(upload)
                self._refuse_if_over()  # given up meanwhile, and so aborted
            return upload

    def _refuse_if_over(self) -> None:
        if self._over:
            raise VfsError("this upload was given up", key=self._target)

    @override
    def touch(self, span: Span) -> None:
        for number in self._sent.drop(span) if self._sent else ():
            self._log.sending(number)  # a restart must not count on it either
        if self._sending and self._grid is not None:
            for number, _ in self._grid.parts(span):
                if number in self._sending:
                    self._sending[number] = False

    @override
    async def commit(self, content: Content, metadata: Mapping[str, str]) -> FileVersion:
        self._metadata = metadata
        self._committing = True
        try:
            if self._sending:
                # Two requests for one part number must never race: the later one would win.
                await self._quiet.wait()
            return await self._commit(content)
        finally:
            self._committing = False

    async def _commit(self, content: Content) -> FileVersion:
        try:
            info, digest = await self._put(content)
        except NotFoundError as error:
            if self._upload is None or not error.key:
                raise
            await self._check_base()
            # The upload was aborted behind our back or has expired: everything is still staged.
            await self._drop_upload()
            info, digest = await self._put(content)
        version = FileVersion.of(info)
        try:
            if info.size != content.size:
                raise CorruptError(
                    f"the store has {info.size} bytes where {content.size} were sent",
                    key=self._target,
                )
            if self._verify:
                await read_back(self._store, version, digest)
        except VfsError:
            # It is there all the same: the next attempt replaces it, and may copy what it does not
            # send from it as well as from the base, which is not there any more.
            self._base = self._replaces = version
            raise
        self._note(version, digest, in_metadata=SHA256 in info.metadata)
        return version

    def _note(self, version: FileVersion, digest: Digest, *, in_metadata: bool) -> None:
        if self._digests is not None:
            self._digests.stored(version, digest, self._base, in_metadata=in_metadata)
            if in_metadata and self._replaces and self._replaces.size > WRITE_BYTES:
                self._digests.removed(self._target)

    async def _put(self, content: Content) -> tuple[ObjectInfo, Digest]:
        features = self._store.features
        small = content.size <= min(WRITE_BYTES, self._rules.max_write_bytes)
        if not content.size:
            await self._drop_upload()  # an upload cannot be finished without a part
        if self._upload is None and (small or not features.multipart):
            return await self._write_whole(content)
        if self._upload is None and not content.changed and self._base is not None:
            whole = await self._copy_whole(content)
            if whole is not None:
                return whole, Digest.copied(content.size)
        sent = await self._send_all(content)
        leaves = [Leaf(step.span, part.sha256, step.copy) for step, part in sent]
        return await self._finish([part for _, part in sent]), Digest.of(content.size, leaves)

    async def _write_whole(self, content: Content) -> tuple[ObjectInfo, Digest]:
        features = self._store.features
        native = features.write_if_version if self._replaces else features.write_if_absent
        body = await content.body(Span(0, content.size))
        sha256 = (await trio.to_thread.run_sync(body.sha256)).hex()
        own = {COMMIT_ID: self.commit_id, SHA256: sha256}
        properties = Properties({**self._metadata, **own})
        condition = await self._condition(native=native)
        info = await self._settled(
            await self._store.write(self._target, body, condition=condition, properties=properties),
            native=native,
        )
        return info, Digest.whole(content.size, sha256)

    async def _copy_whole(self, content: Content) -> ObjectInfo | None:
        """Make the target from the untouched base in one request, where that is safe."""
        features = self._store.features
        native = features.copy_if_version if self._replaces else features.copy_if_absent
        base = self._base
        if (
            base is None
            or base.size != content.size
            or content.size > self._rules.max_write_bytes
            or not features.copy_pins_source
        ):
            return None
        properties = Properties({**self._metadata, COMMIT_ID: self.commit_id})
        condition = await self._condition(native=native)
        return await self._settled(
            await self._store.copy(
                base.pin, self._target, condition=condition, properties=properties
            ),
            native=native,
        )

    async def _send_all(self, content: Content) -> list[tuple[Step, Part]]:
        """Send what the plan lacks and return the parts to finish with."""
        features = self._store.features
        clean = EMPTY
        if self._base is not None and features.copy_part:
            reach = Span(0, min(self._base.size, content.size))
            clean = SpanSet([reach]).minus(content.changed)
        plan = self._plan(content, clean)
        if self._uploaded - {step.number for step in plan}:
            # A part that was sent and is void now cannot be left out: Ceph 16 refuses to finish an
            # upload that has a part more than it names. Rare: a cut, or a delta that changed its
            # mind.
            await self._drop_upload()
            plan = self._plan(content, clean)
        await self._begun()
        done: dict[int, Part] = {step.number: step.kept for step in plan if step.kept}
        todo = iter([step for step in plan if step.kept is None])

        async def work() -> None:
            for step in todo:
                done[step.number] = await self._carry_out(step, content)

        async with open_tasks() as nursery:
            for _ in range(min(PARTS_AT_ONCE, len(plan))):
                nursery.start_soon(work)
        if self._has_copies and not features.copy_part_pins_source:
            await self._check_base()
        return [(step, done[step.number]) for step in plan]

    def _plan(self, content: Content, clean: SpanSet) -> list[Step]:
        if self._grid is None:
            self._grid = parts.ladder(self._rules, part_bytes=self._part_bytes, size=content.size)
        return parts.plan_commit(content.size, clean, list(self._sent), self._grid, self._rules)

    async def _carry_out(self, step: Step, content: Content) -> Part:
        number, span = step.number, step.span
        if step.copy and self._base is not None:
            upload = await self._begun()
            self._starting(number)
            self._has_copies = True
            part = await self._store.copy_part(
                upload, number, self._base.pin, span, offset=span.start
            )
        else:
            part = await self._send(number, span, await content.body(span))
        self._log.progress()
        if content.is_latest(span):
            self._keep(part, span)  # for the next attempt, should this one fail
        return part

    async def _check_base(self) -> None:
        """Make sure that the copies came from the base, where the store did not."""
        base = self._base
        if base is None or base.pin.version_id is not None:
            return
        try:
            now = await self._store.head(base.pin.key)
        except NotFoundError:
            now = None
        if now is None or now.version != base.pin.version:
            raise StaleError("somebody else has written the file meanwhile", key=base.pin.key)

    async def _finish(self, sent: list[Part]) -> ObjectInfo:
        features = self._store.features
        native = features.finish_if_version if self._replaces else features.finish_if_absent
        condition = await self._condition(native=native)
        upload = await self._begun()
        info = await self._store.finish_upload(upload, sent, condition=condition)
        self._forget_upload()
        await self._uploads.finished(upload)
        return await self._settled(info, native=native, proved=False)

    async def _condition(self, *, native: bool) -> Condition:
        """Return what the store is to check; check it here where the store cannot."""
        if native:
            if self._replaces is None:
                return ABSENT
            return Condition(if_version=self._replaces.pin.version)
        try:
            now: ObjectInfo | None = await self._store.head(self._target)
        except NotFoundError as error:
            if not error.key:
                raise
            now = None
        expected = self._replaces.pin.version if self._replaces else None
        if (now.version if now else None) != expected:
            raise ConflictError("somebody else has written it meanwhile", key=self._target)
        return ANY

    async def _settled(self, info: ObjectInfo, *, native: bool, proved: bool = True) -> ObjectInfo:
        """Look at what is there, unless somebody has, or the answer says it all.

        It does (`proved`) where one request has carried all bytes; and where the store did not
        check the condition, somebody else may have come between.
        """
        if info.looked or (native and proved):
            return info
        try:
            now = await self._store.head(self._target)
        except NotFoundError as error:
            if not error.key:
                raise
            now = None
        if now is not None and now.version == info.version:
            return now
        if now is not None and now.metadata.get(COMMIT_ID) == self.commit_id:
            return now  # ours; some services name a version in another way when it is made
        if native:
            return info  # the condition held: it is somebody's next version
        raise ConflictError("somebody else has written it meanwhile", key=self._target)

    @override
    async def landed(self) -> FileVersion | None:
        try:
            info = await self._store.head(self._target)
        except NotFoundError as error:
            if not error.key:
                raise
            return None
        return FileVersion.of(info) if info.metadata.get(COMMIT_ID) == self.commit_id else None

    def _forget_upload(self) -> None:
        self._upload = None
        self._has_copies = False
        self._uploaded = set()
        self._sent.clear()
        for number in self._sending:
            self._sending[number] = False

    @override
    async def abandon(self) -> None:
        self._over = True
        await self._drop_upload()

    async def _drop_upload(self) -> None:
        upload = self._upload
        self._forget_upload()
        if upload is not None:
            await self._uploads.abort(upload)
