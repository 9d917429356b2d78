"""A proxy in front of an S3 gateway that fails on purpose, by a script, and counts requests.

    with FaultProxy(rgw().endpoint) as proxy:
        proxy.add("UploadPart", Refuse(503, retry_after_s=1), times=5)
        proxy.add("CompleteMultipartUpload", LoseReply())     # done, but nobody is told
        held = proxy.add("", Hold(), times=1000)              # until held.release()
        proxy.outage(); ...; proxy.recover()
        proxy.weather = storm(random.Random(1), rate=0.1)     # for what the script does not name

The first fault of the script that fits a request is used up by it. Operations are the names of the
S3 API; without an operation a fault fits every one, without a key every key.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from typing_extensions import override

from tests.support.forward import EndError, Exchange, Gone, Head, Proxy, Request, replace_length

MUTATIONS = (
    "PutObject",
    "CopyObject",
    "DeleteObject",
    "DeleteObjects",
    "CompleteMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CreateMultipartUpload",
    "AbortMultipartUpload",
)


class Action:
    """What happens to one request."""

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        raise NotImplementedError


@dataclass
class Delay(Action):
    """The request waits, and passes then."""

    seconds: float

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        proxy.closing.wait(self.seconds)
        exchange.forward()


@dataclass
class Refuse(Action):
    """An answer that the gateway knows nothing of."""

    status: int = 503
    retry_after_s: int | None = None

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        after = self.retry_after_s
        fields = [] if after is None else [("Retry-After", str(after))]
        exchange.refuse(self.status, {429: "SlowDown", 503: "SlowDown"}[self.status], fields)


@dataclass
class ResetRequest(Action):
    """The connection breaks in the middle of the request's body."""

    share: float = 0.5

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        size = exchange.request.size
        if not size:
            raise Gone(reset=True)
        exchange.ask(body_bytes=int(size * self.share))


@dataclass
class ResetReply(Action):
    """The connection breaks in the middle of the answer, or before it where it has no body."""

    share: float = 0.5

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        head = exchange.ask()
        data = b"".join(exchange.answer_body(head))
        if data:
            exchange.near.send(head.raw + data[: int(len(data) * self.share)])
        raise Gone(reset=True)


@dataclass
class Shorten(Action):
    """The answer ends early; `hidden`: with a length that fits what came."""

    by: int = 1
    hidden: bool = False

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        head = exchange.ask()
        data = b"".join(exchange.answer_body(head))
        kept = data[: max(0, len(data) - self.by)]
        raw = replace_length(head, len(kept)) if self.hidden else head.raw
        exchange.near.send(raw + kept)
        raise Gone


@dataclass
class Rewrite(Action):
    """The answer is another one than the gateway's."""

    edit: Callable[[Head, bytes], bytes]

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        head = exchange.ask()
        data = b"".join(exchange.answer_body(head))
        exchange.near.send(self.edit(head, data))
        raise Gone


@dataclass
class LoseReply(Action):
    """The gateway has done it, and nobody is told."""

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        head = exchange.ask()
        for _ in exchange.answer_body(head):
            pass
        raise Gone(reset=True)


@dataclass
class Hold(Action):
    """The request waits until it is released."""

    gate: threading.Event = field(default_factory=threading.Event)
    reached: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    after: bool = False  # the gateway has done it; its answer waits

    def play(self, exchange: Exchange, proxy: "FaultProxy") -> None:
        if not self.after:
            self._wait(proxy)
            exchange.forward()
            return
        head = exchange.ask()
        data = b"".join(exchange.answer_body(head))
        self._wait(proxy)
        exchange.near.send(head.raw + data)
        exchange.finish(head)

    def _wait(self, proxy: "FaultProxy") -> None:
        self.reached.release()
        while not self.gate.wait(0.05):
            if proxy.closing.is_set() or proxy.is_out:
                raise Gone(reset=True)

    def release(self) -> None:
        """Let the held requests go on, and those that would have been."""
        self.gate.set()


@dataclass
class Fault:
    """What happens to the next requests that fit."""

    operations: frozenset[str]
    action: Action
    key: str | None = None
    times: int = 1
    played: int = 0

    def fits(self, request: Request) -> bool:
        return (
            self.times > 0
            and (not self.operations or request.operation in self.operations)
            and (self.key is None or request.key.endswith(self.key))
        )


