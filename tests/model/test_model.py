"""Random operations on a tree and on a reference agree, step by step.

A run is a seed: `pytest "tests/model/test_model.py::test_...[copies-17]"` repeats one. Time is
virtual, background commits run between the steps, and other programs change the bucket behind the
tree's back. Crashes are the business of `tests/core/test_crashes.py`.
"""

import errno
import os
import random
from dataclasses import replace

import pytest
import trio

from tests.support.reference import Directory, File, Link, Reference, Refused
from tests.support.tree import Shell, get, keys, put, shell_on
from vfs.errors import VfsError
from vfs.layout import parts
from vfs.store.base import PartRules
from vfs.store.memory import MemoryStore, everything
from vfs.tree import rename as rename_module
from vfs.tree import sidecar
from vfs.tree.rename import NOREPLACE
from vfs.values import Key

STEPS = 150
RULES = PartRules(
    min_bytes=1024,
    max_bytes=16 << 10,
    max_parts=200,
    max_object_bytes=3 << 20,
    max_write_bytes=4096,
)
TOP = 90_000  # largest offset written
PATHS = [f"{top}{name}" for top in ("", "d/", "e/", "d/f/") for name in ("a", "b", "c")]
DIRECTORIES = ["d", "e", "d/f", "e/f", "g"]


