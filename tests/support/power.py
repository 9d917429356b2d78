"""What a stage directory looks like after its daemon was killed, or after the power went.

While `PowerSwitch` watches a directory, each fdatasync of a file in it and each fsync of one of its
directories is taken note of (and, as `simulated`, takes no time). A kill leaves everything that was
written: `image` is that. A power cut leaves what was synced, and of the rest what chance decides:
`survivors` takes each sector, each size and each name as it was synced or as it is now. `restore`
puts the directory back to either.
"""

import os
import random
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SECTOR_BYTES = 512

Image = dict[Path, tuple[int, bytes]]
"""Files by path: inode and content."""

Step = Callable[[str, Callable[[], object]], object]
"""Told what is about to be done or was done, and how to do half of it: all may end there."""


def _nothing() -> None:
    pass


def _no_step(what: str, half: Callable[[], object]) -> None:
    pass


class PowerSwitch:
    """Remembers what is on the disk below a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._contents: dict[int, bytes] = {}  # by inode
        self._kept: dict[int, int] = {}  # inode -> descriptor: its number is not given away again
        self._names: dict[Path, dict[str, int]] = {}  # directory -> name -> inode
        weakref.finalize(self, _close_all, self._kept)

    def watches(self, fd: int) -> bool:
        """Tell whether a descriptor is of something below the directory."""
        return f"{os.readlink(f'/proc/self/fd/{fd}')}/".startswith(f"{self._root}/")

    def synced(self, fd: int) -> None:
        """Take note of what is on the disk now."""
        if self.watches(fd):
            self._take_note(fd)

    def _take_note(self, fd: int) -> None:
        about = os.fstat(fd)
        if stat.S_ISDIR(about.st_mode):
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            self._names[path] = {entry.name: entry.inode() for entry in _entries(path)}
        else:
            self._contents[about.st_ino] = os.pread(fd, about.st_size, 0)
            if about.st_ino not in self._kept:
                # Not dup: that would hold its lock, too.
                self._kept[about.st_ino] = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)

    def _directories(self) -> list[Path]:
        found = [self._root]
        for directory in found:
            found += [Path(entry.path) for entry in _entries(directory) if entry.is_dir()]
        return found

    def _files(self) -> Iterator[tuple[Path, int]]:
        for directory in self._directories():
            for entry in _entries(directory):
                if entry.is_file():
                    yield Path(entry.path), entry.inode()

    def image(self) -> Image:
        """Return what a kill leaves."""
        return {path: (inode, path.read_bytes()) for path, inode in self._files()}

    def survivors(self, pick: random.Random | None = None) -> Image:
        """Return what a power cut leaves: nothing but what was synced, or what chance adds."""
        now, found = self.image(), Image()
        for directory in self._directories():
            synced = self._names.get(directory, {})
            current = {path.name: one[0] for path, one in now.items() if path.parent == directory}
            for name in sorted({*synced, *current}):
                if (directory / name).is_dir():
                    continue
                inode = synced.get(name)
                if pick is not None and inode != current.get(name) and pick.random() < 0.5:
                    inode = current.get(name)
                if inode is not None:
                    found[directory / name] = inode, self._survivor(inode, now, pick)
        return found

    def _survivor(self, inode: int, now: Image, pick: random.Random | None) -> bytes:
        synced = self._contents.get(inode, b"")
        written = next((data for number, data in now.values() if number == inode), None)
        if written is None:  # it has no name any more
            fd = self._kept.get(inode)
            if fd is None:
                return b""
            written = os.pread(fd, os.fstat(fd).st_size, 0)
        how = pick.choice(["synced", "written", "mixed"]) if pick is not None else "synced"
        if how == "mixed" and pick is not None:
            return _mixed(synced, written, pick)
        return synced if how == "synced" else written

    def restore(self, image: Image, *, rebooted: bool) -> None:
        """Make the directory that. What survives a reboot is on the disk."""
        moved: dict[int, int] = {}
        there = dict(self._files())
        for path in there.keys() - image.keys():
            path.unlink()
        for path, (inode, data) in image.items():
            if there.get(path) != inode:
                path.unlink(missing_ok=True)
                path.touch(0o600)
                moved[inode] = path.stat().st_ino
            if path.read_bytes() != data:
                path.write_bytes(data)
        if rebooted:
            self.forget()
            for directory in self._directories():
                self._names[directory] = {one.name: one.inode() for one in _entries(directory)}
            for path in image:
                with path.open("rb") as file:
                    self.synced(file.fileno())
        else:
            for old, new in moved.items():
                if old in self._contents:
                    self._contents[new] = self._contents[old]
            for entries in self._names.values():
                entries.update({n: moved[i] for n, i in entries.items() if i in moved})

    def cut(self) -> None:
        """Lose everything that was not synced."""
        self.restore(self.survivors(), rebooted=True)

    def forget(self) -> None:
        """Let go what was remembered."""
        _close_all(self._kept)
        self._contents.clear()
        self._names.clear()


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return list(entries)


def _close_all(kept: dict[int, int]) -> None:
    for fd in kept.values():
        os.close(fd)
    kept.clear()


def _mixed(synced: bytes, written: bytes, pick: random.Random) -> bytes:
    size = len(pick.choice([synced, written]))
    out = bytearray()
    for start in range(0, size, SECTOR_BYTES):
        # A file of which nothing was synced is empty, or begins as it was written.
        states = [synced, written] if synced or start else [written]
        piece = pick.choice(states)[start : start + SECTOR_BYTES]
        out += piece.ljust(SECTOR_BYTES, b"\0")
    return bytes(out[:size])


@contextmanager
def power_switch(
    root: Path, step: Step = _no_step, *, simulated: bool = False
) -> Iterator[PowerSwitch]:
    """Watch what is synced below a directory; what changes it is a step, before and after."""
    switch = PowerSwitch(root)
    real = {name: getattr(os, name) for name in ("fdatasync", "fsync", "ftruncate", "pwrite")}
    real |= {name: getattr(os, name) for name in ("unlink", "replace")}

    def watched_sync(name: str) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            step(name, _nothing)
            watches = switch.watches(fd)
            if not (simulated and watches):
                real[name](fd)
            if watches:
                switch.synced(fd)
            step(f"{name} done", _nothing)

        return sync

    def watched_pwrite(fd: int, data: bytes, offset: int) -> int:
        # Nothing makes a write whole: half of it may be all that there is.
        half = memoryview(data)[: len(data) // 2]
        step("pwrite", lambda: real["pwrite"](fd, half, offset))
        return real["pwrite"](fd, data, offset)

    def watched(name: str) -> Callable[..., None]:
        def call(*args: object, **options: object) -> None:
            step(name, _nothing)
            real[name](*args, **options)
            step(f"{name} done", _nothing)

        return call

    os.fdatasync, os.fsync = watched_sync("fdatasync"), watched_sync("fsync")
    os.pwrite = watched_pwrite
    os.ftruncate, os.unlink, os.replace = (
        watched("ftruncate"),
        watched("unlink"),
        watched("replace"),
    )
    try:
        yield switch
    finally:
        for name, function in real.items():
            setattr(os, name, function)
