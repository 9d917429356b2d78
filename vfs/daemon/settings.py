"""Options that `vfs set` changes on a running mount, until it ends.

All that is asked for at once is looked at before anything is changed: all of it holds, or nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vfs import log
from vfs.config import CONTRACT_OPTIONS
from vfs.errors import ConfigError
from vfs.log import LogConfig
from vfs.options import Given, build_section, nearest, normal_name
from vfs.store.config import StoreConfig
from vfs.store.rates import Rates, format_rates
from vfs.store.wrap.bandwidth import Bandwidth

CHANGEABLE = ("bandwidth", "log_level")

_SOURCE = "vfs set"


@dataclass(frozen=True, slots=True)
class Settings:
    """New values that are right; None stays as it is."""

    bandwidth: Rates | None = None
    log_level: str | None = None


def read_settings(given: Mapping[str, str]) -> Settings:
    """Return what names and values mean.

    Errors: ConfigError for a name that cannot be changed, and for a value that makes no sense.
    """
    found = {normal_name(name): Given(value, _SOURCE) for name, value in given.items()}
    for name in found:
        _check_name(name)
    rates = level = None
    if "bandwidth" in found:
        rates = build_section(StoreConfig, {"bandwidth": found["bandwidth"]}).bandwidth
    if "log_level" in found:
        level = build_section(LogConfig, {"log_level": found["log_level"]}).log_level
    return Settings(rates, level)


def _check_name(name: str) -> None:
    if name in CHANGEABLE:
        return
    can = f"{' and '.join(CHANGEABLE)} can be changed while mounted"
    if name in CONTRACT_OPTIONS:
        raise ConfigError(f"option {name} ({_SOURCE}): {can}; for others mount again")
    raise ConfigError(f"unknown option {name} ({_SOURCE}): {can}{nearest(name, CHANGEABLE)}")


def apply(settings: Settings, limits: Bandwidth) -> None:
    """Make the new values hold."""
    if settings.bandwidth is not None:
        limits.change(settings.bandwidth)
    if settings.log_level is not None:
        log.set_level(settings.log_level)


def current(limits: Bandwidth) -> dict[str, str]:
    """Return what holds now of all that can be changed, as it is written."""
    return {"bandwidth": format_rates(limits.rates), "log_level": log.current_level()}
