"""What all tests with the machine that dies need."""

import pytest
import trio

from tests.support.loop import inline_threads
from vfs.layout import parts
from vfs.stage import disk
from vfs.stage import log as stage_log
from vfs.tree import rename as rename_module
from vfs.tree import sidecar


@pytest.fixture
def _quick(monkeypatch, expect_log):
    """Small parts and no threads; and what the log says of faults that are played."""
    monkeypatch.setattr(trio.to_thread, "run_sync", inline_threads)
    monkeypatch.setattr(disk, "SLOW_S", float("inf"))
    monkeypatch.setattr(stage_log, "boot_id", stage_log.boot_id)
    monkeypatch.setattr(rename_module, "COPIED_AT_ONCE_BYTES", 10_000)
    monkeypatch.setattr(parts, "DELTA_UNIT_BYTES", 1024)
    monkeypatch.setattr(sidecar, "SHARD_ENTRIES", 4)
    for message in (
        "upload of .* failed",
        "first sight of",
        "was written by somebody else",
        "both names stay",
        "not stored yet",
        "close of",
        "removal of unlinked .* failed",
        "conflict copy .* failed",
        "only in part",
        "rename of .* not finished",
    ):
        expect_log(message, maybe=True)
