"""The data plane of stores that speak HTTP: ranged reads, straight into the caller's memory.

An SDK costs some 750 us of Python per request, all of it holding the GIL; this costs a tenth and
takes the GIL a handful of times per range, whatever its size. It is a client for exactly one thing,
a GET of one range of one version, and believes nothing but the right answer to it.

    head.py        parse a response head, strictly; undo a chunked error page
    answer.py      decide: is this answer the data that was asked for?
    dial.py        connect, with TLS and time-outs; be interrupted from another thread
    connection.py  one connection: send a request, receive its answer
    client.py      keeps idle connections, retries one that had been closed
"""

from vfs.store.wire.answer import RangeRequest, Refusal, Refuse
from vfs.store.wire.client import RangeClient
from vfs.store.wire.dial import Endpoint, Exchange

__all__ = ["Endpoint", "Exchange", "RangeClient", "RangeRequest", "Refusal", "Refuse"]
