"""Digests of what was stored: made on the way, kept by small changes, never waited for."""

import random
from dataclasses import replace
from hashlib import sha256

import pytest
import trio
from typing_extensions import override

from tests.support.faulty import FaultyStore
from tests.support.tree import get, keys, put, shell_on
from vfs.errors import BusyError, CorruptError, DeniedError, TransientError
from vfs.layout.base import FileVersion
from vfs.layout.digest import Digest
from vfs.layout.digests import DigestObjects
from vfs.store.backend.local import LocalStore
from vfs.store.base import COMMIT_ID, SHA256, Body, BytesBody, Part
from vfs.store.memory import MemoryStore, everything
from vfs.store.wrap.base import WrappedStore
from vfs.values import MIB, Key

PAUSE_S = 5.0
LARGE = 22 * MIB


def content(size, seed=0):
    return random.Random(seed).randbytes(size)


async def digest_of(store, key) -> Digest | None:
    return await DigestObjects(store).load(await store.head(Key(key)))


def is_true_of(digest: Digest, data: bytes) -> bool:
    assert digest.size == len(data)
    for leaf in digest.leaves:
        if leaf.sha256 is not None:
            assert sha256(data[leaf.span.start : leaf.span.stop]).hexdigest() == leaf.sha256
    return True


def known_bytes(digest: Digest) -> int:
    return sum(leaf.span.size for leaf in digest.leaves if leaf.sha256 is not None)


@pytest.fixture
async def shell(store, tmp_path):
    async with shell_on(store, tmp_path) as opened:
        yield opened


@pytest.fixture
def digests(shell):
    return shell.mount.digests


# What is written


@pytest.mark.promise("S-digest-1")
async def test_a_small_file_carries_its_sha256_and_costs_no_request_for_it(shell, store):
    store.forget()
    await shell.write("a", b"content")
    assert (await store.head(Key("a"))).metadata[SHA256] == sha256(b"content").hexdigest()
    await shell.mount.digests.drain()
    assert store.count("write") == 1
    assert await keys(store, ".vfs/digests/", own=True) == []


@pytest.mark.promise("S-digest-1")
async def test_a_large_file_has_a_leaf_for_each_part_that_was_sent(shell, store, digests):
    await shell.write("a", content(LARGE))
    assert await digest_of(store, "a") is None  # not yet
    await digests.drain()
    digest = await digest_of(store, "a")
    assert digest.is_complete
    assert is_true_of(digest, content(LARGE))
    assert len(digest.leaves) == 5


@pytest.mark.promise("S-digest-2")
async def test_no_close_and_no_fsync_waits_for_a_digest(shell, store, digests):
    fd = await shell.create("a")
    await shell.pwrite(fd, 0, content(LARGE))
    gate = store.block("write", times=1)  # the only write there is: that of the digest
    await shell.fsync(fd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(digests.drain)
        await gate.reached.wait()
        await shell.pwrite(fd, 7, b"changed")
        await shell.close(fd)
        assert (await shell.read("a"))[7:14] == b"changed"
        gate.release()


# Small changes


@pytest.mark.promise("S-digest-1")
async def test_a_small_change_keeps_the_leaves_that_were_copied(shell, store, digests):
    data = bytearray(content(LARGE))
    await shell.write("a", bytes(data))
    await digests.drain()
    before = await digest_of(store, "a")
    fd = await shell.open("a")
    data[11 * MIB] ^= 1
    await shell.pwrite(fd, 11 * MIB, bytes(data[11 * MIB : 11 * MIB + 1]))
    store.forget()
    await shell.close(fd)
    assert {one.key for one in store.calls} == {"a"}
    await digests.drain()
    after = await digest_of(store, "a")
    assert store.count("copy_part")
    assert is_true_of(after, bytes(data))
    assert len(set(before.leaves) & set(after.leaves)) >= 2
    assert after.is_complete


async def test_the_digest_of_the_base_is_read_when_no_memory_has_it(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", content(LARGE))
        await shell.mount.digests.drain()
    before = await digest_of(store, "a")
    async with shell_on(store, tmp_path) as shell:
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"x")
        await shell.close(fd)
        await shell.mount.digests.drain()
    after = await digest_of(store, "a")
    assert is_true_of(after, b"x" + content(LARGE)[1:])
    assert set(before.leaves) & set(after.leaves)


async def test_a_digest_that_is_overwritten_meanwhile_is_still_known(store, tmp_path):
    """Of two commits the first is written over the digest that the second refers to as well."""
    async with shell_on(store, tmp_path) as shell:
        await shell.write("a", content(LARGE))
        await shell.mount.digests.drain()
    async with shell_on(store, tmp_path) as shell, trio.open_nursery() as nursery:
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"x")
        await shell.fsync(fd)
        gate = store.block("head", key=DigestObjects(store).key_of(Key("a")))
        nursery.start_soon(shell.mount.digests.drain)
        await gate.reached.wait()
        await shell.pwrite(fd, 11 * MIB, b"x")
        await shell.close(fd)
        gate.release()
        await shell.mount.digests.drain()
        await shell.mount.digests.drain()
    assert (await digest_of(store, "a")).is_complete


