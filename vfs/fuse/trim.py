"""Keeps the number of names small that the kernel makes us keep.

What the kernel has in its cache we must know, and it forgets only when it runs short of memory
itself. Above a limit it is told to forget the names of files that nobody has open; that costs one
more look-up when they are wanted again.

The kernel takes the lock of the directory for it, which whoever waits for an answer of ours may
hold: so it is told from a thread, and nobody ever waits for that thread.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import pyfuse3
import trio

from vfs import names
from vfs.tree.node import Inodes
from vfs.values import Inode

MOST_NODES = 100_000
"""Some 65 MB: one takes 650 bytes."""
LOOK_S = 0.5
BATCH = 2_000
"""Names that the kernel is told of at once: some 10 ms."""

Forget = Callable[[Inode, bytes], None]
"""Makes the kernel forget a name in a directory. Blocking. Errors: OSError."""


def _forget(directory: Inode, name: bytes) -> None:
    pyfuse3.invalidate_entry(pyfuse3.InodeT(directory), pyfuse3.FileNameT(name))


class Trimmer:
    """Holds the nodes of a mount below a limit, as far as the kernel lets go of them."""

    def __init__(self, inodes: Inodes, *, most: int = MOST_NODES, forget: Forget = _forget) -> None:
        self._inodes = inodes
        self._most = most
        self._forget = forget
        self._ended = False

    async def run(self) -> None:
        """Look after the nodes, for ever."""
        try:
            while True:
                await trio.sleep(LOOK_S)
                await self.trim()
        finally:
            self._ended = True

    async def trim(self) -> None:
        """Make the kernel forget what is too much, the oldest first, each name once."""
        excess = len(self._inodes) - self._most
        while excess > 0:
            nodes = self._inodes.idle(min(excess, BATCH))
            batch = [
                (node.parent.inode, names.encode(node.name))
                for node in nodes
                if node.parent is not None
            ]
            if not batch:
                return
            # Whoever holds the lock of a directory may wait for us: an end does not wait for that.
            await trio.to_thread.run_sync(self._tell, batch, abandon_on_cancel=True)
            excess -= len(batch)

    def _tell(self, batch: Sequence[tuple[Inode, bytes]]) -> None:
        for directory, name in batch:
            if self._ended:
                return
            with suppress(OSError):  # it has forgotten it by itself
                self._forget(directory, name)
