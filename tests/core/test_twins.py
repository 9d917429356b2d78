"""Two files of the same bytes: on S3 they have the same version."""

from dataclasses import replace

import pytest

from tests.support.faulty import FaultyStore
from tests.support.tree import Shell, get, keys, shell_on, tree_on
from vfs.store.memory import MemoryStore, everything


@pytest.fixture(params=[True, False], ids=["conditional", "plain"])
def store(request):
    features = replace(everything(), move=False, remove_if_version=request.param)
    return FaultyStore(MemoryStore(features=features, tags=True))


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
