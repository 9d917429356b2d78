"""Brings changed attributes to the store: in batches, and at a store's own pace when it fails.

A directory is tried at most once a second. What fails is tried again after a pause that doubles up
to a minute: a pause of the directory, which may be the only one in trouble, and one of all where
the store did not answer. A failure is logged when it is the first, second, fourth, eighth...
"""

import logging
import math
from dataclasses import dataclass

import trio

from vfs.errors import AuthenticationError, TransientError, VfsError
from vfs.tree.journal import Journal
from vfs.tree.sidecars import Sidecar, Sidecars
from vfs.values import Key

log = logging.getLogger(__name__)

PAUSE_S = 1.0
PAUSE_CAP_S = 60.0
COMPACT_BYTES = 64 << 10
"""A journal with nothing open is rewritten when it is larger."""


@dataclass(slots=True)
class Backoff:
    """How long something that keeps failing is left alone."""

    failures: int = 0
    until_s: float = -math.inf

    def fail(self, now_s: float) -> None:
        """Take note of one more failure."""
        self.failures += 1
        # Bounded first: two to the power of a week of failures is no float.
        self.until_s = now_s + min(PAUSE_CAP_S, math.ldexp(PAUSE_S, min(self.failures - 1, 10)))

    @property
    def is_doubling(self) -> bool:
        """Whether there were 1, 2, 4, 8... failures: often enough for a log."""
        return self.failures & (self.failures - 1) == 0


class Uploader:
    """Stores the changed attributes of all directories of a mount."""

    def __init__(self, sidecars: Sidecars, journal: Journal) -> None:
        self._sidecars = sidecars
        self._journal = journal
        self._store = Backoff()
        self._disk = Backoff()  # of the stage, for what nobody waits for
        self._directories: dict[Key, Backoff] = {}
        self._told = False  # of a failure, so that its end is told as well
        self._round = trio.Lock()  # guards the pauses; taken before a sidecar's lock

    async def run(self) -> None:
        """Store what changes, for ever."""
        while True:
            await trio.sleep(PAUSE_S)
            await self._try_all()

    async def drain(self) -> None:
        """Return when everything is stored; the first attempt is made at once."""
        for pause in (self._store, *self._directories.values()):
            pause.until_s = -math.inf
        # A pause between attempts, not a poll.
        while not await self._try_all():  # noqa: ASYNC110
            await trio.sleep(PAUSE_S)

    async def _try_all(self) -> bool:
        """Store what is not paused; True when nothing is left."""
        async with self._round:
            if self._store.until_s <= trio.current_time():
                for sidecar in self._due():
                    if not await self._try(sidecar):
                        break
            if self._sidecars.pending:
                return False
            self._directories.clear()
            await self._settle()
            return True

    async def _settle(self) -> None:
        """Let a restart know what is stored; one that does not stores it once more."""
        if self._disk.until_s > trio.current_time():
            return
        try:
            await self._journal.settle(COMPACT_BYTES)
        except VfsError as error:
            self._disk.fail(trio.current_time())
            if self._disk.is_doubling:
                log.warning("journal of names: %s", error.message)
        else:
            self._disk = Backoff()

    def _due(self) -> list[Sidecar]:
        """Return the sidecars that may be tried now, those that never failed first."""
        now_s = trio.current_time()
        never = Backoff()
        due = [
            (self._directories.get(sidecar.directory, never).until_s, sidecar)
            for sidecar in self._sidecars.pending
        ]
        return [
            sidecar for until_s, sidecar in sorted(due, key=lambda one: one[0]) if until_s <= now_s
        ]

    async def _try(self, sidecar: Sidecar) -> bool:
        """Store one; False when the store does not answer, so that others need not be tried."""
        try:
            await self._sidecars.upload(sidecar.directory)
        except (TransientError, AuthenticationError) as error:
            self._store.fail(trio.current_time())
            self._failed(sidecar, error.message)
            return False
        except VfsError as error:
            self._failed(sidecar, error.message)
        except Exception as error:
            # A fault of ours is tried again, never ends the mount.
            log.exception("attributes of %r: unexpected error", sidecar.directory)
            self._failed(sidecar, f"unexpected error: {error}")
        else:
            self._directories.pop(sidecar.directory, None)
            self._store = Backoff()
            if self._told:
                self._told = False
                log.info("attributes are stored again")
        return True

    def _failed(self, sidecar: Sidecar, why: str) -> None:
        pause = self._directories.setdefault(sidecar.directory, Backoff())
        pause.fail(trio.current_time())
        if pause.is_doubling and self._store.is_doubling:
            self._told = True
            log.warning(
                "attributes of %r not stored yet (failure %d), kept and tried again: %s",
                sidecar.directory,
                max(pause.failures, self._store.failures),
                why,
            )
