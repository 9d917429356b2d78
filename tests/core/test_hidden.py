"""Keys that cannot be names, and names that mean two things: never a crash, never a way out."""

import pytest

from tests.support.tree import put, shell_on
from vfs.errors import NotEmptyError, NotFoundError

STRANGE = [
    "a//b",
    "/absolute",
    "./here",
    "../up",
    "d/../escape",
    "d/./same",
    "d//",
    "x" * 256,
    "d/" + "é" * 128,
]


@pytest.mark.promise("S-name-10")
async def test_keys_that_cannot_be_names_are_hidden_and_lead_nowhere(store, tmp_path):
    for key in [*STRANGE, "good", "d/good"]:
        await put(store, key, b"x")
    async with shell_on(store, tmp_path) as shell:
        assert sorted(await shell.ls()) == ["a", "d", "good"]
        assert await shell.ls("a") == []
        assert await shell.ls("d") == ["good"]
        for name in ("..", ".", "x" * 255):
            assert not await shell.exists(name)
        assert await shell.read("good") == b"x"
        with pytest.raises(NotEmptyError):
            await shell.rmdir("a")  # what it hides is not ours to lose


@pytest.mark.promise("S-name-11")
async def test_a_directory_shadows_a_file_until_it_is_gone(store, tmp_path):
    await put(store, "a", b"the file")
    await put(store, "a-b", b"sorts between")
    await put(store, "a/b", b"below")
    async with shell_on(store, tmp_path) as shell:
        assert sorted(await shell.ls()) == ["a", "a-b"]
        assert (await shell.node("a")).is_directory
        assert await shell.read("a/b") == b"below"
        await shell.unlink("a/b")
        await shell.rmdir("a")
    async with shell_on(store, tmp_path / "later") as shell:
        assert not (await shell.node("a")).is_directory
        assert await shell.read("a") == b"the file"


async def test_an_own_object_cannot_be_reached_by_its_name(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"x")
        await shell.drain()
        for name in (".vfs", ".vfs.attrs", ".vfs.attrs.0-2"):
            with pytest.raises(NotFoundError):
                await shell.node(name)
