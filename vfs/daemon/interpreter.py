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

# Between the two sizes of which there are hundreds. The bytes of one write (1 MiB and an object's
# head) come from the heap, which keeps their pages for the next one. The buffer into which the FUSE
# library receives requests (1 MiB and 4 KiB, one for each request that waits) is mapped and
# unmapped by itself, so that it costs only the pages that were used: for all but writes, one.
_REQUEST_BYTES = MIB + 2 * KIB


def tune_interpreter() -> None:
    """Keep the collector off what never dies, and freed buffers in the process.

    By default every freed 128 KiB request goes back to the kernel and the next one takes page
    faults for all its pages; the collector walks all of the SDK's objects again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    libc = ctypes.CDLL(None)
    # Each thread would keep what it has freed to itself: a hundred threads, a hundred megabytes.
    libc.mallopt(_M_ARENA_MAX, 1)
    libc.mallopt(_M_MMAP_THRESHOLD, _REQUEST_BYTES)
    libc.mallopt(_M_TRIM_THRESHOLD, 32 * MIB)
