r"""Options: how a value is written, and what a group of options is.

Each component declares its options as one frozen `Section` beside its own code; the field's name
is the option's name, and its description is what the manual says. A value may arrive as text (`-o`,
the environment) or as a TOML value; both go through the same parsers, so an option means the same
wherever it stands. Where an option is allowed to stand is decided in `vfs/config.py`.

Every complaint is one line: the option, where it was given, what is wrong, and a value that is
right.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
)
from pydantic.fields import FieldInfo

from vfs.errors import ConfigError, NotInThisVersionError

_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(?:iB)?|B)?", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_DURATION = re.compile(r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(ms|s|m|h|d)?", re.ASCII)
_DURATION_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_YES = frozenset({"yes", "true", "1", "on"})
_NO = frozenset({"no", "false", "0", "off"})


@dataclass(frozen=True, slots=True)
class Given:
    """One value as it was given, and where: `option -o`, `environment VFS_MEMORY`, a file."""

    value: object
    source: str


@dataclass(frozen=True, slots=True)
class Later:
    """Values of the contract that this version refuses."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value looks like, in one word for a person."""

    name: str


class Section(BaseModel):
    """A group of options that one component consumes."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


S = TypeVar("S", bound=Section)


def parse_size(value: object) -> int:
    """Return bytes for `512M`, `20GiB` or a plain number; units are powers of 1024."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{_shown(value)} is not a size (K, M, G, T are powers of 1024)")
    return int(found[1]) * _SIZE_UNITS[(found[2] or "").upper()]


def format_size(size: int) -> str:
    """Return the shortest exact way to write a size."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def parse_duration(value: object) -> float:
    """Return seconds for `100ms`, `5s`, `2m`, `1h`, `7d`; a plain number is seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return float(value)
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        number = float(found[1])
        # Divided, not multiplied by 0.001: 700 ms must be the same float as 0.7 s.
        seconds = number / 1000 if found[2] == "ms" else number * _DURATION_UNITS_S[found[2] or "s"]
        if math.isfinite(seconds):
            return seconds
    raise ValueError(f"{_shown(value)} is not a duration (units: ms s m h d)")


def format_duration(duration_s: float) -> str:
    """Return the shortest exact way to write a duration."""
    for unit, factor in _DURATION_UNITS_S.items():
        if duration_s >= factor and duration_s % factor == 0:
            return f"{int(duration_s // factor)}{unit}"
    milliseconds = round(duration_s * 1000)
    if not milliseconds:
        return repr(duration_s) if duration_s else "0"
    return f"{milliseconds}ms" if milliseconds / 1000 == duration_s else repr(duration_s)


def parse_flag(value: object) -> bool:
    """Return a switch; the bare name means yes."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _YES | _NO and isinstance(value, str | int):
        return text in _YES
    raise ValueError(f"{_shown(value)} is not yes or no")


def parse_octal(value: object) -> int:
    """Return permission bits, written as octal text."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"(?:0o)?[0-7]{1,4}", value.strip(), re.ASCII):
        return int(value, 8)
    raise ValueError(f"{_shown(value)} is not an octal mode")


def parse_count(value: object) -> int:
    """Return a whole number."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value.strip(), re.ASCII):
        return int(value)
    raise ValueError(f"{_shown(value)} is not a whole number")


def parse_path(value: object) -> Path:
    """Return an absolute path: the daemon leaves the directory in which it was started."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{_shown(value)} is not a path")
    return Path(value).expanduser().absolute()


def parse_words(value: object) -> tuple[str, ...]:
    """Return a list, given by repeating the option or as a TOML array."""
    words = cast("Sequence[object]", value if isinstance(value, list | tuple) else [value])
    if not all(isinstance(word, str) and word for word in words):
        raise ValueError(f"{_shown(words)} is not a list of words")
    return tuple(str(word) for word in words)


def _shown(value: object) -> str:
    return "a bare option name" if value is True else repr(value)


_OPTIONAL = "json-unless-none"
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, when_used=_OPTIONAL),
    Field(examples=["20G"]),
    Kind("size"),
]
"""Bytes."""
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used=_OPTIONAL),
    Field(examples=["30s"]),
    Kind("duration"),
]
"""Seconds."""
Flag = Annotated[
    bool,
    BeforeValidator(parse_flag),
    Field(examples=["yes"]),
    Kind("switch"),
]
Octal = Annotated[
    int,
    BeforeValidator(parse_octal),
    PlainSerializer(lambda mode: f"{mode:04o}", return_type=str, when_used=_OPTIONAL),
    Field(examples=["0022"]),
    Kind("octal"),
]
Count = Annotated[
    int,
    BeforeValidator(parse_count),
    Field(examples=["4"]),
    Kind("number"),
]
LocalPath = Annotated[
    Path,
    BeforeValidator(parse_path),
    Field(examples=["/srv/vfs"]),
    Kind("path"),
]
Text = Annotated[
    str,
    StringConstraints(min_length=1, strict=True),
    Field(examples=["TEXT"]),
    Kind("text"),
]
Words = Annotated[
    tuple[str, ...],
    BeforeValidator(parse_words),
    Field(examples=["WORD"]),
    Kind("list"),
]