async def test_what_was_copied_from_a_file_that_nobody_hashed_is_unknown(shell, store, digests):
    await put(store, "a", content(LARGE))
    fd = await shell.open("a")
    await shell.pwrite(fd, 0, b"x")
    await shell.close(fd)
    await digests.drain()
    digest = await digest_of(store, "a")
    assert is_true_of(digest, b"x" + content(LARGE)[1:])
    assert 0 < known_bytes(digest) < LARGE


@pytest.mark.parametrize("seed", range(3))
async def test_any_sequence_of_changes_leaves_a_digest_that_is_true(shell, store, digests, seed):
    pick = random.Random(seed)
    data = bytearray(content(LARGE, seed))
    await shell.write("a", bytes(data))
    fd = await shell.open("a")
    for _ in range(6):
        if pick.random() < 0.3:
            size = pick.randrange(9 * MIB, 40 * MIB)
            await shell.ftruncate(fd, size)
            del data[size:]
            data += bytes(size - len(data))
        offset = pick.randrange(len(data))
        piece = pick.randbytes(min(pick.choice([10, MIB]), len(data) - offset))
        data[offset : offset + len(piece)] = piece
        await shell.pwrite(fd, offset, piece)
        await shell.fsync(fd)
        if pick.random() < 0.5:
            await digests.drain()
    await shell.close(fd)
    await digests.drain()
    digest = await digest_of(store, "a")
    assert digest is not None, f"seed {seed}"
    assert is_true_of(digest, bytes(data))
    assert await get(store, "a") == bytes(data)


# Names


async def digest_keys(store):
    return await keys(store, ".vfs/digests/", own=True)


@pytest.mark.promise("S-digest-3")
async def test_a_renamed_file_takes_its_digest_along(shell, store, digests):
    await shell.write("a", content(LARGE))
    await digests.drain()
    await shell.rename("a", "b")
    await digests.drain()
    digest = await digest_of(store, "b")
    assert digest.is_complete
    assert is_true_of(digest, content(LARGE))
    assert len(await digest_keys(store)) == 1


async def test_a_file_that_is_renamed_with_changes_takes_its_leaves_along(shell, store, digests):
    await shell.write("a", content(LARGE))
    await digests.drain()
    fd = await shell.open("a")
    await shell.pwrite(fd, 0, b"x")
    await shell.rename("a", "b")
    await shell.close(fd)
    await digests.drain()
    digest = await digest_of(store, "b")
    assert is_true_of(digest, b"x" + content(LARGE)[1:])
    assert known_bytes(digest) >= 10 * MIB
    assert len(await digest_keys(store)) == 1


