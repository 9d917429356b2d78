"""The plain values that every layer speaks: identifiers, spans, sizes.

Everything here is frozen and knows nothing of files, stores or kernels. Identifiers are `NewType`s
so that a key can never be passed where a version is wanted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NewType

Key = NewType("Key", str)
"""Name of an object, relative to the mounted prefix; never starts with a slash."""

Version = NewType("Version", str)
"""Opaque: two equal versions of one key have equal content (ETag, generation, inode + times)."""

Inode = NewType("Inode", int)
HandleId = NewType("HandleId", int)

ROOT_INODE = Inode(1)

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

SECTOR_BYTES = 4 * KIB
"""Granularity of what may be called zero or changed: the page of every kernel we run on."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Half-open byte range `[start, stop)`."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise ValueError(f"not a span: [{self.start}, {self.stop})")

    @property
    def size(self) -> int:
        """Number of bytes covered."""
        return self.stop - self.start

    def __bool__(self) -> bool:
        return self.stop > self.start

    def overlaps(self, other: "Span") -> bool:
        """Tell whether at least one byte is in both."""
        return max(self.start, other.start) < min(self.stop, other.stop)

    def contains(self, other: "Span") -> bool:
        """Tell whether every byte of `other` is in this span."""
        return self.start <= other.start and other.stop <= self.stop

    def clip(self, other: "Span") -> "Span":
        """Return the bytes that are in both; empty where there are none."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.stop, other.stop)))

    def shift(self, distance: int) -> "Span":
        """Return the span moved by `distance` bytes."""
        return Span(self.start + distance, self.stop + distance)

    def grow(self, grain: int) -> "Span":
        """Return the smallest span on multiples of `grain` that contains this one."""
        return Span(self.start // grain * grain, -(-self.stop // grain) * grain)

    def pieces(self, size: int) -> Iterator["Span"]:
        """Cut into consecutive spans of at most `size` bytes."""
        for start in range(self.start, self.stop, size):
            yield Span(start, min(start + size, self.stop))
