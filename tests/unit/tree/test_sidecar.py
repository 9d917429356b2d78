"""The bytes of sidecars, and what attributes a name has."""

import contextlib
import json
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.errors import MetadataError
from vfs.layout.base import FileVersion
from vfs.store.base import ObjectVersion
from vfs.tree import sidecar
from vfs.tree.attributes import Attributes, Defaults, effective, object_metadata
from vfs.tree.sidecar import (
    SidecarEntry,
    decode_entry,
    decode_sidecar,
    encode_entry,
    encode_sidecar,
    merge,
    shard_count,
    shard_names,
    shard_of,
)
from vfs.values import Key, Version

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
attributes = st.builds(
    Attributes,
    mode=st.integers(0, 0o177777),
    uid=st.integers(0, (1 << 32) - 2),
    gid=st.integers(0, (1 << 32) - 2),
    mtime_ns=st.integers(-(10**18), 10**20),
    ctime_ns=st.integers(-(10**18), 10**20),
    version=st.none() | texts.map(Version),
    target=st.none() | texts,
    rdev=st.integers(0, 1 << 32),
    xattrs=st.dictionaries(texts, st.binary(max_size=50), max_size=3),
)
entries = st.builds(SidecarEntry, st.integers(0, 1 << 50), st.none() | attributes)


@given(st.dictionaries(texts, entries, max_size=6))
def test_a_sidecar_is_read_back_as_it_was(made):
    assert decode_sidecar(encode_sidecar(made, 1)) == made


@given(entries)
def test_an_entry_survives_the_journal_as_plain_json(entry):
    assert decode_entry(json.loads(json.dumps(encode_entry(entry)))) == entry


def test_names_of_any_bytes_are_kept():
    from vfs import names  # noqa: PLC0415

    name = names.decode(b"caf\xe9\xff")
    entry = SidecarEntry(1, Attributes(stat.S_IFLNK, 0, 0, 0, 0, target=names.decode(b"\xfe/x")))
    assert decode_sidecar(encode_sidecar({name: entry}, 1)) == {name: entry}


@given(st.binary(max_size=200))
def test_anything_else_than_a_sidecar_is_refused_with_a_clear_error(data):
    with pytest.raises(MetadataError):
        decode_sidecar(data)


@given(st.data())
def test_a_damaged_sidecar_is_read_right_or_refused(data):
    entry = SidecarEntry(3, Attributes(0o100644, 1, 2, 3, 4, Version("v")))
    good = bytearray(encode_sidecar({"a": entry, "b": SidecarEntry(4, None)}, 1))
    at = data.draw(st.integers(0, len(good) - 1))
    good[at] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(MetadataError):  # any other exception fails
        decode_sidecar(bytes(good))


@pytest.mark.parametrize(
    "body",
    [
        {"version": 2, "entries": {}},
        {"version": 1},
        {"version": 1, "entries": {"a": 5}},
        {"version": 1, "entries": {"a": {"seq": "x"}}},
        {"version": 1, "entries": {"a": {"seq": 1, "mode": True}}},
        [],
    ],
)
def test_a_newer_or_strange_sidecar_is_refused(body):
    with pytest.raises(MetadataError):
        decode_sidecar(json.dumps(body).encode())


@given(st.lists(st.dictionaries(st.sampled_from("abc"), entries), max_size=4))
def test_merging_keeps_the_highest_sequence_of_each_name(sources):
    merged = merge(sources)
    for name in "abc":
        found = [source[name] for source in sources if name in source]
        assert (name in merged) == bool(found)
        if found:
            assert merged[name].sequence == max(entry.sequence for entry in found)


def test_a_directory_splits_when_it_is_full():
    assert [shard_count(n) for n in (0, 1, 4096, 4097, 8192, 8193, 10_000)] == [
        1,
        1,
        1,
        2,
        2,
        4,
        4,
    ]
    assert shard_names(1) == [".vfs.attrs"]
    assert shard_names(2) == [".vfs.attrs.0-2", ".vfs.attrs.1-2"]


def test_a_split_moves_each_name_into_one_of_two_halves_of_its_shard():
    for number in range(500):
        name = f"name-{number}"
        for count in (1, 2, 4, 8):
            assert shard_of(name, 2 * count) // 2 == shard_of(name, count)
    used = {shard_of(f"name-{number}", 8) for number in range(500)}
    assert used == set(range(8))
    assert sidecar.SHARD_ENTRIES == 4096


FILE = FileVersion(ObjectVersion(Key("a"), Version("v2")), 5, 777)
DEFAULTS = Defaults(uid=10, gid=20, umask=0o027, directory_time_ns=99)
PLAIN = Attributes(0o100640, 10, 20, 777, 777, Version("v2"))
OWN = Attributes(0o104755, 1, 2, 3, 4, Version("v2"), xattrs={"user.a": b"x"})
LINK = Attributes(0o120777, 1, 2, 3, 4, Version("v2"), target="t")
DIR = Attributes(0o041777, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("entry", "file", "expected"),
    [
        (None, FILE, PLAIN),
        (OWN, FILE, OWN),
        (LINK, FILE, LINK),
        # Another tool has replaced the object: only permissions without setuid, and the owner stay.
        (
            Attributes(0o106755, 1, 2, 3, 4, Version("v1"), xattrs={"user.a": b"x"}),
            FILE,
            Attributes(0o100755, 1, 2, 777, 777, Version("v2")),
        ),
        (
            Attributes(0o120777, 1, 2, 3, 4, Version("v1"), target="t"),
            FILE,
            Attributes(0o100777, 1, 2, 777, 777, Version("v2")),
        ),
        (DIR, FILE, PLAIN),
        (DIR, None, DIR),
        (OWN, None, DEFAULTS.directory()),
        (None, None, Attributes(0o040750, 10, 20, 99, 99)),
    ],
)
def test_the_attributes_of_a_name_follow_from_its_entry_and_its_object(entry, file, expected):
    assert effective(entry, file, DEFAULTS) == expected


def test_objects_carry_what_other_tools_read():
    made = object_metadata(Attributes(0o100644, 1, 2, 1_500_000_000_000_000_001, 4))
    assert made == {"mode": "33188", "uid": "1", "gid": "2", "mtime": "1500000000.000000001"}
