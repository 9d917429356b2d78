"""Moving bytes: whole, checked, and nothing half-done under a real name."""

import os
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.faulty import FaultyStore
from vfs.cli import transfer
from vfs.cli.transfer import copy_object, download_file, each, plan_parts, upload_file
from vfs.errors import ConflictError, StaleError, TooLargeError, UnreachableError
from vfs.store.base import BytesBody, PartRules
from vfs.store.memory import MemoryStore, everything
from vfs.values import GIB, MIB, TIB, Key, Span

# The smallest parts that a plan makes are of 1 MiB.
RULES = PartRules(min_bytes=1024, max_parts=50, max_object_bytes=1 << 26, max_write_bytes=4096)
KEY = Key("images/disk.img")
DATA = os.urandom(9 * MIB // 2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(transfer, "SINGLE_BYTES", 2048)
    monkeypatch.setattr(transfer, "PART_BYTES", MIB)
    monkeypatch.setattr(transfer, "PIECE_BYTES", MIB)


@pytest.fixture
def store():
    return FaultyStore(MemoryStore(features=everything(RULES)))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(DATA)
    return path


def operations(store):
    return [call.operation for call in store.calls]


async def content(store, key=KEY):
    info = await store.head(key)
    return await store.read(info.pin, Span(0, info.size))


def nothing(_):
    pass


async def test_a_large_file_goes_up_in_parts(store, path):
    seen = []
    info = await upload_file(store, path, KEY, seen.append)
    assert (info.size, sum(seen)) == (len(DATA), len(DATA))
    assert await content(store) == DATA
    assert operations(store)[:1] == ["begin_upload"]
    assert operations(store).count("upload_part") == 5


@pytest.mark.parametrize("size", [0, 1, 2048])
async def test_a_small_file_is_one_request(size, store, path):
    path.write_bytes(DATA[:size])
    await upload_file(store, path, KEY, nothing)
    assert operations(store) == ["write"]
    assert await content(store) == DATA[:size]


async def test_a_store_without_parts_gets_one_request(path):
    features = everything(RULES)
    store = FaultyStore(
        MemoryStore(features=type(features)(**{**_fields(features), "multipart": False}))
    )
    path.write_bytes(DATA[:4000])
    await upload_file(store, path, KEY, nothing)
    assert operations(store) == ["write"]


def _fields(features):
    return {name: getattr(features, name) for name in features.__dataclass_fields__}


async def test_an_upload_that_fails_is_aborted(store, path):
    store.fail("upload_part", UnreachableError("gone"))
    with pytest.raises(ExceptionGroup) as caught:
        await upload_file(store, path, KEY, nothing)
    assert caught.group_contains(UnreachableError)
    assert operations(store)[-1] == "abort_upload"
    assert not (await store.list(Key(""))).objects


async def test_an_upload_that_is_interrupted_is_aborted(store, path):
    gate = store.block("upload_part")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload_file, store, path, KEY, nothing)
        await gate.reached.wait()
        nursery.cancel_scope.cancel()
    assert operations(store)[-1] == "abort_upload"


async def test_a_file_that_changes_meanwhile_is_not_stored(store, path):
    gate = store.block("upload_part")

    async def change():
        await gate.reached.wait()
        with path.open("r+b") as stream:
            stream.write(b"changed")
        os.utime(path, ns=(1, 1))
        gate.release()

    async def both():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            await upload_file(store, path, KEY, nothing)

    with pytest.raises(ExceptionGroup) as caught:
        await both()
    assert caught.group_contains(ConflictError)
    assert not (await store.list(Key(""))).objects


async def test_a_download_appears_when_it_is_complete(store, tmp_path):
    await store.write(KEY, BytesBody(DATA[:4096]))
    await store.write(KEY, BytesBody(DATA[:4000]))
    info = await store.head(KEY)
    gate = store.block("read")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(download_file, store, info, tmp_path / "new", nothing)
        await gate.reached.wait()
        assert not (tmp_path / "new").exists()
        gate.release()
    assert (tmp_path / "new").read_bytes() == DATA[:4000]
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("size", [0, 1, MIB, len(DATA)])
async def test_a_download_has_every_byte(size, store, path, tmp_path):
    path.write_bytes(DATA[:size])
    info = await upload_file(store, path, KEY, nothing)
    seen = []
    await download_file(store, info, tmp_path / "new", seen.append)
    assert (tmp_path / "new").read_bytes() == DATA[:size]
    assert sum(seen) == size


async def test_a_download_that_fails_leaves_the_old_file_alone(store, path, tmp_path):
    info = await upload_file(store, path, KEY, nothing)
    (tmp_path / "new").write_text("old")
    store.fail("read", UnreachableError("gone"))
    with pytest.raises(ExceptionGroup):
        await download_file(store, info, tmp_path / "new", nothing)
    assert (tmp_path / "new").read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["disk.img", "new"]


async def test_an_object_that_is_replaced_meanwhile_is_never_mixed(store, path, tmp_path):
    info = await upload_file(store, path, KEY, nothing)
    await store.write(KEY, BytesBody(b"x" * 4096))
    with pytest.raises(ExceptionGroup) as caught:
        await download_file(store, info, tmp_path / "new", nothing)
    assert caught.group_contains(StaleError)
    assert not (tmp_path / "new").exists()


async def test_a_copy_inside_a_store_moves_no_bytes(store, path):
    info = await upload_file(store, path, KEY, nothing)
    store.calls.clear()
    await copy_object(store, info, store, Key("b"), nothing, same=True)
    assert set(operations(store)) == {"begin_upload", "copy_part", "finish_upload"}
    assert await content(store, Key("b")) == DATA


async def test_a_small_copy_inside_a_store_is_one_request(store):
    info = await store.write(KEY, BytesBody(DATA[:4096]))
    store.calls.clear()
    await copy_object(store, info, store, Key("b"), nothing, same=True)
    assert operations(store) == ["copy"]
    assert await content(store, Key("b")) == DATA[:4096]


@pytest.mark.parametrize("size", [0, 100, len(DATA)])
async def test_a_copy_between_stores_has_every_byte(size, store, path):
    other = MemoryStore(features=everything(RULES))
    path.write_bytes(DATA[:size])
    info = await upload_file(store, path, KEY, nothing)
    seen = []
    await copy_object(store, info, other, Key("b"), seen.append, same=False)
    assert await content(other, Key("b")) == DATA[:size]
    assert sum(seen) == size


@given(st.integers(1, 10 * GIB))
def test_a_plan_covers_the_file_once(size):
    cuts = plan_parts(size, PartRules(), 16 * MIB)
    assert [number for number, _ in cuts] == list(range(1, len(cuts) + 1))
    assert (cuts[0][1].start, cuts[-1][1].stop) == (0, size)
    assert all(one.stop == two.start for (_, one), (_, two) in pairwise(cuts))


@pytest.mark.parametrize("size", [160 * GIB, TIB, 5 * TIB])
def test_the_largest_files_get_larger_parts(size):
    cuts = plan_parts(size, PartRules(), 16 * MIB)
    assert 9_000 < len(cuts) <= 10_000
    assert cuts[-1][1].stop == size


def test_a_file_that_no_plan_can_store_is_refused():
    with pytest.raises(TooLargeError):
        plan_parts(6 * TIB, PartRules())


async def test_a_few_at_a_time_and_every_one():
    running = most = 0

    async def work(item):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.lowlevel.checkpoint()
        running -= 1
        return item

    assert sorted(await each(range(50), work)) == list(range(50))
    assert most == transfer.WORKERS
