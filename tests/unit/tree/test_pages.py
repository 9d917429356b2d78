"""Pages of listings: shared, kept on the disk, and never older than they may be."""

import random
from contextlib import contextmanager

import pytest
import trio

from tests.support.faulty import FaultyStore
from vfs.cache.disk.metadata import MetadataCache
from vfs.errors import DeniedError, ThrottledError, UnreachableError
from vfs.layout.plain import PlainLayout
from vfs.store.base import BytesBody
from vfs.store.memory import MemoryStore
from vfs.tree.pages import LASTING_TTL_S, Pages
from vfs.values import Key

HOUR_S = 3600.0


class Host:
    """A machine: its wall clock, and a bucket that it mounts again and again."""

    def __init__(self, path):
        self.store = FaultyStore(MemoryStore())
        self.set_s = 1_700_000_000.0  # what was added to the wall clock
        self.path = path
        path.mkdir(mode=0o700)

    @property
    def now_s(self):
        return self.set_s + trio.current_time()

    async def put(self, *keys):
        for key in keys:
            await self.store._inner.write(Key(key), BytesBody(b"x"))

    @contextmanager
    def mounted(self, ttl_s=HOUR_S, changed=None, killed=False):
        kept = MetadataCache(self.path)
        kept.open()
        pages = Pages(
            PlainLayout(self.store), kept, ttl_s=ttl_s, wall_ns=lambda: int(self.now_s * 1e9)
        )
        yield Mounted(pages, ttl_s)
        if not killed:
            changed = {Key(key): trio.current_time() for key in changed or ()}
            pages.seal(changed)
        kept.close()
        self.store.forget()

    @property
    def listings(self):
        return self.store.count("list")


class Mounted:
    def __init__(self, pages, ttl_s):
        self.pages, self.ttl_s = pages, ttl_s

    async def names(self, directory="", max_age_s=None):
        found, cursor = [], None
        since_s = trio.current_time() - (self.ttl_s if max_age_s is None else max_age_s)
        while True:
            listed = await self.pages.page(Key(directory), cursor, since_s)
            assert listed.asked_s <= trio.current_time()
            found += [entry.name for entry in listed.page.entries]
            cursor = listed.page.cursor
            if cursor is None:
                return sorted(found)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path / "metadata")


async def test_a_listing_is_not_asked_for_again_after_a_restart(host):
    await host.put("d/a", "d/caf\U0010ffe9", "d/sub/x", "d/.vfs.attrs", "d/")
    with host.mounted() as mount:
        first = (await mount.pages.page(Key("d"), None, -HOUR_S)).page
    host.set_s += HOUR_S / 2
    with host.mounted() as mount:
        again = (await mount.pages.page(Key("d"), None, -HOUR_S)).page
        assert again == first
        assert host.listings == 0


async def test_a_listing_is_never_older_than_the_time_to_live(host):
    await host.put("a")
    with host.mounted() as mount:
        await mount.names()
    await host.put("b")
    host.set_s += HOUR_S - 1
    with host.mounted() as mount:
        assert await mount.names() == ["a"]
        assert await mount.names(max_age_s=60) == ["a", "b"]
    host.set_s += HOUR_S - 1
    with host.mounted() as mount:
        assert await mount.names() == ["a", "b"]
        assert host.listings == 0
    await host.put("c")
    host.set_s += 2
    with host.mounted() as mount:
        assert await mount.names() == ["a", "b", "c"]


async def test_a_shorter_time_to_live_holds_for_what_an_earlier_mount_has_kept(host):
    with host.mounted() as mount:
        assert await mount.names() == []
    await host.put("a")
    host.set_s += 61
    with host.mounted(ttl_s=60.0) as mount:
        assert await mount.names() == ["a"]


async def test_a_clock_that_was_set_back_makes_nothing_younger(host):
    with host.mounted() as mount:
        await mount.names()
    await host.put("a")
    host.set_s -= 10
    with host.mounted() as mount:
        assert await mount.names() == ["a"]


async def test_a_time_to_live_of_seconds_writes_nothing(host):
    await host.put("a")
    with host.mounted(ttl_s=LASTING_TTL_S - 1) as mount:
        await mount.names()
    with host.mounted() as mount:
        await mount.names()
        assert host.listings == 1


async def test_what_a_killed_mount_has_left_is_not_believed(host):
    await host.put("a")
    with host.mounted(killed=True) as mount:
        await mount.names()
    with host.mounted() as mount:
        await mount.names()
        assert host.listings == 1


async def test_a_directory_whose_names_were_changed_is_asked_for_again(host, autojump_clock):
    await host.put("d/a", "e/a", "d/sub/x")
    with host.mounted(changed=["d"]) as mount:
        for directory in ("d", "e", "d/sub"):
            await mount.names(directory)
        await trio.sleep(1)
    for _ in range(2):  # it stays known over a mount in which nobody has looked
        with host.mounted():
            host.set_s += 1
    with host.mounted() as mount:
        for directory in ("d", "e", "d/sub"):
            await mount.names(directory)
        assert [call.key for call in host.store.asked("list")] == ["d/"]