class Driver:
    """One run: the same operation on the tree and on the reference."""

    def __init__(self, seed, store, stage_dir):
        self.pick = random.Random(seed)
        self.store = store
        self.stage_dir = stage_dir
        self.model = Reference()
        self.open: list[tuple[int, File]] = []
        self.log: list[str] = []
        self.shell: Shell

    # What a step is made of

    def path(self):
        known = [path for path, _ in self.model.walk()]
        return self.pick.choice(PATHS + DIRECTORIES + known)

    def new_path(self):
        return self.pick.choice(PATHS if self.pick.random() < 0.7 else DIRECTORIES)

    def data(self):
        return self.pick.randbytes(self.pick.choice([1, 10, 1000, 5000, 30_000]))

    def handle(self):
        usable = [one for one in self.open if not one[1].may_be_stale]
        return self.pick.choice(usable) if usable else None

    async def both(self, what, ask_model, ask_tree):
        """Do it twice; results and errors must agree."""
        self.log.append(what)
        try:
            expected, refused = ask_model(), None
        except Refused as error:
            expected, refused = None, error.errno
        try:
            found = await ask_tree()
        except VfsError as error:
            assert error.errno == refused, f"{error!r} where the model says {refused}"
            return None
        assert refused is None, f"allowed what must be {errno.errorcode.get(refused)}"
        return expected, found

    # The operations

    async def create(self):
        path, mode = self.new_path(), self.pick.choice([0o600, 0o644, 0o755])
        file = File(mode=mode)
        done = await self.both(
            f"create {path}",
            lambda: self.model.make(path, file),
            lambda: self.shell.create(path, mode),
        )
        if done:
            file.opened += 1
            self.open.append((done[1], file))

    async def open_file(self):
        path = self.path()
        if isinstance(self._peek(path), Link):
            return
        flags = os.O_RDWR | (os.O_TRUNC if self.pick.random() < 0.2 else 0)

        def model():
            file = self.model.open(path)
            if flags & os.O_TRUNC:
                file.truncate(0)
            return file

        done = await self.both(f"open {path}", model, lambda: self.shell.open(path, flags))
        if done:
            self.open.append((done[1], done[0]))

    def _peek(self, path):
        try:
            return self.model.find(path)
        except Refused:
            return None

    async def write(self):
        if one := self.handle():
            fd, file = one
            offset = self.pick.choice([0, len(file.data), self.pick.randrange(TOP)])
            data = self.data()
            self.log.append(f"write {fd} at {offset}: {len(data)}")
            file.write(offset, data)
            await self.shell.pwrite(fd, offset, data)

    async def read(self):
        if self.open:
            fd, file = self.pick.choice(self.open)
            offset, size = self.pick.randrange(TOP), self.pick.randrange(50_000)
            self.log.append(f"read {fd} at {offset}: {size}")
            try:
                found = await self.shell.pread(fd, offset, size)
            except VfsError as error:
                assert error.errno == errno.ESTALE
                assert file.may_be_stale
            else:
                assert found == file.data[offset : offset + size]

    async def ftruncate(self):
        if one := self.handle():
            size = self.pick.choice([0, self.pick.randrange(TOP)])
            self.log.append(f"ftruncate {one[0]} to {size}")
            one[1].truncate(size)
            await self.shell.ftruncate(one[0], size)

    async def truncate(self):
        path, size = self.path(), self.pick.choice([0, self.pick.randrange(TOP)])
        if isinstance(self._peek(path), File):
            await self.both(
                f"truncate {path} to {size}",
                lambda: self.model.find(path).truncate(size),
                lambda: self.shell.truncate(path, size),
            )

    async def fsync(self):
        if one := self.handle():
            self.log.append(f"fsync {one[0]}")
            await self.shell.fsync(one[0])

    async def close(self):
        if self.open:
            fd, file = self.open.pop(self.pick.randrange(len(self.open)))
            self.log.append(f"close {fd}")
            await self.shell.close(fd)
            file.opened -= 1

    async def fsync_against_the_store(self):
        """What was fsynced is in the store, byte for byte."""
        if one := self.handle():
            await self.shell.fsync(one[0])
            for path, entry in self.model.walk():
                if entry is one[1]:
                    self.log.append(f"compare {path}")
                    assert await get(self.store, path) == bytes(entry.data)

    async def unlink(self):
        path = self.path()
        await self.both(
            f"unlink {path}", lambda: self.model.unlink(path), lambda: self.shell.unlink(path)
        )

    async def rename(self):
        old, new = self.path(), self.path()
        replacing = self.pick.random() < 0.8
        await self.both(
            f"rename {old} {new} {replacing}",
            lambda: self.model.rename(old, new, replace=replacing),
            lambda: self.shell.rename(old, new, 0 if replacing else NOREPLACE),
        )

    async def mkdir(self):
        path = self.new_path()
        await self.both(
            f"mkdir {path}",
            lambda: self.model.make(path, Directory()),
            lambda: self.shell.mkdir(path),
        )

    async def rmdir(self):
        path = self.path()
        await self.both(
            f"rmdir {path}", lambda: self.model.rmdir(path), lambda: self.shell.rmdir(path)
        )

    async def symlink(self):
        path = self.new_path()
        await self.both(
            f"symlink {path}",
            lambda: self.model.make(path, Link("to/" + path)),
            lambda: self.shell.symlink(path, "to/" + path),
        )

    async def chmod(self):
        path, mode = self.path(), self.pick.choice([0o600, 0o4755, 0o1777])
        if not isinstance(self._peek(path), Link):
            await self.both(
                f"chmod {path} {mode:o}",
                lambda: self.model.chmod(path, mode),
                lambda: self.shell.chmod(path, mode),
            )

    async def utimens(self):
        path, time = self.path(), self.pick.randrange(1 << 60)
        if isinstance(entry := self._peek(path), File) and not entry.opened:
            self.log.append(f"utimens {path}")
            entry.mtime_ns = time
            await self.shell.setattr(path, mtime_ns=time)

    async def listdir(self):
        path = self.path()

        def model():
            found = self.model.find(path)
            if not isinstance(found, Directory):
                raise Refused(errno.ENOTDIR)
            return sorted(found.names)

        done = await self.both(f"ls {path}", model, lambda: self.shell.ls(path))
        assert done is None or done[0] == done[1]

    async def relieve(self):
        self.log.append("relieve")
        self.shell.fs.context.stage.budget.on_pressure()

    async def drain(self):
        self.log.append("drain")
        await self.shell.drain()

    async def wait(self):
        self.log.append("wait")
        await trio.sleep(self.pick.choice([0.5, 10]))

    async def furnish(self):
        for path in DIRECTORIES[:3]:
            self.log.append(f"mkdir {path}")
            self.model.make(path, Directory())
            await self.shell.mkdir(path)

    # Changes behind our back, of files that nobody here has changed

    def _untouched(self):
        return [
            (path, entry)
            for path, entry in self.model.walk()
            if isinstance(entry, File) and not entry.opened
        ]

    async def remote_write(self):
        if found := self._untouched():
            path, entry = self.pick.choice(found)
            data = self.data()[: RULES.max_write_bytes]
            self.log.append(f"remote write {path}: {len(data)}")
            await self.drain()
            entry.data, entry.mtime_ns = bytearray(data), None
            if entry.mode is not None:
                entry.mode &= 0o1777
            await put(self.store, path, data)

    async def remote_remove(self):
        if found := self._untouched():
            path, _ = self.pick.choice(found)
            self.log.append(f"remote remove {path}")
            await self.drain()
            self.model.unlink(path)
            above = path.rpartition("/")[0]
            if above:  # another tool that knows of directories keeps them
                await put(self.store, above + "/", b"")
            await self.store.remove([Key(path)])

    async def remote_create(self):
        path = self.new_path()
        above = self._peek(path.rpartition("/")[0])
        if isinstance(above, Directory) and self._peek(path) is None:
            self.log.append(f"remote create {path}")
            await self.drain()
            if await get(self.store, path) is not None:
                return  # an unlinked file that is still open
            data = self.data()[: RULES.max_write_bytes]
            # A file of that name may have stood here before: its permissions may still be known.
            self.model.make(path, File(bytearray(data), mode=None))
            await put(self.store, path, data)

    # Comparing

    async def compare(self):
        """Everything that a program can see is as in the reference."""
        expected = self.model.walk()
        found = []

        async def walk(path):
            for node in await self.shell.nodes(path):
                full = f"{path}/{node.name}" if path else node.name
                found.append(full)
                if node.is_directory:
                    await walk(full)

        await walk("")
        assert sorted(found) == sorted(path for path, _ in expected)
        for path, entry in expected:
            if isinstance(entry, Link):
                assert await self.shell.readlink(path) == entry.target, path
                continue
            attributes = await self.shell.stat(path)
            assert entry.mode in {None, attributes.mode & 0o7777}, f"{path} {attributes.mode:o}"
            if isinstance(entry, File):
                assert await self.shell.read(path) == entry.data, path
                if entry.mtime_ns is not None:
                    assert attributes.mtime_ns == entry.mtime_ns, path

    async def compare_store(self):
        """After an unmount any other tool sees the same files, and nothing else."""
        files = {p: e for p, e in self.model.walk() if not isinstance(e, Directory)}
        directories = {p + "/" for p, e in self.model.walk() if isinstance(e, Directory)}
        there = set(await keys(self.store))
        assert there - directories == set(files)
        for path, entry in files.items():
            want = entry.target.encode() if isinstance(entry, Link) else bytes(entry.data)
            assert await get(self.store, path) == want, path
        assert self.store._bucket.uploads == {}, "uploads were left behind"

    async def run(self, steps):
        often = [self.create, self.open_file, self.write, self.write, self.write, self.read]
        often += [self.close, self.close, self.unlink, self.rename, self.rename, self.mkdir]
        rare = [self.ftruncate, self.truncate, self.fsync, self.fsync_against_the_store]
        rare += [self.rmdir, self.symlink, self.chmod, self.utimens, self.listdir, self.relieve]
        rare += [self.drain, self.wait, self.remote_write, self.remote_remove]
        rare += [self.remote_create, self.compare]
        try:
            while steps > 0:
                session = min(steps, self.pick.randrange(1, 80))
                steps -= session
                self.log.append("mount")
                async with shell_on(
                    self.store, self.stage_dir, "metadata_ttl=0", stage_bytes=4 << 20
                ) as self.shell:
                    await self.compare()
                    if not self.model.root.names:
                        await self.furnish()
                    for _ in range(session):
                        await self.pick.choice(often if self.pick.random() < 0.6 else rare)()
                    await self.compare()
                    while self.open:
                        await self.close()
                await self.compare_store()
                assert self.shell.staged_bytes == 0
                assert self.shell.mount.conflicts.count == 0
        except BaseException as error:
            error.add_note("\n".join(["steps, the last ones:", *self.log[-60:]]))
            raise


async def run(seed, kind, tmp_path, monkeypatch, clock, steps):
    clock.autojump_threshold = 0.2  # worker threads are idle to the loop, not to us
    monkeypatch.setattr(rename_module, "COPIED_AT_ONCE_BYTES", 20_000)
    monkeypatch.setattr(parts, "DELTA_UNIT_BYTES", 1024)
    monkeypatch.setattr(sidecar, "SHARD_ENTRIES", 4)
    features = replace(everything(RULES), move=kind == "moves")
    await Driver(f"{kind}-{seed}", MemoryStore(features=features), tmp_path).run(steps)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["copies", "moves"])
async def test_a_tree_behaves_like_the_reference(seed, kind, tmp_path, monkeypatch, autojump_clock):
    await run(seed, kind, tmp_path, monkeypatch, autojump_clock, STEPS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1200))
@pytest.mark.parametrize("kind", ["copies", "moves"])
async def test_a_tree_behaves_like_the_reference_for_long(
    seed, kind, tmp_path, monkeypatch, autojump_clock
):
    await run(seed, kind, tmp_path, monkeypatch, autojump_clock, 500)