@pytest.mark.promise("S-digest-3")
async def test_a_removed_file_leaves_no_digest(shell, store, digests):
    for name in "abc":
        await shell.write(name, content(LARGE))
    await digests.drain()
    assert len(await digest_keys(store)) == 3
    store.forget()
    for name in "abc":
        await shell.unlink(name)
    await digests.drain()
    assert await digest_keys(store) == []
    assert store.count("remove") == 4  # three files; their digests together


async def test_a_large_file_that_becomes_small_leaves_no_digest(shell, store, digests):
    await shell.write("a", content(LARGE))
    await digests.drain()
    await shell.write("a", b"small")
    await digests.drain()
    assert await digest_keys(store) == []


@pytest.mark.parametrize("kind", ["memory", "local"])
async def test_a_directory_that_was_verified_by_itself_can_be_removed(tmp_path, kind):
    root = tmp_path / "root"
    root.mkdir()
    store = MemoryStore() if kind == "memory" else LocalStore(root)
    await store.probe(write=True)
    inside = "digests" if kind == "memory" else "sha256"
    await put(store, "sub/x", b"x")
    await put(store, f"sub/.vfs/{inside}/{'0' * 64}", b"x")
    await put(store, "busy/.vfs/tmp/upload-1", b"x")
    async with shell_on(store, tmp_path, "metadata_ttl=0") as shell:
        assert await shell.ls("sub") == ["x"]
        await shell.unlink("sub/x")
        await shell.rmdir("sub")
        assert await shell.ls("") == ["busy"]
        with pytest.raises(BusyError, match="another mount"):
            await shell.rmdir("busy")
        assert await get(store, "busy/.vfs/tmp/upload-1") == b"x"
    assert [key for key in await keys(store, own=True) if key.startswith("sub")] == []
    await store.aclose()


@pytest.mark.promise("S-digest-4")
async def test_a_digest_of_another_version_does_not_count(store, tmp_path):
    async with shell_on(store, tmp_path, "metadata_ttl=0") as shell:
        await shell.write("a", content(LARGE))
        await shell.mount.digests.drain()
        assert await digest_of(store, "a") is not None
        await put(store, "a", content(LARGE))
        assert await digest_of(store, "a") is None
        fd = await shell.open("a")
        await shell.pwrite(fd, 0, b"x")
        await shell.close(fd)
        await shell.mount.digests.drain()
    assert known_bytes(await digest_of(store, "a")) < LARGE


# In the background


async def test_a_file_that_is_synced_often_has_few_digests_written(store, tmp_path, virtual_time):
    async with shell_on(store, tmp_path) as shell, trio.open_nursery() as nursery:
        nursery.start_soon(shell.mount.digests.run)
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, content(LARGE))
        store.forget()
        for _ in range(20):
            await shell.pwrite(fd, 0, b"x")
            await shell.fsync(fd)
            await trio.sleep(0.5)
        await trio.sleep(PAUSE_S)
        assert 2 <= len([one for one in store.asked("write") if one.key != "a"]) <= 4
        assert is_true_of(await digest_of(store, "a"), b"x" + content(LARGE)[1:])
        await shell.close(fd)
        nursery.cancel_scope.cancel()


@pytest.mark.promise("S-digest-2")
async def test_a_store_that_takes_no_digest_fails_nobody(store, tmp_path, virtual_time):
    """No warning either: the fixture of the log would fail this test."""
    async with shell_on(store, tmp_path) as shell, trio.open_nursery() as nursery:
        digests = shell.mount.digests
        nursery.start_soon(digests.run)
        store.fail("write", TransientError("down"), times=10)
        await shell.write("a", content(LARGE))
        await trio.sleep(300)
        assert store.count("write") < 10
        assert digests.pending == 1
        store.script.clear()
        await trio.sleep(100)
        assert (await digest_of(store, "a")).is_complete

        store.fail("write", DeniedError("not here"), times=10)
        await shell.rename("a", "b")
        await trio.sleep(100)
        assert digests.pending == 0  # given up: it would never be taken
        store.script.clear()
        nursery.cancel_scope.cancel()


