"""A crash at every request to the store and every step of the journal."""

from dataclasses import replace

import pytest

from tests.support.crash import Steps, run_until
from tests.support.tree import get, keys, put, shell_on
from vfs.store.memory import MemoryStore, everything
from vfs.tree import rename as rename_module


@pytest.fixture(params=["copies", "moves"])
def features(request):
    return replace(everything(), move=request.param == "moves")


@pytest.fixture(params=["lost", "done"])
def after(request):
    """Whether the step at which the daemon dies takes effect."""
    return request.param == "done"


@pytest.fixture
def every_crash(features, after, tmp_path):
    """Run a scenario with a crash at its first step, its second, and so on until there is none."""

    async def run(prepare, scenario, check, *options):
        for fatal in range(1, 200):
            store = MemoryStore(features=features)
            steps = Steps(fatal, after=after)
            stage = tmp_path / f"stage-{fatal}"
            ended = await run_until(store, stage, steps, prepare, scenario, *options)
            try:
                # The next daemon on the same stage directory, then one on another machine.
                async with shell_on(store, stage, *options) as shell:
                    await check(shell, ended)
                    await shell.drain()
                async with shell_on(store, tmp_path / f"other-{fatal}") as shell:
                    await check(shell, ended)
            except BaseException as error:
                error.add_note(f"crash at step {fatal}: {steps.done[:fatal]}")
                raise
            if not steps.crashed:
                return
        raise AssertionError("the scenario has no end")

    return run


def under_one_name(old, new, content):
    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        assert content in (found.get(old), found.get(new)), "under none of its names"
        assert set(found) <= {old, new}
        if ended:
            assert found.get(new) == content

    return check


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    if request.param == "large":
        monkeypatch.setattr(rename_module, "COPIED_AT_ONCE_BYTES", 10)
    return 1000


@pytest.mark.promise("S-name-3")
async def test_rename_of_a_file(every_crash, size):
    content = b"a" * size

    async def prepare(shell):
        await shell.write("a", content, mode=0o640)

    async def scenario(shell):
        await shell.rename("a", "b")

    async def check(shell, ended):
        await under_one_name("a", "b", content)(shell, ended)
        names = await shell.ls()
        assert len(names) == 1
        assert await shell.mode(names[0]) == 0o640

    await every_crash(prepare, scenario, check)


@pytest.mark.parametrize("other", [b"b" * 5, b"b" * 1000])
async def test_rename_over_a_file(every_crash, size, other):
    content = b"a" * size

    async def prepare(shell):
        await shell.write("a", content)
        await shell.write("b", other)

    async def scenario(shell):
        await shell.rename("a", "b")

    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        assert content in found.values()
        assert found.get("b") in (content, other)
        if ended:
            assert found == {"b": content}

    await every_crash(prepare, scenario, check)


async def test_rename_of_a_dirty_file(every_crash):
    """What was not fsynced may be lost, the file not; what was fsynced after the rename stays."""

    async def prepare(shell):
        await shell.write("a", b"a" * 1000)

    async def scenario(shell):
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"dirty")
        await shell.rename("a", "b")
        await shell.close(fd)

    new = b"dirty" + b"a" * 995

    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        assert set(found) <= {"a", "b"}
        if ended:
            assert found == {"b": new}, "a later commit was undone, or the old name is back"
        assert found
        assert set(found.values()) <= {new, b"a" * 1000}

    await every_crash(prepare, scenario, check)


async def test_unlink_of_a_file(every_crash):
    async def prepare(shell):
        await shell.write("a", b"aaa")

    async def scenario(shell):
        await shell.unlink("a")

    async def check(shell, ended):
        names = await shell.ls()
        assert names in ([], ["a"])
        if names:
            assert await shell.read("a") == b"aaa"
        if ended:
            assert names == []

    await every_crash(prepare, scenario, check)


async def test_a_file_takes_the_name_of_one_that_is_renamed(every_crash, size):
    one, other = b"1" * size, b"2" * size
    renamed = []

    async def prepare(shell):
        renamed.clear()
        await shell.write("a", one)
        await shell.write("b", other)

    async def scenario(shell):
        await shell.rename("b", "c")
        renamed.append("b")
        await shell.rename("a", "b")
        renamed.append("a")

    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        assert sorted(found.values()) == [one, other] or ("c" in found and not renamed)
        if renamed:
            assert found["c"] == other
        if len(renamed) == 2:
            assert found == {"b": one, "c": other}

    await every_crash(prepare, scenario, check)


@pytest.mark.parametrize("mode", ["remote", "local"])
async def test_unlink_of_a_dirty_file(every_crash, mode):
    """It is there, with what it was made from, or it is not."""

    async def prepare(shell):
        await shell.write("a", b"a" * 1000)

    async def scenario(shell):
        await shell.truncate("a", 500)
        await shell.unlink("a")

    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        assert found in ({}, {"a": b"a" * 1000}, {"a": b"a" * 500})
        if ended:
            assert found == {}

    await every_crash(prepare, scenario, check, f"fsync={mode}")


