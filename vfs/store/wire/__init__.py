"""The data plane of stores that speak HTTP: ranged reads into the caller's memory, and uploads.

An SDK costs some 750 us of Python per request, all of it holding the GIL; this costs a tenth and
takes the GIL a handful of times per range, whatever its size. It is a client for exactly two
things, a GET of one range of one version and a PUT of a body of known length, and believes nothing
but the right answer to them.

    head.py        parse a response head, strictly; undo a chunked error page
    answer.py      decide: is this answer what was asked for?
    dial.py        connect, with TLS and time-outs; be interrupted from another thread
    tls.py         what a failed handshake means, and what to do about it
    connection.py  one connection: send a request, receive its answer
    client.py      keeps idle connections, retries one that had been closed
"""

from vfs.store.wire.answer import PutRequest, RangeRequest, Refusal, Refuse
from vfs.store.wire.client import WireClient
from vfs.store.wire.dial import Endpoint, Exchange

__all__ = [
    "Endpoint",
    "Exchange",
    "PutRequest",
    "RangeRequest",
    "Refusal",
    "Refuse",
    "WireClient",
]
