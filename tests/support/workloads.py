"""Programs that change a mount until it dies, and tell a log outside what they were told.

    python -m tests.support.workloads blocks DIRECTORY LOG SEED

Before a program does something it writes what to its log, and afterwards that it was done: the last
line is what was in flight when the daemon was killed. Each has a function that compares what is
found later with such a log; `Wrong` says what was acknowledged and is not there, or was invented.

Plain Python: these run as processes of their own.
"""

import ctypes
import errno
import hashlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

BLOCK = 4096
OLD_BLOCKS = 3072  # of the file that the store has before: 12 MiB, three parts
NEW_BLOCKS = 1024
DEAD = {errno.ENOTCONN, errno.ECONNABORTED}
"""What a program gets from a mount whose daemon was killed."""
BROKEN = {errno.EIO, errno.EROFS}
"""And what it gets from a disk that is gone."""


class Wrong(AssertionError):  # noqa: N818 - read as a sentence: wrong, block 7 ...
    """Something that was acknowledged is missing, or something was invented."""


class Log:
    """Lines that a killed daemon cannot take away."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def will(self, *words: object) -> None:
        os.write(self._fd, json.dumps(["will", *words]).encode() + b"\n")

    def done(self) -> None:
        os.write(self._fd, b'["done"]\n')

    def failed(self, error: OSError) -> None:
        os.write(self._fd, json.dumps(["failed", error.errno]).encode() + b"\n")


def read_log(path: Path) -> tuple[list[tuple[list, bool]], int | None]:
    """Return what was done with whether it was answered, and the error that ended it."""
    steps: list[tuple[list, bool]] = []
    error = None
    for line in path.read_text().splitlines():
        kind, *words = json.loads(line)
        if kind == "will":
            steps.append((words, False))
        elif kind == "done":
            steps[-1] = steps[-1][0], True
        else:
            (error,) = words
    return steps, error


# --- numbered blocks, and what fsync acknowledged -----------------------------------------------


def old_bytes(seed: int) -> bytes:
    """Return what the store has of the file `old` before anything is done."""
    return random.Random(f"old {seed}").randbytes(OLD_BLOCKS * BLOCK)


def block_bytes(seed: int, name: str, index: int, serial: int) -> bytes:
    """Return what the write of that number puts into a block."""
    return f"{seed:12} {name} {index:10} {serial:10}\n".encode().rjust(64) * (BLOCK // 64)


def blocks(directory: Path, log: Log, seed: int) -> None:
    """Write numbered blocks at random, sync, cut and grow: two files."""
    pick, serial = random.Random(seed), 0
    limits = {"old": OLD_BLOCKS + 256, "new": NEW_BLOCKS}
    files = {name: os.open(directory / name, os.O_RDWR | os.O_CREAT, 0o640) for name in limits}
    while True:
        name = pick.choice(["old", "new"])
        fd, limit = files[name], limits[name]
        if pick.random() < 0.05:
            size = pick.randrange(limit // 2, limit) * BLOCK
            log.will("cut", name, size)
            os.ftruncate(fd, size)
            log.done()
        start = pick.randrange(limit - 300)
        for _ in range(pick.choice([1, 1, 4, 32])):
            # A guest writes in clusters: not every sync may cost all parts.
            index, serial = start + pick.randrange(300), serial + 1
            log.will("write", name, index, serial)
            os.pwrite(fd, block_bytes(seed, name, index, serial), index * BLOCK)
            log.done()
        if pick.random() < 0.1:
            log.will("close", name)
            os.close(fd)
            log.done()
            files[name] = os.open(directory / name, os.O_RDWR)
        else:
            log.will("fsync", name)
            os.fsync(fd)
            log.done()


class _File:
    """One file, block by block: what is sure, and what it may have become since."""

    def __init__(self, size: int) -> None:
        self.size = size  # as the program last saw it
        self.serials: dict[int, int] = {}
        self.sizes = {size}
        self.might: dict[int, set[int]] = {}

    def write(self, index: int, serial: int) -> None:
        self.might.setdefault(index, {self.serials.get(index, 0)}).add(serial)
        self.serials[index] = serial
        self.size = max(self.size, (index + 1) * BLOCK)
        self.sizes.add(self.size)

    def cut(self, size: int, limit: int) -> None:
        for index in range(size // BLOCK, limit):
            if index * BLOCK < self.size or index in self.serials:
                self.might.setdefault(index, {self.serials.get(index, 0)}).add(-1)
                self.serials[index] = -1  # zeros
        self.size = size
        self.sizes.add(size)

    def keep(self) -> None:
        self.sizes, self.might = {self.size}, {}


def check_blocks(directory: Path, log: Path, seed: int) -> str:
    """Compare both files with the log; return their digests."""
    steps, _ = read_log(log)
    files = {"old": _File(OLD_BLOCKS * BLOCK), "new": _File(0)}
    for (op, name, *words), answered in steps:
        match op:
            case "write":
                files[name].write(*words)
            case "cut":
                files[name].cut(*words, OLD_BLOCKS + 256)
            case _ if answered:
                files[name].keep()
    digest = hashlib.sha256()
    for name, file in files.items():
        path = directory / name
        data = path.read_bytes() if path.exists() else b""
        if name == "old" and not path.exists():
            raise Wrong("old is missing")
        base = old_bytes(seed) if name == "old" else b""
        _check_file(seed, name, file, data, base)
        digest.update(name.encode() + data)
    return digest.hexdigest()


def _check_file(seed: int, name: str, file: _File, data: bytes, base: bytes) -> None:
    if len(data) not in file.sizes:
        raise Wrong(f"{name} has {len(data)} bytes, could have {sorted(file.sizes)}")
    for index in range(len(data) // BLOCK):
        found = data[index * BLOCK : (index + 1) * BLOCK]
        serials = file.might.get(index, {file.serials.get(index, 0)})
        # Where the file grew, whatever it is now was zeros before.
        options = [_version(seed, name, index, serial, base) for serial in serials]
        if found not in options:
            raise Wrong(f"block {index} of {name} is {found[:64]!r}, not of {sorted(serials)}")


def _version(seed: int, name: str, index: int, serial: int, base: bytes) -> bytes:
    if serial > 0:
        return block_bytes(seed, name, index, serial)
    if serial < 0:
        return bytes(BLOCK)
    return base[index * BLOCK : (index + 1) * BLOCK] or bytes(BLOCK)


# --- names --------------------------------------------------------------------------------------

DIRECTORIES = ("one", "two", "three")


def content(serial: int) -> bytes:
    """Return the bytes of the file that was made as that number."""
    pick = random.Random(serial)
    return pick.randbytes(pick.choice([0, 10, 5_000, 200_000]))


def synced_names(directory: Path, log: Log, seed: int) -> None:
    """Do as `names` where nothing is safe before it is synced: on a guest's own file system."""
    names(directory, log, seed, sync=True)


