"""Crashes: everything that a daemon does ends at one step, as by SIGKILL."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import trio
from typing_extensions import override

from tests.support.tree import Shell, tree_on
from vfs.stage.records import RecordLog
from vfs.store.base import Store
from vfs.store.wrap.base import Call, WrappedStore

T = TypeVar("T")


class Steps:
    """Counts what changes something outside, and dies at the one that was asked for."""

    def __init__(self, fatal: int, *, after: bool, armed: bool = False) -> None:
        self.fatal = fatal
        self.after = after  # the step is carried out, but nobody hears of it
        self.done: list[str] = []
        self.scope = trio.CancelScope()
        self.armed = armed

    async def take(self, what: str, run: Callable[[], Awaitable[T]]) -> T:
        if not self.armed:
            return await run()
        self.done.append(what)
        if len(self.done) < self.fatal:
            return await run()
        if len(self.done) == self.fatal and self.after:
            with trio.CancelScope(shield=True):
                await run()
        self.scope.cancel()
        await trio.sleep_forever()
        raise AssertionError

    @property
    def crashed(self) -> bool:
        return len(self.done) >= self.fatal


class CrashingStore(WrappedStore):
    """A store whose calls are steps."""

    def __init__(self, inner: Store, steps: Steps) -> None:
        super().__init__(inner)
        self._steps = steps

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        return await self._steps.take(f"{call.operation} {call.key}", run)


async def run_until(
    store: Store,
    stage_dir: Path,
    steps: Steps,
    prepare: Callable[[Shell], Awaitable[None]],
    scenario: Callable[[Shell], Awaitable[None]],
    *options: str,
) -> bool:
    """Run a scenario on a tree of its own and kill it at its fatal step; True when it ended."""
    ended = False
    sync = RecordLog.sync

    async def stepping(log: RecordLog) -> None:
        await steps.take("journal", lambda: sync(log))

    RecordLog.sync = stepping  # type: ignore[method-assign]
    try:
        with steps.scope:
            async with tree_on(CrashingStore(store, steps), stage_dir, *options) as mount:
                shell = Shell(mount)
                await prepare(shell)
                await shell.drain()
                steps.armed = True
                await scenario(shell)
                ended = True
                await shell.drain()
    finally:
        RecordLog.sync = sync  # type: ignore[method-assign]
    return ended
