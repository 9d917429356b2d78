"""What a content must know of the name it belongs to."""

from collections.abc import Mapping
from typing import Protocol

from vfs.layout.base import FileVersion
from vfs.stage.journal import About
from vfs.values import Key


class Owner(Protocol):
    """What a content must know of the name it belongs to."""

    @property
    def key(self) -> Key:
        """Where the next version goes."""
        ...

    @property
    def is_fragile(self) -> bool:
        """Whether a restart must know of a commit, for what the object does not tell by itself."""
        ...

    def object_metadata(self) -> Mapping[str, str]:
        """Return what is stored with the object: mode, owner, times."""
        ...

    def about(self) -> About:
        """Return what a restart must know of the name: its attributes as JSON values."""
        ...

    def committed(self, version: FileVersion) -> None:
        """Take note of a new version."""
        ...
