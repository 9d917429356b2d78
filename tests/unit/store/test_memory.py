"""What the memory store offers to tests beyond the contract."""

import pytest

from vfs.errors import ConflictError, InvalidError, NotFoundError, TooLargeError, UnsupportedError
from vfs.store.base import (
    ABSENT,
    BytesBody,
    Condition,
    Features,
    ObjectVersion,
    PartRules,
    Properties,
)
from vfs.store.memory import MemoryStore, everything, forget
from vfs.values import Key, Span, Version

KEY = Key("disk.img")
OTHER = Key("other.img")
WRONG = Condition(if_version=Version("wrong"))
SMALL = PartRules(
    min_bytes=10, max_bytes=100, max_parts=5, max_object_bytes=150, max_write_bytes=120
)


async def test_stores_of_one_name_share_their_content():
    one, other = MemoryStore("mem://both"), MemoryStore("mem://both")
    await one.write(KEY, BytesBody(b"x"))
    assert (await other.head(KEY)).size == 1
    forget("both")
    with pytest.raises(NotFoundError):
        await MemoryStore("mem://both").head(KEY)


async def test_stores_without_a_name_share_nothing():
    await MemoryStore().write(KEY, BytesBody(b"x"))
    with pytest.raises(NotFoundError):
        await MemoryStore().head(KEY)


async def test_a_prefix_is_a_part_of_the_same_content():
    whole, below = MemoryStore("mem://prefix"), MemoryStore("mem://prefix/a/b/")
    await below.write(KEY, BytesBody(b"x"))
    assert [info.key for info in (await whole.list(Key(""))).objects] == ["a/b/disk.img"]
    assert [info.key for info in (await below.list(Key(""))).objects] == [KEY]
    await whole.write(Key("a/bc"), BytesBody(b"not below"))
    assert [info.key for info in (await below.list(Key(""))).objects] == [KEY]


@pytest.mark.parametrize("condition", [ABSENT, WRONG])
async def test_a_condition_that_is_switched_off_is_refused(condition):
    store = MemoryStore(features=Features(multipart=True))
    source = await store.write(KEY, BytesBody(b"x"))
    upload = await store.begin_upload(KEY)
    part = await store.upload_part(upload, 1, BytesBody(b"y"))
    with pytest.raises(UnsupportedError):
        await store.write(KEY, BytesBody(b"y"), condition=condition)
    with pytest.raises(UnsupportedError):
        await store.copy(source.pin, KEY, condition=condition)
    with pytest.raises(UnsupportedError):
        await store.finish_upload(upload, [part], condition=condition)
    with pytest.raises(UnsupportedError):
        await store.remove([KEY], if_version=Version("wrong"))


@pytest.mark.parametrize("condition", [ABSENT, WRONG])
async def test_a_lying_store_ignores_a_condition_that_is_switched_off(condition):
    store = MemoryStore(features=Features(multipart=True), lying=True)
    await store.write(KEY, BytesBody(b"x"))
    await store.write(KEY, BytesBody(b"y"), condition=condition)
    info = await store.head(KEY)
    assert await store.read(info.pin, Span(0, 1)) == b"y"
    await store.remove([KEY], if_version=Version("wrong"))
    with pytest.raises(NotFoundError):
        await store.head(KEY)


async def test_a_lying_store_keeps_the_conditions_that_it_has():
    store = MemoryStore(features=Features(write_if_absent=True), lying=True)
    await store.write(KEY, BytesBody(b"x"))
    with pytest.raises(ConflictError):
        await store.write(KEY, BytesBody(b"y"), condition=ABSENT)


async def test_a_store_that_does_not_pin_copies_what_is_there():
    store = MemoryStore(features=Features(multipart=True, copy_part=True))
    old = await store.write(KEY, BytesBody(b"old"))
    await store.write(KEY, BytesBody(b"new"))
    await store.copy(old.pin, OTHER)
    upload = await store.begin_upload(Key("third"))
    part = await store.copy_part(upload, 1, old.pin, Span(0, 3))
    await store.finish_upload(upload, [part])
    for key in (OTHER, Key("third")):
        info = await store.head(key)
        assert await store.read(info.pin, Span(0, 3)) == b"new"


async def test_metadata_that_is_switched_off_is_lost():
    store = MemoryStore(features=Features())
    await store.write(KEY, BytesBody(b""), properties=Properties({"mode": "1"}))
    assert dict((await store.head(KEY)).metadata) == {}


async def test_calls_that_are_switched_off_are_refused():
    store = MemoryStore(features=Features(multipart=True))
    info = await store.write(KEY, BytesBody(b"x"))
    upload = await store.begin_upload(KEY)
    with pytest.raises(UnsupportedError):
        await store.move(info.pin, OTHER)
    with pytest.raises(UnsupportedError):
        await store.copy_part(upload, 1, info.pin, Span(0, 1))
    with pytest.raises(UnsupportedError):
        await MemoryStore(features=Features()).begin_upload(KEY)
    with pytest.raises(InvalidError):
        await store.remove([KEY, OTHER])


async def test_older_versions_stay_readable_where_versions_are_kept():
    store = MemoryStore(features=everything(versions=True))
    old = await store.write(KEY, BytesBody(b"old"))
    await store.write(KEY, BytesBody(b"new"))
    await store.remove([KEY])
    assert await store.read(old.pin, Span(0, 3)) == b"old"
    await store.copy(old.pin, OTHER)
    assert (await store.head(OTHER)).size == 3


async def test_the_rules_of_parts_are_kept():
    store = MemoryStore(features=everything(SMALL))
    with pytest.raises(TooLargeError):
        await store.write(KEY, BytesBody(bytes(121)))
    upload = await store.begin_upload(KEY)
    with pytest.raises(TooLargeError):
        await store.upload_part(upload, 1, BytesBody(bytes(101)))
    for number in (0, 6):
        with pytest.raises(InvalidError):
            await store.upload_part(upload, number, BytesBody(b"x"))
    parts = [await store.upload_part(upload, n, BytesBody(bytes(100))) for n in (1, 2)]
    with pytest.raises(TooLargeError):
        await store.finish_upload(upload, parts)
    with pytest.raises(InvalidError):
        await store.finish_upload(upload, parts[::-1])
    with pytest.raises(InvalidError):
        await store.finish_upload(upload, [])


@pytest.mark.parametrize(("sizes", "fine"), [((20, 20, 5), True), ((20, 30, 5), False),
                                             ((20, 20, 30), False), ((7,), True)])  # fmt: skip
async def test_equal_parts_are_asked_for_where_the_rules_say_so(sizes, fine):
    store = MemoryStore(features=everything(PartRules(min_bytes=1, equal_parts=True)))
    upload = await store.begin_upload(KEY)
    parts = [
        await store.upload_part(upload, n, BytesBody(bytes(size)))
        for n, size in enumerate(sizes, 1)
    ]
    if fine:
        assert (await store.finish_upload(upload, parts)).size == sum(sizes)
    else:
        with pytest.raises(InvalidError):
            await store.finish_upload(upload, parts)


async def test_time_is_that_of_its_clock():
    store = MemoryStore(clock=lambda: 5)
    await store.write(KEY, BytesBody(b""))
    assert (await store.head(KEY)).mtime_ns == 5


async def test_a_directory_without_a_marker_moves_too():
    store = MemoryStore()
    await store.write(Key("d/x"), BytesBody(b"x"))
    await store.move(ObjectVersion(Key("d/"), Version("")), Key("e/"))
    assert [info.key for info in (await store.list(Key(""))).objects] == ["e/x"]