def split_options(text: str) -> list[tuple[str, str | None]]:
    r"""Cut an `-o` string into names and values; `\,` is a comma inside a value."""
    pieces = re.findall(r"(?:\\.|[^,\\]|\\$)+", text, re.DOTALL)
    pairs: list[tuple[str, str | None]] = []
    for piece in pieces:
        name, equals, value = re.sub(r"\\([,\\])", r"\1", piece).partition("=")
        if name.strip():
            pairs.append((normal_name(name), value if equals else None))
        elif equals:
            raise ConfigError("an option without a name stands before '='; write NAME=VALUE")
    return pairs


def normal_name(name: str) -> str:
    """Return the one spelling of an option name: `-` and `_` are equal."""
    return name.strip().replace("-", "_")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return `; did you mean X?` for a name that is close to a known one, else nothing."""
    close = get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def build_section(model: type[S], given: Mapping[str, Given]) -> S:
    """Make a section of the values that were given for it.

    Errors: ConfigError, NotInThisVersionError.
    """
    for name, entry in given.items():
        for marker in model.model_fields[name].metadata:
            if isinstance(marker, Later) and entry.value in marker.values:
                raise NotInThisVersionError(
                    f"option {name}={entry.value} ({entry.source}): not in this version"
                )
    try:
        return model.model_validate({name: entry.value for name, entry in given.items()})
    except ValidationError as error:
        raise ConfigError(_explain(model, given, error)) from None


def _explain(model: type[Section], given: Mapping[str, Given], error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if not first["loc"]:  # a rule between options of one section
        return first["msg"].removeprefix("Value error, ")
    name = str(first["loc"][0])
    source = f" ({given[name].source})" if name in given else ""
    found = example_of(model, name)
    example = f"; for example {name}={found}" if found else ""
    reason = _reason(first["type"], first["msg"], first.get("ctx", {}), kind_of(model, name))
    return f"option {name}{source}: {reason}{example}"


def _reason(error_type: str, message: str, context: Mapping[str, object], kind: str) -> str:
    for limit, words in (("ge", "at least"), ("gt", "more than"), ("le", "at most")):
        bound = context.get(limit)
        if isinstance(bound, int | float):
            return f"must be {words} {_format_bound(bound, kind)}"
    match error_type:
        case "literal_error":
            return f"must be {context['expected']}"
        case "string_pattern_mismatch":  # the pattern would help nobody, the value may be private
            return "does not have the right form"
        case "string_type" | "string_too_short":
            return "needs a text value"
        case _:
            return message.removeprefix("Value error, ")


def _format_bound(bound: float, kind: str) -> str:
    if kind == "size":
        return format_size(int(bound))
    if kind == "duration":
        return format_duration(float(bound))
    return f"{int(bound):04o}" if kind == "octal" else str(bound)


def kind_of(model: type[Section], name: str) -> str:
    """Return the kind of an option in one word: size, duration, switch, choice..."""
    if choices_of(model, name):
        return "choice"
    kinds = [mark.name for mark in _marks(model, name) if isinstance(mark, Kind)]
    return kinds[0] if kinds else "text"


def example_of(model: type[Section], name: str) -> str | None:
    """Return a value that is right."""
    own = model.model_fields[name].examples
    for mark in (None, *_marks(model, name)):
        examples = own if mark is None else mark.examples if isinstance(mark, FieldInfo) else None
        if examples:
            return str(examples[0])
    return None


def _marks(model: type[Section], name: str) -> list[object]:
    field = model.model_fields[name]
    marks: list[object] = list(field.metadata)
    for option in get_args(field.annotation):  # `Size | None` nests them
        marks += getattr(option, "__metadata__", ())
    return marks


def choices_of(model: type[Section], name: str) -> tuple[str, ...]:
    """Return the words that a choice may be; nothing for other kinds."""
    annotation = model.model_fields[name].annotation
    for option in (annotation, *get_args(annotation)):
        if get_origin(option) is Literal:
            return get_args(option)
    return ()


def is_list(model: type[Section], name: str) -> bool:
    """Tell whether an option collects its repetitions."""
    return kind_of(model, name) == "list"