@pytest.mark.parametrize("mode", ["remote", "local"])
async def test_renames_of_a_file_that_was_renamed_over_another(every_crash, mode):
    """What the first rename was to replace is gone when the second is answered."""
    old, new = b"old" * 100, b"new" * 100

    async def prepare(shell):
        await shell.write("b", old)

    async def scenario(shell):
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, new)
        await shell.rename("a", "b")
        await shell.rename("b", "c")
        await shell.close(fd)

    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        if ended:
            assert found == {"c": new}
        assert set(found) <= {"a", "b", "c"}
        assert found.get("a", new) in (new, b"")

    await every_crash(prepare, scenario, check, f"fsync={mode}")


@pytest.mark.parametrize("mode", ["remote", "local"])
async def test_a_file_is_renamed_over_one_that_was_renamed_and_is_not_stored(
    every_crash, mode, expect_log
):
    expect_log("both names stay", maybe=True)  # what is half done is told

    async def prepare(shell):
        await shell.write("a", b"small")
        await shell.write("b", b"other")
        await shell.write("c", b"large" * 100)

    async def scenario(shell):
        fd = await shell.open("c")
        await shell.ftruncate(fd, 400)
        await shell.rename("c", "b")
        await shell.rename("a", "b")
        await shell.close(fd)

    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        if ended:
            assert found == {"b": b"small"}
        assert set(found) <= {"a", "b", "c"}
        assert b"small" in found.values()

    await every_crash(prepare, scenario, check, f"fsync={mode}")


async def test_a_directory_with_an_open_file_that_was_unlinked_is_renamed(every_crash):
    unlinked = []

    async def prepare(shell):
        unlinked.clear()
        await shell.mkdir("d")
        await shell.write("d/a", b"gone")
        await shell.write("d/b", b"here")

    async def scenario(shell):
        fd = await shell.open("d/a")
        await shell.unlink("d/a")
        unlinked.append("a")
        await shell.rename("d", "e")
        assert await shell.pread(fd, 0, 10) == b"gone"
        await shell.close(fd)

    async def check(shell, ended):
        here = {where: await shell.ls(where) for where in await shell.ls()}
        assert not unlinked or all("a" not in names for names in here.values())
        assert any("b" in names for names in here.values())
        if ended:
            assert here == {"e": ["b"]}

    await every_crash(prepare, scenario, check)


@pytest.mark.parametrize("mode", ["remote", "local"])
async def test_attributes_that_were_set_while_a_file_is_stored(every_crash, mode):
    said = []

    async def prepare(shell):
        said.clear()
        await shell.write("a", b"a" * 1000)
        node = await shell.node("a")
        await shell.fs.metadata.set_xattr(node, "user.m", b"one")

    async def scenario(shell):
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"dirty")
        await shell.setattr("a", mtime_ns=12345)
        said.append(12345)
        await shell.close(fd)

    async def check(shell, ended):
        about = await shell.stat("a")
        assert about.xattrs == {"user.m": b"one"}
        assert not said or about.mtime_ns == 12345

    await every_crash(prepare, scenario, check, f"fsync={mode}", "xattr=true")


async def test_unlink_of_an_open_file(every_crash):
    async def prepare(shell):
        await shell.write("a", b"aaa")

    async def scenario(shell):
        fd = await shell.open("a")
        await shell.unlink("a")
        await shell.pread(fd, 0, 3)

    async def check(shell, ended):
        names = await shell.ls()
        assert names in ([], ["a"])
        if ended:
            assert names == []

    await every_crash(prepare, scenario, check)


async def test_a_name_made_anew_after_an_open_file_was_unlinked(every_crash):
    async def prepare(shell):
        await shell.write("a", b"old")

    async def scenario(shell):
        old = await shell.open("a")
        await shell.unlink("a")
        await shell.write("a", b"new")
        await shell.close(old)

    async def check(shell, ended):
        names = await shell.ls()
        content = await shell.read("a") if names else None
        assert content in (None, b"old", b"new")
        if ended:
            assert content == b"new"

    await every_crash(prepare, scenario, check)


@pytest.mark.parametrize("mode", ["remote", "local"])
async def test_a_dirty_file_takes_the_name_of_an_unlinked_one_that_is_open(every_crash, mode):
    synced = []

    async def prepare(shell):
        synced.clear()
        await shell.write("a", b"unlinked")
        await shell.write("b", b"before")

    async def scenario(shell):
        await shell.open("a")
        await shell.unlink("a")
        fd = await shell.open("b")
        await shell.pwrite(fd, 0, b"synced")
        await shell.fsync(fd)
        synced.append(fd)
        await shell.pwrite(fd, 0, b"Synced")
        await shell.rename("b", "a")
        await shell.close(fd)

    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        assert set(found) <= {"a", "b"}
        if synced:
            assert {*found.values()} <= {b"synced", b"Synced"}
            assert len(found) == 1
        if ended:
            assert found == {"a": b"Synced"}

    await every_crash(prepare, scenario, check, f"fsync={mode}")