async def test_a_mount_with_a_shorter_time_to_live_keeps_its_changes_for_one_with_a_longer(
    host, autojump_clock
):
    await host.put("d/a")
    with host.mounted() as mount:
        await mount.names("d")
    host.set_s += 1
    with host.mounted(ttl_s=20.0):  # what it has changed at first it has forgotten at its end
        await trio.sleep(60)
    with host.mounted() as mount:
        await mount.names("d")
        assert host.listings == 1


async def test_changes_are_in_order_when_the_clock_is_set_back(host, autojump_clock):
    await host.put("d/a", "e/a")
    with host.mounted() as mount:
        await mount.names("d")
        await mount.names("e")
        host.set_s -= 100
        await trio.sleep(1)
        mount.pages.touch(Key("d"))
    host.set_s += 200
    with host.mounted(changed=["e"]) as mount:
        await mount.names("d")
        assert host.listings == 1
        await mount.names("e")
        assert host.listings == 1
        host.set_s -= 3000
    with host.mounted(changed=["d"]):
        pass
    host.set_s += 3000
    with host.mounted() as mount:
        await mount.names("d")
        assert host.listings == 1


@pytest.mark.parametrize("when", ["same mount", "next mount"])
async def test_a_directory_that_was_moved_is_asked_for_again_with_all_below(
    host, autojump_clock, when
):
    await host.put("d/a", "d/sub/x", "dd/x")
    with host.mounted() as mount:
        for directory in ("", "d", "dd", "d/sub"):
            await mount.names(directory)
        await trio.sleep(1)
        mount.pages.void(Key("d"))
        await trio.sleep(1)
        host.store.forget()
        if when == "same mount":
            await mount.names("d/sub")
            assert host.listings == 1
    with host.mounted() as mount:
        for directory in ("", "d", "dd", "d/sub"):
            await mount.names(directory)
        asked = {call.key for call in host.store.asked("list")}
        assert asked == {"", "d/"} | (set() if when == "same mount" else {"d/sub/"})


async def test_readers_side_by_side_share_the_pages_of_a_large_directory(host):
    await host.put(*(f"f{number:05}" for number in range(3500)))
    with host.mounted() as mount, trio.fail_after(60):
        found = []

        async def read():
            found.append(await mount.names(max_age_s=5))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(read)
        assert host.listings == 4
        assert {len(names) for names in found} == {3500}
    with host.mounted() as mount:
        assert len(await mount.names()) == 3500
        assert host.listings == 0


@pytest.mark.parametrize(
    "error", [ThrottledError("503"), DeniedError("403"), UnreachableError("no such host")]
)
async def test_all_who_wait_share_a_failure_and_nothing_of_it_stays(host, autojump_clock, error):
    await host.put("a")
    host.store.delay("list", 10)
    host.store.script[-1].before = error
    with host.mounted() as mount:
        failed = 0

        async def read():
            nonlocal failed
            with pytest.raises(type(error)):
                await mount.names(max_age_s=60)
            failed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(read)
        assert (failed, host.listings) == (50, 1)
        assert trio.current_time() < 60
        assert await mount.names() == ["a"]


async def test_who_is_cancelled_leaves_the_question_to_the_others(host):
    await host.put("a")
    gate = host.store.block("list")
    with host.mounted() as mount, trio.fail_after(30):
        found = []

        async def read():
            found.append(await mount.names(max_age_s=60))

        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(_until, gate.reached, scope)
                for _ in range(3):
                    nursery.start_soon(read)
                await mount.names(max_age_s=60)
            gate.release()
        assert found == [["a"]] * 3


async def _until(event, scope):
    await event.wait()
    scope.cancel()


async def test_random_restarts_never_show_what_is_older_than_allowed(host, autojump_clock):
    """Another host changes names; this one mounts, looks, is killed, and changes directories."""
    pick = random.Random(5)
    history = {"d": [(0.0, ())], "e": [(0.0, ())]}  # by directory: since when, which names
    began_s = host.now_s
    for turn in range(150):
        directory = pick.choice("de")
        key = f"{directory}/n{turn}"
        await host.put(key)
        names = (*history[directory][-1][1], f"n{turn}")
        history[directory].append((host.now_s - began_s, names))
        changed = [directory] if pick.random() < 0.2 else []
        with host.mounted(ttl_s=100.0, changed=changed, killed=pick.random() < 0.1) as mount:
            await trio.sleep(pick.choice([1, 20, 50]))
            for looked in "de":
                found = tuple(await mount.names(looked))
                oldest_s = host.now_s - began_s - 100.0
                allowed = [
                    set(names)
                    for (_, names), (until_s, _) in zip(
                        history[looked], [*history[looked][1:], (1e9, ())], strict=True
                    )
                    if until_s >= oldest_s
                ]
                assert set(found) in allowed
