"""The control socket of one mount: status, flush, umount, set.

One JSON object a line. A request is `{"version": 1, "verb": ...}`; the answer is any number of
`{"progress": {...}}` lines and then `{"ok": true, ...}` or `{"ok": false, "exit": N, "message":
...}`.
"""

import json
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import trio

from vfs.errors import InvalidError, MetadataError, VfsError
from vfs.runtime import EXIT_FAILED, VERSION, exit_code
from vfs.tasks import open_tasks

log = logging.getLogger(__name__)

Fields = Mapping[str, object]
Progress = Callable[[Fields], Awaitable[None]]
Verb = Callable[[Fields, Progress], Awaitable[Fields]]
"""Carry out a request, telling progress, and return the fields of the answer."""

MAX_REQUEST_BYTES = 64 << 10


@asynccontextmanager
async def open_control(path: Path, verbs: Mapping[str, Verb]) -> AsyncGenerator[None]:
    """Serve the control socket; leaving the block closes it and removes its name."""
    await trio.Path(path).unlink(missing_ok=True)
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        await listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    try:
        async with open_tasks() as nursery:
            nursery.start_soon(_accept, listener, verbs, nursery)
            yield
            nursery.cancel_scope.cancel()
    finally:
        listener.close()
        with trio.CancelScope(shield=True):
            await trio.Path(path).unlink(missing_ok=True)


async def _accept(
    listener: trio.socket.SocketType, verbs: Mapping[str, Verb], nursery: trio.Nursery
) -> None:
    while True:
        connection, _ = await listener.accept()
        nursery.start_soon(_converse, trio.SocketStream(connection), verbs)


async def _converse(stream: trio.SocketStream, verbs: Mapping[str, Verb]) -> None:
    async def say(message: Fields) -> None:
        await stream.send_all(json.dumps(message).encode() + b"\n")

    async def progress(fields: Fields) -> None:
        await say({"progress": fields})

    try:
        async with stream:
            await say(await _answer(await _request(stream), verbs, progress))
    except trio.BrokenResourceError:
        pass  # the command went away; what it asked for goes on or has an end of its own


async def _request(stream: trio.SocketStream) -> Fields:
    line = b""
    while not line.endswith(b"\n") and len(line) < MAX_REQUEST_BYTES:
        more = await stream.receive_some(MAX_REQUEST_BYTES)
        if not more:
            break
        line += more
    try:
        request: object = json.loads(line)
    except ValueError:
        request = None
    return cast("Fields", request) if isinstance(request, dict) else {}


async def _answer(request: Fields, verbs: Mapping[str, Verb], progress: Progress) -> Fields:
    try:
        return {"ok": True, **await _verb(request, verbs)(request, progress)}
    except VfsError as error:
        return {"ok": False, "exit": exit_code(error), "message": error.message}
    except trio.BrokenResourceError:
        raise
    except Exception as error:
        log.exception("control request failed")
        return {"ok": False, "exit": EXIT_FAILED, "message": f"unexpected error: {error}"}


def _verb(request: Fields, verbs: Mapping[str, Verb]) -> Verb:
    if request.get("version") != VERSION:
        raise MetadataError("command and daemon speak different versions: restart the mount")
    name = str(request.get("verb"))
    if name not in verbs:
        raise InvalidError(f"the daemon does not know {name!r}: restart the mount")
    return verbs[name]
