"""Features as plain data, so that what a probe found out can be kept for some days.

    {"version": 1, "write_if_absent": true, ..., "parts": {"min_bytes": 5242880, ...}}

An entry of another version, or with a field missing or strange, is no entry: the store is probed
again, which is always right. Fields that came later may be missing.
"""

import dataclasses
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from vfs.store.base import Features

FORMAT_VERSION = 1

_ADAPTER = TypeAdapter(Features)
_NAMES = {"version", *(field.name for field in dataclasses.fields(Features))}
_LATER = {"sparse"}  # unknown to the first programs of this version: as if it were not proved


def features_to_dict(features: Features) -> dict[str, object]:
    """Return a form that JSON can carry."""
    dumped: dict[str, object] = _ADAPTER.dump_python(features, mode="json")
    return {"version": FORMAT_VERSION, **dumped}


def features_from_dict(data: Mapping[str, object]) -> Features | None:
    """Return what `features_to_dict` was given, None for anything else."""
    if data.get("version") != FORMAT_VERSION or not _NAMES - _LATER <= set(data) <= _NAMES:
        return None
    try:
        return _ADAPTER.validate_python({**data, "version": None})
    except ValidationError:
        return None
