"""What every store promises (vfs/store/base.py), asked of all of them.

A condition or call that the features of a store do not promise must be refused, never ignored.
"""

import contextlib
import itertools
from hashlib import sha256

import pytest
import trio

from vfs.errors import (
    ConflictError,
    InvalidError,
    InvalidNameError,
    IsDirectoryError,
    NameTooLongError,
    NotEmptyError,
    NotFoundError,
    StaleError,
    TransientError,
    UnsupportedError,
    WrongKindError,
)
from vfs.store.base import (
    ABSENT,
    COMMIT_ID,
    Body,
    BytesBody,
    Condition,
    ObjectVersion,
    Properties,
)
from vfs.values import MIB, Key, Span, Version

KEY = Key("vm/disk.img")
OTHER = Key("vm/other.img")
WRONG = Condition(if_version=Version('"00000000000000000000000000000000"'))


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that differ at every offset that matters."""
    return bytes((seed + 7 * i + (i >> 8)) % 251 for i in range(min(size, 65_536))) * (
        size // 65_536 + 1
    )


def data(size: int, seed: int = 0) -> bytes:
    return pattern(size, seed)[:size]


def supported(promised: bool):
    """Go on where the store promises the call, expect its refusal where it does not."""
    return contextlib.nullcontext() if promised else pytest.raises(UnsupportedError)


def refused(promised: bool, error: type[Exception] = ConflictError):
    return pytest.raises(error if promised else UnsupportedError)


async def put(store, key, content=b"content", **metadata):
    properties = Properties({name.replace("_", "-"): value for name, value in metadata.items()})
    return await store.write(Key(key), BytesBody(content), properties=properties)


async def get(store, info):
    return await store.read(info.pin, Span(0, info.size))


async def content_of(store, key):
    return await get(store, await store.head(Key(key)))


async def all_pages(store, prefix="", *, limit=1000, **options):
    objects, prefixes, cursor = [], [], None
    for _ in range(10_000):
        page = await store.list(Key(prefix), limit=limit, cursor=cursor, **options)
        assert len(page.objects) + len(page.prefixes) <= limit
        objects += page.objects
        prefixes += page.prefixes
        cursor = page.cursor
        if cursor is None:
            return objects, prefixes
    raise AssertionError("the listing does not end")


async def keys(store, prefix="", **options):
    """All keys of a prefix but directory markers, which only some stores make by themselves."""
    objects, _ = await all_pages(store, prefix, **options)
    return [info.key for info in objects if not info.key.endswith("/")]


def part_bytes(store):
    return max(store.features.parts.min_bytes, 4096)


async def upload_all(store, upload, contents, *, numbers=None):
    numbers = numbers or range(1, len(contents) + 1)
    offsets = itertools.accumulate((len(content) for content in contents), initial=0)
    return [
        await store.upload_part(upload, number, BytesBody(content), offset=offset)
        for number, content, offset in zip(numbers, contents, offsets, strict=False)
    ]


# Whole objects


@pytest.mark.promise("S-write-1")
async def test_what_was_written_is_read_back(store):
    info = await put(store, KEY, data(10_000))
    assert (info.key, info.size) == (KEY, 10_000)
    assert await get(store, info) == data(10_000)


async def test_head_agrees_with_the_answer_to_the_write(store):
    written = await put(store, KEY, data(100))
    found = await store.head(KEY)
    assert (found.key, found.size, found.version) == (KEY, 100, written.version)
    assert found.mtime_ns > 1_500_000_000 * 10**9


async def test_a_missing_object_is_not_found_by_its_key(store):
    with pytest.raises(NotFoundError) as caught:
        await store.head(KEY)
    assert caught.value.key == KEY


async def test_an_empty_object_is_an_object(store):
    info = await put(store, KEY, b"")
    assert (await store.head(KEY)).size == 0
    assert await store.read(info.pin, Span(0, 0)) == b""
    assert await keys(store) == [KEY]


async def test_a_large_body_is_stored_piece_by_piece(store):
    zeros_inside = data(MIB) + bytes(MIB) + data(MIB + 5, seed=3)
    info = await put(store, KEY, zeros_inside)
    assert await get(store, info) == zeros_inside


async def test_a_body_of_zeros_is_stored(store):
    info = await put(store, KEY, bytes(2 * MIB + 1))
    assert info.size == 2 * MIB + 1
    assert await get(store, info) == bytes(2 * MIB + 1)


async def test_overwriting_makes_another_version(store):
    first = await put(store, KEY, b"same size 1")
    second = await put(store, KEY, b"same size 2")
    assert first.version != second.version
    assert await content_of(store, KEY) == b"same size 2"


async def test_rapid_versions_of_equal_size_all_differ(store):
    versions = [(await put(store, KEY, bytes([n]) * 8)).version for n in range(12)]
    assert len(set(versions)) == 12


class FailingBody(Body):
    """A body whose source breaks down after the first piece."""

    size = 3 * MIB

    def read_into(self, offset, buffer):
        if offset:
            raise OSError(5, "the stage cannot be read")
        buffer[:] = bytes(buffer.nbytes)


async def test_a_body_that_fails_leaves_the_object_as_it_was(store):
    before = await put(store, KEY, b"old")
    with pytest.raises(Exception):  # noqa: B017 - whatever the body's failure becomes
        await store.write(KEY, FailingBody())
    assert await get(store, before) == b"old"
    assert await keys(store) == [KEY]


# Reading


@pytest.mark.parametrize(
    "span", [Span(0, 1), Span(0, 5000), Span(1, 4999), Span(4999, 5000), Span(2048, 4096)]
)
async def test_a_range_is_exactly_its_bytes(store, span):
    info = await put(store, KEY, data(5000))
    assert await store.read(info.pin, span) == data(5000)[span.start : span.stop]


async def test_a_range_fills_several_buffers_in_order(store):
    info = await put(store, KEY, data(5000))
    buffers = [bytearray(size) for size in (1, 1000, 499)]
    await store.read_into(info.pin, Span(100, 1600), [memoryview(buffer) for buffer in buffers])
    assert b"".join(buffers) == data(5000)[100:1600]


async def test_a_read_of_a_replaced_version_is_stale(store):
    before = await put(store, KEY, b"old content")
    await put(store, KEY, b"new content")
    if store.features.versions:
        assert await get(store, before) == b"old content"
        before = ObjectVersion(KEY, before.version)
    else:
        before = before.pin
    with pytest.raises(StaleError):
        await store.read(before, Span(0, 3))


async def test_a_read_of_a_removed_object_is_stale(store):
    info = await put(store, KEY, b"content")
    await store.remove([KEY])
    with pytest.raises(StaleError):
        await store.read(ObjectVersion(KEY, info.version), Span(0, 3))


async def test_many_readers_read_at_once(store):
    info = await put(store, KEY, data(64_000))
    found = {}

    async def read(span):
        found[span.start] = await store.read(info.pin, span)

    async with trio.open_nursery() as nursery:
        for span in Span(0, 64_000).pieces(1000):
            nursery.start_soon(read, span)
    assert b"".join(found[start] for start in sorted(found)) == data(64_000)


# User metadata

METADATA = {"mode": "33188", "uid": "0", COMMIT_ID: "0123abcd", "note": "Größe = 5 µm, 日本"}


async def test_user_metadata_comes_back_from_head(store):
    await store.write(KEY, BytesBody(b"x"), properties=Properties(METADATA))
    found = await store.head(KEY)
    assert dict(found.metadata) == (METADATA if store.features.metadata else {})


async def test_listings_carry_no_metadata(store):
    await store.write(KEY, BytesBody(b"x"), properties=Properties(METADATA))
    page = await store.list(Key("vm/d"))
    assert [dict(info.metadata) for info in page.objects] == [{}]


async def test_an_overwritten_object_has_only_the_new_metadata(store):
    await put(store, KEY, b"x", mode="1", uid="2")
    await put(store, KEY, b"y", mode="3")
    expected = {"mode": "3"} if store.features.metadata else {}
    assert dict((await store.head(KEY)).metadata) == expected


# Conditions of a write


async def test_a_write_if_absent_makes_a_new_object(store):
    with supported(store.features.write_if_absent):
        await store.write(KEY, BytesBody(b"new"), condition=ABSENT)
        assert await content_of(store, KEY) == b"new"


async def test_a_write_if_absent_never_replaces(store):
    await put(store, KEY, b"old")
    with refused(store.features.write_if_absent):
        await store.write(KEY, BytesBody(b"new"), condition=ABSENT)
    assert await content_of(store, KEY) == b"old"


async def test_of_many_writers_if_absent_one_wins(store):
    outcomes = []

    async def write(number):
        content = b"writer %02d" % number
        try:
            await store.write(KEY, BytesBody(content), condition=ABSENT)
        except (ConflictError, UnsupportedError) as error:
            outcomes.append(type(error))
        else:
            outcomes.append(content)

    async with trio.open_nursery() as nursery:
        for number in range(16):
            nursery.start_soon(write, number)
    if not store.features.write_if_absent:
        assert outcomes == [UnsupportedError] * 16
        return
    winners = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    assert winners == [await content_of(store, KEY)]


async def test_a_write_if_version_replaces_that_version(store):
    old = await put(store, KEY, b"old")
    with supported(store.features.write_if_version):
        await store.write(KEY, BytesBody(b"new"), condition=Condition(if_version=old.version))
        assert await content_of(store, KEY) == b"new"


async def test_a_write_if_version_never_replaces_another(store):
    old = await put(store, KEY, b"old")
    await put(store, KEY, b"theirs")
    with refused(store.features.write_if_version):
        await store.write(KEY, BytesBody(b"new"), condition=Condition(if_version=old.version))
    assert await content_of(store, KEY) == b"theirs"


async def test_a_write_if_version_does_not_revive_a_removed_object(store):
    with refused(store.features.write_if_version):
        await store.write(KEY, BytesBody(b"new"), condition=WRONG)
    with pytest.raises(NotFoundError):
        await store.head(KEY)


async def test_of_many_writers_if_version_one_wins(store):
    old = await put(store, KEY, b"old")
    condition = Condition(if_version=old.version)
    won = []

    async def write(number):
        content = b"writer %02d" % number
        # Who loses may be told to try again, and then of the conflict.
        with contextlib.suppress(ConflictError, TransientError, UnsupportedError):
            await store.write(KEY, BytesBody(content), condition=condition)
            won.append(content)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(write, number)
    if store.features.write_if_version:
        assert won == [await content_of(store, KEY)]
    else:
        assert won == []


# Removing


async def test_a_removed_object_is_gone(store):
    await put(store, KEY)
    await store.remove([KEY])
    with pytest.raises(NotFoundError):
        await store.head(KEY)


async def test_removing_what_is_not_there_is_no_error(store):
    await store.remove([KEY])
    await store.remove([Key("no/such/directory/at all")])


async def test_several_keys_are_removed_by_one_call(store):
    many = [Key(f"many/{number}") for number in range(min(5, store.features.remove_max_keys))]
    for key in many:
        await put(store, key)
    await put(store, KEY)
    await store.remove([*many])
    assert await keys(store) == [KEY]


async def test_a_remove_if_version_removes_that_version(store):
    info = await put(store, KEY)
    with supported(store.features.remove_if_version):
        await store.remove([KEY], if_version=info.version)
        assert await keys(store) == []


async def test_a_remove_if_version_spares_another(store):
    info = await put(store, KEY, b"old")
    await put(store, KEY, b"theirs")
    with refused(store.features.remove_if_version):
        await store.remove([KEY], if_version=info.version)
    assert await content_of(store, KEY) == b"theirs"


# Copying


async def test_a_copy_has_the_bytes_and_the_metadata(store):
    source = await put(store, KEY, data(5000), mode="33188")
    copied = await store.copy(source.pin, OTHER)
    assert (copied.key, copied.size) == (OTHER, 5000)
    assert await get(store, await store.head(OTHER)) == data(5000)
    assert dict((await store.head(OTHER)).metadata) == dict((await store.head(KEY)).metadata)


async def test_a_copy_may_replace_the_metadata(store):
    source = await put(store, KEY, data(5000), mode="33188", uid="7")
    await store.copy(source.pin, OTHER, properties=Properties({"mode": "0"}))
    expected = {"mode": "0"} if store.features.metadata else {}
    assert dict((await store.head(OTHER)).metadata) == expected


async def test_an_object_is_copied_onto_itself_with_new_metadata(store):
    source = await put(store, KEY, data(5000), mode="1")
    copied = await store.copy(source.pin, KEY, properties=Properties({"mode": "2"}))
    found = await store.head(KEY)
    assert found.version == copied.version
    assert dict(found.metadata) == ({"mode": "2"} if store.features.metadata else {})
    assert await get(store, found) == data(5000)


async def test_a_copy_of_nothing_is_not_found(store):
    with pytest.raises(NotFoundError) as caught:
        await store.copy(ObjectVersion(KEY, WRONG.if_version), OTHER)
    assert caught.value.key


async def test_a_copy_of_another_version_is_stale(store):
    old = await put(store, KEY, b"old")
    await put(store, KEY, b"new!")
    pin = ObjectVersion(KEY, old.version)
    if store.features.copy_pins_source:
        with pytest.raises(StaleError):
            await store.copy(pin, OTHER)
        assert await keys(store) == [KEY]
    else:
        with contextlib.suppress(StaleError):  # it may be noticed all the same
            await store.copy(pin, OTHER)
            assert await content_of(store, OTHER) == b"new!"


async def test_a_copy_if_absent_never_replaces(store):
    source = await put(store, KEY, b"source")
    await put(store, OTHER, b"target")
    with refused(store.features.copy_if_absent):
        await store.copy(source.pin, OTHER, condition=ABSENT)
    assert await content_of(store, OTHER) == b"target"


async def test_a_copy_if_absent_makes_a_new_object(store):
    source = await put(store, KEY, b"source")
    with supported(store.features.copy_if_absent):
        await store.copy(source.pin, OTHER, condition=ABSENT)
        assert await content_of(store, OTHER) == b"source"


async def test_a_copy_if_version_replaces_only_that_version(store):
    source = await put(store, KEY, b"source")
    target = await put(store, OTHER, b"target")
    with refused(store.features.copy_if_version):
        await store.copy(source.pin, OTHER, condition=WRONG)
    assert await content_of(store, OTHER) == b"target"
    with supported(store.features.copy_if_version):
        await store.copy(source.pin, OTHER, condition=Condition(if_version=target.version))
        assert await content_of(store, OTHER) == b"source"


# Listing

SORTED = ["a", "a-b/x", "a.txt", "a/x", "a/y/z", "a0", "aB", "ab", "b", "é", "日本", "\U0001f600"]


async def make(store, listed):
    """Write objects; `a` and `a/x` cannot both be on a directory."""
    made = []
    for key in listed:
        try:
            await put(store, key)
            made.append(key)
        except (IsDirectoryError, WrongKindError):
            pass
    return made


async def test_a_listing_is_in_byte_order(store):
    made = await make(store, reversed(SORTED))
    assert await keys(store) == [key for key in SORTED if key in made]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_pages_show_every_key_once(store, limit):
    made = await make(store, reversed(SORTED))
    assert await keys(store, limit=limit) == [key for key in SORTED if key in made]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_a_delimiter_folds_directories(store, limit):
    await make(store, [key for key in SORTED if key != "a"])
    objects, prefixes = await all_pages(store, delimiter="/", limit=limit)
    assert [info.key for info in objects] == [key for key in SORTED[1:] if "/" not in key]
    assert prefixes == ["a-b/", "a/"]


async def test_a_prefix_need_not_end_at_a_slash(store):
    await make(store, [key for key in SORTED if key != "a"])
    assert await keys(store, "a") == SORTED[1:8]
    objects, prefixes = await all_pages(store, "a-", delimiter="/")
    assert (objects, prefixes) == ([], ["a-b/"])
    objects, prefixes = await all_pages(store, "a/", delimiter="/")
    assert [info.key for info in objects if info.key != "a/"] == ["a/x"]
    assert prefixes == ["a/y/"]


async def test_a_listing_starts_after_a_key(store):
    await make(store, [key for key in SORTED if key != "a"])
    assert await keys(store, start_after=Key("a.txt")) == SORTED[3:]
    assert await keys(store, start_after=Key("a/x"), limit=2) == SORTED[4:]
    assert await keys(store, "a", start_after=Key("a/y/z")) == SORTED[5:8]


async def test_a_listing_of_nothing_is_empty(store):
    assert await all_pages(store) == ([], [])
    assert await all_pages(store, "no/such/", delimiter="/") == ([], [])


async def test_a_listing_agrees_with_head(store):
    written = await put(store, KEY, data(321))
    page = await store.list(Key("vm/"), start_after=Key("vm/"))
    [listed] = page.objects
    assert (listed.size, listed.version) == (321, written.version)


async def test_a_cursor_survives_the_removal_of_what_it_names(store):
    for number in range(6):
        await put(store, f"{number}")
    page = await store.list(Key(""), limit=2)
    await store.remove([Key("1")])
    if store.features.remove_max_keys > 1:
        await store.remove([Key("0"), Key("2")])
    else:
        await store.remove([Key("2")])
    page = await store.list(Key(""), limit=2, cursor=page.cursor)
    assert [info.key for info in page.objects] == ["3", "4"]


# Directory markers


async def test_a_marker_is_an_object_of_its_own_listing(store):
    await put(store, "d/", b"")
    assert (await store.head(Key("d/"))).size == 0
    objects, prefixes = await all_pages(store, "d/", delimiter="/")
    assert ([info.key for info in objects], prefixes) == (["d/"], [])


async def test_a_marker_is_a_prefix_of_its_parents_listing(store):
    await put(store, "d/", b"")
    objects, prefixes = await all_pages(store, delimiter="/")
    assert (objects, prefixes) == ([], ["d/"])


async def test_a_marker_is_not_the_file_of_that_name(store):
    await put(store, "d/", b"")
    with pytest.raises(NotFoundError):
        await store.head(Key("d"))
    await store.remove([Key("d")])
    assert (await store.head(Key("d/"))).size == 0


async def test_a_file_is_not_the_marker_of_that_name(store):
    await put(store, "d", b"file")
    with pytest.raises(NotFoundError):
        await store.head(Key("d/"))
    await store.remove([Key("d/")])
    assert await content_of(store, "d") == b"file"


async def test_a_marker_can_be_written_twice_and_removed_twice(store):
    await put(store, "d/", b"")
    await put(store, "d/", b"")
    await store.remove([Key("d/")])
    await store.remove([Key("d/")])
    assert await all_pages(store) == ([], [])


async def test_removing_a_marker_spares_what_is_below(store):
    await put(store, "d/", b"")
    await put(store, "d/file", b"kept")
    with contextlib.suppress(NotEmptyError):
        await store.remove([Key("d/")])
    assert await content_of(store, "d/file") == b"kept"


async def test_a_marker_if_absent_is_made_once(store):
    with supported(store.features.write_if_absent):
        await store.write(Key("d/"), BytesBody(b""), condition=ABSENT)
        with pytest.raises(ConflictError):
            await store.write(Key("d/"), BytesBody(b""), condition=ABSENT)


async def test_a_marker_keeps_metadata(store):
    await store.write(Key("d/"), BytesBody(b""), properties=Properties({"mode": "16877"}))
    expected = {"mode": "16877"} if store.features.metadata else {}
    assert dict((await store.head(Key("d/"))).metadata) == expected


# Odd keys (field notes, section 4, cases 1 to 10)

NAMES = [
    "with space", " leading", "trailing ", "tab\there", "line\nfeed", "return\rhere", "bell\a",
    "back\\slash", "plus+sign", "percent%41", "%2F", "100%", "(paren)", "'quote'", '"double"',
    "star*", "~tilde", "question?mark", "hash#tag", "amp&ersand", "semi;colon", "colon:", "equals=",
    "<angle>", "[bracket]", "{brace}", "pipe|", "caret^", "back`tick", "at@", "dollar$", "comma,",
    "...", ".hidden", "..two", "x" * 255, "é" * 127, "日本語.img", "\U0001f4be.qcow2",
    "caf\U0010ffe9",  # the escape of a byte that is not UTF-8 (case 8)
    "\ufeffbom", "\u200bzero-width", "\x7f",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
async def test_every_file_name_can_be_a_key(store, name):
    for key in (Key(name), Key(f"dir/{name}"), Key(f"{name}/inside")):
        await put(store, key, b"odd")
        assert await content_of(store, key) == b"odd"
        assert await keys(store) == [key]
        info = await store.head(key)
        copied = await store.copy(info.pin, Key(f"{key}.c") if len(name) < 120 else OTHER)
        assert await get(store, copied) == b"odd"
        await store.remove([key])
        await store.remove([copied.key])
        await store.remove([Key(f"{key.rpartition('/')[0]}/")] if "/" in key else [])
        await store.remove([Key("vm/")])


NO_NAMES = ["a//b", "/x", "//", "/", "a//", ".", "..", "./x", "../x", "a/../b", "a/./b", "a/..",
            "nul\0", "x" * 256, "é" * 128, "d/" + "x" * 256, "\U0010ff80"]  # fmt: skip


@pytest.mark.parametrize("key", NO_NAMES)
async def test_a_key_that_is_no_path_is_kept_or_refused(store, key):
    try:
        await put(store, key, b"odd" if not key.endswith("/") else b"")
    except InvalidNameError:
        with pytest.raises((NotFoundError, InvalidNameError)):
            await store.head(Key(key))
        assert await keys(store) == []
    else:
        assert (await store.head(Key(key))).key == key
        objects, _ = await all_pages(store)
        assert [info.key for info in objects] == [key]


async def test_a_key_that_is_too_long_is_refused_as_such(store):
    key = Key("/".join(["y" * 200] * 50)[: store.features.max_key_bytes + 1])
    with pytest.raises(NameTooLongError):
        await put(store, key)


async def test_keys_that_differ_only_in_case_or_normal_form_are_two(store):
    forms = ["CAF\u00c9", "CAFE\u0301", "caf\u00e9", "cafe\u0301"]
    for form in forms:
        await put(store, form, form.encode())
    for form in forms:
        assert await content_of(store, form) == form.encode()


async def test_a_file_and_a_directory_of_one_name_never_mix(store):
    await put(store, "a", b"file")
    try:
        await put(store, "a/b", b"below")
    except WrongKindError:
        with pytest.raises(NotFoundError):
            await store.head(Key("a/b"))
    else:
        assert await content_of(store, "a/b") == b"below"
    assert await content_of(store, "a") == b"file"


async def test_a_marker_with_content_keeps_it_or_is_refused(store):
    try:
        await put(store, "d/", b"odd content")
    except IsDirectoryError:
        assert await all_pages(store) == ([], [])
    else:
        assert await content_of(store, "d/") == b"odd content"


# Uploads in parts


@pytest.fixture
def uploads(store, request):
    """The store; where it has no uploads in parts, all that the test does must be refused."""
    _expect_refusal(request, promised=store.features.multipart)
    return store


@pytest.fixture
def patches(uploads, request):
    """The store; where it copies no ranges, to copy one must be refused."""
    _expect_refusal(request, promised=uploads.features.copy_part)
    return uploads


@pytest.fixture
def moves(store, request):
    """The store; where it cannot rename, to move must be refused."""
    _expect_refusal(request, promised=store.features.move)
    return store


def _expect_refusal(request, *, promised):
    if not promised:
        refusal = pytest.RaisesGroup(UnsupportedError, flatten_subgroups=True, allow_unwrapped=True)
        reason = "the store promises no such call, and refuses it"
        request.applymarker(pytest.mark.xfail(raises=refusal, reason=reason, strict=True))


async def test_a_store_without_uploads_refuses_to_begin_one(store):
    with supported(store.features.multipart):
        await store.abort_upload(await store.begin_upload(KEY))


async def test_parts_are_joined_in_the_order_of_their_numbers(uploads):
    size = part_bytes(uploads)
    contents = [data(size, 1), data(size + 100, 2), data(17, 3)]
    upload = await uploads.begin_upload(KEY)
    offsets = [0, size, 2 * size + 100]
    parts = {}
    for index in (2, 0, 1):
        parts[index] = await uploads.upload_part(
            upload, index + 1, BytesBody(contents[index]), offset=offsets[index]
        )
    info = await uploads.finish_upload(upload, [parts[0], parts[1], parts[2]])
    assert info.size == sum(map(len, contents))
    found = await uploads.head(KEY)
    assert found.version == info.version
    assert await get(uploads, found) == b"".join(contents)


async def test_part_numbers_may_have_gaps(uploads):
    size = part_bytes(uploads)
    upload = await uploads.begin_upload(KEY)
    last = uploads.features.parts.max_parts
    contents = [data(size, 1), data(size, 2), b"end"]
    parts = await upload_all(uploads, upload, contents, numbers=[3, 7, last])
    assert [part.number for part in parts] == [3, 7, last]
    info = await uploads.finish_upload(upload, parts)
    assert await get(uploads, info) == b"".join(contents)


async def test_a_part_of_the_same_number_replaces_the_earlier(uploads):
    size = part_bytes(uploads)
    upload = await uploads.begin_upload(KEY)
    contents = [data(size, 1), data(size, 2)]
    await upload_all(uploads, upload, contents)
    again = await uploads.upload_part(upload, 1, BytesBody(data(size, 9)), offset=0)
    second = (await upload_all(uploads, upload, contents))[1]
    first = await uploads.upload_part(upload, 1, BytesBody(bytes(size)), offset=0)
    assert again.number == first.number
    info = await uploads.finish_upload(upload, [first, second])
    assert await get(uploads, info) == bytes(size) + data(size, 2)


async def test_a_part_carries_the_sha256_of_the_bytes_that_were_sent(uploads):
    size = part_bytes(uploads)
    contents = [data(size, 1), bytes(size), data(17, 3)]
    upload = await uploads.begin_upload(KEY)
    parts = await upload_all(uploads, upload, contents)
    assert [part.sha256 for part in parts] == [sha256(content).hexdigest() for content in contents]
    await uploads.abort_upload(upload)


async def test_a_copied_range_has_no_sha256(patches):
    size = part_bytes(patches)
    source = await put(patches, OTHER, data(2 * size))
    upload = await patches.begin_upload(KEY)
    part = await patches.copy_part(upload, 1, source.pin, Span(0, size), offset=0)
    assert part.sha256 is None
    await patches.abort_upload(upload)


async def test_a_part_that_was_replaced_cannot_be_finished_with(uploads):
    size = part_bytes(uploads)
    upload = await uploads.begin_upload(KEY)
    replaced = await uploads.upload_part(upload, 1, BytesBody(data(size, 1)), offset=0)
    await uploads.upload_part(upload, 1, BytesBody(data(size, 2)), offset=0)
    with pytest.raises(NotFoundError) as caught:
        await uploads.finish_upload(upload, [replaced])
    assert caught.value.key == KEY
    await uploads.abort_upload(upload)


async def test_only_the_parts_that_are_named_are_joined(uploads):
    size = part_bytes(uploads)
    upload = await uploads.begin_upload(KEY)
    parts = await upload_all(uploads, upload, [data(size, n) for n in range(3)])
    info = await uploads.finish_upload(upload, parts[:2])
    assert await get(uploads, info) == data(size, 0) + data(size, 1)


async def test_a_single_small_part_is_enough(uploads):
    upload = await uploads.begin_upload(KEY)
    parts = await upload_all(uploads, upload, [b"small"])
    assert await get(uploads, await uploads.finish_upload(upload, parts)) == b"small"


async def test_nothing_is_visible_before_the_finish(uploads):
    upload = await uploads.begin_upload(KEY)
    parts = await upload_all(uploads, upload, [data(part_bytes(uploads))])
    with pytest.raises(NotFoundError):
        await uploads.head(KEY)
    assert await all_pages(uploads) == ([], [])
    await uploads.finish_upload(upload, parts)
    assert await keys(uploads) == [KEY]


async def test_the_properties_of_an_upload_are_those_of_its_object(uploads):
    upload = await uploads.begin_upload(KEY, properties=Properties(METADATA))
    assert upload.commit_id == METADATA[COMMIT_ID]
    parts = await upload_all(uploads, upload, [b"x"])
    await uploads.finish_upload(upload, parts)
    expected = METADATA if uploads.features.metadata else {}
    assert dict((await uploads.head(KEY)).metadata) == expected


async def test_a_part_that_is_too_small_is_refused(uploads):
    rules = uploads.features.parts
    if rules.min_bytes == 1:
        upload = await uploads.begin_upload(KEY)
        with pytest.raises(InvalidError):
            await uploads.upload_part(upload, 0, BytesBody(b"x"), offset=0)
        return
    upload = await uploads.begin_upload(KEY)
    parts = await upload_all(uploads, upload, [data(rules.min_bytes - 1), b"end"])
    with pytest.raises(InvalidError):
        await uploads.finish_upload(upload, parts)
    await uploads.abort_upload(upload)


async def test_a_finished_upload_is_gone(uploads):
    upload = await uploads.begin_upload(KEY)
    parts = await upload_all(uploads, upload, [b"x"])
    info = await uploads.finish_upload(upload, parts)
    try:
        again = await uploads.finish_upload(upload, parts)
    except NotFoundError as error:
        assert error.key == KEY
    else:  # some services answer a repetition as they answered the first time
        assert again.version == info.version
    assert await content_of(uploads, KEY) == b"x"


async def test_an_aborted_upload_takes_no_part(uploads):
    upload = await uploads.begin_upload(KEY)
    await upload_all(uploads, upload, [b"x"])
    await uploads.abort_upload(upload)
    await uploads.abort_upload(upload)
    with pytest.raises(NotFoundError) as caught:
        await uploads.upload_part(upload, 2, BytesBody(b"y"), offset=1)
    assert caught.value.key == KEY
    assert await all_pages(uploads) == ([], [])


async def test_a_finish_if_absent_never_replaces(uploads):
    await put(uploads, KEY, b"old")
    upload = await uploads.begin_upload(KEY)
    parts = await upload_all(uploads, upload, [b"new"])
    with refused(uploads.features.finish_if_absent):
        await uploads.finish_upload(upload, parts, condition=ABSENT)
    assert await content_of(uploads, KEY) == b"old"
    await uploads.abort_upload(upload)


async def test_a_finish_if_version_replaces_only_that_version(uploads):
    old = await put(uploads, KEY, b"old")
    upload = await uploads.begin_upload(KEY)
    parts = await upload_all(uploads, upload, [b"new"])
    with refused(uploads.features.finish_if_version):
        await uploads.finish_upload(upload, parts, condition=WRONG)
    assert await content_of(uploads, KEY) == b"old"
    with supported(uploads.features.finish_if_version):
        # The upload that lost is still there, and may be finished under another condition.
        condition = Condition(if_version=old.version)
        await uploads.finish_upload(upload, parts, condition=condition)
        assert await content_of(uploads, KEY) == b"new"
    await uploads.abort_upload(upload)


async def test_two_uploads_to_one_key_do_not_mix(uploads):
    size = part_bytes(uploads)
    first, second = await uploads.begin_upload(KEY), await uploads.begin_upload(KEY)
    mine = await upload_all(uploads, first, [data(size, 1), data(9, 1)])
    theirs = await upload_all(uploads, second, [data(size, 2), data(9, 2)])
    await uploads.finish_upload(second, theirs)
    assert await content_of(uploads, KEY) == data(size, 2) + data(9, 2)
    await uploads.finish_upload(first, mine)
    assert await content_of(uploads, KEY) == data(size, 1) + data(9, 1)


async def test_parts_are_sent_at_once(uploads):
    size = part_bytes(uploads)
    upload = await uploads.begin_upload(KEY)
    parts = {}

    async def send(number):
        body = BytesBody(data(size, number))
        parts[number] = await uploads.upload_part(upload, number, body, offset=(number - 1) * size)

    async with trio.open_nursery() as nursery:
        for number in range(1, 5):
            nursery.start_soon(send, number)
    info = await uploads.finish_upload(upload, [parts[number] for number in sorted(parts)])
    assert await get(uploads, info) == b"".join(data(size, number) for number in range(1, 5))


# Range copies


async def test_a_store_without_range_copies_refuses_them(uploads):
    source = await put(uploads, OTHER, data(part_bytes(uploads)))
    upload = await uploads.begin_upload(KEY)
    with supported(uploads.features.copy_part):
        await uploads.copy_part(upload, 1, source.pin, Span(0, source.size), offset=0)
    await uploads.abort_upload(upload)


async def test_an_object_is_patched_by_copying_its_untouched_ranges(patches):
    size = part_bytes(patches)
    base = await put(patches, KEY, data(3 * size + 11))
    upload = await patches.begin_upload(KEY)
    parts = [
        await patches.copy_part(upload, 1, base.pin, Span(0, size), offset=0),
        await patches.upload_part(upload, 2, BytesBody(data(size, 99)), offset=size),
        await patches.copy_part(upload, 3, base.pin, Span(2 * size, base.size), offset=2 * size),
    ]
    assert [part.size for part in parts] == [size, size, size + 11]
    info = await patches.finish_upload(upload, parts)
    expected = data(3 * size + 11)
    assert await get(patches, info) == expected[:size] + data(size, 99) + expected[2 * size :]


async def test_a_range_is_copied_to_another_place(patches):
    size = part_bytes(patches)
    source = await put(patches, OTHER, data(2 * size))
    upload = await patches.begin_upload(KEY)
    part = await patches.copy_part(upload, 1, source.pin, Span(5, 5 + size), offset=0)
    info = await patches.finish_upload(upload, [part])
    assert await get(patches, info) == data(2 * size)[5 : 5 + size]


async def test_a_range_copy_of_another_version_is_stale(patches):
    size = part_bytes(patches)
    old = await put(patches, OTHER, data(size, 1))
    await put(patches, OTHER, data(size, 2))
    pin = ObjectVersion(OTHER, old.version)
    upload = await patches.begin_upload(KEY)
    if patches.features.copy_part_pins_source:
        with pytest.raises(StaleError):
            await patches.copy_part(upload, 1, pin, Span(0, size), offset=0)
        await patches.abort_upload(upload)
    else:
        part = await patches.copy_part(upload, 1, pin, Span(0, size), offset=0)
        info = await patches.finish_upload(upload, [part])
        assert await get(patches, info) == data(size, 2)


# Moving


async def test_a_moved_file_is_under_the_new_name_alone(moves):
    source = await put(moves, KEY, data(1000), mode="33188")
    metadata = dict((await moves.head(KEY)).metadata)
    moved = await moves.move(source.pin, Key("new/directory/disk.img"))
    found = await moves.head(Key("new/directory/disk.img"))
    assert (found.version, dict(found.metadata)) == (moved.version, metadata)
    assert await get(moves, moved) == data(1000)
    assert await keys(moves) == ["new/directory/disk.img"]


async def test_a_move_of_another_version_is_stale(moves):
    old = await put(moves, KEY, b"old")
    await put(moves, KEY, b"new")
    with pytest.raises(StaleError):
        await moves.move(ObjectVersion(KEY, old.version), OTHER)
    assert await keys(moves) == [KEY]


async def test_a_move_of_nothing_is_not_found(moves):
    with pytest.raises(NotFoundError) as caught:
        await moves.move(ObjectVersion(KEY, WRONG.if_version), OTHER)
    assert caught.value.key == KEY


async def test_a_move_replaces_only_what_its_condition_names(moves):
    source = await put(moves, KEY, b"source")
    target = await put(moves, OTHER, b"target")
    for condition in (ABSENT, WRONG):
        with pytest.raises(ConflictError):
            await moves.move(source.pin, OTHER, condition=condition)
        assert await content_of(moves, KEY) == b"source"
        assert await content_of(moves, OTHER) == b"target"
    await moves.move(source.pin, OTHER, condition=Condition(if_version=target.version))
    assert await content_of(moves, OTHER) == b"source"
    assert await keys(moves) == [OTHER]


async def test_a_directory_moves_with_all_in_it(moves):
    await put(moves, "d/", b"")
    await put(moves, "d/x", b"x")
    await put(moves, "d/deep/er/y", b"y")
    moved = await moves.move(ObjectVersion(Key("d/"), Version("")), Key("e/"))
    assert moved.key == "e/"
    assert await keys(moves) == ["e/deep/er/y", "e/x"]
    assert await content_of(moves, "e/deep/er/y") == b"y"
    with pytest.raises(NotFoundError):
        await moves.head(Key("d/"))


async def test_a_directory_replaces_an_empty_one_only(moves):
    await put(moves, "d/", b"")
    await put(moves, "d/x", b"x")
    await put(moves, "empty/", b"")
    await put(moves, "full/", b"")
    await put(moves, "full/y", b"y")
    pin = ObjectVersion(Key("d/"), Version(""))
    with pytest.raises(ConflictError):
        await moves.move(pin, Key("empty/"), condition=ABSENT)
    with pytest.raises(NotEmptyError):
        await moves.move(pin, Key("full/"))
    await moves.move(pin, Key("empty/"))
    assert await keys(moves) == ["empty/x", "full/y"]


async def test_a_directory_does_not_move_into_itself(moves):
    await put(moves, "d/", b"")
    with pytest.raises(InvalidError):
        await moves.move(ObjectVersion(Key("d/"), Version("")), Key("d/inner/"))
    assert (await moves.head(Key("d/"))).key == "d/"


# Probing


async def test_a_probe_tells_the_features_and_leaves_nothing(store):
    features = await store.probe(write=True)
    assert features == store.features
    assert await all_pages(store) == ([], [])
    assert await keys(store, ".vfs/tmp/") == []


async def test_a_probe_that_may_not_write_writes_nothing(store):
    await store.probe(write=False)
    assert await all_pages(store) == ([], [])
