"""`vfs evict`; it is `vfs warm` the other way round."""

from vfs.cli.warm import evict_command

__all__ = ["evict_command"]
