"""Repeats what failed for a passing reason, and settles mutations whose answer was lost.

Pauses are drawn between nothing and a bound that doubles (full jitter), so that many clients do not
come back together; a store that says how long to wait is believed.

A mutation that failed that way may have happened all the same. When it is repeated and the store
then refuses, because of what our own first attempt did, that is success: an object that carries the
commit id we sent is the one that we wrote. Unconditional writes need no such look, they may simply
happen twice; an upload that is begun twice leaves an empty one behind.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    StaleError,
    ThrottledError,
    TransientError,
    VfsError,
)
from vfs.store.base import (
    ANY,
    COMMIT_ID,
    PLAIN_PROPERTIES,
    Body,
    Condition,
    ObjectInfo,
    ObjectVersion,
    Part,
    Properties,
    Store,
    Upload,
)
from vfs.store.wrap.base import Call, WrappedStore
from vfs.values import Key, Version

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_PAUSE_S = 30.0
"""Longer pauses would only lengthen the time until a mended store is noticed."""


class RetryingStore(WrappedStore):
    """Repeats transient failures."""

    def __init__(
        self,
        inner: Store,
        *,
        max_retries: int = 3,
        retry_delay_s: float = 0.1,
        timeout_s: float = float("inf"),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Make the wrapper.

        No attempt is begun when `timeout_s` have passed since the first, not counting what was
        waited for bandwidth; one that runs is left to the store's own time-outs. `jitter` returns
        a number of [0, 1).
        """
        super().__init__(inner)
        self._max_retries = max_retries
        self._retry_delay_s = retry_delay_s
        self._timeout_s = timeout_s
        self._jitter = jitter

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        return await self._repeat(call, run, _raise)

    async def _repeat(
        self,
        call: Call,
        run: Callable[[], Awaitable[T]],
        settle: Callable[[VfsError], Awaitable[T]],
    ) -> T:
        """Run until it succeeds or must be given up.

        `settle` is asked about the refusal of a repetition: it returns what the lost answer was,
        or raises the refusal.
        """
        started = trio.current_time()
        retries = 0
        renewed = False
        while True:
            try:
                return await run()
            except AuthenticationError:
                if renewed or not await self._inner.renew():
                    raise
                renewed = True
                log.info("other credentials are used for %s", self.url)
                continue
            except VfsError as error:
                if not error.transient:
                    if retries == 0:
                        raise
                    return await settle(error)
                if isinstance(error, TransientError):
                    started += error.waited_s
                pause_s = self._pause_s(error, retries)
                late = trio.current_time() + pause_s - started > self._timeout_s
                told = {"operation": call.operation, "key": call.key, "store": self.url}
                if retries == self._max_retries or late:
                    # Whoever hears of it decides whether it is worth a line.
                    log.debug(
                        "%s given up after %d attempts: %s", call.operation, retries + 1, error,
                        extra=told,
                    )  # fmt: skip
                    raise
                retries += 1
                log.debug(
                    "%s failed, retry %d in %.3f s: %s", call.operation, retries, pause_s, error,
                    extra=told,
                )  # fmt: skip
            await trio.sleep(pause_s)

    def _pause_s(self, error: VfsError, retries: int) -> float:
        bound_s = min(MAX_PAUSE_S, math.ldexp(self._retry_delay_s, retries))
        pause_s = bound_s * self._jitter()
        if isinstance(error, ThrottledError) and error.retry_after_s is not None:
            return max(pause_s, error.retry_after_s)
        return pause_s

    @override
    async def write(
        self,
        key: Key,
        body: Body,
        *,
        condition: Condition = ANY,
        properties: Properties = PLAIN_PROPERTIES,
    ) -> ObjectInfo:
        async def settle(error: VfsError) -> ObjectInfo:
            return await self._own(key, properties.commit_id, error, ConflictError)

        return await self._repeat(
            Call("write", key, bytes_out=body.size),
            lambda: self._inner.write(key, body, condition=condition, properties=properties),
            settle,
        )

    @override
    async def copy(
        self,
        source: ObjectVersion,
        target: Key,
        *,
        condition: Condition = ANY,
        properties: Properties | None = None,
    ) -> ObjectInfo:
        async def settle(error: VfsError) -> ObjectInfo:
            commit_id = properties.commit_id if properties is not None else None
            if properties is None and isinstance(error, ConflictError):
                # The copy carries the id of its source.
                found = await self._look(source.key)
                if found is not None and found.version == source.version:
                    commit_id = found.metadata.get(COMMIT_ID)
            # Stale is the answer where an object was copied onto itself.
            return await self._own(target, commit_id, error, ConflictError, StaleError)

        return await self._repeat(
            Call("copy", target),
            lambda: self._inner.copy(source, target, condition=condition, properties=properties),
            settle,
        )

    @override
    async def finish_upload(
        self, upload: Upload, parts: Sequence[Part], *, condition: Condition = ANY
    ) -> ObjectInfo:
        async def settle(error: VfsError) -> ObjectInfo:
            return await self._own(
                upload.key, upload.commit_id, error, ConflictError, NotFoundError
            )

        return await self._repeat(
            Call("finish_upload", upload.key),
            lambda: self._inner.finish_upload(upload, parts, condition=condition),
            settle,
        )

    @override
    async def remove(self, keys: Sequence[Key], *, if_version: Version | None = None) -> None:
        async def settle(error: VfsError) -> None:
            if if_version is None or not isinstance(error, ConflictError | NotFoundError):
                raise error
            if await self._look(keys[0]) is not None:
                raise error

        await self._repeat(
            Call("remove", keys[0] if len(keys) == 1 else Key("")),
            lambda: self._inner.remove(keys, if_version=if_version),
            settle,
        )

    @override
    async def move(
        self, source: ObjectVersion, target: Key, *, condition: Condition = ANY
    ) -> ObjectInfo:
        async def settle(error: VfsError) -> ObjectInfo:
            if not isinstance(error, ConflictError | NotFoundError | StaleError):
                raise error
            if await self._look(source.key) is not None:
                raise error
            found = await self._look(target)
            # The version of a directory says nothing; its source is gone, and it is there.
            if found is None or (found.version != source.version and not target.endswith("/")):
                raise error
            return found

        return await self._repeat(
            Call("move", target),
            lambda: self._inner.move(source, target, condition=condition),
            settle,
        )

    async def _own(
        self, key: Key, commit_id: str | None, error: VfsError, *kinds: type[VfsError]
    ) -> ObjectInfo:
        """Return what our lost attempt wrote, or raise the refusal."""
        if commit_id is None or not isinstance(error, kinds):
            raise error
        found = await self._look(key)
        if found is None or found.metadata.get(COMMIT_ID) != commit_id:
            raise error
        return found

    async def _look(self, key: Key) -> ObjectInfo | None:
        try:
            return await self.head(key)
        except NotFoundError as error:
            if not error.key:
                raise
            return None


async def _raise(error: VfsError) -> T:  # pyright: ignore[reportInvalidTypeVarUse]
    raise error
