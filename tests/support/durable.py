"""What a file system must still have after a crash: a reference that knows what was acknowledged.

It keeps two things apart. `now` is what the living mount shows, exactly. `might` is what a crash
may bring back instead: the last acknowledged state of a name, or one that it had later. A file has
likewise its bytes and all that they were since the last fsync or close that was answered; a crash
may mix those byte by byte, as page caches do, but invents none. A file that was acknowledged and
not removed since is under one of its names, whatever the crash was in the middle of.
"""

from collections.abc import Iterable
from dataclasses import InitVar, dataclass, field
from typing import Any

PIECE_BYTES = 512


@dataclass(frozen=True)
class Seen:
    """One name as a mount shows it."""

    kind: str  # file, link or directory
    data: bytes = b""  # of a link: its target
    mode: int = 0
    mtime_ns: int = 0
    mark: bytes | None = None  # its extended attribute


class Field:
    """A value, and all that a crash may bring back in its place; None: not known."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.might = {value}

    def set(self, value: Any) -> None:
        self.value = value
        self.might.add(value)

    def keep(self) -> None:
        self.might = {self.value}

    def fits(self, found: Any, *, crashed: bool) -> bool:
        expected = self.might if crashed else {self.value}
        return None in expected or found in expected


@dataclass(eq=False)
class Entry:
    """A file, a symbolic link or a directory."""

    kind: str = "file"
    data: bytes = b""
    mode: int | None = None
    label: str = ""  # for messages
    kept: bool = False  # somebody was told that it exists
    doomed: bool = False  # its removal was asked for
    past: list[bytes] = field(default_factory=list)  # what its bytes may be after a crash
    handles: int = 0
    xattr: InitVar[Any] = ("none",)
    grave: str = ""  # the name that it had when it was removed while it was open
    may_be_stale: bool = False  # its old bytes may be gone for those who have it open

    def __post_init__(self, xattr: Any) -> None:
        self.past = self.past or [self.data]
        self.modes = Field(self.mode)
        self.mtimes = Field(None)
        self.xattrs = Field(xattr)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.label}: {len(self.data)} bytes{' kept' if self.kept else ''}>"

    @property
    def fields(self) -> tuple[Field, ...]:
        return self.modes, self.mtimes, self.xattrs

    def may_change(self, data: bytes) -> None:
        """Take note that a crash may find it holding this."""
        self.past.append(data)
        self.mtimes.might.add(None)

    def change(self, data: bytes) -> None:
        """Take note that it holds this from now on."""
        self.past.append(data)
        self.data = data
        self.mtimes.set(None)

    def written(self, offset: int, data: bytes) -> bytes:
        """Return what a write makes of it."""
        before = self.data[:offset].ljust(offset, b"\0")
        return before + data + self.data[offset + len(data) :]

    def cut(self, size: int) -> bytes:
        """Return what a truncation makes of it."""
        return self.data[:size].ljust(size, b"\0")

    def keep(self) -> None:
        """Somebody was told that it is safe as it is."""
        self.kept, self.doomed = True, False
        self.past = [self.data]
        for one in self.fields:
            one.keep()

    def why_not(self, seen: Seen, *, crashed: bool) -> str:
        """Return why what was seen cannot be this entry; empty when it can."""
        if seen.kind != self.kind:
            return f"is a {seen.kind}"
        if seen.data != self.data and not (crashed and could_be(self.past, seen.data)):
            return f"has other bytes: {first_difference(self.past, seen.data)}"
        if self.kind == "link":
            return ""
        if not self.modes.fits(seen.mode, crashed=crashed):
            return f"has mode {seen.mode:o}, not {self.modes.might}"
        if self.kind == "file" and not self.mtimes.fits(seen.mtime_ns, crashed=crashed):
            return f"has time {seen.mtime_ns}, not {self.mtimes.might}"
        if not self.xattrs.fits(mark(seen.mark), crashed=crashed):
            return f"has attribute {seen.mark!r}, not {self.xattrs.might}"
        return ""


def mark(value: bytes | None) -> tuple[object, ...]:
    """Return the value of an attribute that may not be there, where None is `unknown`."""
    return ("none",) if value is None else ("value", value)


def could_be(past: list[bytes], found: bytes) -> bool:
    """Tell whether each byte, and the size, is one that the file has had."""
    return found in past or not first_difference(past, found)


def first_difference(past: list[bytes], found: bytes) -> str:
    """Return the first thing that no state of the past explains."""
    if len(found) not in {len(one) for one in past}:
        return f"{len(found)} bytes, was {sorted({len(one) for one in past})}"
    states = [one.ljust(len(found), b"\0") for one in past]
    for start in range(0, len(found), PIECE_BYTES):
        piece = slice(start, start + PIECE_BYTES)
        if any(found[piece] == state[piece] for state in states):
            continue
        for at in range(start, min(start + PIECE_BYTES, len(found))):
            if all(found[at] != state[at] for state in states):
                return f"byte {at} of {len(found)}"
    return ""


class Durable:
    """The tree: names without a slash at either end."""

    def __init__(self) -> None:
        self.now: dict[str, Entry] = {}
        self._might: dict[str, set[Entry | None]] = {}

    def might(self, path: str) -> set[Entry | None]:
        """Return what a crash may bring back under a name."""
        return self._might.get(path, {self.now.get(path)})

    def settle(self, path: str, entry: Entry | None) -> None:
        """A name means this, and no crash changes it."""
        self.show(path, entry)
        self._might[path] = {entry}

    def show(self, path: str, entry: Entry | None) -> None:
        """A name means this now."""
        self._might[path] = self.might(path)
        if entry is None:
            self.now.pop(path, None)
        else:
            self.now[path] = entry
        self._might[path].add(entry)

    def may(self, path: str, *entries: Entry | None) -> None:
        """A crash may bring these back, too."""
        self._might[path] = self.might(path) | set(entries)

    def path_of(self, entry: Entry) -> str | None:
        """Return the name that an entry has now."""
        return next((path for path, one in self.now.items() if one is entry), None)

    def keep(self, entry: Entry) -> None:
        """A file was acknowledged as it is; nothing is kept of one that has no name any more."""
        path = self.path_of(entry)
        if path is not None:
            entry.keep()
            self.settle(path, entry)

    def keep_all(self) -> None:
        """Everything is stored."""
        for path in list(self._might):
            self.settle(path, self.now.get(path))
        for entry in self.now.values():
            entry.keep()

    def below(self, path: str) -> list[str]:
        """Return all names below a directory that mean or may come to mean something."""
        known = {*self.now, *self._might}
        return sorted(name for name in known if name.startswith(path + "/"))

    def files(self) -> list[str]:
        return [path for path, one in sorted(self.now.items()) if one.kind == "file"]

    def directories(self) -> list[str]:
        return [path for path, one in sorted(self.now.items()) if one.kind == "directory"]

    # Comparing

    def check(self, seen: dict[str, Seen]) -> None:
        """A living mount shows exactly what is now."""
        assert sorted(seen) == sorted(self.now), _names_differ(seen, self.now)
        for path, entry in self.now.items():
            wrong = entry.why_not(seen[path], crashed=False)
            assert not wrong, f"{path!r} {wrong}"

    def observe(self, seen: dict[str, Seen], paths: Iterable[str]) -> None:
        """An operation has failed: its names mean what they meant, or what they were to mean."""
        named = list(paths)
        # What other names show is not what these show: half of a rename has made that anew.
        taken = {one for path, one in self.now.items() if path not in named}
        for path in named:
            found = seen.get(path)
            fitting = self._fitting(path, found, crashed=False)
            assert fitting, self._inexplicable(path, found)
            entry = next((one for one in fitting if one not in taken), next(iter(fitting)))
            if entry in taken and found is not None:  # under both of its names
                entry = _like(found, path)
                entry.keep()
            if entry is not None:
                taken.add(entry)
            self.show(path, entry)

    def recover(self, seen: dict[str, Seen]) -> None:
        """A mount after a crash shows what was acknowledged, or something later."""
        paths = {*self.now, *self._might, *seen}
        fitting = {path: self._fitting(path, seen.get(path), crashed=True) for path in paths}
        for path in sorted(paths):
            assert fitting[path], self._inexplicable(path, seen.get(path))
        known = {one for path in paths for one in self.might(path) if one is not None}
        for entry in known:
            if entry.kept and not entry.doomed:
                homes = [path for path in sorted(paths) if entry in self.might(path)]
                assert any(entry in fitting[path] for path in homes), (
                    f"{entry!r} is under none of {homes}"
                )
        self.now = {path: _like(found, path) for path, found in seen.items()}
        self._might = {}
        for entry in self.now.values():
            entry.keep()

    def _fitting(self, path: str, found: Seen | None, *, crashed: bool) -> list[Entry | None]:
        if found is None:
            return [None] if None in self.might(path) else []
        # Rather the file itself than a copy of it.
        known = sorted(filter(None, self.might(path)), key=lambda one: not one.kept)
        return [one for one in known if not one.why_not(found, crashed=crashed)]

    def _inexplicable(self, path: str, found: Seen | None) -> str:
        options = sorted(map(repr, self.might(path)))
        if found is None:
            return f"{path!r} is missing: it was one of {options}"
        reasons = [one.why_not(found, crashed=True) for one in self.might(path) if one is not None]
        return f"{path!r} is a {found.kind} of {len(found.data)} bytes, not one of {options}: {reasons}"


def _like(found: Seen, path: str) -> Entry:
    entry = Entry(found.kind, found.data, found.mode, path)
    entry.xattrs.set(mark(found.mark))
    return entry


def _names_differ(seen: Iterable[str], now: Iterable[str]) -> str:
    lost, more = sorted(set(now) - set(seen)), sorted(set(seen) - set(now))
    return f"missing: {lost}, not expected: {more}"
