"""The daemon as a process: mount, signals, control verbs, and a clean end.

Nothing dirty is given up on the way out: umount and SIGTERM store everything first. A second
SIGTERM, or nothing moving for `stop_wait`, leaves bytes in the stage, journalled for the next mount
of the URL, and exit code 8 says so.
"""

import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import trio

from vfs import names
from vfs.config import MountSpec
from vfs.control import Fields, Progress, Verb, open_control
from vfs.daemon.assembly import Mount, open_mount
from vfs.daemon.interpreter import tune_interpreter
from vfs.daemon.report import Report
from vfs.daemon.settings import apply, current, read_settings
from vfs.daemon.warming import Warming
from vfs.errors import InvalidError, VfsError
from vfs.fuse import session
from vfs.fuse.ops import Operations
from vfs.fuse.trim import Trimmer
from vfs.log import set_level
from vfs.runtime import (
    EXIT_DIRTY,
    EXIT_DONE,
    ExitError,
    Record,
    make_runtime_directory,
    runtime_directory,
    socket_path,
    write_record,
)
from vfs.tasks import open_tasks
from vfs.tree.uploader import Uploader
from vfs.values import Key

log = logging.getLogger(__name__)

PROGRESS_S = 0.2


async def serve_mount(spec: MountSpec, mountpoint: Path, ready: Callable[[], None]) -> int:
    """Run one mount from its first request to its last; return the exit code."""
    async with open_mount(spec) as mount:
        mount.fs.files.handles.on_count = tune_interpreter().adapt
        return await _Daemon(spec, mountpoint, mount).run(ready)