@pytest.mark.promise("S-digest-4")
async def test_the_memory_for_digests_is_bounded(store, monkeypatch):
    from vfs.layout import digests as module  # noqa: PLC0415

    monkeypatch.setattr(module, "PENDING_FILES", 10)
    monkeypatch.setattr(module, "KNOWN_LEAVES", 20)
    info = await put(store, "a", content(LARGE))
    book = module.Digests(store)
    for number in range(100):
        version = FileVersion.of(replace(info, key=Key(f"f{number}")))
        book.stored(version, Digest.whole(LARGE, "ab" * 32), None, in_metadata=False)
    assert book.pending == 10
    assert len(book._known) <= 10


# verify_uploads


class Flipping(WrappedStore):
    """Damages what is uploaded, after it was hashed: every body of the calls that are named."""

    def __init__(self, inner, *operations, times=1):
        super().__init__(inner)
        self.operations = set(operations)
        self.times = times

    def _damaged(self, operation, body: Body) -> Body:
        if operation not in self.operations or not self.times or not body.size:
            return body
        self.times -= 1
        data = bytearray(body.size)
        body.read_into(0, memoryview(data))
        data[-1] ^= 1
        return BytesBody(data)

    @override
    async def write(self, key, body, **options):
        if not key.startswith(".vfs"):
            body = self._damaged("write", body)
        return await self._inner.write(key, body, **options)

    @override
    async def upload_part(self, upload, number, body, *, offset=None) -> Part:
        sent = body.sha256().hex()
        damaged = self._damaged("upload_part", body)
        part = await self._inner.upload_part(upload, number, damaged, offset=offset)
        return replace(part, sha256=sent)


@pytest.mark.promise("S-digest-5")
@pytest.mark.parametrize(("operation", "size"), [("write", 1000), ("upload_part", LARGE)])
async def test_what_was_damaged_on_its_way_is_found_and_sent_again(
    store, tmp_path, virtual_time, expect_log, operation, size
):
    expect_log(r"upload of 'a' failed .* kept in the stage .* not what was sent")
    flipping = Flipping(store, operation)
    data = content(size)
    async with shell_on(flipping, tmp_path, "verify_uploads") as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, data)
        with pytest.raises(CorruptError, match="read back"):
            await shell.fsync(fd)
        assert shell.mount.fs.context.committer.failed_uploads == 1
        assert await get(store, "a") != data
        assert await shell.pread(fd, 0, size) == data
        await shell.fsync(fd)
        assert await get(store, "a") == data
        await shell.close(fd)
        await shell.mount.digests.drain()
    assert await keys(store) == ["a"]  # and no conflict copy
    if size == LARGE:
        assert is_true_of(await digest_of(store, "a"), data)


@pytest.mark.promise("S-digest-5")
async def test_a_damaged_part_of_a_small_change_is_sent_again(
    store, tmp_path, virtual_time, expect_log
):
    expect_log("not what was sent")
    flipping = Flipping(store, "upload_part", times=0)
    data = bytearray(content(4 * LARGE))
    async with shell_on(flipping, tmp_path, "verify_uploads") as shell:
        await shell.write("a", bytes(data))
        fd = await shell.open("a")
        flipping.times = 1
        data[40 * MIB : 40 * MIB + 5] = b"small"
        await shell.pwrite(fd, 40 * MIB, b"small")
        store.forget()
        with pytest.raises(CorruptError):
            await shell.fsync(fd)
        await shell.close(fd)
        assert sum(one.size for one in store.asked("upload_part")) <= 2 * 5 * MIB
        # Only what was sent is read back, and what a part needs beside what was written.
        assert sum(one.size for one in store.asked("read")) <= 32 * MIB
        assert await get(store, "a") == bytes(data)


