"""Options of the tree: names, attributes and how files become objects."""

import os
from typing import Annotated, Literal

from pydantic import Field

from vfs.options import Count, Duration, Flag, Later, Octal, Section, Size
from vfs.values import GIB, MIB, TIB

_MAX_ID = (1 << 32) - 2  # 2**32 - 1 is "no id" to the kernel


class TreeConfig(Section):
    """What the mounted files look like."""

    ro: Flag = Field(
        default=False, description="Mount read-only: nothing is ever written to the store."
    )
    uid: Count = Field(
        default_factory=os.getuid,
        le=_MAX_ID,
        description="Owner of files that carry none; without it the user who mounts.",
        examples=["107"],
    )
    gid: Count = Field(
        default_factory=os.getgid,
        le=_MAX_ID,
        description="Group of files that carry none; without it that of the user who mounts.",
        examples=["107"],
    )
    umask: Octal = Field(
        0o022, le=0o777, description="Permission bits that files without a mode do not get."
    )
    metadata_ttl: Duration = Field(
        5.0,
        description=(
            "How long names and attributes may be believed, counted from when the store was asked;"
            " 0 to ask always. From 10s on also across restarts, if there is a cache on disk."
        ),
        examples=["5s"],
    )
    negative_ttl: Duration = Field(
        1.0,
        description="How long a name that was not there is taken to be still missing.",
        examples=["1s"],
    )
    statfs_size: Size = Field(
        1024 * TIB,
        ge=GIB,
        description="Size of the file system as `df` shows it; stores have none of their own.",
        examples=["100T"],
    )
    attributes: Annotated[Literal["sidecar", "none"], Later(("metadata",))] = Field(
        "sidecar",
        description=(
            "Where mode, owner and times are kept: `sidecar`, one small object per directory;"
            " `none`, nowhere."
        ),
        examples=["sidecar"],
    )
    xattr: Flag = Field(default=False, description="Keep extended attributes.")
    part_size: Size | None = Field(
        None,
        ge=5 * MIB,
        le=5 * GIB,
        description="Size of the parts of an upload; without it chosen by the size of the file.",
        examples=["25M"],
    )
    verify_uploads: Flag = Field(
        default=False,
        description=(
            "Read what was uploaded back before `fsync` and `close` return, and upload again what"
            " is not what was sent."
        ),
    )
    layout: Annotated[Literal["plain"], Later(("chunked",))] = Field(
        "plain",
        description="How a file becomes objects: `plain`, one object that any tool can read.",
        examples=["plain"],
    )
