"""A machine on which a mount lives and dies, at any step of what it does.

Steps are the requests to the store and what changes the stage's disk, each before and after it
takes effect. A mount that is killed leaves what it has written; a power cut leaves what was synced,
and more by chance (`tests/support/power.py`), and the next boot has another id.
"""

import os
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import trio
from typing_extensions import override

from tests.support.faulty import FaultyStore
from tests.support.loop import Loop
from tests.support.power import Image, power_switch
from tests.support.tree import Shell
from vfs.config import Config, load_config
from vfs.daemon.assembly import open_tree
from vfs.errors import VfsError
from vfs.metrics import Metrics
from vfs.stage.budget import StageBudget
from vfs.stage.directory import Stage, stage_name
from vfs.store.base import Body, Features, Part, Upload
from vfs.store.memory import MemoryStore
from vfs.store.wrap.base import Call, WrappedStore
from vfs.tasks import open_tasks

T = TypeVar("T")

PATIENCE_S = 4000.0  # virtual seconds that any call must have ended after


class Death(Enum):
    """How a mount ends."""

    KILL = "SIGKILL"
    CUT = "power cut, only what was synced is left"
    MIXED = "power cut, anything may be left of what was not synced"


class Died(Exception):  # noqa: N818 - an answer, not a fault
    """The mount has died before the call was answered."""


class _MortalStore(WrappedStore):
    """The store as one mount sees it: after its death no request is sent any more."""

    def __init__(self, inner: FaultyStore, machine: "Machine") -> None:
        super().__init__(inner)
        self._machine = machine

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        what = f"{call.operation} {call.key}"
        await self._live(what)
        answer = await run()
        await self._live(f"{what} done")
        return answer

    @override
    async def upload_part(
        self, upload: Upload, number: int, body: Body, *, offset: int | None = None
    ) -> Part:
        self._machine.used_uploads.add(upload.upload_id)
        return await super().upload_part(upload, number, body, offset=offset)

    async def _live(self, what: str) -> None:
        self._machine.step(what)
        if self._machine.dead:
            await trio.sleep_forever()


@cache
def _config(options: tuple[str, ...]) -> Config:
    return load_config("mem://tree", ["memory=64M", *options], environ={}).config