class _Daemon:
    def __init__(self, spec: MountSpec, mountpoint: Path, mount: Mount) -> None:
        self._spec = spec
        self._mountpoint = mountpoint
        self._mount = mount
        self._context = mount.fs.context
        self._uploader = Uploader(self._context.sidecars, self._context.journal)
        self._report = Report(spec, mountpoint, mount)
        self._draining = trio.CancelScope()
        self._stops = 0

    async def run(self, ready: Callable[[], None]) -> int:
        config = self._spec.config
        options = session.mount_options(
            config.mount, self._spec.url, self._spec.kernel_options, read_only=config.tree.ro
        )
        operations = Operations(self._mount.fs)
        directory = runtime_directory()
        make_runtime_directory(directory)
        # All before mounting: from then on this thread must not touch the mount point, not even to
        # resolve its path, because it is the one that answers.
        control = socket_path(directory, self._mountpoint)
        record = write_record(
            directory,
            Record(
                str(self._mountpoint),
                self._spec.url,
                self._report.pid,
                self._report.since,
                str(self._context.stage.path),
            ),
        )
        warming = Warming(self._mount)
        verbs: dict[str, Verb] = {
            "status": self._status,
            "flush": self._flush,
            "umount": self._umount,
            "set": self._set,
            "warm": warming.warm,
            "evict": warming.evict,
        }
        try:
            with session.mounted(operations, self._mountpoint, options, self._is_in_use):
                async with open_control(control, verbs):
                    await self._serve(ready)
        finally:
            record.unlink(missing_ok=True)
        return EXIT_DONE if self._report.is_clean else EXIT_DIRTY

    def _is_in_use(self) -> bool:
        return self._report.state != "starting"

    async def _serve(self, ready: Callable[[], None]) -> None:
        async with open_tasks() as nursery:
            nursery.start_soon(self._watch_signals)
            nursery.start_soon(self._uploader.run)
            nursery.start_soon(Trimmer(self._context.inodes).run)
            if self._mount.digests is not None:
                nursery.start_soon(self._mount.digests.run)
            nursery.start_soon(self._become_ready, ready)
            await session.serve()
            if self._report.state == "starting":
                raise VfsError(f"{self._mountpoint}: the kernel refused the mount; see dmesg")
            self._report.state = "draining"
            await self._mount.fs.files.close_all()
            with self._draining:
                await self._drain(self._spec.config.daemon.stop_wait)
                if self._mount.digests is not None:
                    await self._mount.digests.drain()
            if not self._report.is_clean:
                await self._context.committer.persist()
                log.error(
                    "%s not stored; it stays in the stage %s, and the next mount of %s takes it up",
                    self._report.dirt(),
                    self._context.stage.path,
                    self._spec.url,
                )
            nursery.cancel_scope.cancel()

    async def _become_ready(self, ready: Callable[[], None]) -> None:
        # The first answer through the kernel proves that the mount is usable. In a thread, like all
        # that touches the mount: this thread is the one that serves it.
        await trio.to_thread.run_sync(os.statvfs, self._mountpoint)
        # Only now: the kernel sets its own limits when it has the answer to INIT.
        background = self._spec.config.mount.max_background
        for refusal in await trio.to_thread.run_sync(
            session.tune_kernel, self._mountpoint, background
        ):
            log.info("kernel setting left as it is: %s", refusal)
        self._report.state = "ready"
        log.info("%s is mounted on %s", self._spec.url, self._mountpoint)
        ready()
        await trio.to_thread.run_sync(
            session.wait_until_detached, self._mountpoint, abandon_on_cancel=True
        )
        self._report.state = "draining"
        while len(self._mount.fs.files.handles):  # noqa: ASYNC110 - open files outlive a lazy umount
            await trio.sleep(PROGRESS_S)
        session.stop_serving()

    # Ending

    async def _watch_signals(self) -> None:
        stops = (signal.SIGTERM, signal.SIGINT)
        with trio.open_signal_receiver(*stops, signal.SIGHUP, signal.SIGUSR1) as received:
            async for number in received:
                if number in stops:
                    await self._stop()
                elif number == signal.SIGHUP:
                    set_level(self._spec.config.log.log_level)
                else:
                    self._report.dump_tasks()

    async def _stop(self) -> None:
        self._stops += 1
        if self._stops > 1:
            log.warning("stopped a second time: what is not stored stays in the stage")
            self._draining.cancel()
            return
        self._report.state = "draining"
        if not await trio.to_thread.run_sync(session.unmount, self._mountpoint):
            session.stop_serving()  # files are open: they lose their daemon, not their bytes

    async def _drain(self, stall_s: float) -> bool:
        """Store everything; False when nothing has moved for `stall_s`."""
        watch = _Watch(self._report, stall_s)
        async with open_tasks() as nursery:
            nursery.start_soon(watch.run, nursery.cancel_scope.cancel)
            await self._context.committer.drain()
            while self._mount.conflicts.active:  # noqa: ASYNC110 - rare, and short
                await trio.sleep(PROGRESS_S)
            await self._uploader.drain()
            await self._mount.uploads.abort_due(all_of_them=True)
            nursery.cancel_scope.cancel()
        return not watch.stalled

    def _dirt(self) -> dict[str, object]:
        return {
            "dirty_bytes": self._report.unsent_bytes,
            "dirty_files": self._report.dirty_files,
            "passed_bytes": self._report.passed_bytes,
            "stop_wait_s": self._spec.config.daemon.stop_wait,
        }

    # Verbs of the control socket

    async def _status(self, _request: Fields, _progress: Progress) -> Fields:
        return {"mount": self._report.status()}

    async def _flush(self, request: Fields, progress: Progress) -> Fields:
        path = request.get("path")
        if isinstance(path, str) and path not in {"", "."}:
            await self._with_progress(self._store_below(names.path_key(path)), progress, request)
        else:
            await self._with_progress(self._drain(float("inf")), progress, request)
        return self._dirt()

    async def _umount(self, request: Fields, progress: Progress) -> Fields:
        await progress(self._dirt())
        await self._with_progress(self._drain(float("inf")), progress, request)
        return {"dirty": self._report.dirty_files}

    async def _with_progress(
        self, work: Awaitable[object], progress: Progress, request: Fields
    ) -> None:
        """Do something while progress is told; the caller's time limit ends it with exit code 8."""
        limit = request.get("timeout_s")
        limit_s = float(limit) if isinstance(limit, int | float) else float("inf")

        async def tell() -> None:
            while True:
                await trio.sleep(PROGRESS_S)
                await progress(self._dirt())

        with trio.move_on_after(limit_s) as scope:
            async with open_tasks() as nursery:
                nursery.start_soon(tell)
                await work
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            raise ExitError(
                f"{self._report.dirt()} not stored after {limit_s:g} s; the upload goes on",
                EXIT_DIRTY,
            )

    async def _store_below(self, key: Key) -> None:
        """Store what is dirty at or below a key."""
        for content in self._context.committer.dirty:
            where = content.owner.key
            if where == key or where.startswith(names.as_prefix(key)):
                await self._context.committer.store(content)
        await self._context.journal.sync()
        for sidecar in self._context.sidecars.pending:
            if sidecar.directory == key or sidecar.directory.startswith(names.as_prefix(key)):
                await self._context.sidecars.upload(sidecar.directory)

    async def _set(self, request: Fields, _progress: Progress) -> Fields:
        given = request.get("settings")
        if not isinstance(given, dict):
            raise InvalidError("set wants settings: names and values")
        pairs = cast("dict[str, object]", given)
        settings = read_settings({name: str(value) for name, value in pairs.items()})
        apply(settings, self._mount.limits)
        now = current(self._mount.limits)
        log.info("changed by vfs set: %s", ", ".join(f"{name}={now[name]}" for name in now))
        return {"settings": now}


class _Watch:
    """Gives up when nothing has moved towards the store for too long."""

    def __init__(self, report: Report, stall_s: float) -> None:
        self.stalled = False
        self._report = report
        self._stall_s = stall_s

    async def run(self, give_up: Callable[[], None]) -> None:
        seen, since = self._report.measure(), trio.current_time()
        while True:
            await trio.sleep(PROGRESS_S)
            now = self._report.measure()
            if now != seen:
                seen, since = now, trio.current_time()
            elif trio.current_time() - since > self._stall_s:
                self.stalled = True
                give_up()
