"""Options of the stage, where written bytes wait until the store has them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from vfs.options import Duration, LocalPath, Section, Size
from vfs.values import MIB

RESERVED_BYTES = 64 * MIB
"""Not for writers, so that one commit can always finish."""
MIN_STAGE_BYTES = 256 * MIB
"""The reserve, and room for some parts."""


def default_stage_directory(
    environ: Mapping[str, str] | None = None, uid: int | None = None
) -> Path:
    """Return where this user's stages stand."""
    environ = os.environ if environ is None else environ
    if (os.getuid() if uid is None else uid) == 0:
        return Path("/var/lib/vfs")
    base = environ.get("XDG_STATE_HOME", "")
    # Relative values are invalid and to be ignored (XDG Base Directory Specification).
    return Path(base, "vfs") if base.startswith("/") else Path.home() / ".local/state/vfs"


class StageConfig(Section):
    """Where written bytes wait, how many, and what fsync promises."""

    stage_dir: LocalPath = Field(
        default_factory=default_stage_directory,
        description=(
            "Local directory for what is not uploaded yet; without it `/var/lib/vfs` for root,"
            " `$XDG_STATE_HOME/vfs` for others."
        ),
        examples=["/var/lib/vfs"],
    )
    stage_size: Size | None = Field(
        None,
        ge=MIN_STAGE_BYTES,
        description=(
            "Most that may wait there; without it 20 % of the disk's free space when mounting."
            " 5 % of the disk always stay free."
        ),
        examples=["50G"],
    )
    stage_wait: Duration = Field(
        60.0,
        gt=0,
        description=(
            "How long a writer waits for a full stage, and fsync for the store, while nothing"
            " moves, before it gets an error."
        ),
        examples=["60s"],
    )
    fsync: Literal["remote", "local"] = Field(
        "remote",
        description=(
            "What fsync and close wait for: `remote`, until the store has the bytes; `local`,"
            " until they are safe on the stage's disk: the upload follows in the background."
        ),
        examples=["local"],
    )
