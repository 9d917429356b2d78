"""The digest of one version of a file: SHA-256 of its pieces, as far as they are known. Pure.

A digest is made of *leaves* that tile the file, each with the SHA-256 of its bytes or unknown. They
are the parts that were uploaded, each with the very digest that signed it; what nobody has read
since is unknown until `vfs verify` reads it. A range that the store has copied is *copied* until
the digest of the version that it came from is at hand: then it has that one's leaves, where they
lie wholly inside, because a copy has the offsets of its source.

Digests outlive a process as small objects of their own; `encode` and `decode` are their format.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast

from vfs.errors import CorruptError, MetadataError
from vfs.values import Key, Span

FORMAT_VERSION = 1
_HEX_DIGITS = 64


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is known of a piece of a file."""

    span: Span
    sha256: str | None = None  # hex
    copied: bool = False  # the base version has the same bytes at the same offsets

    @property
    def is_unknown(self) -> bool:
        """Whether nothing is known of it."""
        return self.sha256 is None and not self.copied


@dataclass(frozen=True, slots=True)
class Digest:
    """Leaves that tile `[0, size)`; neighbours of which neither has a SHA-256 differ in kind."""

    size: int
    leaves: tuple[Leaf, ...]

    @classmethod
    def of(cls, size: int, leaves: Iterable[Leaf]) -> "Digest":
        """Return the digest of ascending leaves; what lies between them is unknown.

        Errors: ValueError when they overlap or do not lie in the file.
        """
        return cls(size, tuple(_tiled(size, leaves)))

    @classmethod
    def whole(cls, size: int, sha256: str) -> "Digest":
        """Return the digest of a file that was hashed as a whole."""
        return cls.of(size, [Leaf(Span(0, size), sha256)])

    @classmethod
    def unknown(cls, size: int) -> "Digest":
        """Return the digest of a file of which nothing is known."""
        return cls.of(size, [])

    @classmethod
    def copied(cls, size: int) -> "Digest":
        """Return the digest of a file that has the bytes of its base."""
        return cls.of(size, [Leaf(Span(0, size), copied=True)])

    @property
    def is_complete(self) -> bool:
        """Whether every byte is covered by a SHA-256."""
        return all(leaf.sha256 is not None for leaf in self.leaves)

    @property
    def has_copies(self) -> bool:
        """Whether the digest of the base would tell more."""
        return any(leaf.copied for leaf in self.leaves)

    @property
    def is_known(self) -> bool:
        """Whether there is a SHA-256 of anything."""
        return any(leaf.sha256 is not None for leaf in self.leaves)

    @property
    def root(self) -> str:
        """Name the leaves by one SHA-256, in hex."""
        lines = (f"{leaf.span.size} {leaf.sha256 or '-'}\n" for leaf in self.leaves)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def over(self, base: "Digest | None") -> "Digest":
        """Return it with what the base's digest tells of the copied ranges; None tells nothing."""
        return Digest.of(self.size, self._resolved(base))

    def _resolved(self, base: "Digest | None") -> Iterator[Leaf]:
        known = iter(base.leaves if base is not None else ())
        below = next(known, None)
        for leaf in self.leaves:
            if not leaf.copied:
                yield leaf
                continue
            while below is not None and below.span.start < leaf.span.stop:
                inside = below.span.clip(leaf.span)
                if inside == below.span or (inside and below.copied):
                    yield replace(below, span=inside)
                if below.span.stop > leaf.span.stop:  # it may reach into the next copied range
                    break
                below = next(known, None)

    def filled(self, read: Iterable[Leaf]) -> "Digest":
        """Return it with leaves that somebody has read, in place of what was unknown.

        Errors: ValueError for a leaf that does not lie in an unknown range.
        """
        mine = [leaf for leaf in self.leaves if not leaf.is_unknown]
        return Digest.of(self.size, sorted([*mine, *read], key=lambda leaf: leaf.span))


def _tiled(size: int, leaves: Iterable[Leaf]) -> Iterator[Leaf]:
    """Yield the leaves, unknown ones between them, and neighbours of one kind as one."""
    waiting: Leaf | None = None
    for leaf in _without_gaps(size, leaves):
        if waiting is not None:
            if leaf.sha256 is None and leaf.copied == waiting.copied:
                waiting = replace(waiting, span=Span(waiting.span.start, leaf.span.stop))
                continue
            yield waiting
            waiting = None
        if leaf.sha256 is None:
            waiting = leaf
        else:
            yield leaf
    if waiting is not None:
        yield waiting


def _without_gaps(size: int, leaves: Iterable[Leaf]) -> Iterator[Leaf]:
    position = 0
    for leaf in leaves:
        if leaf.span.start < position or leaf.span.stop > size:
            raise ValueError(f"{leaf.span} does not lie after {position} and within {size} bytes")
        if leaf.span.start > position:
            yield Leaf(Span(position, leaf.span.start))
        if leaf.span:
            yield leaf
        position = leaf.span.stop
    if position < size:
        yield Leaf(Span(position, size))


@dataclass(frozen=True, slots=True)
class KeptDigest:
    """A digest as it is kept: whose it is, and of which version."""

    key: Key
    version: str
    digest: Digest


def encode(kept: KeptDigest) -> bytes:
    """Return the bytes of a digest object; copied ranges are written as unknown."""
    digest = kept.digest.over(None)
    value = {
        "version": FORMAT_VERSION,
        "key": kept.key,
        "object": kept.version,
        "size": digest.size,
        "root": digest.root,
        "leaves": [[leaf.span.size, leaf.sha256] for leaf in digest.leaves],
    }
    return json.dumps(value, separators=(",", ":")).encode()


def decode(data: bytes) -> KeptDigest:
    """Read a digest object.

    Errors: MetadataError for one of a newer version; CorruptError for one that is damaged.
    """
    try:
        value: object = json.loads(data)
        if not isinstance(value, dict):
            raise TypeError("no object")  # noqa: TRY301 - one kind of damage among others
        fields = cast("dict[str, object]", value)
        version = fields["version"]
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise MetadataError(
                f"a digest has format version {version}; this vfs reads up to {FORMAT_VERSION}: "
                "use a newer vfs"
            )
        return _read(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"a digest is damaged: {error!r}") from error


def _read(fields: dict[str, object]) -> KeptDigest:
    match fields:
        case {
            "version": 1,
            "key": str(key),
            "object": str(version),
            "size": int(size),
            "root": str(root),
            "leaves": list(),
        }:
            pairs = cast("list[object]", fields["leaves"])
            digest = Digest(size, tuple(_read_leaves(pairs)))
        case _:
            raise ValueError("a field is missing or of the wrong kind")
    end = digest.leaves[-1].span.stop if digest.leaves else 0
    if end != size or digest.root != root:
        raise ValueError("its leaves are not those that were written")
    return KeptDigest(Key(key), version, digest)


def _read_leaves(pairs: list[object]) -> Iterator[Leaf]:
    position = 0
    for pair in pairs:
        match pair:
            case [int(size), None] if size > 0:
                leaf = Leaf(Span(position, position + size))
            case [int(size), str(sha256)] if size > 0 and is_sha256(sha256):
                leaf = Leaf(Span(position, position + size), sha256)
            case _:
                raise ValueError(f"{pair!r} is no leaf")
        yield leaf
        position = leaf.span.stop


def is_sha256(text: str) -> bool:
    """Tell whether a text is a SHA-256 as we write it."""
    return len(text) == _HEX_DIGITS and not set(text) - set("0123456789abcdef")