class FaultProxy(Proxy):
    """Plays a script of faults; what the script does not name goes through the weather."""

    def __init__(self, upstream: str) -> None:
        self.script: list[Fault] = []
        self.weather: Callable[[Request], Action | None] = lambda _request: None
        self.is_out = False
        self._flows = threading.Event()
        self._flows.set()
        self._bytes_per_s = 0.0
        self._line = threading.Lock()
        self._choosing = threading.Lock()
        super().__init__(upstream)

    def add(
        self,
        operations: str | Sequence[str],
        action: Action,
        *,
        key: str | None = None,
        times: int = 1,
    ) -> Fault:
        """Add a fault to the script."""
        named = [operations] if isinstance(operations, str) else operations
        fault = Fault(frozenset(filter(None, named)), action, key, times)
        with self._choosing:
            self.script.append(fault)
        return fault

    def hold(self, *operations: str, key: str | None = None) -> Hold:
        """Hold all requests of these operations until released."""
        hold = Hold()
        self.add(operations, hold, key=key, times=1 << 30)
        return hold

    def clear(self) -> None:
        """Forget the script and the weather; held requests go on."""
        with self._choosing:
            script, self.script = self.script, []
            self.weather = lambda _request: None
        for fault in script:
            if isinstance(fault.action, Hold):
                fault.action.release()

    def outage(self) -> None:
        """Break all connections and refuse new ones."""
        self.is_out = True
        self.break_all()

    def freeze(self) -> None:
        """Let no byte pass in either direction, and close nothing."""
        self._flows.clear()

    def recover(self) -> None:
        """End an outage or a silence."""
        self.is_out = False
        self._flows.set()

    def limit(self, bytes_per_s: float) -> None:
        """Let so many bytes a second pass, of both directions together; 0 is no limit."""
        self._bytes_per_s = bytes_per_s

    @override
    def accepts(self) -> bool:
        return not self.is_out

    @override
    def let_pass(self, size: int) -> None:
        while not self._flows.wait(0.05):
            if self.closing.is_set():
                raise EndError("closing")
        rate = self._bytes_per_s
        if rate:
            with self._line:
                self.closing.wait(size / rate)
        if self.is_out:
            raise EndError("outage")

    @override
    def carry(self, exchange: Exchange) -> None:
        action = self._choose(exchange.request)
        if action is None:
            exchange.forward()
            return
        exchange.request.fault = type(action).__name__
        action.play(exchange, self)

    def _choose(self, request: Request) -> Action | None:
        with self._choosing:
            for fault in self.script:
                if fault.fits(request):
                    fault.times -= 1
                    fault.played += 1
                    return fault.action
            return self.weather(request)


def storm(
    pick: random.Random, rate: float, *, answered: Sequence[str] = ()
) -> Callable[[Request], Action | None]:
    """Return bad weather: every fault there is, at random, for a share of all requests.

    What the gateway answers to the operations of `answered` comes through.
    """
    turns: Counter[int] = Counter()

    def choose(request: Request) -> Action | None:
        if pick.random() >= rate:
            return None
        actions: list[Action] = [
            Refuse(503),
            Refuse(429),
            Refuse(503, retry_after_s=0),
            ResetRequest(pick.random()),
            Delay(pick.random() / 5),
        ]
        if request.operation not in answered:
            actions += [ResetReply(pick.random()), LoseReply()]
        if request.operation == "GetObject":
            actions += [Shorten(pick.randrange(1, 4096)), ResetReply(pick.random())]
        turns[len(actions)] += 1  # each kind has its turn, so that none is missing
        return actions[turns[len(actions)] % len(actions)]

    return choose


def no_worse_than(
    weather: Callable[[Request], Action | None], in_a_row: int
) -> Callable[[Request], Action | None]:
    """Return the same weather, but never more faults in a row for one key and operation."""
    bad: dict[tuple[str, str], int] = {}

    def choose(request: Request) -> Action | None:
        what = (request.operation, request.key)
        action = weather(request) if bad.get(what, 0) < in_a_row else None
        bad[what] = bad.get(what, 0) + 1 if action is not None else 0
        return action

    return choose