async def test_without_verify_uploads_nothing_is_read_back(store, tmp_path):
    async with shell_on(store, tmp_path) as shell:
        store.forget()
        await shell.write("a", content(LARGE))
        assert store.count("read") == 0


async def test_a_version_that_another_host_replaces_before_it_is_read_back_was_stored(
    store, tmp_path
):
    async with shell_on(store, tmp_path, "verify_uploads") as shell:
        gate = store.block("read", times=1)
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, b"mine")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.fsync, fd)
            await gate.reached.wait()
            await put(store._inner, "a", b"theirs")
            gate.release()
        await shell.close(fd)
    assert await get(store, "a") == b"theirs"


# A look at what was stored


async def test_a_finished_upload_is_looked_at_once_and_a_small_file_never(shell, store):
    store.forget()
    await shell.write("small", b"x" * 100)
    assert store.count("head", "small") == 1  # by the look-up before it is created
    store.forget()
    fd = await shell.create("large")
    await shell.pwrite(fd, 0, content(LARGE))
    store.forget()
    await shell.close(fd)
    assert store.count("head", "large") == 1


class Looking(WrappedStore):
    """Looks at what it has finished by itself, as Ceph 16 makes us do."""

    @override
    async def finish_upload(self, upload, parts, *, condition):
        info = await self._inner.finish_upload(upload, parts, condition=condition)
        return replace(await self._inner.head(info.key), looked=True)


async def test_what_the_store_has_looked_at_is_not_looked_at_again(tmp_path):
    looked = FaultyStore(MemoryStore(features=replace(everything(), finish_if_absent=False)))
    async with shell_on(Looking(looked), tmp_path) as shell:
        fd = await shell.create("large")
        await shell.pwrite(fd, 0, content(LARGE))
        looked.forget()
        await shell.close(fd)
        assert looked.count("head", "large") == 2  # before, and after by the store itself


class Cutting(WrappedStore):
    """Finishes an upload without its last part, once, and says all is well."""

    times = 1

    @override
    async def finish_upload(self, upload, parts, *, condition):
        if not self.times:
            return await self._inner.finish_upload(upload, parts, condition=condition)
        self.times = 0
        info = await self._inner.finish_upload(upload, parts[:-1], condition=condition)
        return replace(info, size=sum(part.size for part in parts))


async def test_an_object_of_the_wrong_size_is_found_and_stored_again(
    store, tmp_path, virtual_time, expect_log
):
    expect_log(r"upload of 'a' failed .* the store has \d+ bytes where \d+ were sent")
    async with shell_on(Cutting(store), tmp_path) as shell:
        fd = await shell.create("a")
        await shell.pwrite(fd, 0, content(LARGE))
        with pytest.raises(CorruptError):
            await shell.fsync(fd)
        await shell.close(fd)
    assert await get(store, "a") == content(LARGE)
    assert await keys(store) == ["a"]


class Renaming(WrappedStore):
    """Names a version in one way when it is made and in another when it is looked at."""

    @override
    async def finish_upload(self, upload, parts, *, condition):
        info = await self._inner.finish_upload(upload, parts, condition=condition)
        return replace(info, version="another name")


async def test_an_object_with_our_commit_id_is_ours_whatever_its_version_is_called(store, tmp_path):
    async with shell_on(Renaming(store), tmp_path) as shell:
        await shell.write("a", content(LARGE))
        node = await shell.node("a")
        info = await store.head(Key("a"))
        assert node.file.pin.version == info.version
        assert COMMIT_ID in info.metadata
        await shell.write("a", b"again")
    assert await get(store, "a") == b"again"


@pytest.mark.promise("S-mount-4")
async def test_a_read_only_mount_keeps_no_digests(store, tmp_path):
    await put(store, "a", content(LARGE))
    async with shell_on(store, tmp_path, "ro") as shell:
        assert shell.mount.digests is None
        await shell.read("a")
    assert await keys(store, own=True) == ["a"]
