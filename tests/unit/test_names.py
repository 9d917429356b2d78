"""File names and key components lead to each other, exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfs import names
from vfs.errors import InvalidNameError, NameTooLongError, NotPermittedError

# The private range of the escape, whose characters must not be taken for escaped bytes.
escapes = st.integers(0x80, 0xFF).map(lambda byte: chr(0x10FF00 + byte))
fragments = st.one_of(
    st.binary(max_size=6),
    st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace")),
    escapes.map(lambda char: char.encode()),
    escapes.map(lambda char: char.encode()[:-1]),
    st.sampled_from([b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xff", b"caf\xe9"]),
)
raw_names = st.lists(fragments, max_size=6).map(b"".join)
components = st.text(
    st.one_of(st.characters(), escapes, st.characters(min_codepoint=0x10FF00)), max_size=12
)


def may_be_a_name(raw: bytes) -> bool:
    return raw not in {b"", b".", b".."} and not set(raw) & set(b"/\0") and len(raw) <= 255


@given(raw_names)
def test_every_name_comes_back_from_its_key(raw):
    assert names.encode(names.decode(raw)) == raw


@given(raw_names)
def test_a_key_is_utf8_whatever_the_name(raw):
    names.decode(raw).encode("utf-8")


@given(raw_names, raw_names)
def test_two_names_have_two_keys(one, other):
    assert (names.decode(one) == names.decode(other)) == (one == other)


@given(st.text(st.characters(codec="utf-8", max_codepoint=0x10FEFF)))
def test_a_name_in_utf8_is_its_own_key(text):
    assert names.decode(text.encode()) == text


@given(raw_names)
def test_every_name_of_the_kernel_is_a_name(raw):
    assert names.is_name(names.decode(raw)) == may_be_a_name(raw)


@given(components)
def test_a_component_is_a_name_if_it_is_what_its_name_decodes_to(component):
    if names.is_name(component):
        raw = names.encode(component)
        assert may_be_a_name(raw)
        assert names.decode(raw) == component


def test_a_byte_that_is_not_utf8_is_escaped():
    assert names.decode(b"caf\xe9") == "caf\U0010ffe9"
    assert names.encode("caf\U0010ffe9") == b"caf\xe9"


def test_a_key_that_no_name_leads_to_is_not_a_name():
    # The escapes of two bytes that together are valid UTF-8: their name would decode to "é".
    assert not names.is_name("\U0010ffc3\U0010ffa9")


@pytest.mark.parametrize(
    ("component", "error"),
    [
        ("x" * 256, NameTooLongError),
        ("é" * 128, NameTooLongError),
        ("", InvalidNameError),
        ("..", InvalidNameError),
        ("a/b", InvalidNameError),
        (".vfs", NotPermittedError),
        (".vfs.attrs", NotPermittedError),
        (".vfs.attrs.4-1", NotPermittedError),
    ],
)
def test_a_name_that_nobody_may_create_is_refused(component, error):
    with pytest.raises(error):
        names.check_new(component)


@pytest.mark.parametrize("component", [".vfsx", "vfs", "a.vfs.attrs", "...", "x" * 255])
def test_a_name_that_only_looks_odd_may_be_created(component):
    names.check_new(component)
