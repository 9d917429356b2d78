"""What an earlier mount has found out about its store, kept beside its stage for seven days.

    known.json   {"version": 1, "probed_s": 1764000000, "features": {"version": 1, ...}}

A file that is missing, older, damaged or of another version means that the store is probed again,
which is always right.
"""

import json
import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from vfs.clock import WallClock, wall_ns
from vfs.store.base import Features
from vfs.store.features import features_from_dict, features_to_dict

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
KEPT_S = 7 * 24 * 3600

_NS = 1_000_000_000


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: int
    probed_s: int
    features: dict[str, object]


def recall(directory: Path, *, clock: WallClock = wall_ns) -> Features | None:
    """Return what was found less than seven days ago, None when it must be found out. Blocking."""
    try:
        record = _Record.model_validate_json(_path(directory).read_bytes())
    except (OSError, ValidationError):
        return None
    age_s = clock() // _NS - record.probed_s
    if record.version != FORMAT_VERSION or not 0 <= age_s < KEPT_S:
        return None
    return features_from_dict(record.features)


def remember(directory: Path, features: Features, *, clock: WallClock = wall_ns) -> None:
    """Keep what was found now. Blocking; a disk that fails costs the next mount a probe."""
    record = {
        "version": FORMAT_VERSION,
        "probed_s": clock() // _NS,
        "features": features_to_dict(features),
    }
    path = _path(directory)
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(json.dumps(record))
        fresh.replace(path)
    except OSError as error:
        log.debug("%s could not be written: %s", path, error.strerror)


def _path(directory: Path) -> Path:
    return directory / "known.json"
