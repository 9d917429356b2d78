"""What a restart must know of one staged file: records, and the state that they add up to. Pure.

    {"op": "file",   "key", "replaces", "base", "extent", "metadata"}
    {"op": "write",  "cut", "size", "spans", "boot"}
    {"op": "name",   "key", "replaces", "metadata"}
    {"op": "commit", "id", "since"}        before the first request of a commit, at its frozen state
    {"op": "upload", "upload_id", "key", "commit"}      before its first part is sent
    {"op": "part",   "number", "tag", "size", "start"}
    {"op": "stored", "base"}               the commit has taken effect

A `write` tells what was written since the one before: `cut` is the smallest size that the file had
on the way. Without `boot` its bytes were on the disk before it was written; with it, they were in
the page cache of the boot that it names and survive only a crash of the daemon. What is written
after a `commit` is what remains dirty when that commit is `stored`; `since`, an extent, is null but
where a log was rewritten meanwhile.

An extent is {"size", "base_size", "dirty": [[start, stop], ...], "holes": [[start, stop], ...]}.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from vfs.errors import CorruptError
from vfs.layout.base import FileVersion
from vfs.spans import EMPTY, SpanSet
from vfs.stage.records import Record, Value, file_of, file_record, number, text
from vfs.store.base import Part, Upload
from vfs.values import Key, Span

_NOTHING: Mapping[str, str] = MappingProxyType({})


def _nothing() -> Mapping[str, str]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of a file and which of its bytes differ from its base version."""

    size: int
    base_size: int  # bytes that still come from the base, where they are not dirty
    dirty: SpanSet = EMPTY
    holes: SpanSet = EMPTY  # dirty bytes that are zeros and were never written

    def changed(self, cut: int, size: int, spans: Iterable[Span]) -> "Extent":
        """Return what it becomes by a truncation to `cut`, an extension to `size`, and writes."""
        dirty, holes, base_size, now = self.dirty, self.holes, self.base_size, self.size
        if cut < now:
            dirty, holes = dirty.cut(cut), holes.cut(cut)
            base_size, now = min(base_size, cut), cut
        if size > now:
            grown = Span(now, size)
            dirty, holes = dirty.add(grown), holes.add(grown)
        for span in spans:
            dirty, holes = dirty.add(span), holes.remove(span)
        return Extent(size, base_size, dirty, holes)


@dataclass(frozen=True, slots=True)
class Written:
    """What was done to a file since its journal was told."""

    cut: int  # smallest size that it had
    spans: SpanSet = EMPTY

    def wrote(self, span: Span) -> "Written":
        """Add a write."""
        return Written(self.cut, self.spans.add(span))

    def cut_to(self, size: int) -> "Written":
        """Add a truncation."""
        return Written(min(self.cut, size), self.spans.cut(size))

    def then(self, later: "Written") -> "Written":
        """Return both, one after the other."""
        return Written(min(self.cut, later.cut), self.spans.cut(later.cut).union(later.spans))


@dataclass(frozen=True, slots=True)
class StagedState:
    """One staged file as its journal tells it."""

    key: Key
    replaces: FileVersion | None  # what the key must hold when the next version is stored
    base: FileVersion | None  # where clean bytes come from
    extent: Extent
    metadata: Mapping[str, str] = field(default_factory=_nothing)  # stored with the object
    commit_id: str | None = None  # of the commit that was begun last
    since: Extent | None = None  # relative to what that commit stores
    upload: Upload | None = None
    parts: tuple[tuple[Part, Span], ...] = ()


def records_of(state: StagedState) -> list[Record]:
    """Return the shortest journal that adds up to a state."""
    records: list[Record] = [
        {
            "op": "file",
            "key": state.key,
            "replaces": _optional(state.replaces),
            "base": _optional(state.base),
            "extent": _extent_value(state.extent),
            "metadata": dict(state.metadata),
        }
    ]
    if state.commit_id is not None:
        since = None if state.since is None else _extent_value(state.since)
        records.append({"op": "commit", "id": state.commit_id, "since": since})
    if state.upload is not None:
        records.append(upload_record(state.upload))
    records += [part_record(part, span) for part, span in state.parts]
    return records


def write_record(cut: int, size: int, spans: Iterable[Span], boot: str | None) -> Record:
    """Return the record of writes: `boot` is None when their bytes are on the disk."""
    return {"op": "write", "cut": cut, "size": size, "spans": _spans_value(spans), "boot": boot}


def name_record(key: Key, replaces: FileVersion | None, metadata: Mapping[str, str]) -> Record:
    """Return the record of a rename, or of what else is to be stored with the object."""
    named = _optional(replaces)
    return {"op": "name", "key": key, "replaces": named, "metadata": dict(metadata)}


def commit_record(commit_id: str) -> Record:
    """Return the record of a commit that begins with the file as it is."""
    return {"op": "commit", "id": commit_id, "since": None}


