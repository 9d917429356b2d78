"""What was decided about names and is not in the store yet, kept across a crash.

Four kinds of decisions: a changed attribute entry (`attributes`, until `stored` says that its
sidecar is uploaded or `gone` that its directory is not there any more), a removal whose DELETE
waits for the last close (`unlink`), a rename between its first and last request (`move`,
`move_directory`), and the removal of a copy that a failed rename may have made (`uncopy`). So are
uploads in parts that are neither finished nor aborted (`upload`). Decisions and uploads have an id;
`done` ends them. When nothing is pending, or the log has grown past its limit, it is rewritten.
"""

import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress

from vfs.errors import VfsError
from vfs.stage.directory import Stage
from vfs.stage.records import Value
from vfs.tree.sidecars import Sidecars
from vfs.values import MIB, Key

COMPACT_BYTES = 4 * MIB


class Journal:
    """Pending decisions about names."""

    def __init__(self, stage: Stage, sidecars: Sidecars) -> None:
        self._stage = stage
        self.sidecars = sidecars
        self._pending: dict[int, dict[str, Value]] = {}
        self._ids = itertools.count(1)
        sidecars.on_stored = self._stored
        # Called with a directory's old key and with its new one, before and after it moves.
        self.on_directory_moved: Callable[[Key], None] = lambda _directory: None

    def _stored(self, directory: Key, sequence: int) -> None:
        self._stage.names.append({"op": "stored", "dir": directory, "seq": sequence})

    def replay(self, records: list[dict[str, Value]]) -> list[dict[str, Value]]:
        """Take up what an earlier owner left and return its unfinished removals and renames."""
        for record in records:
            match record.get("op"):
                case "attributes":
                    self.sidecars.replay(record)
                case "stored":
                    self.sidecars.replay_stored(Key(str(record.get("dir"))), _number(record, "seq"))
                case "gone":
                    self.sidecars.forget(Key(str(record.get("dir"))))
                case "done":
                    self._pending.pop(_number(record), None)
                case _:
                    self._pending[_number(record)] = record
        self._ids = itertools.count(max(self._pending, default=0) + 1)
        return list(self._pending.values())

    async def begin(self, op: str, fields: Mapping[str, Value]) -> int:
        """Journal a decision before it is carried out; durable on return."""
        number = self.note(op, fields)
        await self._stage.sync_names()
        return number

    def note(self, op: str, fields: Mapping[str, Value], number: int | None = None) -> int:
        """Queue a decision for the next sync; with a number, it takes the place of that one."""
        number = next(self._ids) if number is None else number
        record: dict[str, Value] = {**fields, "op": op, "id": number}
        self._pending[number] = record
        self._stage.names.append(record)
        self._tell(record)
        return number

    def _tell(self, record: Mapping[str, Value]) -> None:
        if record.get("op") == "move_directory":
            for directory in ("source", "target"):
                self.on_directory_moved(Key(str(record.get(directory))))

    async def done(self, number: int) -> None:
        """Note that a decision is carried out; lost in a crash, it is carried out once more."""
        if self.end(number):
            await self.compact(COMPACT_BYTES)

    def end(self, number: int) -> bool:
        """Queue that nothing is left to be done; False when it is known already."""
        record = self._pending.pop(number, None)
        if record is None:
            return False
        self._tell(record)
        self._stage.names.append({"op": "done", "id": number})
        return True

    async def undecide(self, number: int) -> None:
        """Let no restart carry out what is answered with an error."""
        await self.done(number)
        with suppress(VfsError):  # of the stage's disk
            await self.sync()

    def append(self, record: dict[str, Value] | None) -> None:
        """Queue an attribute change for the next sync."""
        if record is not None:
            self._stage.names.append(record)

    async def sync(self) -> None:
        """Return when everything appended is durable."""
        await self._stage.sync_names()

    async def settle(self, limit: int) -> None:
        """Make durable what is known to be stored, so that a restart need not store it again."""
        await self.compact(limit)
        await self.sync()

    async def compact(self, limit: int) -> None:
        """Rewrite the log when it has grown past a limit and most of it is history."""
        if self._stage.names.size > limit:
            await self._stage.rewrite_names(self._records)

    def _records(self) -> list[Mapping[str, Value]]:
        return [*self._pending.values(), *self.sidecars.records()]


def _number(record: Mapping[str, Value], field: str = "id") -> int:
    number = record.get(field)
    return number if isinstance(number, int) else 0
