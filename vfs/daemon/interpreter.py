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

# The bytes of a write and the buffer in which the FUSE library receives it (a MiB each, two for
# each writer that waits) are mapped and unmapped by themselves: a heap that small objects share
# with them is torn into pieces that nothing of that size fits into, and only ever grows.
_MAPPED_BYTES = 512 * KIB


def tune_interpreter() -> None:
    """Keep the collector off what never dies, and freed buffers in the process.

    By default every freed buffer of 128 KiB goes back to the kernel and the next one takes page
    faults for all its pages; the collector walks all of the SDK's objects again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    libc = ctypes.CDLL(None)
    # Each thread would keep what it has freed to itself: a hundred threads, a hundred megabytes.
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, 32 * MIB)
