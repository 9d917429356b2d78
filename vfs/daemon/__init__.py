"""The daemon of one mount: the composition root, the process, what it tells about itself."""

from collections.abc import Callable
from pathlib import Path

import trio

from vfs.config import MountSpec


def run(spec: MountSpec, mountpoint: Path, ready: Callable[[], None]) -> int:
    """Mount, serve, unmount; return the exit code.

    Errors: whatever keeps the mount from becoming usable; later failures are logged and counted.
    """
    from vfs.daemon.process import serve_mount  # noqa: PLC0415 - pyfuse3 and all stores: late

    async def main() -> int:
        return await serve_mount(spec, mountpoint, ready)

    return trio.run(main)
