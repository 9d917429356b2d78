"""What a daemon tells about its mount: the fields of `vfs status`, and its tasks on SIGUSR1."""

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import trio

from vfs import __version__
from vfs.config import MountSpec
from vfs.daemon.assembly import Mount
from vfs.values import MIB

log = logging.getLogger(__name__)


def state_of(state: str, *, failing_uploads: int, store_up: bool) -> str:
    """Return the state to show: a mount that serves is degraded while something keeps failing."""
    if state == "ready" and (failing_uploads or not store_up):
        return "degraded"
    return state


class Report:
    """The state of one mount."""

    def __init__(self, spec: MountSpec, mountpoint: Path, mount: Mount) -> None:
        self.state = "starting"
        self.pid = os.getpid()
        self.since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.last_error: str | None = None
        self._spec = spec
        self._mountpoint = mountpoint
        self._mount = mount

    @property
    def is_clean(self) -> bool:
        """Whether the store has everything."""
        context = self._mount.fs.context
        waiting = context.committer.dirty or context.sidecars.pending
        return not waiting and not self._mount.conflicts.partial

    @property
    def dirty_bytes(self) -> int:
        """Staged bytes that the store does not have."""
        return sum(content.dirty_bytes for content in self._mount.fs.context.committer.dirty)

    @property
    def unsent_bytes(self) -> int:
        """Those of them that must still be sent."""
        return sum(content.unsent_bytes for content in self._mount.fs.context.committer.dirty)

    @property
    def passed_bytes(self) -> int:
        """A number that grows while a part is on its way, however slow the line is."""
        dirty = self._mount.fs.context.committer.dirty
        read = sum(content.staged.bytes_sent for content in dirty if content.staged is not None)
        return self._mount.limits.up.passed_bytes + read

    @property
    def dirty_files(self) -> int:
        """Files and attribute sidecars that the store does not have."""
        context = self._mount.fs.context
        kept = len(self._mount.conflicts.partial)  # only a person can say what becomes of them
        return len(context.committer.dirty) + len(context.sidecars.pending) + kept

    def measure(self) -> tuple[float, ...]:
        """Return numbers that change while anything moves towards the store."""
        snapshot = self._mount.metrics.snapshot()
        return (
            self.dirty_bytes,
            self.dirty_files,
            snapshot.total("store_calls_total", result="OK"),
            self.passed_bytes,
        )

    def dirt(self) -> str:
        """Return what is not stored, for a message."""
        return f"{self.dirty_bytes / MIB:.1f} MiB in {self.dirty_files} files"

    def status(self) -> dict[str, object]:
        """Return the fields of the contract."""
        config = self._spec.config
        context = self._mount.fs.context
        cache, disk = self._mount.cache, self._mount.disk
        budget = context.stage.budget
        snapshot = self._mount.metrics.snapshot()
        calls = snapshot.total("store_calls_total")
        failures = calls - sum(
            snapshot.total("store_calls_total", result=result)
            for result in ("OK", "NOT_FOUND", "CANCELLED")
        )
        dirty = context.committer.dirty
        now = trio.current_time()
        ages = [now - content.dirty_since_s for content in dirty if content.dirty_since_s]
        failing = context.committer.failing
        health = self._mount.metrics.health[self._mount.store.url]
        upload_error = context.committer.last_error
        error = health.last_error if not health.up else upload_error or health.last_error
        latency_s = health.latency_s if health.up else None
        return {
            "mountpoint": str(self._mountpoint),
            "url": self._spec.url,
            "pid": self.pid,
            "state": state_of(self.state, failing_uploads=failing, store_up=health.up),
            "since": self.since,
            "dirty_bytes": self.dirty_bytes,
            "dirty_files": self.dirty_files,
            "oldest_dirty_age_s": round(max(ages), 3) if ages else None,
            "uploads_in_progress": context.committer.running,
            "upload_queue_bytes": self.unsent_bytes,
            "failed_uploads": failing,
            "conflicts": self._mount.conflicts.count,
            "stage_bytes": budget.used_bytes,
            "stage_limit": budget.limit_bytes,
            "memory_bytes": cache.used_bytes,
            "memory_limit": config.cache.memory,
            "fsync": config.stage.fsync,
            "ro": config.tree.ro,
            "layout": config.tree.layout,
            "cache": {
                "ram_bytes": cache.used_bytes,
                "ram_limit": cache.limit_bytes,
                "disk_bytes": disk.used_bytes if disk else 0,
                "disk_limit": disk.limit_bytes if disk else 0,
                "disk_hits": disk.hits if disk else 0,
                "disk_skipped": disk.skipped if disk else 0,
                "hits": cache.hits,
                "misses": cache.misses,
            },
            "requests": int(calls),
            "errors": int(failures),
            "last_error": error,
            "stores": [
                {
                    "url": self._spec.url,
                    "up": health.up,
                    "latency_s": None if latency_s is None else round(latency_s, 6),
                    "last_error": health.last_error,
                    "bytes_in": int(snapshot.total("store_bytes_in_total")),
                    "bytes_out": int(snapshot.total("store_bytes_out_total")),
                }
            ],
            "restart_needed": False,
            "daemon_version": __version__,
        }

    def dump_tasks(self) -> None:
        """Log every task with where it stands, for someone who looks for a hang."""
        root = trio.lowlevel.current_root_task()
        todo = [root] if root is not None else []
        while todo:
            task = todo.pop()
            frames = [
                f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}"
                for frame, line in task.iter_await_frames()
            ]
            log.warning("task %s: %s", task.name, " < ".join(reversed(frames)) or "not started")
            todo += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
