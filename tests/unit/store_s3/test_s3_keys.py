"""Keys and metadata go to S3 and come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs.errors import InvalidError, InvalidNameError, NameTooLongError
from vfs.store.backend.s3_keys import (
    Keys,
    decode_metadata,
    encode_metadata,
    etag_of,
    etag_of_parts,
    fits_xml,
    version_of,
)
from vfs.values import Key

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_any_text_survives_as_metadata(text):
    encoded = encode_metadata({"note": text})
    assert encoded["note"].isascii()
    assert encoded["note"].isprintable() or not encoded["note"]
    assert encoded["note"] == encoded["note"].strip()
    assert "  " not in encoded["note"]
    assert decode_metadata(encoded) == {"note": text}


@pytest.mark.parametrize("plain", ["33188", "0", "1700000000.123", "s3://a/b?c=d", "one two"])
def test_plain_values_stay_as_they_are(plain):
    assert encode_metadata({"mode": plain}) == {"mode": plain}


@pytest.mark.parametrize("name", ["", "Upper", "with space", "caf\u00e9", "a:b", "-x"])
def test_a_metadata_name_that_no_header_carries_is_refused(name):
    with pytest.raises(InvalidError):
        encode_metadata({name: "x"})


def test_metadata_names_come_back_in_lower_case():
    assert decode_metadata({"Mode": "1"}) == {"mode": "1"}


def test_the_prefix_counts_towards_the_length_of_a_key():
    keys = Keys("prefix/")
    assert len(keys.full(Key("x" * 1017))) == 1024
    with pytest.raises(NameTooLongError):
        keys.full(Key("x" * 1018))
    with pytest.raises(NameTooLongError):
        Keys("").full(Key("\u00e9" * 513))


@pytest.mark.parametrize("key", ["nul\0", "lone \ud800 surrogate"])
def test_a_key_that_cannot_be_sent_is_refused(key):
    with pytest.raises(InvalidNameError):
        Keys("").full(Key(key))


def test_a_key_comes_back_without_the_prefix():
    keys = Keys("a/b/")
    assert keys.short(keys.full(Key("c/d"))) == "c/d"


@pytest.mark.parametrize(("text", "fits"), [("a\tb\n", True), ("\U0001f4be", True), ("\x01", False),
                                            ("a\rb", False), ("\ufffe", False)])  # fmt: skip
def test_keys_that_xml_cannot_name_are_known(text, fits):
    assert fits_xml(text) is fits


@pytest.mark.parametrize(
    ("etag", "version", "sent"),
    [('"abc"', "abc", '"abc"'), ("abc-3", "abc-3", '"abc-3"'), ('W/"abc"', 'W/"abc"', 'W/"abc"')],
)
def test_a_version_is_an_etag_without_its_quotes(etag, version, sent):
    assert version_of(etag) == version
    assert etag_of(version_of(etag)) == sent


def test_the_etag_of_a_finished_upload_follows_from_those_of_its_parts():
    # As Ceph 16 gave it to an upload of the one part b"small".
    part = '"eb5c1399a871211c7e7ed732d15e3a8b"'
    assert etag_of_parts([part]) == "a07b3b905264c4f7a78bd531afee70b6-1"
    assert etag_of_parts([part, '"not-md5"']) is None
