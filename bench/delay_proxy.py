"""A line with a delay: a TCP proxy that passes every byte on half a round trip later.

    python -m bench.delay_proxy --round-trip-ms 20 127.0.0.1:18480      # prints its port

Opening a connection costs one round trip, as it does in TCP; the bandwidth is not limited beyond
what the window allows, and neither slow start nor loss is played.
"""

import argparse
import contextlib
import socket
from functools import partial

import trio

CHUNK_BYTES = 256 << 10
WINDOW_BYTES = 64 << 20  # under way in one direction: 1.3 GB/s at 50 ms
CONNECT_S = 10.0


async def serve(
    host: str,
    port: int,
    round_trip_s: float,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections on a free port of loopback, told by `task_status`, for ever."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listener.socket.getsockname()[1])
    await trio.serve_listeners(partial(_join, host, port, round_trip_s), [listener])


async def _join(host: str, port: int, round_trip_s: float, near: trio.SocketStream) -> None:
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await trio.sleep(round_trip_s)
    try:
        with trio.fail_after(CONNECT_S):
            far = await trio.open_tcp_stream(host, port)
    except (OSError, trio.TooSlowError):
        await near.aclose()
        return
    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(_carry, near, far, round_trip_s / 2, nursery)
        nursery.start_soon(_carry, far, near, round_trip_s / 2, nursery)


async def _carry(
    source: trio.SocketStream, target: trio.SocketStream, delay_s: float, both: trio.Nursery
) -> None:
    """Pass on one direction; a connection that breaks on either side ends both."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](WINDOW_BYTES // CHUNK_BYTES)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_take, source, delay_s, send)
            async with receive:
                async for due, data in receive:
                    await trio.sleep_until(due)
                    await target.send_all(data)
        await target.send_eof()
    except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        both.cancel_scope.cancel()


async def _take(
    source: trio.SocketStream,
    delay_s: float,
    send: trio.MemorySendChannel[tuple[float, bytes]],
) -> None:
    async with send:
        while data := await source.receive_some(CHUNK_BYTES):
            await send.send((trio.current_time() + delay_s, bytes(data)))


async def _main(host: str, port: int, round_trip_s: float) -> None:
    async with trio.open_nursery() as nursery:
        print(await nursery.start(serve, host, port, round_trip_s), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--round-trip-ms", type=float, default=20)
    parser.add_argument("target", metavar="HOST:PORT")
    given = parser.parse_args()
    target_host, _, target_port = given.target.rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(_main, target_host, int(target_port), given.round_trip_ms / 1000)
