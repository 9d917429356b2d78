"""Counts every attempt: by operation and result, with its bytes and its time.

The innermost wrapper, so that what is retried is counted each time and what waits for its turn is
not yet in flight. Samples, all labelled `store` and `operation`:

    store_calls_total{result}    result is OK, CANCELLED, or the error's code
    store_bytes_in_total, store_bytes_out_total      of calls that succeeded
    store_seconds_total          time inside the store, also of calls that failed
    store_in_flight              a gauge
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
from typing_extensions import override

from vfs.errors import VfsError
from vfs.metrics import Metrics, Sample, sample
from vfs.store.base import Store
from vfs.store.wrap.base import Call, WrappedStore

T = TypeVar("T")


class MeteredStore(WrappedStore):
    """Counts what another store is asked."""

    def __init__(self, inner: Store, metrics: Metrics) -> None:
        super().__init__(inner)
        self._metrics = metrics
        self._samples: dict[tuple[str, ...], Sample] = {}

    @override
    async def around(self, call: Call, run: Callable[[], Awaitable[T]]) -> T:
        started = trio.current_time()
        result = "FAILED"
        self._add("store_in_flight", call, 1)
        try:
            answer = await run()
        except trio.Cancelled:
            result = "CANCELLED"
            raise
        except VfsError as error:
            result = error.code
            raise
        else:
            result = "OK"
            self._add("store_bytes_in_total", call, call.bytes_in)
            self._add("store_bytes_out_total", call, call.bytes_out)
            return answer
        finally:
            self._add("store_in_flight", call, -1)
            self._add("store_seconds_total", call, trio.current_time() - started)
            self._add("store_calls_total", call, 1, result=result)

    def _add(self, name: str, call: Call, amount: float, **more: str) -> None:
        if not amount:
            return
        asked = (name, call.operation, *more.values())
        which = self._samples.get(asked)
        if which is None:
            which = sample(name, store=self.url, operation=call.operation, **more)
            self._samples[asked] = which
        self._metrics.add_to(which, amount)
