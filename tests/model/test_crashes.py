"""Whatever happens to the daemon, the machine, the network or the store: nothing acknowledged is lost.

A state machine of Hypothesis drives tree and files on the memory store: names, bytes, attributes,
fsync and close; requests that fail and answers that are lost; other programs that write the same
bucket; kills and power cuts between two calls and at every step within one, also while the next
mount takes up what was left. `tests/support/durable.py` says what must be there afterwards.

A run is a seed, which is printed: `pytest "tests/model/test_crashes.py::test_...[local-copies-7]"`
repeats one, and MODEL_ROUND=13 in the environment begins at that round of it, as it is printed. A
failure is told with what was done; with MODEL_SHRINK=1 Hypothesis looks for less that fails as well,
which takes minutes. `test_million_local.py` and `test_million_remote.py` play a million steps.
"""

import errno
import functools
import os
import random
import shutil
import tempfile
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
import trio
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.support.durable import Durable, Entry, Seen, could_be, first_difference, mark
from tests.support.machine import Death, Died, Machine
from tests.support.tree import keys, put
from vfs.errors import (
    FullError,
    NotFoundError,
    StaleError,
    TransientError,
    VfsError,
    WrongKindError,
)
from vfs.spans import SpanSet
from vfs.stage import log as stage_log
from vfs.stage.journal import replay
from vfs.stage.log import log_path
from vfs.stage.records import read_log, sync_directory
from vfs.store.base import PartRules
from vfs.store.memory import everything
from vfs.tree.metadata import NoAttributeError
from vfs.tree.rename import NOREPLACE
from vfs.values import Key

# A mount that dies while it lists a directory drops the generator of its names.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")

STEPS = 100  # of one example, at most
EXAMPLES = 10  # of one round
WANTED = 1250  # steps of each of eight kinds of machines: 10,000
LONG_WANTED = 12_500
LONG_SEEDS = range(100, 110)  # of each kind: a million

RULES = PartRules(
    min_bytes=1024,
    max_bytes=16 << 10,
    max_parts=200,
    max_object_bytes=3 << 20,
    max_write_bytes=4096,
)
RAM = next((one for one in ["/dev/shm"] if os.access(one, os.W_OK)), None)
TOP = 40_000  # largest offset written
STAGE_BYTES = 1 << 20
TTL_S = 1  # with 0, a listing that began before a commit of our own hides the file
FILES = [f"{above}{name}" for above in ("", "d/", "e/", "d/f/", "g/") for name in ("a", "b", "c")]
DIRECTORIES = ["d", "e", "g", "d/f", "e/f"]
MUTATIONS = ["write", "begin_upload", "upload_part", "copy_part", "finish_upload", "copy"]
MUTATIONS += ["move", "remove", "abort_upload"]

CONDITIONS = dict.fromkeys(
    (
        "write_if_absent",
        "write_if_version",
        "finish_if_absent",
        "finish_if_version",
        "copy_if_absent",
        "copy_if_version",
        "copy_pins_source",
        "copy_part_pins_source",
        "remove_if_version",
    ),
    False,
)
STORES = {
    "copies": replace(everything(RULES), move=False),
    "moves": everything(RULES),
    "plain": replace(everything(RULES), move=False, copy_part=False),
    "trusting": replace(everything(RULES), move=False, **CONDITIONS),
}

which = st.integers(0, 63)
sizes = st.sampled_from([1, 10, 700, 5000, 20_000])
seeds = st.integers(0, 255)
deaths = st.sampled_from(list(Death))


class Over(Exception):  # noqa: N818 - an answer, not a fault
    """The mount has died in the middle of a rule, and the next one is up."""


def step(**strategies):
    """Make a rule of a method; it ends where the mount dies."""

    def wrap(method):
        @functools.wraps(method)
        def call(self, **drawn):
            with suppress(Over):
                method(self, **drawn)

        return rule(**strategies)(call)

    return wrap