async def test_new_files_take_both_names_of_one_that_was_renamed_and_unlinked(every_crash):
    written = {}

    async def prepare(shell):
        written.clear()
        await shell.write("a", b"old")

    async def scenario(shell):
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"Old")
        await shell.rename("a", "b")
        await shell.unlink("b")
        for name, data in (("b", b"new b"), ("a", b"new a")):
            await shell.write(name, data)
            written[name] = data
        await shell.close(fd)

    async def check(shell, ended):
        found = {name: await shell.read(name) for name in await shell.ls()}
        assert set(found) <= {"a", "b"}
        assert found.items() >= written.items()

    await every_crash(prepare, scenario, check, "fsync=local")


@pytest.mark.promise("S-name-5")
async def test_rename_of_a_directory(every_crash):
    async def prepare(shell):
        await shell.mkdir("d", 0o750)
        await shell.mkdir("d/sub", 0o700)
        await shell.write("d/a", b"aaa", mode=0o600)
        await shell.write("d/sub/b", b"bbb", mode=0o4755)
        await shell.symlink("d/sub/link", "../a")
        await shell.setattr("d/a", mtime_ns=42)

    async def scenario(shell):
        await shell.rename("d", "e")

    async def check(shell, ended):
        (top,) = await shell.ls()
        assert top in ("d", "e")
        if ended:
            assert top == "e"
        assert await shell.ls(top) == ["a", "sub"]
        assert await shell.ls(f"{top}/sub") == ["b", "link"]
        assert await shell.read(f"{top}/a") == b"aaa"
        assert await shell.read(f"{top}/sub/b") == b"bbb"
        assert await shell.readlink(f"{top}/sub/link") == "../a"
        assert await shell.mode(f"{top}/sub") == 0o700
        assert await shell.mode(f"{top}/sub/b") == 0o4755
        assert (await shell.stat(f"{top}/a")).mtime_ns == 42

    await every_crash(prepare, scenario, check)


async def test_acknowledged_attributes_survive(every_crash):
    async def prepare(shell):
        await shell.write("a", b"aaa")

    async def scenario(shell):
        await shell.chmod("a", 0o600)
        await shell.write("new", b"n", mode=0o4711)
        await shell.mkdir("d", 0o711)

    async def check(shell, ended):
        # On another machine only after the first has stored its journal.
        assert await shell.mode("a") in (0o600, 0o644)
        if ended:
            assert await shell.mode("a") == 0o600
            assert await shell.mode("new") == 0o4711
            assert await shell.mode("d") == 0o711
            assert await shell.read("new") == b"n"

    await every_crash(prepare, scenario, check)


async def test_what_another_host_wrote_since_a_crash_is_left_alone(features, tmp_path, expect_log):
    """A rename died before its first request; both names were written by others meanwhile."""

    async def prepare(shell):
        await shell.write("a", b"aaa")

    async def scenario(shell):
        await shell.rename("a", "b")

    store = MemoryStore(features=features)
    steps = Steps(1, after=True)
    while steps.done[steps.fatal - 1 : steps.fatal] != ["journal"]:
        store = MemoryStore(features=features)
        steps = Steps(steps.fatal + 1, after=True)
        await run_until(store, tmp_path / f"{steps.fatal}", steps, prepare, scenario)
    assert await get(store, "a") == b"aaa"
    await put(store, "b", b"bbb")
    expect_log("both names stay")
    async with shell_on(store, tmp_path / f"{steps.fatal}") as shell:
        assert await shell.read("a") == b"aaa"
        assert await shell.read("b") == b"bbb"
    assert await keys(store) == ["a", "b"]


async def test_a_directory_rename_goes_on_around_what_another_host_wrote(
    tmp_path, expect_log, monkeypatch
):
    monkeypatch.setattr("vfs.tree.rename_tree.MOVES_AT_ONCE", 1)  # always in the same order
    features = replace(everything(), move=False)

    async def prepare(shell):
        await shell.mkdir("d")
        await shell.write("d/a", b"aaa")
        await shell.write("d/b", b"bbb")

    async def scenario(shell):
        await shell.rename("d", "e")

    steps, store = Steps(1, after=False), MemoryStore(features=features)
    while steps.done[steps.fatal - 1 : steps.fatal] != ["copy e/a"]:
        store = MemoryStore(features=features)
        steps = Steps(steps.fatal + 1, after=False)
        await run_until(store, tmp_path / f"{steps.fatal}", steps, prepare, scenario)
    await put(store, "e/a", b"theirs")
    expect_log("both names stay")
    async with shell_on(store, tmp_path / f"{steps.fatal}") as shell:
        assert await shell.read("e/a") == b"theirs"
        assert await shell.read("d/a") == b"aaa"
        assert await shell.read("e/b") == b"bbb"
