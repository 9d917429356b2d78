"""The value of the option `bandwidth`: `UP:DOWN`, bytes a second."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from vfs.options import Kind, format_size, parse_size

LEAST_BYTES_PER_S = 16 << 10
"""Slower, a part of 5 MiB takes more than five minutes; `10`, meant as megabytes, stops a mount."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits of both directions, None for none."""

    up_bytes_per_s: int | None = None
    down_bytes_per_s: int | None = None


NO_LIMITS = Rates()


def parse_rates(value: object) -> Rates:
    """Return rates for `20M:100M`, `20M:` and `:100M`; `20M` is both, 0 and nothing is no limit."""
    if isinstance(value, Rates):
        return value
    if not isinstance(value, str):
        rate = _rate(value)
        return Rates(rate, rate)
    up, colon, down = value.partition(":")
    return Rates(_rate(up), _rate(down if colon else up))


def _rate(value: object) -> int | None:
    if isinstance(value, str) and not value.strip():
        return None
    try:
        rate = parse_size(value)
    except ValueError as error:
        raise ValueError(f"{error}; write UP:DOWN, bytes a second") from None
    if 0 < rate < LEAST_BYTES_PER_S:
        least = format_size(LEAST_BYTES_PER_S)
        raise ValueError(f"a limit must be at least {least} a second; 0 is none")
    return rate or None


def format_rates(rates: Rates) -> str:
    """Return the way to write them, nothing where there is no limit."""
    up, down = (
        "" if rate is None else format_size(rate)
        for rate in (rates.up_bytes_per_s, rates.down_bytes_per_s)
    )
    return f"{up}:{down}" if up or down else ""


BandwidthRates = Annotated[
    Rates,
    BeforeValidator(parse_rates),
    PlainSerializer(format_rates, return_type=str, when_used="json-unless-none"),
    Field(examples=["20M:100M"]),
    Kind("rates"),
]