class Crashes(RuleBasedStateMachine):
    """A mount that its programs, other programs, the store and the power play with."""

    store = "copies"
    fsync_to = "remote"
    steps_done = 0
    crashes = 0

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=RAM))
        self.machine = Machine(
            self.root,
            STORES[self.store],
            (f"fsync={self.fsync_to}", f"metadata_ttl={TTL_S}", "xattr=true"),
            STAGE_BYTES,
        )
        stage_log.boot_id = lambda: self.machine.boot
        self.tree = Durable()
        self.handles: list[tuple[int, Entry, bool]] = []  # number, file, open for writing
        self.disturbed = False  # a fault of the store may still fail a call
        self.serial = 0
        self.again = 0  # steps of the next mount after which it dies as well
        self.log: list[str] = []

    @property
    def local(self):
        return self.fsync_to == "local"

    # What a rule is made of

    def bytes(self, size):
        self.serial += 1
        return random.Random(self.serial).randbytes(size)

    def do(self, what, op):
        """Ask the mount; True when it has answered, False when with an error."""
        self.log.append(what)
        try:
            try:
                self.answer = self.machine.call(op)
            except Died:
                self.log.append(f"  died at {self.machine.deaths[-1]!r}")
                self.recover()
                raise Over from None
            except VfsError as error:
                self.log.append(f"  {error!r}")
                self.error = error
                allowed = self.disturbed or isinstance(error, FullError)
                assert allowed, f"{what}: {error!r}, and no fault to blame"
                return False
        except Over:
            raise
        except BaseException as error:
            self.blame(error)
            raise
        return True

    def sure(self, what, op):
        """Ask the mount what it must answer."""
        done = self.do(what, op)
        self.told(lambda: self.must_be(done, what))
        return self.answer

    def must_be(self, done, what):
        assert done, f"{what}: {self.error!r}"

    def blame(self, error):
        if not getattr(error, "blamed", False):
            error.blamed = self.failed = True
            error.add_note("\n".join(["what was done:", *self.log[-150:]]))

    def choose(self, options, number):
        return options[number % len(options)] if options else None

    def free_files(self):
        return [
            path
            for path in FILES
            if path not in self.tree.now and self.is_directory(path.rpartition("/")[0])
        ]

    def is_directory(self, path):
        return not path or getattr(self.tree.now.get(path), "kind", "") == "directory"

    def writable(self, number):
        usable = [one for one in self.handles if one[2] and not one[1].may_be_stale]
        return self.choose(usable, number)

    # Looking

    async def look(self, shell, path):
        try:
            return await self.look_closely(shell, path)
        except (NotFoundError, WrongKindError):
            return None

    async def look_closely(self, shell, path):
        node = await shell.node(path)
        if node.is_directory:
            kind, data = "directory", b""
        elif node.attributes.target is not None:
            kind, data = "link", (await shell.readlink(path)).encode()
        else:
            kind, data = "file", await shell.read(path)
        node = await shell.node(path)
        try:
            value = shell.fs.metadata.get_xattr(node, "user.m")
        except NoAttributeError:
            value = None
        about = await shell.stat(path)
        return Seen(kind, data, about.mode & 0o7777, about.mtime_ns, value)

    async def walk(self, shell, path=""):
        found = {}
        for name in await shell.ls(path):
            full = f"{path}/{name}" if path else name
            seen = await self.look(shell, full)
            assert seen is not None, f"{full!r} is listed and not there"
            found[full] = seen
            if seen.kind == "directory":
                found |= await self.walk(shell, full)
        return found

    def compare(self):
        seen = self.sure("compare", self.walk)
        self.told(lambda: self.tree.check(seen))

    def told(self, check):
        """Check something; a failure tells what was done."""
        try:
            return check()
        except BaseException as error:
            self.blame(error)
            raise

    def calm(self):
        """Let the store work again."""
        self.machine.faulty.script.clear()

    # After something went wrong

    def recover(self):
        """Mount again, as often as it takes, and compare with what must be there."""
        self.handles.clear()
        self.calm()
        self.disturbed = False
        type(self).crashes += 1
        if self.again:
            self.machine.arm(self.again, Death.MIXED, self.again)
            self.again = 0
        self.remount_after_crash()
        seen = self.sure("look", self.walk)
        self.told(lambda: self.tree.recover(seen))
        self.told(self.check_stage)

    def remount_after_crash(self):
        while True:
            try:
                self.log.append("mount again")
                self.machine.mount()
            except Died:
                self.log.append(f"  died at {self.machine.deaths[-1]!r}")
            except BaseException as error:
                self.blame(error)
                raise
            else:
                return self.machine.disarm()

    def check_stage(self):
        assert self.machine.shell.fs.context.stage.damaged == []

    def unsure(self, paths, *entries):
        """A call has failed: see what it has done. Those who had its files open close them."""
        self.calm()
        for one in [one for one in self.handles if one[1] in entries]:
            self.drop(one)
        seen = {}

        async def look(shell):
            await trio.sleep(TTL_S + 0.5)
            for path in paths:
                found = await self.look(shell, path)
                if found is not None:
                    seen[path] = found

        self.sure(f"what is {paths} now?", look)
        self.told(lambda: self.tree.observe(seen, paths))

    def drop(self, handle):
        """Close, whatever comes of it: what it writes may be nobody's by now."""
        if handle in self.handles:
            self.handles.remove(handle)
            fd, file, _ = handle
            file.handles -= 1
            self.disturbed = True
            self.do(f"close {fd} of {file!r}", lambda shell: shell.close(fd))

    # Life

    @initialize(number=which)
    def furnish(self, number):
        self.machine.mount()
        for path in DIRECTORIES[: 1 + number % 4]:
            if self.is_directory(path.rpartition("/")[0]):
                self.make_directory(path)
        for path in self.free_files()[: number % 5]:
            self.write_whole(path, self.bytes(3000 * (number % 4)))
        if number % 2:
            self.store_all()

    def write_whole(self, path, data):
        file = Entry("file", b"", 0o644, path)
        self.create_as(path, file)
        handle = next((one for one in self.handles if one[1] is file), None)
        if handle:
            self.write_at(handle, 0, data)
            self.close_one(handle)

    def teardown(self):
        type(self).steps_done += self.steps_here
        try:
            self.machine.disarm()
            if self.machine.shell is not None and not self.failed:
                self.unmount()
        finally:
            self.machine.close()
            shutil.rmtree(self.root)

    steps_here = 0
    failed = False

    def check_invariants(self, settings, output, runtimes):
        # Called after each step, and before the first.
        self.steps_here += 1
        super().check_invariants(settings, output, runtimes)

    # Files

    def fill_grave(self, path):
        """A name is used again: what was removed there may not be had any more."""
        for _, file, _ in self.handles:
            if file.grave == path:
                file.may_be_stale = True

    def create_as(self, path, file):
        self.fill_grave(path)
        self.tree.may(path, file)
        for one in file.fields:  # until somebody is told that it exists they may be the defaults
            one.might.add(None)
        if self.do(f"create {path}", lambda shell: shell.create(path, file.mode)):
            self.tree.show(path, file)
            file.handles += 1
            self.handles.append((self.answer, file, True))
        else:
            self.unsure([path], file)

    @step(number=which, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def create(self, number, mode):
        path = self.choose(self.free_files(), number)
        if path:
            self.create_as(path, Entry("file", b"", mode, path))

    @step(number=which, size=sizes)
    def create_whole(self, number, size):
        path = self.choose(self.free_files(), number)
        if path:
            self.write_whole(path, self.bytes(size))

    @step(number=which, how=st.sampled_from([os.O_RDWR, os.O_RDONLY, os.O_RDWR | os.O_TRUNC]))
    def open_file(self, number, how):
        path = self.choose(self.tree.files(), number)
        if not path or len(self.handles) > 8:
            return
        file = self.tree.now[path]
        if how & os.O_TRUNC:
            file.may_change(b"")
        if self.do(f"open {path} {how:#o}", lambda shell: shell.open(path, how)):
            if how & os.O_TRUNC and file.data:
                file.change(b"")
            file.handles += 1
            self.handles.append((self.answer, file, how & os.O_ACCMODE != os.O_RDONLY))
        else:
            self.unsure([path], file)

    def write_at(self, handle, offset, data):
        fd, file, _ = handle
        before, after = file.data, file.written(offset, data)
        file.may_change(after)
        what = f"write {fd} of {file!r} at {offset}: {len(data)}"
        if self.do(what, lambda shell: shell.pwrite(fd, offset, data)):
            file.change(after)
        else:
            assert isinstance(self.error, FullError), self.error
            assert file.data == before

    @step(number=which, offset=st.integers(0, TOP), size=sizes)
    def write(self, number, offset, size):
        if one := self.writable(number):
            self.write_at(one, offset, self.bytes(size))

    @step(number=which, size=sizes)
    def overwrite_the_beginning(self, number, size):
        if one := self.writable(number):
            self.write_at(one, 0, self.bytes(size))

    @step(number=which, at=st.integers(0, 15_000), ticks=st.integers(0, 30))
    def change_what_was_sent(self, number, at, ticks):
        """Complete parts, which are sent ahead, and change one of them."""
        if one := self.writable(number):
            self.write_at(one, 0, self.bytes(20_000))
            self.tick(ticks)
            self.write_at(one, at, self.bytes(10))

    @step(number=which, size=sizes)
    def append(self, number, size):
        one = self.writable(number)
        if one and len(one[1].data) < 2 * TOP:
            self.write_at(one, len(one[1].data), self.bytes(size))

    @step(number=which, size=st.integers(0, TOP))
    def ftruncate(self, number, size):
        if one := self.writable(number):
            fd, file, _ = one
            after = file.cut(size)
            file.may_change(after)
            what = f"ftruncate {fd} of {file!r} to {size}"
            if self.do(what, lambda shell: shell.ftruncate(fd, size)):
                file.change(after)
            else:
                self.after_failed_cut(file, after)

    @step(number=which, size=st.integers(0, TOP))
    def truncate(self, number, size):
        path = self.choose(self.tree.files(), number)
        if path:
            file = self.tree.now[path]
            after = file.cut(size)
            file.may_change(after)
            what = f"truncate {path} to {size}"
            if self.do(what, lambda shell: shell.truncate(path, size)):
                file.change(after)
                if not any(one[1] is file and one[2] for one in self.handles):
                    self.tree.keep(file)
            else:
                self.after_failed_cut(file, after)

    def after_failed_cut(self, file, after):
        """It has been cut, or not."""
        path = self.tree.path_of(file)
        self.calm()
        if path is None:
            file.may_be_stale = True
        else:
            found = self.sure(f"how long is {path}?", lambda shell: shell.read(path))
            self.told(lambda: self.is_one_of(found, file.data, after))
            file.change(found)

    @staticmethod
    def is_one_of(found, *expected):
        assert found in expected

    @step(number=which, offset=st.integers(0, TOP), size=st.integers(0, TOP))
    def read(self, number, offset, size):
        one = self.choose(self.handles, number)
        if one is None:
            return
        fd, file, _ = one

        async def read(shell):
            try:
                return await shell.pread(fd, offset, size)
            except StaleError:
                return None

        if self.do(f"read {fd} of {file!r} at {offset}: {size}", read):
            self.told(lambda: self.is_right(self.answer, file, offset, size))

    def is_right(self, found, file, offset, size):
        if found is None:
            assert file.may_be_stale or self.disturbed
        else:
            assert found == file.data[offset : offset + size]

    @step(number=which)
    def fsync(self, number):
        one = self.choose([one for one in self.handles if not one[1].may_be_stale], number)
        if one:
            fd, file, _ = one
            if self.do(f"fsync {fd} of {file!r}", lambda shell: shell.fsync(fd)):
                self.tree.keep(file)

    def close_one(self, handle):
        fd, file, writes = handle
        self.handles.remove(handle)
        file.handles -= 1
        if self.do(f"close {fd} of {file!r}", lambda shell: shell.close(fd)) and writes:
            self.tree.keep(file)

    @step(number=which)
    def close(self, number):
        if one := self.choose(self.handles, number):
            self.close_one(one)

    # Names

    @step(number=which)
    def unlink(self, number):
        self.remove(self.choose(self.leaves(), number))

    @step(number=which)
    def unlink_while_open(self, number):
        paths = [path for path in self.leaves() if self.tree.now[path].handles]
        self.remove(self.choose(paths, number))

    def leaves(self):
        return [path for path, one in sorted(self.tree.now.items()) if one.kind != "directory"]

    def remove(self, path):
        if not path:
            return
        file = self.tree.now[path]
        self.tree.may(path, None)
        file.doomed = True
        base = self.machine.stored(path)
        if self.do(f"unlink {path}", lambda shell: shell.unlink(path)):
            self.tree.settle(path, None)
            file.grave = path
        else:
            self.unsure([path], file)
            self.half_removed(file, path, base, [path])

    def half_removed(self, file, path, base, paths):
        """A removal has failed, perhaps after it took effect: what was not stored has no base then."""
        self.sure("settle it", lambda shell: shell.drain())
        self.let_it_be_seen()
        if self.machine.shell.mount.conflicts.count == 0:
            return
        seen = self.sure("look", self.walk)
        copies = self.told(lambda: self.kept_apart(path, [file.data], base, seen, must=True))
        shown = {name: one for name, one in seen.items() if name not in copies}
        self.told(lambda: self.tree.observe(shown, paths))
        self.told(lambda: self.tree.check(shown))
        self.forget_conflict(copies)

    def rename_to(self, old, new, flags=0):
        file, there = self.tree.now[old], self.tree.now.get(new)
        self.fill_grave(new)
        self.tree.may(old, None)
        self.tree.may(new, file)
        if there is not None:
            there.doomed = True
        base = self.machine.stored(new)
        what = f"rename {old} to {new}" + (f", where {there!r} is" if there else "")
        if self.do(what, lambda shell: shell.rename(old, new, flags)):
            if there is not None:
                there.may_be_stale = True
            self.tree.settle(old, None)
            if self.local:
                file.kept = True
            if file.kept:
                self.tree.settle(new, file)
            else:
                self.tree.show(new, file)
        else:
            # Half a rename: another tool would see this, and so do we. What follows is its end.
            self.tree.may(new, Entry("file", file.data, None, "a copy of it", xattr=None))
            self.half_renamed([old, new], [file], [there] if there else [])
            if there is not None:
                self.half_removed(there, new, base, [old, new])

    @step(number=which, to=which)
    def rename(self, number, to):
        old, new = self.choose(self.leaves(), number), self.choose(self.free_files(), to)
        if old and new:
            self.rename_to(old, new)

    @step(number=which, to=which)
    def rename_over(self, number, to):
        old, new = self.choose(self.leaves(), number), self.choose(self.leaves(), to)
        if old and new != old:
            self.rename_to(old, new)

    @step(number=which, to=which, size=sizes, steps=st.integers(1, 25), how=deaths, seed=seeds)
    def save_like_an_editor_and_die(self, number, to, size, steps, how, seed):
        """Replace what was just written and is not stored, and die on the way."""
        old, new = self.choose(self.free_files(), to), self.choose(self.free_files(), number)
        if not old or old == new:
            return
        if self.local and seed % 2:
            self.break_store()
        self.write_whole(old, self.bytes(size))
        self.write_whole(new, self.bytes(size))
        if old in self.tree.now and new in self.tree.now:
            self.machine.arm(steps, how, seed)
            self.rename_to(old, new)
            self.machine.disarm()
        self.calm()

    @step(number=which, to=which)
    def rename_noreplace(self, number, to):
        old, new = self.choose(self.leaves(), number), self.choose(FILES, to)
        if not old or new == old or not self.is_directory(new.rpartition("/")[0]):
            return
        if new not in self.tree.now:
            self.rename_to(old, new, NOREPLACE)
        else:
            self.refused(
                f"rename {old} to {new} without replacing",
                errno.EEXIST,
                lambda shell: shell.rename(old, new, NOREPLACE),
            )

    def refused(self, what, code, op):
        """Ask what must be refused, and changes nothing."""

        async def ask(shell):
            try:
                await op(shell)
            except VfsError as error:
                if error.errno != code:
                    raise
            else:
                raise AssertionError(f"{what} was not refused")

        self.do(what, ask)

    @step(number=which, to=which)
    def rename_directory(self, number, to):
        old = self.choose(self.tree.directories(), number)
        above = [path for path in DIRECTORIES if self.is_directory(path.rpartition("/")[0])]
        new = self.choose([path for path in above if path not in self.tree.now], to)
        if not old or not new or new.startswith(old + "/"):
            return
        self.close_nameless()
        moving = {path: new + path[len(old) :] for path in [old, *self.tree.below(old)]}
        entries = {path: self.tree.now.get(path) for path in moving}
        self.told(lambda: self.sure_nothing_else_may_be(moving.values()))
        self.tree.may(new, Entry("directory", b"", None, "without its attributes", xattr=None))
        for path, there in moving.items():
            self.tree.may(there, *self.tree.might(path))
            self.tree.may(path, None)
        if self.do(f"rename {old} to {new}", lambda shell: shell.rename(old, new)):
            for path, there in moving.items():
                self.tree.settle(path, None)
                self.tree.settle(there, entries[path])
                if entries[path] is not None:
                    entries[path].keep()
        else:
            for path, there in moving.items():
                if (entry := entries[path]) is not None and entry.kind != "directory":
                    self.tree.may(there, Entry("file", entry.data, None, "a copy", xattr=None))
            self.half_renamed([*moving, *moving.values()], [*filter(None, entries.values())])

    def half_renamed(self, paths, files, replaced=()):
        """See what half a rename has done: of what has no name after it its copy is left."""
        doomed = [one.doomed for one in files]
        for one in files:  # also when the mount dies before it was seen
            one.doomed = True
        self.unsure(paths, *files, *replaced)
        for one, before in zip(files, doomed, strict=True):
            one.doomed = before or self.tree.path_of(one) is None

    def sure_nothing_else_may_be(self, paths):
        for path in paths:
            assert path not in self.tree.now

    def make_directory(self, path):
        made = Entry("directory", b"", 0o755, path)
        self.tree.may(path, made)
        if self.do(f"mkdir {path}", lambda shell: shell.mkdir(path)):
            made.kept = True
            self.tree.settle(path, made)
        else:
            self.unsure([path])

    @step(number=which)
    def mkdir(self, number):
        above = [path for path in DIRECTORIES if self.is_directory(path.rpartition("/")[0])]
        path = self.choose([path for path in above if path not in self.tree.now], number)
        if path:
            self.make_directory(path)

    @step(number=which)
    def rmdir(self, number):
        path = self.choose(self.tree.directories(), number)
        if not path:
            return
        if any(name in self.tree.now for name in self.tree.below(path)):
            self.refused(f"rmdir {path}", errno.ENOTEMPTY, lambda shell: shell.rmdir(path))
            return
        self.tree.may(path, None)
        self.tree.now[path].doomed = True
        if self.do(f"rmdir {path}", lambda shell: shell.rmdir(path)):
            self.tree.settle(path, None)
        else:
            self.unsure([path])

    @step(number=which)
    def symlink(self, number):
        path = self.choose(self.free_files(), number)
        if not path:
            return
        self.fill_grave(path)
        target = f"to/{path}"
        link = Entry("link", target.encode(), None, path)
        self.tree.may(path, link)
        if self.do(f"symlink {path}", lambda shell: shell.symlink(path, target)):
            link.kept = True
            self.tree.settle(path, link)
        else:
            self.unsure([path])

    # Attributes

    def set_field(self, entry, changed, value, what, op):
        before = changed.value
        changed.might.add(value)
        if self.do(what, op):
            changed.set(value)
            if entry.kept:
                changed.keep()
        else:
            changed.value = None  # one or the other
            changed.might |= {before, None}

    @step(number=which, mode=st.sampled_from([0o600, 0o640, 0o755]))
    def chmod(self, number, mode):
        paths = [path for path, one in sorted(self.tree.now.items()) if one.kind != "link"]
        if path := self.choose(paths, number):
            entry = self.tree.now[path]
            what = f"chmod {path} {mode:o}"
            self.set_field(entry, entry.modes, mode, what, lambda shell: shell.chmod(path, mode))

    @step(number=which, time=st.integers(0, 1 << 60))
    def utimens(self, number, time):
        if path := self.choose(self.tree.files(), number):
            entry = self.tree.now[path]
            self.set_field(
                entry,
                entry.mtimes,
                time,
                f"utimens {path}",
                lambda shell: shell.setattr(path, mtime_ns=time),
            )

    @step(number=which, value=st.sampled_from([b"", b"one", b"another"]))
    def set_xattr(self, number, value):
        paths = [path for path, one in sorted(self.tree.now.items()) if one.kind != "link"]
        if path := self.choose(paths, number):
            entry = self.tree.now[path]

            async def setxattr(shell):
                await shell.fs.metadata.set_xattr(await shell.node(path), "user.m", value)

            self.set_field(entry, entry.xattrs, mark(value), f"setxattr {path}", setxattr)

    # The store

    @step(operation=st.sampled_from(MUTATIONS), times=st.integers(1, 3))
    def requests_fail(self, operation, times):
        self.log.append(f"the next {times} {operation} fail")
        self.disturbed = True
        self.machine.faulty.fail(operation, TransientError("connection reset"), times=times)

    @step(operation=st.sampled_from(MUTATIONS), times=st.integers(1, 2))
    def answers_are_lost(self, operation, times):
        self.log.append(f"the answers to the next {times} {operation} are lost")
        self.disturbed = True
        self.machine.faulty.lose_reply(operation, times=times)

    @step()
    def outage(self):
        self.break_store()

    def break_store(self):
        self.log.append("the store takes nothing any more")
        self.disturbed = True
        for operation in MUTATIONS:
            self.machine.faulty.fail(operation, TransientError("down"), times=1 << 30)

    @step()
    def outage_ends(self):
        self.log.append("the store works")
        self.calm()

    # Time, and the end of things

    @step(seconds=st.sampled_from([0.5, 3, 20, 100]))
    def wait(self, seconds):
        async def wait(_shell):
            await trio.sleep(seconds)

        self.do(f"wait {seconds} s", wait)

    @step(ticks=st.integers(1, 40))
    def let_the_background_work(self, ticks):
        self.tick(ticks)

    def tick(self, ticks):
        async def work(_shell):
            for _ in range(ticks):
                await trio.lowlevel.checkpoint()

        self.do(f"{ticks} ticks", work)

    @step()
    def relieve(self):
        async def relieve(shell):
            shell.fs.context.stage.budget.on_pressure()

        self.do("relieve the stage", relieve)

    @step()
    def drain(self):
        self.store_all()

    def store_all(self):
        self.calm()
        self.sure("drain", lambda shell: shell.drain())
        self.tree.keep_all()
        self.disturbed = False
        self.told(self.no_conflict)
        if not self.handles:
            self.told(self.check_store)

    def no_conflict(self):
        assert self.machine.shell.mount.conflicts.count == 0

    def check_store(self):
        """After everything was stored any other tool sees the same files, and nothing else."""
        store = self.machine.store
        there = {key for key in self.machine.loop.call(keys, store) if not key.endswith("/")}
        files = {path: one for path, one in self.tree.now.items() if one.kind != "directory"}
        assert there == set(files)
        for path, entry in files.items():
            assert self.machine.stored(path) == entry.data, path
        own = [
            key
            for key in store._bucket.objects
            if ".vfs" in key and not key.rpartition("/")[2].startswith(".vfs.attrs")
        ]
        assert own == [], "temporary objects were left behind"
        assert self.machine.orphans() == set(), "uploads were left behind"
        stage = self.machine.shell.fs.context.stage
        assert list((stage.path / "files").iterdir()) == [], "staged files were left behind"
        assert stage.budget.used_bytes == 0

    @step()
    def look_at_everything(self):
        self.calm()
        self.compare()

    @step()
    def remount(self):
        self.unmount()
        self.log.append("mount")
        while True:
            try:
                self.machine.mount()
                break
            except Died:
                self.log.append(f"  died at {self.machine.deaths[-1]!r}")
        self.compare()

    def unmount(self):
        """Close everything, store everything, leave."""
        self.calm()
        for one in list(self.handles):
            if one in self.handles:
                if one[1].may_be_stale:
                    self.drop(one)
                else:
                    self.close_one(one)
        self.store_all()
        self.compare()
        if self.machine.armed:
            self.machine.disarm()
        self.log.append("unmount")
        self.machine.unmount()

    @step(steps=st.integers(1, 40), how=deaths, seed=seeds, again=st.integers(0, 25))
    def will_die(self, steps, how, seed, again):
        """Die in the middle of what comes next."""
        self.log.append(f"{how.value} will come in {steps} steps, and again after {again}")
        self.again = again
        self.machine.arm(steps, how, seed)

    @step(how=deaths, seed=seeds)
    def die(self, how, seed):
        self.end(how, seed)

    def end(self, how, seed):
        self.log.append(how.value)
        self.machine.die(how, seed)
        self.recover()

    @step(how=deaths, seed=seeds, again=st.integers(1, 25))
    def die_and_die_again(self, how, seed, again):
        self.again = again
        self.end(how, seed)

    # Other programs

    def close_nameless(self):
        """Let what was removed while it was open go."""
        for one in list(self.handles):
            if self.tree.path_of(one[1]) is None:
                self.drop(one)

    def make_ready_for_others(self):
        """Let no request be under way that another program could come between."""
        self.calm()
        self.machine.disarm()
        self.close_nameless()
        if self.store == "trusting":
            self.store_all()

    @step(number=which, size=sizes)
    def another_program_creates(self, number, size):
        path = self.choose(self.free_files(), number)
        if not path or len(self.tree.might(path)) > 1:
            return
        self.make_ready_for_others()
        self.store_all()
        data = self.bytes(min(size, 4000))
        self.log.append(f"another program creates {path}: {len(data)} bytes")
        self.machine.loop.call(put, self.machine.store, path, data)
        self.tree.settle(path, self.foreign(path, data))
        self.let_it_be_seen()

    def let_it_be_seen(self):
        """What others do is seen when the last answer of the store is old."""

        async def wait(_shell):
            await trio.sleep(TTL_S + 0.5)

        self.sure("wait for the listing to be old", wait)

    @staticmethod
    def foreign(path, data):
        entry = Entry("file", data, None, path, xattr=None)
        entry.keep()
        return entry

    @step(number=which, size=sizes, crash=st.sampled_from([None, *Death]), seed=seeds)
    def another_program_writes(self, number, size, crash, seed):
        if path := self.choose(self.tree.files(), number):
            self.meet(path, self.bytes(min(size, 4000)), crash, seed)

    @step(number=which, crash=st.sampled_from([None, *Death]), seed=seeds)
    def another_program_removes(self, number, crash, seed):
        if path := self.choose(self.tree.files(), number):
            self.meet(path, None, crash, seed)

    def meet(self, path, data, crash, seed):
        """Another program writes or removes what this mount may have changed and not stored."""
        self.make_ready_for_others()
        if path not in self.tree.now:
            return  # a crash, as it was armed
        file = self.tree.now[path]
        dirty, settled = self.sure(f"is {path} dirty?", lambda shell: self.is_dirty(shell, path))
        if not settled:
            self.store_all()
            dirty = False
        store = self.machine.store
        base = self.machine.stored(path)
        if data is None and base is None:
            return
        self.log.append(f"another program writes {path} ({dirty=}): {data and len(data)}")
        above = path.rpartition("/")[0]
        if data is not None:
            self.machine.loop.call(put, store, path, data)
        else:
            if above:
                self.machine.loop.call(put, store, above + "/", b"")
            self.machine.loop.call(store.remove, [Key(path)])
        must_be_kept = dirty
        if crash:
            must_be_kept = file.kept and (base is None or not could_be(file.past, base))
            self.log.append(crash.value)
            self.machine.die(crash, seed)
            self.handles.clear()
            self.disturbed = False
            type(self).crashes += 1
            self.remount_after_crash()
        for one in [one for one in self.handles if one[1] is file]:
            self.drop(one)
        self.sure("settle the conflict", lambda shell: shell.drain())
        self.let_it_be_seen()
        self.judge(path, file, data, base, must_be_kept, bool(crash))

    async def is_dirty(self, shell, path):
        """Tell whether something is not stored, and that no rename or commit is under way."""
        content = (await shell.node(path)).content
        if content is None:
            return False, True
        quiet = content.moved_from is None and not content.is_gated
        return content.needs_commit, quiet and shell.fs.context.committer.running == 0

    def judge(self, path, file, data, base, must_be_kept, crashed):
        """The name is the winner's, and what was written here is somewhere."""
        seen = self.sure("look", self.walk)
        states = file.past if crashed else [file.data]
        copies = self.told(lambda: self.kept_apart(path, states, base, seen, must=must_be_kept))
        self.tree.settle(path, None if data is None else self.foreign(path, data))
        file.doomed = True
        shown = {name: one for name, one in seen.items() if name not in copies}
        self.told(lambda: self.tree.recover(shown) if crashed else self.tree.check(shown))
        self.tree.keep_all()
        self.forget_conflict(copies)

    def kept_apart(self, path, states, base, seen, *, must):
        """What a conflict has left holds what was written; return the names of its copies."""
        copies = {name: one for name, one in seen.items() if ".conflict-" in name}
        partial = list(self.machine.shell.mount.conflicts.partial)
        assert len(copies) + len(partial) <= 1
        assert copies or partial or not must, f"{path!r} is lost: {states[-1][:10]!r}..."
        for name, one in copies.items():
            assert name.startswith(f"{path}.conflict-")
            wrong = first_difference(states, one.data)
            assert not wrong, f"conflict copy: {wrong}"
        for staged in partial:
            wrong = first_difference(states, self.rebuild(staged, base or b""))
            assert not wrong, f"in the stage: {wrong}"
        return copies

    def rebuild(self, staged, base):
        """Return what somebody who has the base could make of a partial copy."""
        records, _ = read_log(log_path(staged).read_bytes(), "stage", staged)
        extent = replay(records, self.machine.boot).extent
        out = bytearray(base[: extent.base_size].ljust(extent.size, b"\0"))
        written = staged.read_bytes()
        for span in extent.dirty:
            out[span.start : span.stop] = written[span.start : span.stop].ljust(span.size, b"\0")
        assert SpanSet(extent.dirty).stop <= extent.size
        return bytes(out)

    def forget_conflict(self, copies):
        """Somebody has looked at it, and starts anew."""
        partial = list(self.machine.shell.mount.conflicts.partial)
        for name in copies:
            self.sure(f"unlink {name}", lambda shell, name=name: shell.unlink(name))
        if partial or copies:
            for one in list(self.handles):
                self.drop(one)
            self.sure("drain", lambda shell: shell.drain())
            self.tree.keep_all()
            self.log.append("unmount and mount")
            self.machine.disarm()
            self.machine.unmount()
            for staged in partial:
                staged.unlink()
                log_path(staged).unlink()
            sync_directory(self.machine.stage / "files")
            self.machine.mount()
        self.disturbed = False


def run(kind, seed, wanted):
    """Play rounds until there were so many steps."""
    fsync, store = kind.split("-")
    made = type(f"Crashes_{fsync}_{store}", (Crashes,), {"store": store, "fsync_to": fsync})
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate, *[Phase.shrink] * bool(os.environ.get("MODEL_SHRINK"))],
        suppress_health_check=list(HealthCheck),
    )
    rounds = int(os.environ.get("MODEL_ROUND", "1")) - 1
    try:
        while made.steps_done < wanted:
            rounds += 1
            seeded = hypothesis.seed(zlib.crc32(f"{kind}-{seed}-{rounds}".encode()))
            run_state_machine_as_test(seeded(made), settings=settings)
    finally:
        print(f"seed {seed}-{rounds}, {kind}: {made.steps_done} steps, {made.crashes} crashes")
    assert made.crashes


KINDS = [f"{fsync}-{store}" for fsync in ("local", "remote") for store in STORES]


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acknowledged_is_lost(kind):
    run(kind, 1, WANTED)
