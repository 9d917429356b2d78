"""Names that change while the store fails: nothing waits for ever, nothing is left behind."""

import trio

from tests.support.tree import get, keys, shell_on
from vfs.errors import TransientError

DOWN = TransientError("no network")


async def test_files_swap_names_though_an_old_name_cannot_be_removed_yet(
    store, tmp_path, virtual_time, expect_log
):
    """Each of the three waits for another: the one whose old name stays must not wait as well."""
    expect_log("removal of unlinked 'a' failed")
    expect_log("upload of '.*' failed")
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", b"first")
        await shell.write("b", b"second")
        store.fail("remove", DOWN, key="a", times=2)
        await shell.rename("a", "t")
        await shell.rename("b", "a")
        await shell.rename("t", "b")
        with trio.fail_after(600):
            await shell.drain()
    assert await get(store, "a") == b"second"
    assert await get(store, "b") == b"first"
    assert await keys(store) == ["a", "b"]
