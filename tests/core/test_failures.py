"""A store that fails one request, whichever: no byte goes, nothing hangs, nothing is left behind."""

from contextlib import suppress
from dataclasses import replace

import pytest
import trio

from tests.support.faulty import Fault, FaultyStore
from tests.support.tree import keys, shell_on
from vfs.errors import NotEmptyError, NotFoundError, TransientError
from vfs.store.memory import MemoryStore, everything


class FailsOnce(FaultyStore):
    """Refuses the request of one number, counted from when it is told."""

    def __init__(self, inner):
        super().__init__(inner)
        self.left = 0

    async def _play(self, asked, run):
        self.left -= 1
        if self.left == 0:
            self.script.append(Fault(asked.operation, asked.key, before=TransientError("down")))
        return await super()._play(asked, run)


@pytest.fixture(params=["copies", "moves"])
def every_failure(request, tmp_path, virtual_time, expect_log):
    """Run a scenario with its first request failing, its second, and so on until there is none."""
    expect_log("failed|renamed to|not stored yet", maybe=True)

    async def run(prepare, scenario, allowed):
        for number in range(1, 80):
            features = replace(everything(), move=request.param == "moves")
            store = FailsOnce(MemoryStore(features=features, tags=True))
            with trio.fail_after(3600):
                async with shell_on(store, tmp_path / f"{number}") as shell:
                    await prepare(shell)
                    await shell.drain()
                    store.left = number
                    await scenario(shell)
                    store.left, ended = 0, store.left > 0
            async with shell_on(store, tmp_path / f"{number}-other") as shell:
                found = await tree(shell)
            try:
                assert allowed(found)
                assert not [key for key in await keys(store, own=True) if "/tmp/" in key]
            except AssertionError as error:
                error.add_note(f"request {number} of {[c.operation for c in store.calls]}: {found}")
                raise
            if ended:
                return
        raise AssertionError("the scenario has no end")

    return run


async def tree(shell, directory=""):
    found = {}
    for node in await shell.nodes(directory):
        path = f"{directory}/{node.name}".lstrip("/")
        found |= await tree(shell, path) if node.is_directory else {path: await shell.read(path)}
    return found


async def tried(step):
    with suppress(TransientError, NotFoundError, NotEmptyError):
        return await step


async def test_two_files_swap_their_names(every_failure):
    async def prepare(shell):
        await shell.write("a", b"first")
        await shell.write("b", b"second")

    async def scenario(shell):
        for old, new in (("a", "t"), ("b", "a"), ("t", "b")):
            with suppress(TransientError):
                await shell.rename(old, new)
                continue
            return

    await every_failure(prepare, scenario, lambda found: {*found.values()} == {b"first", b"second"})


async def test_a_file_like_an_unlinked_one_takes_its_name(every_failure):
    async def prepare(shell):
        await shell.write("a", b"same")
        await shell.write("b", b"same")

    async def scenario(shell):
        fd = await shell.open("a")
        await tried(shell.unlink("a"))
        await tried(shell.rename("b", "a"))
        await tried(shell.close(fd))

    def allowed(found):
        return {*found} <= {"a", "b"} and {*found.values()} == {b"same"}

    await every_failure(prepare, scenario, allowed)


async def test_a_directory_goes_in_which_an_unlinked_file_is_open(every_failure):
    async def prepare(shell):
        await shell.mkdir("d")
        await shell.write("d/a", b"gone")
        await shell.write("b", b"here")

    async def scenario(shell):
        fd = await shell.open("d/a")
        await tried(shell.unlink("d/a"))
        await tried(shell.rmdir("d"))
        await tried(shell.rmdir("d"))
        await tried(shell.close(fd))

    def allowed(found):
        return found in ({"b": b"here"}, {"b": b"here", "d/a": b"gone"})

    await every_failure(prepare, scenario, allowed)


async def test_a_directory_is_renamed_in_which_an_unlinked_file_is_open(every_failure):
    async def prepare(shell):
        await shell.mkdir("d")
        await shell.write("d/a", b"gone")
        await shell.write("d/b", b"here")

    async def scenario(shell):
        fd = await shell.open("d/a")
        await tried(shell.unlink("d/a"))
        await tried(shell.rename("d", "e"))
        await tried(shell.close(fd))

    def allowed(found):
        return b"here" in found.values() and {*found} <= {"d/a", "d/b", "e/a", "e/b"}

    await every_failure(prepare, scenario, allowed)
