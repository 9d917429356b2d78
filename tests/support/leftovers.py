"""Stages with something in them: mounts that were killed while their store was down."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from tests.support.faulty import FaultyStore
from tests.support.tree import Shell, tree_on
from vfs.errors import TransientError
from vfs.stage.directory import stage_name
from vfs.store.base import Store

CHANGES = ("write", "copy", "begin_upload", "upload_part", "copy_part", "finish_upload")
LOCAL = ("fsync=local", "metadata_ttl=0")


async def leave(
    store: Store,
    stage_dir: Path,
    scenario: Callable[[Shell], Awaitable[None]],
    *,
    down: tuple[str, ...] = CHANGES,
    options: tuple[str, ...] = LOCAL,
) -> Path:
    """Run a scenario on a mount whose store takes no changes, kill it, and return its stage."""
    faulty = FaultyStore(store)
    for operation in down:
        faulty.fail(operation, TransientError("down"), times=1 << 30)
    with trio.CancelScope() as scope:
        async with tree_on(faulty, stage_dir, *options) as mount:
            await scenario(Shell(mount))
            scope.cancel()
            await trio.sleep_forever()
    return stage_dir / stage_name(store.url)


async def write(shell: Shell, path: str, offset: int, data: bytes) -> None:
    """Change a file, fsync it, and leave it open: nobody stores it."""
    fd = await (shell.open(path) if await shell.exists(path) else shell.create(path))
    await shell.pwrite(fd, offset, data)
    await shell.fsync(fd)


def look_at(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return everything about a directory that a command might change."""
    return {
        str(path.relative_to(directory)): (
            path.stat().st_mtime_ns,
            path.stat().st_blocks,
            path.read_bytes(),
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
