"""`vfs verify`: what it reads, what it says of it, what it leaves behind."""

import itertools
import json
import os
import random
from dataclasses import replace
from hashlib import sha256

import pytest
import trio

from tests.support.faulty import FaultyStore
from tests.support.tree import get, keys, put
from vfs.cli.check import Checker, Found, Objects, remove_orphans
from vfs.cli.location import Location, locate
from vfs.cli.verify import find_mounted
from vfs.errors import DeniedError, StaleError, UnreachableError
from vfs.layout.digest import Digest, KeptDigest, Leaf, encode
from vfs.layout.digests import DigestObjects
from vfs.store.backend.local import LocalStore
from vfs.store.base import SHA256, BytesBody, Properties
from vfs.store.memory import MemoryStore
from vfs.values import MIB, Key, Span

LARGE = 20 * MIB + 5
serial = itertools.count(1)


def content(size, seed=0):
    return random.Random(seed).randbytes(size)


def in_trio(function, *arguments):
    """Call an async function of a store that is made for it."""
    return trio.run(function, *arguments)


class Place:
    """A place that is verified: objects behind a URL, and what may befall them."""

    def put(self, key, data, *, hashed=False):
        async def work():
            metadata = {SHA256: sha256(data).hexdigest()} if hashed else {}
            return await self.store().write(
                Key(key), BytesBody(data), properties=Properties(metadata)
            )

        return in_trio(work)

    def digests(self):
        async def work():
            return [key for key in await keys(self.store(), ".vfs/", own=True) if "/tmp" not in key]

        inside = (DigestObjects(self.store()).key_of(Key("x"))).rpartition("/")[0]
        return [key for key in in_trio(work) if key.startswith(inside + "/") and key[-1] != "/"]


class InMemory(Place):
    def __init__(self, _directory):
        self.url = f"mem://verify-{next(serial)}/images"

    def store(self):
        return MemoryStore(self.url)

    def rot(self, key, place):
        objects = self.store()._bucket.objects
        data = bytearray(objects[f"images/{key}"].data)
        data[place] ^= 1
        objects[f"images/{key}"] = replace(objects[f"images/{key}"], data=bytes(data))


class InDirectory(Place):
    def __init__(self, directory):
        self.path = directory / "mounted"
        self.path.mkdir()
        self.url = self.path.as_uri()

    def store(self):
        return LocalStore(self.path)

    def rot(self, key, place):
        path = self.path / key
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(params=[InMemory, InDirectory])
def place(request, tmp_path):
    return request.param(tmp_path)


@pytest.fixture
def verify(vfs, place):
    def call(*arguments, below=""):
        outcome = vfs("verify", *arguments, place.url + below)
        assert len(outcome.err.splitlines()) <= 1
        return outcome

    return call


def report(outcome):
    found = json.loads(outcome.out)
    assert found["version"] == 1
    return {one["url"].rpartition("/")[2]: one["status"] for one in found["objects"]}


@pytest.mark.promise("S-digest-6")
def test_what_has_no_digest_is_hashed_and_verified_from_then_on(verify, place):
    place.put("large", content(LARGE))
    place.put("vm/small", b"small")
    place.put("empty", b"")
    place.put("known", b"known", hashed=True)
    first = verify("--json")
    assert first.code == 0
    assert report(first) == {"large": "filled", "small": "filled", "known": "ok", "empty": "ok"}
    assert len(place.digests()) == 2
    second = verify()
    assert second.code == 0
    assert sorted(line.split()[0] for line in second.out.splitlines()) == ["ok"] * 4


@pytest.mark.promise("S-digest-6")
def test_a_byte_that_changed_by_itself_is_found(verify, place):
    place.put("large", content(LARGE))
    place.put("other", content(LARGE, 1))
    assert verify().code == 0
    place.rot("large", 17 * MIB)
    outcome = verify("--json")
    assert outcome.code == 6
    assert report(outcome) == {"large": "corrupt", "other": "ok"}
    (bad,) = [one for one in json.loads(outcome.out)["objects"] if one["status"] == "corrupt"]
    assert bad["ranges"] == [[16 * MIB, LARGE]]
    assert "of 2 objects 1 ok, 1 corrupt; first: " in outcome.err
    assert f"bytes {16 * MIB}-{LARGE} are not those that were stored" in outcome.err
    assert verify().code == 6  # and is not taken for the truth


def test_a_byte_of_a_small_file_that_changed_by_itself_is_found(verify, place):
    place.put("small", content(1000), hashed=True)
    assert verify().code == 0
    place.rot("small", 999)
    assert verify().code == 6


def test_what_was_replaced_is_no_damage(verify, place):
    place.put("large", content(LARGE))
    assert verify().code == 0
    place.put("large", content(LARGE, 1))
    assert report(verify("--json")) == {"large": "filled"}
    assert report(verify("--json")) == {"large": "ok"}
    assert len(place.digests()) == 1


