"""The file system that front ends speak to: its parts, and no logic."""

from dataclasses import dataclass

from vfs.tree.context import Context
from vfs.tree.files import Files
from vfs.tree.metadata import Metadata
from vfs.tree.namespace import Namespace
from vfs.tree.reading import Reading
from vfs.tree.rename import Rename


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One mounted tree. Knows no kernel interface: any front end can drive it."""

    context: Context
    namespace: Namespace
    rename: Rename
    files: Files
    metadata: Metadata
    reading: Reading


def make_filesystem(context: Context) -> FileSystem:
    """Put the operations of a tree together."""
    namespace = Namespace(context)
    files = Files(context, namespace)
    return FileSystem(
        context=context,
        namespace=namespace,
        rename=Rename(context, namespace),
        files=files,
        metadata=Metadata(context, files),
        reading=Reading(context),
    )
