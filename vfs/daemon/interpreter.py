"""Settings of the Python process that a daemon moving gigabytes wants.

Figures and the command that repeats them are in docs/performance.md.
"""

import ctypes
import gc

from vfs.values import KIB, MIB

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

# The bytes of a write and the buffer in which the FUSE library receives it are a MiB and a little.
# In the heap they are found again without a page fault, which saves a third of a writer's CPU. But
# a heap that small objects share with hundreds of them is torn into pieces that nothing of that
# size fits into, and only ever grows: with many files open they are mapped by themselves.
FEW_FILES = 32
_IN_HEAP_BYTES = 1280 * KIB
_MAPPED_BYTES = 512 * KIB


class Allocator:
    """The C library's, told how many files are open."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None)
        # Each thread would keep what it has freed: a hundred threads, a hundred megabytes.
        self._libc.mallopt(_M_ARENA_MAX, 1)
        self._libc.mallopt(_M_TRIM_THRESHOLD, 32 * MIB)
        self._few = False
        self.adapt(0)

    def adapt(self, open_files: int) -> None:
        """Choose where large buffers go, for so many open files."""
        few = open_files <= FEW_FILES
        if few != self._few:
            self._few = few
            self._libc.mallopt(_M_MMAP_THRESHOLD, _IN_HEAP_BYTES if few else _MAPPED_BYTES)


def tune_interpreter() -> Allocator:
    """Keep the collector off what never dies, and freed buffers in the process.

    By default every freed buffer of 128 KiB goes back to the kernel and the next one takes page
    faults for all its pages; the collector walks all of the SDK's objects again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    return Allocator()
