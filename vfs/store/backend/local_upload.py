"""Uploads in parts on a directory: one sparse file, each part written to its final place.

So finishing is a rename, however large the object. The price is that parts can overwrite each
other, which on an object store they cannot: `Upload` remembers which parts are whole and which
places were written over, and a finish that names a part which is not what it was is refused as if
the part were gone, after which a caller sends everything again.

A part's tag carries its place and the boot in which it was written: parts are not synced one by
one, so a tag of an earlier boot proves nothing. What was uploaded by an earlier process of the same
boot is taken on trust.
"""

import re
import secrets
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vfs.spans import EMPTY, SpanSet
from vfs.store.base import Part
from vfs.values import Span

_TAG = re.compile(r"(\d+)-(\d+)-([0-9a-f]*)-[0-9a-f]+")


class PartGoneError(Exception):
    """A part, or the whole upload, is not there any more; the reason is the message."""


def boot_mark() -> str:
    """Return a short mark of this boot of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii")[:8]
    except OSError:
        return secrets.token_hex(4)  # then only this process trusts its parts


@dataclass(frozen=True, slots=True)
class Placed:
    """What a part's tag says."""

    span: Span
    boot: str


def placed(part: Part) -> Placed | None:
    """Read a tag; None for one that is not ours."""
    found = _TAG.fullmatch(part.tag)
    if found is None:
        return None
    start, size = int(found[1]), int(found[2])
    return Placed(Span(start, start + size), found[3]) if size == part.size else None


class Places:
    """Which parts of one upload are whole. Shared by worker threads."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._changed = threading.Condition()  # guards all below
        self._whole: dict[str, Span] = {}  # tag -> place, written by this process, intact
        self._written: SpanSet = EMPTY  # every place that this process wrote to
        self._busy: list[Span] = []
        self._closed = False

    @contextmanager
    def writing(self, span: Span) -> Generator[str, None, None]:
        """Own a place while a part is written to it; yields the tag that the part will have.

        Overlapping writers take turns, and each voids the parts that it writes over.
        """
        tag = f"{span.start}-{span.size}-{self._boot}-{secrets.token_hex(4)}"
        with self._changed:
            while any(span.overlaps(other) for other in self._busy):
                self._changed.wait()
            self.check()
            if self._written.touches(span):
                self._whole = {
                    known: place for known, place in self._whole.items() if not place.overlaps(span)
                }
            self._written = self._written.add(span)
            self._busy.append(span)
        whole = False
        try:
            yield tag
            whole = True
        finally:
            with self._changed:
                self._busy.remove(span)
                if whole:
                    self._whole[tag] = span
                self._changed.notify_all()

    def check(self) -> None:
        """Stop a writer when the upload is being finished or aborted. Called between pieces."""
        if self._closed:
            raise PartGoneError("the upload was finished or aborted")

    @contextmanager
    def finishing(self) -> Generator[None, None, None]:
        """Keep writers out; for good, unless the block fails."""
        with self._changed:
            if self._closed:
                raise PartGoneError("the upload was finished or aborted")
            self._closed = True
            while self._busy:
                self._changed.wait()
        try:
            yield
        except BaseException:
            self._closed = False
            raise

    def abort(self) -> None:
        """Stop the writers; a finish that has begun goes on."""
        self._closed = True

    def total(self, parts: Sequence[Part]) -> int:
        """Return the size of the object that the parts tile.

        Errors: PartGoneError for a part that is not what it was; ValueError when the parts do
        not lie end to end in the order of their numbers.
        """
        position, number = 0, 0
        for part in parts:
            place = placed(part)
            if place is None or not self._intact(part.tag, place):
                raise PartGoneError(f"part {part.number} is gone or was overwritten")
            if place.span.start != position or part.number <= number:
                raise ValueError(f"part {part.number} does not begin where the one before ends")
            position, number = place.span.stop, part.number
        return position

    def _intact(self, tag: str, place: Placed) -> bool:
        if place.boot != self._boot:
            return False
        return tag in self._whole or not self._written.touches(place.span)


class Uploads:
    """The uploads that this process has written to."""

    def __init__(self) -> None:
        self._boot = boot_mark()
        self._places: dict[str, Places] = {}
        self._guard = threading.Lock()  # guards _places

    def places(self, upload_id: str) -> Places:
        """Return what is known of an upload."""
        with self._guard:
            return self._places.setdefault(upload_id, Places(self._boot))

    def forget(self, upload_id: str) -> None:
        """Drop what is known of an upload that is over."""
        with self._guard:
            self._places.pop(upload_id, None)