def test_nothing_is_written_by_a_dry_run(verify, place):
    place.put("large", content(LARGE))
    outcome = verify("--dry-run")
    assert (outcome.code, outcome.out.split()[:2]) == (0, ["would", "fill"])
    assert place.digests() == []


def test_what_is_partly_known_is_read_once_and_completed(verify, place):
    info = place.put("large", content(LARGE))
    known = Leaf(Span(3 * MIB, 4 * MIB), sha256(content(LARGE)[3 * MIB : 4 * MIB]).hexdigest())

    async def keep():
        store = place.store()
        await DigestObjects(store).save(info, Digest.of(LARGE, [known]))

    async def load():
        store = place.store()
        return await DigestObjects(store).load(await store.head(Key("large")))

    in_trio(keep)
    assert report(verify("--json")) == {"large": "filled"}
    digest = in_trio(load)
    assert digest.is_complete
    assert known in digest.leaves
    place.rot("large", 3 * MIB + 5)
    assert verify().code == 6


def test_a_single_object_is_verified_with_the_digests_of_the_mount_above(verify, place):
    place.put("vm/large", content(LARGE))
    place.put("vm/other", content(LARGE, 1))
    assert verify().code == 0
    assert report(verify("--json", below="/vm/large")) == {"large": "ok"}
    assert report(verify("--json", below="/vm/")) == {"large": "ok", "other": "ok"}
    assert len(place.digests()) == 2


def test_the_digest_of_a_file_that_is_gone_is_removed(verify, place):
    for name in "ab":
        place.put(name, content(LARGE))
    verify()
    assert len(place.digests()) == 2
    in_trio(lambda: place.store().remove([Key("a")]))
    outcome = verify("--dry-run", "--json")
    assert len(place.digests()) == 2
    outcome = verify("--json")
    assert (report(outcome), json.loads(outcome.out)["removed_digests"]) == ({"b": "ok"}, 1)
    assert len(place.digests()) == 1


def test_a_digest_of_a_newer_version_is_left_untouched(verify, place):
    info = place.put("large", content(LARGE))

    async def keep():
        store = place.store()
        kept = KeptDigest(Key("large"), "any", Digest.unknown(LARGE))
        newer = encode(kept).replace(b'"version":1', b'"version":2')
        await store.write(DigestObjects(store).key_of(info.key), BytesBody(newer))

    async def now():
        return await get(place.store(), place.digests_key)

    in_trio(keep)
    (place.digests_key,) = place.digests()
    before = in_trio(now)
    outcome = verify()
    assert outcome.code != 0
    assert "newer vfs" in outcome.out
    assert in_trio(now) == before


def test_a_place_that_is_not_there_is_said_in_one_line(verify):
    outcome = verify(below="/nowhere")
    assert (outcome.code, outcome.out) == (3, "")
    assert "nothing is there" in outcome.err


def test_a_directory_of_nothing_is_fine(vfs, tmp_path):
    (tmp_path / "empty").mkdir()
    assert vfs("verify", (tmp_path / "empty").as_uri()).code == 0


