"""A store that fails on purpose, by a script, and remembers what it was asked.

    faulty = FaultyStore(MemoryStore())
    faulty.fail("read", ThrottledError("slow down"), times=2)   # before the store is reached
    faulty.lose_reply("finish_upload")                          # done, but nobody is told
    faulty.delay("write", seconds=30)                           # on the (virtual) clock
    gate = faulty.block("upload_part", key=KEY)                 # until gate.release()

The first fault of the script that fits a call is used up by it. Operations are the names that
wrappers see (`read`, not `read_into`); without an operation a fault fits every call, without a key
every key.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.errors import TransientError
from vfs.store.base import Body, ObjectVersion, Part, Store, Upload
from vfs.store.wrap.base import Call, WrappedStore
from vfs.values import Key, Span

T = TypeVar("T")


@dataclass
class Asked:
    """One call that the store was asked for."""

    operation: str
    key: Key
    span: Span | None = None  # of reads and of range copies (in the source)
    number: int | None = None  # of parts
    size: int = 0  # payload, either way
    outcome: str = ""  # OK, CANCELLED (also: not done yet) or the error's code


@dataclass
class Fault:
    """What happens to the next calls that fit."""

    operation: str = ""
    key: Key | None = None
    times: int = 1
    before: Exception | None = None
    after: Exception | None = None
    delay_s: float = 0.0
    reached: trio.Event = field(default_factory=trio.Event)  # a call has come this far
    gate: trio.Event | None = None
    late: bool = False  # the gate holds the answer back, not the call

    def fits(self, asked: Asked) -> bool:
        return (
            self.times > 0
            and self.operation in {"", asked.operation}
            and self.key in {None, asked.key}
        )

    def release(self) -> None:
        """Let the blocked calls go on, and those that would have been."""
        assert self.gate is not None
        self.gate.set()


class FaultyStore(WrappedStore):
    """Plays a script of faults around another store and records every call."""

    def __init__(self, inner: Store, script: Sequence[Fault] = ()) -> None:
        super().__init__(inner)
        self.script = list(script)
        self.calls: list[Asked] = []
        self.in_flight = 0
        self.most_in_flight = 0

    def fail(self, operation: str, error: Exception, *, key: str | None = None, times: int = 1):
        return self._add(Fault(operation, _key(key), times, before=error))

    def lose_reply(
        self,
        operation: str,
        error: Exception | None = None,
        *,
        key: str | None = None,
        times: int = 1,
    ):
        error = error or TransientError("connection reset before the answer came")
        return self._add(Fault(operation, _key(key), times, after=error))

    def delay(self, operation: str, seconds: float, *, key: str | None = None, times: int = 1):
        return self._add(Fault(operation, _key(key), times, delay_s=seconds))

    def block(self, operation: str, *, key: str | None = None, times: int = 1) -> Fault:
        return self._add(Fault(operation, _key(key), times, gate=trio.Event()))

    def hold_answer(self, operation: str, *, key: str | None = None, times: int = 1) -> Fault:
        return self._add(Fault(operation, _key(key), times, gate=trio.Event(), late=True))

    def _add(self, fault: Fault) -> Fault:
        self.script.append(fault)
        return fault

    def count(self, operation: str, key: str | None = None) -> int:
        """Return how often it was asked."""
        return len(self.asked(operation, key))

    def asked(self, operation: str, key: str | None = None) -> list[Asked]:
        return [a for a in self.calls if a.operation == operation and key in {None, a.key}]

    def forget(self) -> None:
        """Start counting anew."""
        self.calls.clear()
        self.most_in_flight = self.in_flight

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        size = call.bytes_in + call.bytes_out
        return await self._play(Asked(call.operation, call.key, size=size), run)

    @override
    async def read_into(
        self, source: ObjectVersion, span: Span, buffers: Sequence[memoryview]
    ) -> None:
        await self._play(
            Asked("read", source.key, span=span, size=span.size),
            lambda: self._inner.read_into(source, span, buffers),
        )

    @override
    async def upload_part(
        self, upload: Upload, number: int, body: Body, *, offset: int | None = None
    ) -> Part:
        return await self._play(
            Asked("upload_part", upload.key, number=number, size=body.size),
            lambda: self._inner.upload_part(upload, number, body, offset=offset),
        )

    @override
    async def copy_part(
        self,
        upload: Upload,
        number: int,
        source: ObjectVersion,
        span: Span,
        *,
        offset: int | None = None,
    ) -> Part:
        return await self._play(
            Asked("copy_part", upload.key, span=span, number=number, size=span.size),
            lambda: self._inner.copy_part(upload, number, source, span, offset=offset),
        )

    async def _play(self, asked: Asked, run: Callable[[], Awaitable[T]]) -> T:
        fault = next((fault for fault in self.script if fault.fits(asked)), Fault())
        fault.times -= 1
        self.calls.append(asked)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        asked.outcome = "CANCELLED"
        try:
            answer = await _suffer(fault, run)
        except Exception as error:
            asked.outcome = getattr(error, "code", type(error).__name__)
            raise
        else:
            asked.outcome = "OK"
            return answer
        finally:
            self.in_flight -= 1


async def _suffer(fault: Fault, run: Callable[[], Awaitable[T]]) -> T:
    if fault.gate is not None and not fault.late:
        fault.reached.set()
        await fault.gate.wait()
    if fault.delay_s:
        await trio.sleep(fault.delay_s)
    if fault.before is not None:
        fault.reached.set()
        raise fault.before
    answer = await run()
    fault.reached.set()
    if fault.gate is not None and fault.late:
        await fault.gate.wait()
    if fault.after is not None:
        raise fault.after
    return answer


def _key(key: str | None) -> Key | None:
    return None if key is None else Key(key)
