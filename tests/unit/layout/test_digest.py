"""Digests against a model: a file is a list of byte values, and a leaf must tell the truth of it."""

import json
from hashlib import sha256
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfs.errors import CorruptError, MetadataError
from vfs.layout.digest import Digest, KeptDigest, Leaf, decode, encode
from vfs.values import Key, Span

A, B, C = ("aa" * 32, "bb" * 32, "cc" * 32)


def hashed(data: bytes, span: Span) -> Leaf:
    return Leaf(span, sha256(data[span.start : span.stop]).hexdigest())


def leaf(start, stop, digest=None, *, copied=False):
    return Leaf(Span(start, stop), digest, copied)


def is_true_of(digest: Digest, data: bytes, base: bytes = b"") -> bool:
    """Whether the leaves tile the file and none of them says what is not so."""
    position = 0
    for one in digest.leaves:
        assert one.span.start == position
        assert one.span
        position = one.span.stop
        piece = slice(one.span.start, one.span.stop)
        if one.sha256 is not None:
            assert sha256(data[piece]).hexdigest() == one.sha256
            assert not one.copied
        if one.copied:
            assert data[piece] == base[piece]
    assert position == digest.size == len(data)
    return True


@st.composite
def cuts(draw, size):
    """Spans that tile a size."""
    inner = draw(st.sets(st.integers(1, max(1, size - 1)), max_size=6)) if size > 1 else set()
    edges = sorted({0, size} | inner)
    return [Span(a, b) for a, b in pairwise(edges)]


@st.composite
def commits(draw, base):
    """A next version of a file, and the steps that made it: sent, kept unhashed, or copied."""
    size = draw(st.integers(0, 40))
    new = bytearray(draw(st.binary(min_size=size, max_size=size)))
    steps = []
    for span in draw(cuts(size)):
        kind = draw(st.sampled_from(["sent", "kept", "copied", "copied"]))
        if kind == "copied" and span.stop <= len(base):
            new[span.start : span.stop] = base[span.start : span.stop]
            steps.append(Leaf(span, copied=True))
        elif kind == "kept":
            steps.append(Leaf(span))
        else:
            steps.append((span,))
    data = bytes(new)
    leaves = [one if isinstance(one, Leaf) else hashed(data, one[0]) for one in steps]
    return data, Digest.of(size, leaves)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_chain_of_commits_never_says_what_is_not_so(data):
    """However the digests are put together: each over the last, or the last ones first."""
    versions = [b""]
    made = []
    for _ in range(3):
        content, digest = data.draw(commits(versions[-1]))
        assert is_true_of(digest, content, versions[-1])
        versions.append(content)
        made.append(digest)
    first, second, third = made
    forwards = third.over(second.over(first.over(None)))
    backwards = third.over(second).over(first).over(None)
    assert is_true_of(forwards, versions[-1])
    assert not forwards.has_copies
    assert forwards == backwards


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_read_completes_a_digest(data):
    content, digest = data.draw(commits(b""))
    unknown = [one.span for one in digest.over(None).leaves if one.is_unknown]
    read = [hashed(content, piece) for span in unknown for piece in span.pieces(7)]
    known = [one for one in digest.leaves if one.sha256 is not None]
    filled = digest.over(None).filled(read)
    assert filled.is_complete
    assert is_true_of(filled, content)
    assert set(known) <= set(filled.leaves)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_kept_is_read_back(data):
    _, digest = data.draw(commits(b"x" * 40))
    kept = KeptDigest(Key("vm/caf\U0010ffe9.img"), "v1", digest)
    assert decode(encode(kept)) == KeptDigest(kept.key, "v1", digest.over(None))


def test_a_leaf_that_was_copied_in_part_is_unknown():
    base = Digest.of(30, [leaf(0, 10, A), leaf(10, 20, B), leaf(20, 30, C)])
    new = Digest.of(30, [leaf(0, 15, copied=True), leaf(15, 17, A), leaf(17, 30, copied=True)])
    assert new.over(base).leaves == (
        leaf(0, 10, A),
        leaf(10, 15),
        leaf(15, 17, A),
        leaf(17, 20),
        leaf(20, 30, C),
    )


def test_two_copies_side_by_side_keep_the_leaf_that_spans_them():
    base = Digest.of(20, [leaf(0, 20, A)])
    new = Digest.of(20, [leaf(0, 10, copied=True), leaf(10, 20, copied=True)])
    assert new == Digest.copied(20)
    assert new.over(base) == base


def test_leaves_that_overlap_or_lie_outside_are_a_mistake():
    for wrong in ([leaf(0, 10, A), leaf(9, 12, B)], [leaf(5, 31, A)]):
        with pytest.raises(ValueError, match="does not lie"):
            Digest.of(30, wrong)


def test_the_root_names_the_leaves():
    digests = [
        Digest.unknown(10),
        Digest.whole(10, A),
        Digest.whole(10, B),
        Digest.whole(11, A),
        Digest.of(10, [leaf(0, 5, A)]),
        Digest.of(10, [leaf(5, 10, A)]),
    ]
    assert len({digest.root for digest in digests}) == len(digests)


def test_an_empty_file_has_no_leaves_and_is_complete():
    assert Digest.whole(0, A) == Digest.unknown(0) == Digest.copied(0) == Digest(0, ())
    assert Digest.unknown(0).is_complete


KEPT = encode(KeptDigest(Key("a"), "v1", Digest.of(10, [leaf(0, 5, A)])))


@pytest.mark.parametrize(
    "change",
    [
        {"size": 11},
        {"root": A},
        {"key": None},
        {"object": 7},
        {"leaves": [[5, B], [5, None]]},
        {"leaves": [[5, A.upper()], [5, None]]},
        {"leaves": [[-5, A], [15, None]]},
        {"leaves": [5]},
        {"leaves": {}},
        {"version": "1"},
    ],
    ids=str,
)
def test_a_damaged_digest_is_refused(change):
    with pytest.raises(CorruptError, match="damaged"):
        decode(json.dumps({**json.loads(KEPT), **change}).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, len(KEPT) - 1), st.integers(1, 255))
def test_what_is_no_digest_is_refused_and_never_crashes(noise, place, flip):
    flipped = bytearray(KEPT)
    flipped[place] ^= flip
    for data in (noise, KEPT[:place], bytes(flipped)):
        try:
            found = decode(data)
        except (CorruptError, MetadataError):
            continue
        # What a flip cannot change without being noticed are the leaves.
        assert found.digest == decode(KEPT).digest