def open_names(directory: Path, log: Log, seed: int) -> None:
    """Do as `names` while every third file is open, synced and not closed."""
    names(directory, log, seed, hold=True)


def names(directory: Path, log: Log, seed: int, *, sync: bool = False, hold: bool = False) -> None:
    """Make files, rename them over each other, rename their directories, remove them."""
    pick, serial = random.Random(seed), 0
    tree: dict[str, int | None] = {}
    held: list[int] | None = [] if hold else None

    def act(*words: object) -> None:
        log.will(*words)
        _carry_out(directory, held, *words)
        if sync:
            _sync(directory)
        log.done()
        apply(tree, *words)

    while True:
        here = [path for path, kind in tree.items() if kind is None]
        files = [path for path, kind in tree.items() if kind is not None]
        places = ["", *(f"{path}/" for path in here)]
        op = pick.choice(["make", "make", "rename", "rename", "rename", "move", "remove"])
        if op == "make" and len(files) < 40:
            serial += 1
            act("make", f"{pick.choice(places)}new-{serial}", serial)
            made = list(tree)[-1]
            act("rename", made, f"{pick.choice(places)}{pick.choice('abcdefghij')}")
        elif op == "rename" and files:
            old, new = pick.choice(files), f"{pick.choice(places)}{pick.choice('abcdefghij')}"
            if old != new:
                act("rename", old, new)
        elif op == "move":
            free = [name for name in DIRECTORIES if name not in tree]
            if here and free:
                act("rename", pick.choice(here), pick.choice(free))
            elif len(here) < 2:
                act("mkdir", pick.choice(free))
        elif op == "remove" and len(files) > 5:
            act("remove", pick.choice(files))


