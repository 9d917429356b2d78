"""What a journal adds up to is what the file was, whatever happened to it and wherever it broke."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfs.errors import CorruptError
from vfs.layout.base import FileVersion
from vfs.spans import EMPTY, SpanSet
from vfs.stage.journal import (
    Extent,
    StagedState,
    part_record,
    records_of,
    replay,
    synced_record,
    target_record,
)
from vfs.store.base import ObjectVersion, Part, Upload
from vfs.values import Key, Span, Version

BOOT = "this-boot"
BASE = FileVersion(ObjectVersion(Key("vm/disk"), Version("v1")), 100, 7)
BEGINNING = StagedState(Key("vm/disk"), BASE, BASE, Extent(100, 100), {"mode": 33188})


def state_of(*records, boot=BOOT, beginning=BEGINNING):
    # Through JSON, as a log does.
    return replay(json.loads(json.dumps([*records_of(beginning), *records])), boot)


def write(*spans, size=100, cut=None, boot=BOOT):
    cut = min(size, 100) if cut is None else cut
    return {"op": "write", "cut": cut, "size": size, "spans": spans, "boot": boot}


def test_a_journal_of_nothing_is_no_file():
    assert replay([], BOOT) is None


def test_a_state_comes_back_as_it_was_written():
    extent = Extent(200, 50, SpanSet([Span(50, 200)]), SpanSet([Span(120, 180)]))
    beginning = replace(BEGINNING, extent=extent, replaces=None)
    assert state_of(beginning=beginning) == beginning


def test_writes_and_extensions_and_cuts_add_up():
    state = state_of(
        write([10, 20]),
        write([150, 160], size=200),  # the bytes between are zeros that nobody wrote
        write(size=70, cut=15),
    )
    assert state.extent.size == 70
    assert state.extent.base_size == 15
    assert state.extent.dirty == SpanSet([Span(10, 70)])
    assert state.extent.holes == SpanSet([Span(15, 70)])


def test_bytes_that_were_not_synced_do_not_count_after_a_reboot():
    records = [write([10, 20]), synced_record(1), write([30, 40], size=500)]
    assert state_of(*records).extent.dirty == SpanSet([Span(10, 20), Span(30, 40), Span(100, 500)])
    survived = state_of(*records, boot="the next boot")
    assert survived.extent == Extent(100, 100, SpanSet([Span(10, 20)]))
    assert survived.promised


def test_a_sync_covers_what_was_told_before_it_began():
    records = [write([10, 20]), write([30, 40]), synced_record(1)]
    assert state_of(*records, boot="the next boot").extent.dirty == SpanSet([Span(10, 20)])


def test_a_cut_counts_on_every_boot_and_never_extends():
    records = [write([120, 200], size=200, cut=100), {"op": "cut", "size": 150}]
    assert state_of(*records).extent.size == 150
    assert state_of(*records, boot="the next boot").extent == Extent(100, 100)


@pytest.mark.parametrize(
    ("records", "stored"),
    [
        ([], True),
        ([write([0, 9])], False),
        ([write(size=90, cut=90)], False),
        ([{"op": "gone"}], True),
        ([write([0, 9]), {"op": "gone"}], True),
    ],
    ids=str,
)
def test_what_is_left_to_store(records, stored):
    assert state_of(*records, synced_record(1)).is_stored == stored


def test_an_empty_new_file_is_stored_only_if_it_was_promised():
    new = replace(BEGINNING, replaces=None, base=None, extent=Extent(0, 0))
    assert state_of(beginning=new).is_stored
    assert not state_of(synced_record(0), beginning=new).is_stored


@pytest.mark.parametrize("promise", [[], [synced_record(0)]], ids=["not promised", "promised"])
@pytest.mark.parametrize("boot", [BOOT, "the next boot"])
def test_an_upload_of_what_nobody_was_promised_makes_no_file_after_a_reboot(promise, boot):
    new = replace(BEGINNING, replaces=None, base=None, extent=Extent(0, 0))
    upload = {"op": "upload", "upload_id": "u1", "key": "vm/disk", "commit": "c0ffee"}
    state = replay([*records_of(new, born=BOOT), upload, *promise], boot)
    assert state.is_stored == (boot != BOOT and not promise)


def test_a_commit_of_which_a_reboot_has_left_nothing_may_have_landed():
    commit = {"op": "commit", "id": "c0ffee", "since": None}
    assert not state_of(synced_record(0), write([0, 9]), commit, boot="the next boot").is_stored


def test_what_is_written_after_a_commit_began_is_dirty_when_it_is_stored():
    stored = replace(BASE, pin=ObjectVersion(Key("vm/disk"), Version("v2")), size=150)
    value = {"key": "vm/disk", "version": "v2", "version_id": None, "size": 150, "mtime_ns": 7}
    state = state_of(
        write([10, 20], [140, 150], size=150),
        {"op": "commit", "id": "c0ffee", "since": None},
        write([15, 25], size=150, cut=150),
        {"op": "stored", "base": value},
    )
    assert state.base == state.replaces == stored
    assert state.extent == Extent(150, 150, SpanSet([Span(15, 25)]))
    assert state.commit_id is None


def test_a_commit_that_is_not_known_to_be_stored_leaves_all_dirty():
    state = state_of(
        write([10, 20]), {"op": "commit", "id": "c0ffee", "since": None}, write([15, 25], cut=100)
    )
    assert state.commit_id == "c0ffee"
    assert state.extent.dirty == SpanSet([Span(10, 25)])


def test_parts_of_an_upload_count_until_their_bytes_change():
    parts = [
        part_record(Part(number, f"t{number}", 10), Span(number * 10, number * 10 + 10), BOOT)
        for number in range(1, 6)
    ]
    state = state_of(
        write([0, 100]),
        {"op": "commit", "id": "c0ffee", "since": None},
        {"op": "upload", "upload_id": "u1", "key": "vm/disk", "commit": "c0ffee"},
        *parts,
        write([29, 31]),
        write(size=55, cut=55),
    )
    assert state.upload == Upload(Key("vm/disk"), "u1", "c0ffee")
    assert state.parts == (
        (Part(1, "t1", 10), Span(10, 20)),
        (Part(4, "t4", 10), Span(40, 50)),
    )


def test_the_sha256_of_a_part_is_known_after_a_restart():
    part = Part(1, "t1", 10, "ab" * 32)
    upload = {"op": "upload", "upload_id": "u1", "key": "vm/disk", "commit": "c0ffee"}
    state = state_of(upload, part_record(part, Span(10, 20), BOOT))
    assert state.parts == ((part, Span(10, 20)),)
    assert "sha256" not in part_record(Part(1, "t1", 10), Span(10, 20), BOOT)


def test_a_renamed_file_is_stored_under_its_new_name():
    about = {"mode": 33152}
    state = state_of(
        target_record(
            replace(BEGINNING, key="vm/new", replaces=None, about=about), over=["staged-7"]
        )
    )
    assert (state.key, state.replaces, state.base) == ("vm/new", None, BASE)
    assert state.about == {"mode": 33152}
    assert state.over == ("staged-7",)


@pytest.mark.parametrize(
    "record",
    [
        {"op": "unheard of"},
        {"op": "write", "cut": 0, "size": 0, "spans": [[5, 5]], "boot": BOOT},
        {"op": "write", "cut": -1, "size": 0, "spans": [], "boot": None},
        {"op": "write", "cut": 0, "size": True, "spans": [], "boot": None},
        {"op": "write", "size": 0, "spans": [], "boot": None},
        {"op": "stored", "base": "v2"},
        {"op": "target", "key": 7, "replaces": None, "base": None, "about": {}, "over": []},
        {"op": "about", "about": []},
        {"op": "synced", "records": "all"},
        {"op": "part", "number": 1, "tag": None, "size": 1, "start": 0, "boot": None},
    ],
    ids=str,
)
def test_a_record_that_makes_no_sense_is_told_and_never_guessed_at(record):
    with pytest.raises(CorruptError, match="makes no sense"):
        state_of(record)


def test_a_journal_that_does_not_say_which_file_it_is_is_refused():
    with pytest.raises(CorruptError):
        replay([write([10, 20])], BOOT)


RECORDS = st.one_of(
    st.builds(
        lambda cut, size, spans, boot: write(*spans, cut=cut, size=max(cut, size), boot=boot),
        st.integers(0, 120),
        st.integers(0, 200),
        st.lists(
            st.tuples(st.integers(0, 90), st.integers(1, 9)).map(lambda at: [at[0], sum(at)]),
            max_size=3,
        ),
        st.just(BOOT),
    ),
    st.just({"op": "commit", "id": "c0ffee", "since": None}),
    st.just({"op": "upload", "upload_id": "u", "key": "vm/disk", "commit": None}),
    st.builds(
        lambda number: {
            "op": "part", "number": number, "tag": "t", "size": 10, "start": 10 * number,
            "boot": BOOT,
        },
        st.integers(1, 9),
    ),
    st.builds(lambda number: {"op": "sending", "number": number}, st.integers(1, 9)),
    st.builds(lambda size: {"op": "cut", "size": size}, st.integers(0, 120)),
    st.just(synced_record(0)),
    st.just({"op": "gone"}),
    st.just({"op": "about", "about": {"mode": 7}}),
    st.just(target_record(replace(BEGINNING, key="vm/new", replaces=None), over=["one"])),
    st.builds(
        lambda version: {
            "op": "stored",
            "base": {
                "key": "vm/disk", "version": version, "version_id": None, "size": 5, "mtime_ns": 0
            },
        },
        st.text(max_size=3),
    ),
)  # fmt: skip


@given(st.lists(RECORDS, max_size=12), st.lists(RECORDS, max_size=4))
@settings(max_examples=300, deadline=None)
def test_a_log_may_be_rewritten_at_any_moment(before, after):
    state = state_of(*before)
    rewritten = json.loads(json.dumps(records_of(state)))
    assert replay(rewritten, BOOT) == state
    after = json.loads(json.dumps(after))
    assert replay([*rewritten, *after], BOOT) == state_of(*before, *after)


@st.composite
def histories(draw):
    """Writes and truncations of a small file, in groups as they are journalled."""
    step = st.one_of(
        st.tuples(st.just("write"), st.integers(0, 60), st.integers(1, 20)),
        st.tuples(st.just("truncate"), st.integers(0, 80), st.just(0)),
    )
    return draw(st.lists(st.lists(step, max_size=6), max_size=6))


@given(histories())
@settings(max_examples=300, deadline=None)
def test_whatever_was_done_to_a_file_its_journal_says_what_it_became(history):
    base_size = 40
    # Of each byte: "b" from the base, "z" a zero that nobody wrote, "w" written.
    file = ["b"] * base_size
    beginning = replace(BEGINNING, extent=Extent(base_size, base_size))
    records = []
    for group in history:
        cut, spans = len(file), EMPTY
        for kind, offset, length in group:
            size = offset if kind == "truncate" else max(len(file), offset + length)
            cut = min(cut, size)
            spans = spans.cut(size) if kind == "truncate" else spans
            file[size:] = []
            file += ["z"] * (size - len(file))
            if kind == "write":
                file[offset : offset + length] = ["w"] * length
                spans = spans.add(Span(offset, offset + length))
        pairs = [[span.start, span.stop] for span in spans]
        records.append({"op": "write", "cut": cut, "size": len(file), "spans": pairs, "boot": BOOT})
    extent = state_of(*records, beginning=beginning).extent
    assert extent.size == len(file)
    for position, byte in enumerate(file):
        here = Span(position, position + 1)
        assert extent.dirty.covers(here) == (byte != "b")
        if byte == "z":
            assert extent.holes.covers(here)
        if byte == "b":
            assert position < extent.base_size
