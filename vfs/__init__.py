"""vfs: remote storage as files, for virtual machine disk images."""

__version__ = "0.1.0"
