"""A power cut: only what was synced is still there.

While `PowerSwitch` watches a directory, each fdatasync of a file in it and each fsync of one of its
directories is taken note of. `cut` puts the directory back to exactly that: contents as of their
last sync, names as of the last sync of their directory.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PowerSwitch:
    """Remembers what is on the disk below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}  # by inode
        self._names: dict[Path, dict[str, int]] = {}  # directory -> name -> inode

    def synced(self, fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if not path.is_relative_to(self._root):
            return
        if path.is_dir():
            self._names[path] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
        else:
            size = os.fstat(fd).st_size
            self._contents[os.fstat(fd).st_ino] = os.pread(fd, size, 0)

    def cut(self) -> None:
        """Lose everything that was not synced."""
        names = {directory: dict(entries) for directory, entries in self._names.items()}
        contents = dict(self._contents)
        directories = [path for path in self._root.rglob("*") if path.is_dir()]
        for directory in [self._root, *directories]:
            kept = names.get(directory, {})
            for path in list(directory.iterdir()):
                if not path.is_dir():
                    path.unlink()
            for name, inode in kept.items():
                if (directory / name).is_dir():
                    continue
                (directory / name).write_bytes(contents.get(inode, b""))
                (directory / name).chmod(0o600)


@contextmanager
def power_switch(root: Path) -> Iterator[PowerSwitch]:
    """Watch what is synced below a directory."""
    switch = PowerSwitch(root)
    fdatasync, fsync = os.fdatasync, os.fsync

    def watched_fdatasync(fd: int) -> None:
        fdatasync(fd)
        switch.synced(fd)

    def watched_fsync(fd: int) -> None:
        fsync(fd)
        switch.synced(fd)

    os.fdatasync, os.fsync = watched_fdatasync, watched_fsync
    try:
        yield switch
    finally:
        os.fdatasync, os.fsync = fdatasync, fsync
