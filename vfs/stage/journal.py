"""What a restart must know of one staged file: records, and the state that they add up to. Pure.

    {"op": "file",   "key", "replaces", "base", "extent", "about", "born"}
    {"op": "target", "key", "replaces", "base", "about", "over"}   a rename, or a rebase
    {"op": "about",  "about"}
    {"op": "write",  "cut", "size", "spans", "boot"}
    {"op": "cut",    "size"}                before bytes are cut off, on the disk before they are
    {"op": "synced", "records"}
    {"op": "commit", "id", "since"}         before a commit's first request, at its frozen state
    {"op": "upload", "upload_id", "key", "commit"}      before its first part is sent
    {"op": "sending", "number"}             a part that the store may have, whatever it holds
    {"op": "part",   "number", "tag", "size", "start", "boot", "sha256"}    the last where known
    {"op": "stored", "base"}                the commit has taken effect
    {"op": "gone"}                          nothing of it is wanted any more

A `write` tells what was written since the one before: `cut` is the smallest size that the file had
on the way. Its bytes are in the page cache of the boot that it names, and survive a crash of the
daemon. What carries a boot counts after a reboot only when a later `synced` covers it: bytes and
log were on the disk before that was written, up to that many such records. A file that no `synced`
covers is none after a reboot: `born` is the boot that its log was made on, null where it does not
matter.

What is written after a `commit` is what remains dirty when that commit is `stored`; `since`, an
extent, is null but where a log was rewritten meanwhile. `about` is what the tree keeps of the name
(mode, owner, times), opaque here. `over` names the staged file of the name that a rename replaces.

An extent is {"size", "base_size", "dirty": [[start, stop], ...], "holes": [[start, stop], ...]}.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from vfs.errors import CorruptError
from vfs.layout.base import FileVersion
from vfs.spans import EMPTY, SpanSet
from vfs.stage.records import Record, Value, file_of, file_record, number, text
from vfs.store.base import Part, Upload
from vfs.values import Key, Span

About = Mapping[str, Value]
"""What the tree keeps of a name, as JSON values."""

_NOTHING: About = MappingProxyType({})


def _nothing() -> About:
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
    about: About = field(default_factory=_nothing)
    over: tuple[str, ...] = ()  # staged files of names that this one has replaced by renames
    promised: bool = False  # somebody was told that it survives a reboot
    gone: bool = False
    commit_id: str | None = None  # of the commit that was begun last
    since: Extent | None = None  # relative to what that commit stores
    upload: Upload | None = None
    sent: frozenset[int] = frozenset()  # numbers of the upload's parts, whatever they hold
    parts: tuple[tuple[Part, Span], ...] = ()  # those that hold what the file holds

    @property
    def is_stored(self) -> bool:
        """Whether the store has all of it."""
        if self.gone:
            return True
        extent, base = self.extent, self.base
        if not self.promised and not extent.dirty and self.upload is None:
            return True  # never told to anybody, and lost by a reboot
        if self.commit_id is not None:
            return False  # the store may have more than a reboot has left here
        return (
            base is not None
            and base == self.replaces
            and base.pin.key == self.key
            and base.size == extent.size
            and not extent.dirty
        )


def records_of(state: StagedState, *, born: str | None = None) -> list[Record]:
    """Return the shortest journal that adds up to a state whose bytes are all on the disk."""
    records: list[Record] = [
        {
            "op": "file",
            "key": state.key,
            "replaces": _optional(state.replaces),
            "base": _optional(state.base),
            "extent": _extent_value(state.extent),
            "about": dict(state.about),
            "born": born,
        }
    ]
    if state.over:
        records.append(target_record(state, over=state.over))
    if state.promised:
        records.append(synced_record(0))
    if state.commit_id is not None:
        since = None if state.since is None else _extent_value(state.since)
        records.append({"op": "commit", "id": state.commit_id, "since": since})
    if state.upload is not None:
        records.append(upload_record(state.upload))
    records += [sending_record(number) for number in sorted(state.sent)]
    records += [part_record(part, span, None) for part, span in state.parts]
    if state.gone:
        records.append(GONE)
    return records


GONE: Record = {"op": "gone"}


def write_record(cut: int, size: int, spans: Iterable[Span], boot: str) -> Record:
    """Return the record of writes whose bytes are in the page cache of a boot."""
    return {"op": "write", "cut": cut, "size": size, "spans": _spans_value(spans), "boot": boot}


def cut_record(size: int) -> Record:
    """Return the record of a truncation that is about to be made."""
    return {"op": "cut", "size": size}


def synced_record(records: int) -> Record:
    """Return the record that so many records with a boot, of all, hold after a reboot too."""
    return {"op": "synced", "records": records}


def target_record(state: StagedState, *, over: Sequence[str]) -> Record:
    """Return the record of where a file goes and what it is made from, from now on."""
    return {
        "op": "target",
        "key": state.key,
        "replaces": _optional(state.replaces),
        "base": _optional(state.base),
        "about": dict(state.about),
        "over": list(over),
    }


def about_record(about: About) -> Record:
    """Return the record of what the tree keeps of the name."""
    return {"op": "about", "about": dict(about)}


def commit_record(commit_id: str, size: int) -> Record:
    """Return the record of a commit that begins with the file as it is.

    The size is told, because what made the file that long may not count after a reboot.
    """
    since = _extent_value(Extent(size, size))
    return {"op": "commit", "id": commit_id, "since": since}


def upload_record(upload: Upload) -> Record:
    """Return the record of an upload in parts that has begun."""
    return {
        "op": "upload",
        "upload_id": upload.upload_id,
        "key": upload.key,
        "commit": upload.commit_id,
    }


def upload_of(record: Record) -> Upload:
    """Return what `upload_record` was made of. Errors: KeyError, TypeError, ValueError."""
    commit = None if record["commit"] is None else text(record, "commit")
    return Upload(Key(text(record, "key")), text(record, "upload_id"), commit)


def sending_record(number: int) -> Record:
    """Return the record of a part that is about to be sent."""
    return {"op": "sending", "number": number}


def part_record(part: Part, span: Span, boot: str | None) -> Record:
    """Return the record of a part that the store has: `boot` as in `write_record`."""
    record: Record = {
        "op": "part",
        "number": part.number,
        "tag": part.tag,
        "size": part.size,
        "start": span.start,
        "boot": boot,
    }
    return record if part.sha256 is None else {**record, "sha256": part.sha256}


def stored_record(base: FileVersion) -> Record:
    """Return the record of a commit that has taken effect."""
    return {"op": "stored", "base": file_record(base)}


def replay(records: Sequence[Record], boot: str) -> StagedState | None:
    """Return the state that records add up to on the boot of that id, None when there is none.

    Errors: CorruptError for a record that makes no sense: its checksum was right, so it was
    written like that, by another version or by a mistake of ours.
    """
    state: StagedState | None = None
    try:
        covered = max((number(one, "records") for one in records if _is_synced(one)), default=0)
        tagged = 0
        for record in records:
            if record.get("boot") is not None:
                tagged += 1
                if text(record, "boot") != boot and tagged > covered:
                    continue
            state = apply(state, record)
        if state is not None and not state.promised and records[0].get("born") not in (None, boot):
            return replace(state, gone=True)  # half a log: how it ended may be lost
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"a record of the stage makes no sense: {error!r}") from error
    return state


def _is_synced(record: Record) -> bool:
    return record.get("op") == "synced"


def apply(state: StagedState | None, record: Record) -> StagedState:
    """Return what a state becomes by one record. Errors: KeyError, TypeError, ValueError."""
    op = record["op"]
    if op == "file":
        return _read_file(record)
    if state is None:
        raise ValueError("the first record does not say which file it is")
    match op:
        case "write":
            cut, size = number(record, "cut"), number(record, "size")
            return _changed(state, cut, size, _read_spans(record["spans"]))
        case "cut":
            size = min(number(record, "size"), state.extent.size)
            return _changed(state, size, size, [])
        case "synced":
            return replace(state, promised=True)
        case "target":
            return _read_target(state, record)
        case "about":
            return replace(state, about=_read_about(record))
        case "gone":
            return replace(state, gone=True)
        case "stored":
            base = _version_of(record["base"])
            extent = state.since if state.since is not None else state.extent
            return StagedState(
                state.key, base, base, extent, state.about, state.over, state.promised
            )
        case _:
            return _apply_upload(state, record)


def _apply_upload(state: StagedState, record: Record) -> StagedState:
    match record["op"]:
        case "commit":
            size, since = state.extent.size, record["since"]
            known = Extent(size, size) if since is None else _read_extent(since)
            return replace(state, commit_id=text(record, "id"), since=known)
        case "upload":
            return replace(state, upload=upload_of(record), sent=frozenset(), parts=())
        case "sending":
            this = number(record, "number")
            others = tuple(one for one in state.parts if one[0].number != this)
            return replace(state, sent=state.sent | {this}, parts=others)
        case "part":
            sha256 = text(record, "sha256") if "sha256" in record else None
            part = Part(
                number(record, "number"), text(record, "tag"), number(record, "size"), sha256
            )
            start = number(record, "start")
            return replace(state, parts=(*state.parts, (part, Span(start, start + part.size))))
        case other:
            raise ValueError(f"operation {other!r} is unknown")


def _changed(state: StagedState, cut: int, size: int, spans: Sequence[Span]) -> StagedState:
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
        _read_about(record),
    )


def _read_target(state: StagedState, record: Record) -> StagedState:
    """Return the same bytes on their way elsewhere: what was begun for the old place is over."""
    return StagedState(
        Key(text(record, "key")),
        _version_of(record["replaces"]),
        _version_of(record["base"]),
        state.extent,
        _read_about(record),
        (*state.over, *_read_over(record["over"])),
        state.promised,
        state.gone,
    )


def _read_over(value: Value) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError("names of staged files are a list")
    return tuple(str(name) for name in value)


def _read_about(record: Record) -> About:
    about = record["about"]
    if not isinstance(about, dict):
        raise TypeError("what is kept of a name is an object")
    return about