class Machine:
    """One host, its stage directory and the store; a mount at a time."""

    def __init__(
        self, root: Path, features: Features, options: tuple[str, ...], stage_bytes: int
    ) -> None:
        self.store = MemoryStore(features=features)
        self.faulty = FaultyStore(self.store)
        self.root = root
        self.shell: Shell | None = None
        self.dead = False
        self.deaths: list[str] = []  # at which step each mount died
        self.used_uploads: set[str] = set()  # that were sent a part
        self._options = options
        self._stage_bytes = stage_bytes
        self._boots = 1
        self._chance = random.Random(0)
        self._fuse: int | None = None  # steps that are left
        self._how = Death.KILL
        self._image: Image = {}
        self._life = trio.CancelScope()
        self._request = trio.CancelScope()
        self._leave = trio.Event()
        self._over = trio.Event()
        self._stack = ExitStack()
        self._stack.callback(setattr, os, "urandom", os.urandom)
        os.urandom = random.Random(0).randbytes  # names of staged files, and so their order
        self.disk = self._stack.enter_context(power_switch(root, self.step, simulated=True))
        self.loop = Loop()

    def close(self) -> None:
        """Switch it off."""
        try:
            self._fuse = None
            self.loop.close()
        finally:
            self._stack.close()
            self.disk.forget()

    @property
    def boot(self) -> str:
        """Id of this boot."""
        return f"boot-{self._boots}"

    @property
    def stage(self) -> Path:
        """Directory of the stage."""
        return self.root / stage_name(self.store.url)

    # Dying

    def arm(self, steps: int, how: Death, seed: int) -> None:
        """Let the mount die that many steps from now; a power cut leaves what `seed` decides."""
        self._fuse, self._how, self._chance = steps, how, random.Random(seed)

    def disarm(self) -> None:
        """Let it live."""
        self._fuse = None

    @property
    def armed(self) -> bool:
        """Whether it will die."""
        return self._fuse is not None

    def step(self, what: str, half: Callable[[], object] = lambda: None) -> None:
        """Count a step; half of it may be done when it is the last one."""
        if self._fuse is None or self.dead:
            return
        self._fuse -= 1
        if self._fuse <= 0:
            if self._chance.random() < 0.5:
                half()
            self._die(what)

    def _die(self, what: str) -> None:
        self._fuse = None
        self.dead = True
        self.deaths.append(what)
        cut = self._how is not Death.KILL
        chance = self._chance if self._how is Death.MIXED else None
        self._image = self.disk.survivors(chance) if cut else self.disk.image()
        self._life.cancel()
        self._request.cancel()

    def stored(self, path: str) -> bytes | None:
        """Return an object's bytes as any other tool sees them; nothing goes on meanwhile."""
        found = self.store._bucket.objects.get(path)
        return found.data if found is not None else None

    def orphans(self) -> set[str]:
        """Return the uploads that somebody could know of and that are still there.

        Not those whose beginning nobody has heard of, or had no time to journal: they have no part.
        """
        return self.used_uploads & set(self.store._bucket.uploads)

    def die(self, how: Death, seed: int) -> None:
        """End the mount now."""
        self.arm(1, how, seed)
        self.loop.call(self._die_now)

    async def _die_now(self) -> None:
        self.step("between two calls")
        await self._bury()

    async def _bury(self) -> None:
        await self._over.wait()
        self.shell = None
        self.disk.restore(self._image, rebooted=self._how is not Death.KILL)
        self._boots += self._how is not Death.KILL

    # Living

    def mount(self) -> None:
        """Mount. Raises Died when it did not live so long."""
        self.loop.call(self._mount)

    async def _mount(self) -> None:
        self.dead = False
        self._life, self._over = trio.CancelScope(), trio.Event()
        self._leave, ready = trio.Event(), trio.Event()
        self.loop.nursery.start_soon(self._run, ready)
        with trio.fail_after(PATIENCE_S):
            await ready.wait()
        if self.dead:
            await self._bury()
            raise Died

    async def _run(self, ready: trio.Event) -> None:
        config = _config(self._options)
        try:
            with self._life:
                budget = StageBudget(self._stage_bytes, config.stage.stage_wait)
                stage = Stage(self.stage, self.store.url, budget)
                stage.open()
                try:
                    store = _MortalStore(self.faulty, self)
                    async with open_tree(store, stage, config, Metrics()) as mount:
                        self.shell = Shell(mount)
                        ready.set()
                        await self._leave.wait()
                finally:
                    stage.close()
        finally:
            self._over.set()
            ready.set()

    def unmount(self) -> None:
        """End a mount that has nothing left to do."""

        async def leave() -> None:
            self._leave.set()
            await self._over.wait()
            self.shell = None

        self.loop.call(leave)

    def call(self, function: Callable[[Shell], Awaitable[T]]) -> T:
        """Ask the mount something. Raises Died when it dies meanwhile."""
        return self.loop.call(self._call, function)

    async def _call(self, function: Callable[[Shell], Awaitable[Any]]) -> Any:
        assert self.shell is not None
        self.faulty.forget()
        answer = None
        try:
            with trio.CancelScope() as self._request:
                async with open_tasks() as nursery:
                    nursery.start_soon(_lose_patience)
                    answer = await function(self.shell)
                    nursery.cancel_scope.cancel()
        except VfsError:
            if not self.dead:
                raise
        if self.dead:
            await self._bury()
            raise Died
        return answer


async def _lose_patience() -> None:
    await trio.sleep(PATIENCE_S)
    raise TimeoutError("it hangs:\n" + "\n".join(_waiting(trio.lowlevel.current_root_task())))


def _waiting(task: trio.lowlevel.Task | None, depth: int = 0) -> Iterator[str]:
    """Yield a line for each task: where it waits, the innermost call last."""
    if task is None:
        return
    places: list[str] = []
    here: Any = task.coro
    while here is not None:
        kind = next((one for one in ("cr", "gi", "ag") if hasattr(here, f"{one}_frame")), None)
        frame = getattr(here, f"{kind}_frame", None)
        if frame is not None:
            places.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        here = getattr(here, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
    yield "  " * depth + " > ".join(places)
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _waiting(child, depth + 1)
