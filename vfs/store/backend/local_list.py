"""Listing a directory as a store does: keys in UTF-8 byte order, a page at a time.

`scandir` answers in no order, so a level is read in windows: one scan keeps the smallest
`WINDOW_NAMES` names after the last one, and is repeated for the next window. Memory stays bounded
in a directory of a million entries, which costs some sixteen scans instead of a thousand. A
directory `a` sorts as `a/`, which makes a depth-first walk come out in the order of whole keys.

A walk that stopped at a full page is kept for the page that follows; should it be forgotten, the
cursor says after which key to begin again.
"""

import heapq
import itertools
import os
import stat
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from vfs import names
from vfs.errors import InvalidError, InvalidNameError
from vfs.store.backend.local_disk import version_of
from vfs.store.backend.local_errors import refusal
from vfs.store.backend.local_tree import Tree, is_gone
from vfs.store.base import ListPage, ObjectInfo
from vfs.values import Key

WINDOW_NAMES = 64 * 1024  # about 10 MB of names

# A live walk holds its window and a descriptor per level.
_LIVE_WALKS = 16
# Below this many entries it is cheaper to begin again than to keep a walk: lookups list one entry.
_WORTH_KEEPING = 100

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_Found = tuple[Key, os.stat_result | None]  # None for a common prefix


@dataclass(frozen=True, slots=True)
class _Walk:
    """What to list; immutable, so that it also says which walk a cursor belongs to."""

    prefix: str
    flat: bool  # fold directories into prefixes
    after: str

    def wants(self, key: str) -> bool:
        """Tell whether a key, or a key below a directory, comes after the start."""
        if not key.startswith(self.prefix):
            return False
        inside = not self.flat and key.endswith("/") and self.after.startswith(key)
        return inside or key > self.after


class Lister:
    """Pages of listings of one tree. Blocking; any number of threads."""

    def __init__(self, tree: Tree, url: str, *, window_names: int = WINDOW_NAMES) -> None:
        self._tree = tree
        self._url = url
        self._window_names = window_names
        self._live: dict[str, tuple[_Walk, Generator[_Found, None, None]]] = {}
        self._tokens = itertools.count(1)
        self._guard = threading.Lock()  # guards _live

    def page(
        self, prefix: Key, delimiter: str, start_after: str, cursor: str | None, limit: int
    ) -> ListPage:
        """Return the entries after the cursor, at most `limit`."""
        if delimiter not in {"", "/"}:
            raise refusal(InvalidError, "list", self._url, prefix, "the delimiter must be a slash")
        token, _, after = cursor.partition(":") if cursor is not None else ("", "", start_after)
        walk = _Walk(prefix, delimiter == "/", after)
        found = self._take(token, walk)
        objects: list[ObjectInfo] = []
        prefixes: list[Key] = []
        last = after
        for last, status in itertools.islice(found, limit):
            if status is None:
                prefixes.append(last)
            else:
                objects.append(_info(last, status))
        count = len(objects) + len(prefixes)
        if count < limit:
            return ListPage(tuple(objects), tuple(prefixes), None)
        following = self._keep(_Walk(prefix, walk.flat, last), found, worth=count >= _WORTH_KEEPING)
        return ListPage(tuple(objects), tuple(prefixes), following)

    def close(self) -> None:
        """Forget every walk."""
        with self._guard:
            live, self._live = self._live, {}
        for _, found in live.values():
            found.close()

    def _take(self, token: str, walk: _Walk) -> Generator[_Found, None, None]:
        with self._guard:
            kept = self._live.pop(token, None)
        if kept is not None and kept[0] == walk:
            return kept[1]
        return self._begin(walk)

    def _keep(self, walk: _Walk, found: Generator[_Found, None, None], *, worth: bool) -> str:
        dropped: Generator[_Found, None, None] | None = found
        token = ""
        with self._guard:
            if worth:
                token = str(next(self._tokens))
                self._live[token] = (walk, found)
                oldest = next(iter(self._live))
                dropped = self._live.pop(oldest)[1] if len(self._live) > _LIVE_WALKS else None
        if dropped is not None:
            dropped.close()
        return f"{token}:{walk.after}"

    def _begin(self, walk: _Walk) -> Generator[_Found, None, None]:
        directory, slash, _ = walk.prefix.rpartition("/")
        try:
            path = self._tree.components(directory, "list") if slash else []
        except InvalidNameError:
            return  # nothing can be there
        try:
            fd = self._tree.open_directory(path)
        except OSError as error:
            if slash and is_gone(error):
                return
            raise
        yield from self._level(fd, directory + slash, walk)

    def _level(self, fd: int, base: str, walk: _Walk) -> Generator[_Found, None, None]:
        """Walk one directory; closes `fd`."""
        try:
            if base and base.startswith(walk.prefix) and base > walk.after:
                yield Key(base), os.fstat(fd)
            for name in self._sorted_names(fd, base, walk):
                key = Key(base + name)
                if walk.flat and name.endswith("/"):
                    yield key, None
                    continue
                yield from self._entry(fd, key, name, walk)
        finally:
            os.close(fd)

    def _entry(self, fd: int, key: Key, name: str, walk: _Walk) -> Generator[_Found, None, None]:
        raw = names.encode(name.removesuffix("/"))
        try:
            if name.endswith("/"):
                inner = os.open(raw, _DIRECTORY, dir_fd=fd)
                yield from self._level(inner, key, walk)
                return
            status = os.stat(raw, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if is_gone(error):
                return  # removed since the directory was read
            raise
        if stat.S_ISREG(status.st_mode):
            yield key, status

    def _sorted_names(self, fd: int, base: str, walk: _Walk) -> Iterator[str]:
        last = ""
        while True:
            wanted = (
                name
                for name in _names(fd)
                if name > last and walk.wants(base + name) and base + name != ".vfs/"
            )
            window = heapq.nsmallest(self._window_names, wanted)
            yield from window
            if len(window) < self._window_names:
                return
            last = window[-1]


def _names(fd: int) -> Iterator[str]:
    """Yield the names of a directory, a slash behind those of directories; the rest is hidden."""
    # A descriptor of its own: scans of one open directory share their position.
    own = os.open(".", _DIRECTORY, dir_fd=fd)
    try:
        with os.scandir(own) as entries:
            for entry in entries:
                name = names.decode(os.fsencode(entry.name))
                if entry.is_dir(follow_symlinks=False):
                    yield f"{name}/"
                elif entry.is_file(follow_symlinks=False):
                    yield name
    finally:
        os.close(own)


def _info(key: Key, status: os.stat_result) -> ObjectInfo:
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return ObjectInfo(key, size, version_of(status), status.st_mtime_ns)
