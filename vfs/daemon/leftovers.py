"""What mounts have left in their stage directories, read without changing a byte.

A mount that takes a stage over mends it while it reads: it cuts damaged ends off and frees holes.
Who only wants to know what is there, or rescues it from a disk that fails, must not. `hold` keeps
mounts away meanwhile; what a living one holds is never looked into.

Everything that a journal says is checked here once. A file whose journal or bytes cannot be
believed has an `error` and no `state`.
"""

import fcntl
import json
import os
import socket
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from vfs import names
from vfs.errors import BusyError, CorruptError, MetadataError, VfsError
from vfs.layout.base import FileVersion
from vfs.spans import EMPTY, SpanSet
from vfs.stage.directory import STAGE_VERSION
from vfs.stage.disk import stage_error
from vfs.stage.journal import StagedState, replay
from vfs.stage.log import KIND, LOG_SUFFIX, boot_id
from vfs.stage.records import (
    LOG_VERSION,
    Record,
    Value,
    decode_record,
    file_record,
    read_log,
)
from vfs.store.base import ObjectVersion
from vfs.values import Key, Span, Version

_NOT_DECISIONS = frozenset({"attributes", "stored", "gone", "upload"})
"""Records of the journal of names that are about attributes; see `vfs.tree.journal`."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """One staged file that the store may not have."""

    id: str  # its name in the stage
    path: Path
    key: Key | None  # None where no record says it; a guess where there is an error
    mtime_s: float  # when its journal was last written
    state: StagedState | None = None
    error: VfsError | None = None
    claims: frozenset[int] = frozenset()  # decisions about names that belong to it
    hidden: frozenset[str] = frozenset()  # staged files that it has replaced by a rename

    @property
    def label(self) -> str:
        """What to call it."""
        return self.id if self.key is None else self.key

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.state.extent.size if self.state is not None else 0

    @property
    def dirty_bytes(self) -> int:
        """Bytes that were written here."""
        return self.state.extent.dirty.size if self.state is not None else 0

    @property
    def needs(self) -> SpanSet:
        """Bytes that only the base version has."""
        return EMPTY if self.state is None else _clean(self.state)


@dataclass(frozen=True, slots=True)
class FoundStage:
    """The stage of one mount."""

    path: Path
    url: str | None  # None where the owner's record cannot be read
    pid: int | None = None  # of who had it last, or has it now
    mounted: bool = False
    error: VfsError | None = None  # MetadataError: of a newer version, not looked into
    files: tuple[Leftover, ...] = ()
    decisions: int = 0  # renames and removals that are not carried out yet
    attributes: int = 0  # names whose attributes are not stored yet

    @property
    def is_newer(self) -> bool:
        """Whether only a newer program may touch it."""
        return isinstance(self.error, MetadataError)

    @property
    def label(self) -> str:
        """What to call it."""
        return str(self.path) if self.url is None else self.url

    def refuse(self) -> VfsError | None:
        """Return why it must be left alone, if it must."""
        if self.mounted:
            return BusyError(
                f"{self.label} is mounted by process {self.pid or 'unknown'}: unmount it, or let "
                "it finish"
            )
        return self.error if self.is_newer else None


def find_stages(directory: Path) -> list[Path]:
    """Return the stages in a directory, which may be one itself. Errors: OSError."""
    if (directory / "owner").exists():
        return [directory]
    return [path for path in sorted(directory.iterdir()) if (path / "files").is_dir()]


def read_stage(path: Path) -> FoundStage:
    """Return what a stage holds. Blocking. Errors: OSError."""
    if _is_held(path):
        return _owner_of(path, mounted=True)
    return look(path)


@contextmanager
def hold(path: Path) -> Generator[FoundStage]:
    """Keep mounts away from a stage, and return what it holds. Blocking.

    Errors: BusyError when it has a living owner; MetadataError for a newer version; OSError.
    """
    fd = _open_owner(path)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(_owner_of(path, mounted=True)) from None
        stage = look(path)
        if stage.is_newer:
            raise _refusal(stage)
        _sign(fd)
        yield stage
    finally:
        os.close(fd)


def _refusal(stage: FoundStage) -> VfsError:
    return stage.refuse() or BusyError(f"{stage.label} is in use")


def _is_held(path: Path) -> bool:
    """Tell whether somebody has the stage; nobody is kept from taking it for longer than that."""
    try:
        fd = os.open(path / "owner", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _open_owner(path: Path) -> int:
    """Open what is locked: for writing where the disk lets us."""
    try:
        return os.open(path / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(path / "owner", os.O_RDONLY | os.O_CLOEXEC)


def _sign(fd: int) -> None:
    """Let who is kept away know by whom; on a disk that cannot be written nobody else comes."""
    old = os.pread(fd, 4096, 0)
    fields = _parse(old)
    if fields is None:
        return
    signed = json.dumps({**fields, "pid": os.getpid(), "host": socket.gethostname()}).encode()
    try:
        # One write, padded: no crash leaves a mixture.
        os.pwrite(fd, signed.ljust(len(old) - 1) + b"\n", 0)
    except OSError:
        return


def _parse(data: bytes) -> dict[str, object] | None:
    try:
        # What an interrupted write has left behind the end is no part of it.
        value: object = json.JSONDecoder().raw_decode(data.decode("utf-8"))[0]
    except ValueError:
        return None
    return cast("dict[str, object]", value) if isinstance(value, dict) else None


def _owner_of(path: Path, *, mounted: bool) -> FoundStage:
    try:
        fields = _parse((path / "owner").read_bytes())
    except FileNotFoundError:
        fields = None
    if fields is None:
        error = CorruptError(f"{path / 'owner'} does not say whose stage this is")
        return FoundStage(path, None, mounted=mounted, error=error)
    url, pid, version = fields.get("url"), fields.get("pid"), fields.get("version")
    newer: VfsError | None = None
    if isinstance(version, int) and version > STAGE_VERSION:
        newer = MetadataError(
            f"the stage {path} has format version {version}; this program reads {STAGE_VERSION}: "
            "use the newer vfs that wrote it"
        )
    return FoundStage(
        path,
        url if isinstance(url, str) else None,
        pid if isinstance(pid, int) else None,
        mounted=mounted,
        error=newer,
    )


def look(path: Path) -> FoundStage:
    """Return what a stage holds that nobody else has: see `hold`. Blocking. Errors: OSError."""
    stage = _owner_of(path, mounted=False)
    if stage.is_newer:
        return stage
    error = stage.error
    records: list[dict[str, Value]] = []
    try:
        records = _records(path / "names.log", "names")
    except VfsError as failure:
        if isinstance(failure, MetadataError):
            return replace(stage, error=failure)
        error = error or failure
    decisions = _decisions(records)
    found = [
        one
        for log in sorted((path / "files").glob(f"*{LOG_SUFFIX}"))
        if (one := _read_file(log, decisions)) is not None
    ]
    hidden = {name for record in decisions.values() for name in _over(record)}
    hidden.update(name for one in found for name in one.hidden)
    files = tuple(one for one in found if one.id not in hidden)
    return replace(
        stage,
        error=error,
        files=files,
        decisions=len(decisions),
        attributes=_count_attributes(records),
    )


def _records(path: Path, kind: str) -> list[dict[str, Value]]:
    """Return the records of a log. Errors: those of `read_log`; VfsError when the disk fails."""
    try:
        data = path.read_bytes().rstrip(b"\0")  # room for records to come
    except FileNotFoundError:
        return []
    except OSError as error:
        raise stage_error(error, path) from error
    # A crash while a log is created leaves less than its header.
    if (b"vfs-log %d %s\n" % (LOG_VERSION, kind.encode("ascii"))).startswith(data):
        return []
    return read_log(data, kind, path)[0]


def _decisions(records: Iterable[Record]) -> dict[int, Record]:
    """Return the renames and removals that are not done, by their numbers."""
    pending: dict[int, Record] = {}
    for record in records:
        found = record.get("id")
        if record.get("op") == "done" and isinstance(found, int):
            pending.pop(found, None)
        elif record.get("op") not in _NOT_DECISIONS and isinstance(found, int):
            pending[found] = record
    return pending


def _count_attributes(records: Iterable[Record]) -> int:
    pending: dict[tuple[str, str], int] = {}
    for record in records:
        directory, upto = str(record.get("dir")), record.get("seq")
        match record.get("op"):
            case "attributes":
                entry = record.get("entry")
                found = entry.get("seq") if isinstance(entry, dict) else None
                pending[directory, str(record.get("name"))] = found if isinstance(found, int) else 0
            case "stored" if isinstance(upto, int):
                for place in [one for one in pending if one[0] == directory]:
                    if pending[place] <= upto:
                        del pending[place]
            case "gone":
                below = names.as_prefix(Key(directory))
                for place in [one for one in pending if f"{one[0]}/".startswith(below)]:
                    del pending[place]
            case _:
                pass
    return len(pending)


def _over(record: Record) -> list[str]:
    over = record.get("over")
    return [name for name in over if isinstance(name, str)] if isinstance(over, list) else []


def _read_file(log: Path, decisions: dict[int, Record]) -> Leftover | None:
    """Return one staged file; None when nothing of it is wanted, or it is gone."""
    path = log.with_suffix("")
    try:
        mtime_s = log.stat().st_mtime
    except FileNotFoundError:
        return None
    key: Key | None = None
    try:
        state = replay(_records(log, KIND), boot_id())
        if state is None or state.is_stored:
            return None
        key = state.key
        state, claims = _decided(state, decisions)
        _check(state, path)
    except VfsError as error:
        return Leftover(path.name, path, key or _guess_key(log), mtime_s, error=error)
    hidden = frozenset(state.over)
    return Leftover(path.name, path, state.key, mtime_s, state, claims=claims, hidden=hidden)


def _guess_key(log: Path) -> Key | None:
    """Return the last key that a damaged journal names, to tell people."""
    try:
        lines = log.read_bytes().split(b"\n")
    except OSError:
        return None
    records = (decode_record(line) for line in lines)
    found = [one["key"] for one in records if one and one.get("op") in {"file", "target"}]
    return next((Key(key) for key in reversed(found) if isinstance(key, str)), None)


def _decided(
    state: StagedState, decisions: dict[int, Record]
) -> tuple[StagedState, frozenset[int]]:
    """Return a state as the renames leave it that its journal was not told of yet."""
    claims: set[int] = set()
    base, replaces = _fields_of(state.base), _fields_of(state.replaces)
    for found, record in decisions.items():
        file, target = record.get("file"), record.get("target")
        if record.get("op") == "unlink" and replaces is not None and file == replaces:
            claims.add(found)
        elif (
            record.get("op") == "move"
            and state.base is not None
            and file == base
            and isinstance(target, str)
        ):
            claims.add(found)
            if target != state.key:
                state = _moved(state, Key(target), record.get("replaces"))
    return state, frozenset(claims)


def _moved(state: StagedState, target: Key, version: Value) -> StagedState:
    there = None
    if isinstance(version, str):
        there = FileVersion(ObjectVersion(target, Version(version)), 0, 0)
    return replace(state, key=target, replaces=there, commit_id=None)


def _fields_of(file: FileVersion | None) -> dict[str, Value] | None:
    return None if file is None else file_record(file)


def _check(state: StagedState, path: Path) -> None:
    """Refuse a state that cannot be true. Errors: CorruptError; VfsError when the disk fails."""
    parts = state.key.split("/")
    if not all(names.is_name(part) and not names.is_reserved(part) for part in parts):
        raise CorruptError(f"{path}: its journal names {state.key!r}, which is no file")
    extent = state.extent
    needs = _clean(state)
    if (
        max(extent.dirty.stop, extent.base_size) > extent.size
        or (needs and (state.base is None or state.base.size < needs.stop))
        or extent.holes.minus(extent.dirty)
    ):
        raise CorruptError(f"{path}: its journal contradicts itself")
    written = extent.dirty.minus(extent.holes)
    try:
        there = path.stat().st_size if written else 0
    except FileNotFoundError:
        raise CorruptError(f"{path} is missing, its journal is there") from None
    except OSError as error:
        raise stage_error(error, path) from error
    if there < written.stop:
        raise CorruptError(f"{path} is shorter than its journal says")


def _clean(state: StagedState) -> SpanSet:
    return SpanSet([Span(0, state.extent.base_size)]).minus(state.extent.dirty)


def choose(
    stages: Sequence[FoundStage], name: str, *, exact: bool
) -> list[tuple[FoundStage, Leftover]]:
    """Return the staged files of a name: a key or an id; unless `exact`, also all below a key."""
    key = names.path_key(name)
    below = names.as_prefix(Key(key.rstrip("/")))
    return [
        (stage, one)
        for stage in stages
        for one in stage.files
        if name == one.id or one.key == key or (not exact and (one.key or "").startswith(below))
    ]