def _carry_out(root: Path, held: list[int] | None, op: str, path: str, more: object = None) -> None:
    match op:
        case "make":
            serial = int(str(more))
            fd = os.open(root / path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            os.write(fd, content(serial))
            if held is None or serial % 3:
                os.close(fd)
            else:
                os.fsync(fd)
                held.append(fd)
            if held is not None and len(held) > 3:
                os.close(held.pop(0))
        case "rename":
            os.rename(root / path, root / str(more))
        case "mkdir":
            os.mkdir(root / path)
        case "remove":
            os.unlink(root / path)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
        os.fsync(fd)
    finally:
        os.close(fd)


def apply(tree: dict[str, int | None], op: str, path: str, more=None) -> None:
    """Do to a dictionary what was done to the mount: path -> number of its content, or None."""
    match op:
        case "make":
            tree[path] = more
        case "mkdir":
            tree[path] = None
        case "remove":
            del tree[path]
        case "rename":
            moved = [old for old in tree if old == path or old.startswith(path + "/")]
            for old, kind in [(old, tree.pop(old)) for old in moved]:
                tree[more + old[len(path) :]] = kind


def check_guest(directory: Path, log: Path, seed: int) -> str:
    """Compare the tree of a guest's file system with the log."""
    return check_names(directory, log, seed, guest=True)


def check_names(directory: Path, log: Path, seed: int, *, guest: bool = False) -> str:
    """Compare the tree with the log; return a digest of it.

    A guest's ext4 may show zeros in a file that was made and not synced.
    """
    steps, _ = read_log(log)
    tree: dict[str, int | None] = {}
    for words, _ in steps[:-1]:
        apply(tree, *words)
    (op, path, *more), answered = steps[-1]
    after = dict(tree)
    apply(after, op, path, *more)
    found = {
        str(one.relative_to(directory)): None if one.is_dir() else one.read_bytes()
        for one in sorted(directory.rglob("*"))
        if not (guest and one.name == "lost+found")
    }
    if op == "make" and not answered and path in found:
        # Nobody was told that it is there, nor with how much of its content.
        data, wanted = found.pop(path), content(more[0])
        if data is not None and guest:
            data = bytes(new or old for new, old in zip(data, wanted, strict=False))
        if data is None or not wanted.startswith(data):
            raise Wrong(f"{path} holds what was never written to it")
        after.pop(path)
    before = {} if answered else {"before": _plain(tree)}
    options = {**before, "after": _plain(after)}
    if found not in options.values():
        last = f"last step {(op, path, *more)}, answered: {answered}"
        raise Wrong("\n".join([last, *(_differ(found, it, name) for name, it in options.items())]))
    digest = hashlib.sha256()
    for name, data in found.items():
        digest.update(name.encode() + b"\0" + (data if data is not None else b"directory"))
    return digest.hexdigest()


def _plain(tree: dict[str, int | None]) -> dict[str, bytes | None]:
    return {path: None if kind is None else content(kind) for path, kind in tree.items()}


def _differ(found: dict, wanted: dict, name: str) -> str:
    other = [path for path in found if path in wanted and found[path] != wanted[path]]
    lost, more = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    return f"  compared with {name} it: lost {lost}, more {more}, other content {other}"


# --- copies -------------------------------------------------------------------------------------


def files_below(root: Path) -> Iterator[Path]:
    """Yield the relative paths of files and links."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(root)


def about(path: Path) -> tuple[object, ...]:
    """Return what rsync -a keeps of a file."""
    found = path.lstat()
    data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
    mode = 0 if path.is_symlink() else found.st_mode
    mtime = 0 if path.is_symlink() else found.st_mtime_ns
    return hashlib.sha256(data).hexdigest(), mode, mtime


WORKLOADS: dict[str, Callable[[Path, Log, int], None]] = {
    "blocks": blocks,
    "names": names,
    "open_names": open_names,
    "synced_names": synced_names,
}


def main(name: str, directory: str, path: str, seed: str) -> None:
    log = Log(path)
    try:
        WORKLOADS[name](Path(directory), log, int(seed))
    except OSError as error:
        log.failed(error)


if __name__ == "__main__":
    main(*sys.argv[1:])
