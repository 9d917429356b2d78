"""How values are written."""

from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from vfs.errors import ConfigError, NotInThisVersionError
from vfs.options import (
    Count,
    Duration,
    Flag,
    Given,
    Later,
    LocalPath,
    Octal,
    Section,
    Size,
    Text,
    Words,
    build_section,
    format_duration,
    format_size,
    is_list,
    kind_of,
    nearest,
    parse_duration,
    parse_flag,
    parse_octal,
    parse_size,
    split_options,
)


class Sample(Section):
    size: Size = Field(1024, ge=16)
    wait: Duration | None = Field(None, le=60)
    bare: Flag = False
    mode: Octal = 0o022
    count: Count = 1
    where: LocalPath | None = None
    word: Annotated[Text, Later(("tomorrow",))] = "today"
    words: Words = ()


def build(**values):
    return build_section(Sample, {name: Given(value, "here") for name, value in values.items()})


@given(st.integers(0, 1 << 62))
def test_a_size_is_read_back_as_it_was_written(size):
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**12))
def test_a_duration_in_milliseconds_is_read_back_as_it_was_written(milliseconds):
    duration_s = milliseconds / 1000
    assert parse_duration(format_duration(duration_s)) == duration_s


@given(st.floats(0, 1e9, allow_nan=False))
def test_any_duration_is_read_back_as_it_was_written(duration_s):
    assert parse_duration(format_duration(duration_s)) == duration_s


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("4K", 4096),
        ("4k", 4096),
        ("4KiB", 4096),
        ("3 MiB", 3 << 20),
        ("20G", 20 << 30),
        ("2TiB", 2 << 40),
        ("9B", 9),
        (512, 512),
    ],
)
def test_sizes_count_in_powers_of_1024(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "K", "1.5G", "-1", "1KB", "1 P", "10%", True, None, -1, 2.0, "٣"]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("100ms", 0.1), ("5s", 5), ("2m", 120), ("1h", 3600), ("7d", 604800), ("1.5", 1.5), (3, 3)],
)
def test_a_plain_duration_is_in_seconds(text, duration_s):
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "nan", "inf", float("inf"), True, "1e999"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["yes", "true", "1", "on", "ON", True, 1])
def test_a_switch_is_on(text):
    assert parse_flag(text) is True


@pytest.mark.parametrize("text", ["no", "false", "0", "off", False, 0])
def test_a_switch_is_off(text):
    assert parse_flag(text) is False


@pytest.mark.parametrize("text", ["", "maybe", 2, None, 1.0])
def test_what_is_no_switch_is_refused(text):
    with pytest.raises(ValueError, match="not yes or no"):
        parse_flag(text)


def test_modes_are_written_in_octal():
    assert parse_octal("0022") == parse_octal("22") == parse_octal("0o22") == 0o22
    for wrong in (True, -1, "99", "", "0x1"):
        with pytest.raises(ValueError, match="octal"):
            parse_octal(wrong)


def test_an_option_string_is_cut_at_commas_that_are_not_escaped():
    assert split_options(r"ro,ca-bundle=/a\,b,x=\\,,y=1=2") == [
        ("ro", None),
        ("ca_bundle", "/a,b"),
        ("x", "\\"),
        ("y", "1=2"),
    ]
    assert split_options("") == []


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=5))
def test_any_value_survives_escaping(values):
    text = ",".join("x=" + value.replace("\\", "\\\\").replace(",", "\\,") for value in values)
    assert split_options(text) == [("x", value) for value in values]


def test_an_option_without_a_name_is_refused():
    with pytest.raises(ConfigError, match="without a name"):
        split_options("=1")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", "1Q", "option size (here): '1Q' is not a size"),
        ("size", True, "option size (here): a bare option name is not a size"),
        ("size", "1", "option size (here): must be at least 16; for example size=20G"),
        ("wait", "2h", "option wait (here): must be at most 1m; for example"),
        ("mode", "8", "option mode (here): '8' is not an octal mode"),
        ("count", "-1", "option count (here): '-1' is not a whole number"),
        ("where", "", "option where (here): '' is not a path"),
        ("word", True, "option word (here): needs a text value"),
        ("words", 1, "option words (here): [1] is not a list of words"),
    ],
)
def test_a_complaint_names_option_place_reason_and_a_right_value(name, value, message):
    with pytest.raises(ConfigError) as caught:
        build(**{name: value})
    assert caught.value.message.startswith(message)
    assert "for example" in caught.value.message
    assert "\n" not in caught.value.message


def test_a_value_of_a_later_version_is_refused_as_such():
    with pytest.raises(
        NotInThisVersionError, match=r"option word=tomorrow \(here\): not in this version"
    ):
        build(word="tomorrow")


def test_a_relative_path_is_taken_from_where_we_are():
    assert build(where="x").where == Path.cwd() / "x"


def test_lists_collect():
    assert build(words=["a", "b"]).words == ("a", "b")
    assert is_list(Sample, "words")
    assert not is_list(Sample, "word")


def test_the_kind_of_an_option_is_found_also_where_it_may_be_absent():
    kinds = {name: kind_of(Sample, name) for name in Sample.model_fields}
    assert kinds == {
        "size": "size",
        "wait": "duration",
        "bare": "switch",
        "mode": "octal",
        "count": "number",
        "where": "path",
        "word": "text",
        "words": "list",
    }


def test_values_are_shown_as_they_are_written():
    shown = Sample(size=1 << 30, wait=0.5, mode=0o77).model_dump(mode="json")
    assert (shown["size"], shown["wait"], shown["mode"]) == ("1G", "500ms", "0077")


def test_the_nearest_name_is_offered_only_when_it_is_near():
    assert nearest("memry", ["memory", "umask"]) == "; did you mean memory?"
    assert nearest("zzz", ["memory", "umask"]) == ""