def upload_record(upload: Upload) -> Record:
    """Return the record of an upload in parts that has begun."""
    return {
        "op": "upload",
        "upload_id": upload.upload_id,
        "key": upload.key,
        "commit": upload.commit_id,
    }


def part_record(part: Part, span: Span) -> Record:
    """Return the record of a part that the store has."""
    return {
        "op": "part",
        "number": part.number,
        "tag": part.tag,
        "size": part.size,
        "start": span.start,
    }


def stored_record(base: FileVersion) -> Record:
    """Return the record of a commit that has taken effect."""
    return {"op": "stored", "base": file_record(base)}


def replay(records: Iterable[Record], boot: str) -> StagedState | None:
    """Return the state that records add up to on the boot of that id, None when there is none.

    Errors: CorruptError for a record that makes no sense: its checksum was right, so it was
    written like that, by another version or by a mistake of ours.
    """
    state: StagedState | None = None
    for record in records:
        try:
            state = apply(state, record, boot)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"a record of the stage makes no sense: {error!r}") from error
    return state


def apply(state: StagedState | None, record: Record, boot: str) -> StagedState:
    """Return what a state becomes by one record. Errors: KeyError, TypeError, ValueError."""
    op = record["op"]
    if op == "file":
        return _read_file(record)
    if state is None:
        raise ValueError("the first record does not say which file it is")
    match op:
        case "write":
            return _written(state, record, boot)
        case "name":
            return replace(
                state,
                key=Key(text(record, "key")),
                replaces=_version_of(record["replaces"]),
                metadata=_read_metadata(record),
            )
        case "commit":
            size, since = state.extent.size, record["since"]
            known = Extent(size, size) if since is None else _read_extent(since)
            return replace(state, commit_id=text(record, "id"), since=known)
        case "upload":
            commit = None if record["commit"] is None else text(record, "commit")
            upload = Upload(Key(text(record, "key")), text(record, "upload_id"), commit)
            return replace(state, upload=upload, parts=())
        case "part":
            part = Part(number(record, "number"), text(record, "tag"), number(record, "size"))
            start = number(record, "start")
            return replace(state, parts=(*state.parts, (part, Span(start, start + part.size))))
        case "stored":
            base = _version_of(record["base"])
            extent = state.since if state.since is not None else state.extent
            return StagedState(state.key, base, base, extent, state.metadata)
        case _:
            raise ValueError(f"operation {op!r} is unknown")


def _written(state: StagedState, record: Record, boot: str) -> StagedState:
    if record["boot"] not in (None, boot):
        return state
    cut, size, spans = number(record, "cut"), number(record, "size"), _read_spans(record["spans"])
    touched = SpanSet([*spans, Span(cut, max(size, state.extent.size, cut))])
    return replace(
        state,
        extent=state.extent.changed(cut, size, spans),
        since=None if state.since is None else state.since.changed(cut, size, spans),
        parts=tuple(one for one in state.parts if not touched.touches(one[1])),
    )


def _spans_value(spans: Iterable[Span]) -> Value:
    return [[span.start, span.stop] for span in spans]


def _read_spans(value: Value) -> list[Span]:
    if not isinstance(value, list):
        raise TypeError("spans are a list")
    spans: list[Span] = []
    for pair in value:
        match pair:
            case [int(start), int(stop)] if 0 <= start < stop:
                spans.append(Span(start, stop))
            case _:
                raise TypeError(f"{pair!r} is no span")
    return spans


def _optional(file: FileVersion | None) -> Value:
    return None if file is None else file_record(file)


def _version_of(value: Value) -> FileVersion | None:
    if value is not None and not isinstance(value, dict):
        raise TypeError("a version of a file is an object")
    return None if value is None else file_of(value)


def _extent_value(extent: Extent) -> Value:
    return {
        "size": extent.size,
        "base_size": extent.base_size,
        "dirty": _spans_value(extent.dirty),
        "holes": _spans_value(extent.holes),
    }


def _read_extent(value: Value) -> Extent:
    if not isinstance(value, dict):
        raise TypeError("an extent is an object")
    return Extent(
        number(value, "size"),
        number(value, "base_size"),
        SpanSet(_read_spans(value["dirty"])),
        SpanSet(_read_spans(value["holes"])),
    )


def _read_file(record: Record) -> StagedState:
    return StagedState(
        Key(text(record, "key")),
        _version_of(record["replaces"]),
        _version_of(record["base"]),
        _read_extent(record["extent"]),
        _read_metadata(record),
    )


def _read_metadata(record: Record) -> Mapping[str, str]:
    metadata = record["metadata"]
    if not isinstance(metadata, dict):
        raise TypeError("metadata are an object")
    return {name: str(value) for name, value in metadata.items()}
