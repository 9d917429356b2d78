"""Work that is done once, however many tasks want it at the same time.

Who comes while it is done waits for it and shares what comes of it, also its failure: fifty who
each asked a silent store for themselves, one after the other, would wait fifty times as long.
"""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import trio

from vfs.errors import VfsError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    over: trio.Event = field(default_factory=trio.Event)
    values: list[T] = field(default_factory=list[T])  # one, or none if it has not come to an end
    error: VfsError | None = None


class Flights(Generic[K, T]):
    """What is being done, by key."""

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[T]] = {}

    async def join(self, key: K, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Return what comes of the work of that key, and whether it was begun by this call.

        Errors: those of the work. Cancellation: of the one who does it, another one does it again.
        """
        while (flight := self._flights.get(key)) is not None:
            await flight.over.wait()
            if flight.error is not None:
                raise flight.error.with_traceback(None)
            if flight.values:
                return flight.values[0], False
        flight = self._flights[key] = _Flight()
        try:
            value = await work()
            flight.values.append(value)
        except VfsError as error:
            flight.error = error
            raise
        finally:
            del self._flights[key]
            flight.over.set()
        return value, True
