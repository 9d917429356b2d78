"""Two files of the same bytes: on S3 they have the same version."""

import itertools
from dataclasses import replace

import pytest
import trio
import trio.testing

from tests.support.crash import Steps, run_until
from tests.support.faulty import FaultyStore
from tests.support.tree import Shell, get, keys, put, shell_on, tree_on
from vfs.store.memory import MemoryStore, everything
from vfs.tasks import open_tasks
from vfs.values import Key


@pytest.fixture(params=[True, False], ids=["conditional", "plain"])
def store(request):
    features = replace(everything(), move=False, remove_if_version=request.param)
    return FaultyStore(MemoryStore(features=features, tags=True))


async def nothing(_shell):
    return


@pytest.mark.parametrize("data", [b"", b"same"], ids=["empty", "small"])
async def test_a_new_file_like_an_unlinked_one_outlives_its_last_close(store, tmp_path, data):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", data)
        fd = await shell.open("a")
        await shell.unlink("a")
        await shell.write("a", data)
        await shell.close(fd)
        assert await get(store, "a") == data
        assert await shell.ls() == ["a"]


async def test_a_file_like_an_unlinked_one_may_take_its_name(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"same")
        await shell.write("b", b"same")
        fd = await shell.open("a")
        await shell.unlink("a")
        await shell.rename("b", "a")
        await shell.close(fd)
        assert await get(store, "a") == b"same"


@pytest.mark.parametrize("mode", ["remote", "local"])
@pytest.mark.parametrize("how", ["written", "renamed"])
async def test_a_new_file_like_an_unlinked_one_outlives_a_crash(store, tmp_path, how, mode):
    async with tree_on(store, tmp_path, f"fsync={mode}") as mount:
        shell = Shell(mount)
        await shell.write("a", b"same")
        await shell.write("b", b"same")
        await shell.drain()
        await shell.open("a")
        await shell.unlink("a")
        if how == "written":
            await shell.write("a", b"same")
        else:
            await shell.rename("b", "a")
    async with shell_on(store, tmp_path) as shell:
        assert await shell.read("a") == b"same"
    assert await get(store, "a") == b"same"
    assert await keys(store) in (["a"], ["a", "b"])


async def test_a_file_of_another_host_like_an_unlinked_one_outlives_its_last_close(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"same")
        fd = await shell.open("a")
        await shell.unlink("a")
        await put(store, "a", b"same")
        await shell.close(fd)
        await shell.drain()
        assert await get(store, "a") == b"same"


async def test_a_file_of_another_vfs_like_an_unlinked_one_outlives_its_last_close(store, tmp_path):
    async with shell_on(store, tmp_path) as shell, shell_on(store, tmp_path / "b") as other:
        await shell.write("a", b"same")
        fd = await shell.open("a")
        await shell.unlink("a")
        await store.remove([Key("a")])
        await other.write("a", b"same")
        await shell.close(fd)
        assert await get(store, "a") == b"same"


async def test_a_file_of_another_host_like_an_unlinked_one_outlives_a_crash(store, tmp_path):
    async with tree_on(store, tmp_path) as mount:
        shell = Shell(mount)
        await shell.write("a", b"same")
        await shell.open("a")
        await shell.unlink("a")
    await put(store, "a", b"same")
    async with shell_on(store, tmp_path) as shell:
        assert await shell.read("a") == b"same"
    assert await get(store, "a") == b"same"


async def test_an_unlinked_file_that_nobody_has_replaced_goes_with_its_last_close(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"same")
        fd = await shell.open("a")
        await shell.unlink("a")
        assert await get(store, "a") == b"same"
        await shell.close(fd)
        assert await get(store, "a") is None


async def test_a_crash_in_the_middle_of_a_recovery_keeps_a_file_like_an_unlinked_one(tmp_path):
    """What was done for one decision is known before the next one makes its name anew."""
    for first, second in itertools.product(range(1, 12), range(1, 25)):
        features = replace(everything(), move=False)
        bucket, stage = MemoryStore(features=features, tags=True), tmp_path / f"{first}-{second}"

        async def prepare(shell):
            await shell.write("a", b"same")
            await shell.write("b", b"same")

        async def scenario(shell):
            await shell.open("a")
            await shell.unlink("a")
            await shell.rename("b", "a")

        async def recovery(shell):
            await shell.drain()

        steps, again = Steps(first, after=True), Steps(second, after=False, armed=True)
        await run_until(bucket, stage, steps, prepare, scenario)
        await run_until(bucket, stage, again, nothing, recovery)
        async with shell_on(bucket, stage) as shell:
            assert b"same" in [await shell.read(name) for name in await shell.ls()], again.done


async def test_a_new_file_like_an_unlinked_one_moves_with_its_directory_while_it_is_stored(
    store, tmp_path
):
    async with shell_on(store, tmp_path) as shell:
        await shell.mkdir("d")
        await shell.write("d/a", b"same")
        unlinked = await shell.open("d/a")
        await shell.unlink("d/a")
        fd = await shell.create("d/a")
        await shell.pwrite(fd, 0, b"same")
        held = store.block("write", key="d/a")
        async with open_tasks() as nursery:
            nursery.start_soon(shell.close, fd)
            await held.reached.wait()
            nursery.start_soon(shell.rename, "d", "e")
            await trio.testing.wait_all_tasks_blocked()
            held.release()
        await shell.close(unlinked)
        assert await shell.read("e/a") == b"same"
    assert await keys(store) == ["e/", "e/a"]