def test_a_file_that_another_program_has_written_in_place_is_no_damage(vfs, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(content(LARGE))
    assert vfs("verify", tmp_path.as_uri()).code == 0
    with path.open("r+b") as file:
        file.write(b"changed")
    assert vfs("verify", tmp_path.as_uri()).out.startswith("filled")


def test_digests_hold_in_a_copy_of_the_whole_directory(vfs, tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    (original / "large").write_bytes(content(LARGE))
    assert vfs("verify", original.as_uri()).code == 0
    os.system(f"cp -a {original} {copy}")
    assert vfs("verify", copy.as_uri()).out.startswith("ok")


# Where digests are looked for


@pytest.fixture
def mounted(tmp_path):
    directory = tmp_path / "mounted"
    (directory / "a" / "caf\udce9").mkdir(parents=True)
    (directory / ".vfs").mkdir()
    return directory


@pytest.mark.parametrize(
    ("below", "key"),
    [
        ("", ""),
        ("/", ""),
        ("/a", "a"),
        ("/a/", "a"),
        ("/a/x", "a/x"),
        ("/a/caf%E9/x", "a/caf\U0010ffe9/x"),
    ],
)
def test_a_place_in_a_mounted_directory_is_seen_from_there(mounted, below, key):
    where, root = find_mounted(locate(mounted.as_uri() + below))
    assert (where.root, where.key, root) == (mounted.as_uri(), key, "")


def test_a_directory_that_was_never_mounted_is_its_own(tmp_path):
    (tmp_path / "a").mkdir()
    where, root = find_mounted(locate((tmp_path / "a").as_uri()))
    assert (where.root, where.key, root) == ((tmp_path / "a").as_uri(), "", "")


async def found_below(store, prefix=""):
    where = Location("mem://x", Key(prefix.rstrip("/")), directory=bool(prefix))
    objects = Objects(store, where)
    return {found.key: found.roots async for found in objects.below()}, objects


async def test_every_object_is_found_with_the_digests_above_it():
    store = FaultyStore(MemoryStore())
    # Some names sort before `.vfs`, and some after it.
    for directory in ("", "a/", "a/b/", "-/"):
        for name in ("-early", "late", "+", "~"):
            await put(store, directory + name, b"x")
    for root in ("a/b/", "-/", ""):
        await put(store, f"{root}.vfs/digests/{'0' * 64}", b"x")
    found, objects = await found_below(store)
    assert len(found) == 16
    assert {roots for key, roots in found.items() if key.startswith("a/b/")} == {("a/b/", "")}
    assert {roots for key, roots in found.items() if key.startswith("-/")} == {("-/", "")}
    assert found["a/late"] == found["late"] == found["a/-early"] == ("",)
    assert sorted(objects.roots) == ["", "-/", "a/b/"]
    found, objects = await found_below(store, "a/")
    assert found["a/b/late"] == ("a/b/", "")
    assert objects.roots == ["a/b/"]
    single = await Objects(store, Location("mem://x", Key("a/b/late"), directory=False)).single()
    assert single.roots == ("a/b/", "")


async def test_what_may_not_be_listed_above_holds_no_digests():
    store = FaultyStore(MemoryStore())
    await put(store, "images/a", b"x")
    store.fail("list", DeniedError("not there"), key=".vfs/digests/")
    found, _ = await found_below(store, "images/")
    assert found == {"images/a": ()}


# What befalls a run


@pytest.fixture
def store():
    return FaultyStore(MemoryStore())


@pytest.fixture
def checker(store):
    return Checker(store, Key(""), dry_run=False, advance=lambda _count: None)


async def look(checker, store, key="a"):
    return await checker.check(Found(Key(key), 0, ()))


async def test_an_object_that_changes_while_it_is_read_is_read_once_more(checker, store):
    await put(store, "a", content(LARGE))
    store.fail("read", StaleError("changed"), key="a")
    assert (await look(checker, store)).status == "filled"
    await put(store, "a", b"x")
    store.fail("read", StaleError("changed"), key="a", times=2)
    finding = await look(checker, store)
    assert (finding.status, finding.error.message) == ("unreadable", "changed")


async def test_progress_counts_what_is_read_twice_only_once(store):
    shown = []
    checker = Checker(store, Key(""), dry_run=False, advance=shown.append)
    await put(store, "a", content(LARGE))
    store.script.clear()
    store.delay("read", 0)
    store.delay("read", 0)
    store.fail("read", StaleError("changed"), key="a")
    await look(checker, store)
    assert sum(shown) == LARGE


async def test_an_object_that_cannot_be_read_is_reported_and_the_others_go_on(checker, store):
    await put(store, "a", b"x")
    store.fail("read", DeniedError("not yours"), key="a")
    finding = await look(checker, store)
    assert (finding.status, finding.error.message) == ("unreadable", "not yours")


async def test_an_object_that_is_gone_meanwhile_is_nothing(checker, store):
    assert await look(checker, store) is None


async def test_a_store_that_is_gone_ends_the_run(checker, store):
    await put(store, "a", b"x")
    store.fail("read", UnreachableError("down"), key="a")
    with pytest.raises(UnreachableError):
        await look(checker, store)


async def test_where_no_digest_may_be_written_the_message_says_what_to_do(checker, store):
    await put(store, "a", b"x")
    store.fail("write", DeniedError("read-only credentials"))
    with pytest.raises(DeniedError, match="--dry-run"):
        await look(checker, store)


async def test_a_huge_object_is_read_in_bounded_memory(checker, store):
    await put(store, "a", bytes(200 * MIB))
    store.forget()
    assert (await look(checker, store)).status == "filled"
    reads = store.asked("read", "a")
    assert max(one.size for one in reads) == 2 * MIB
    assert 4 <= store.most_in_flight <= 8
    assert sum(one.size for one in reads) == 200 * MIB


async def test_a_digest_whose_file_came_back_is_kept(store):
    objects = DigestObjects(store)
    info = await put(store, "a", b"x")
    await objects.save(info, Digest.unknown(1))
    await store.write(Key(".vfs/digests/damaged"), BytesBody(b"{"))
    assert await remove_orphans(store, Key("")) == 0
    await store.remove([Key("a")])
    assert await remove_orphans(store, Key("")) == 1
    assert await keys(store, ".vfs", own=True) == [".vfs/digests/damaged"]
