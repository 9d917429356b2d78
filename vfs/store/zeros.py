"""Zeros: a hole of a file, as bytes and as a digest."""

import functools
import hashlib

from vfs.values import MIB, Span

ZEROS = bytes(MIB)
"""As many as anybody handles at once."""


@functools.lru_cache(maxsize=64)
def zeros_digest(size: int) -> str:
    """Return the SHA-256 of so many zeros: parts come in few sizes. Blocking."""
    digest = hashlib.sha256()
    for piece in Span(0, size).pieces(len(ZEROS)):
        digest.update(memoryview(ZEROS)[: piece.size])
    return digest.hexdigest()
