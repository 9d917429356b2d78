"""Open files: one `Handle` for each open, all handles of a file share its `Content`."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vfs.errors import BadHandleError
from vfs.file.window import History
from vfs.values import HandleId

T = TypeVar("T")


@dataclass(slots=True)
class Handle(Generic[T]):
    """One open file."""

    node: T
    reads: bool
    writes: bool
    made: bool = False  # by the open that made the file, which is stored when it is closed
    history: History = field(default_factory=History)


class HandleTable(Generic[T]):
    """Handles by the number that the kernel uses."""

    def __init__(self) -> None:
        self._handles: dict[HandleId, T] = {}
        self._ids = itertools.count(1)
        self.on_count: Callable[[int], None] = lambda _count: None  # told how many are open

    def __len__(self) -> int:
        return len(self._handles)

    def numbers(self) -> list[HandleId]:
        """Return the numbers of all open handles."""
        return list(self._handles)

    def add(self, handle: T) -> HandleId:
        """Register a handle."""
        number = HandleId(next(self._ids))
        self._handles[number] = handle
        self.on_count(len(self._handles))
        return number

    def get(self, number: HandleId) -> T:
        """Return a handle. Errors: BadHandleError."""
        try:
            return self._handles[number]
        except KeyError:
            raise BadHandleError(f"no open file has the handle {number}") from None

    def pop(self, number: HandleId) -> T:
        """Return a handle and forget it. Errors: BadHandleError."""
        handle = self.get(number)
        del self._handles[number]
        self.on_count(len(self._handles))
        return handle
