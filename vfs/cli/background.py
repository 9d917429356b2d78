"""Starting the daemon in the background, and waiting until the mount is usable.

The command forks twice. What the daemon says until it is ready comes through a pipe, one JSON
object a line: first `{"pid": N}`, then `{"ready": true}` or `{"exit": N, "message": ...}`. The
pipe's end without either means that the daemon has died. There is no time limit here: the daemon
has limits of its own, and a stage that is taken over may be large.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn, cast

from vfs.errors import VfsError
from vfs.runtime import ExitError, exit_code

log = logging.getLogger(__name__)

Serve = Callable[[Callable[[], None]], int]
"""Runs the daemon until it ends; calls its argument once the mount is usable."""


def run_in_background(serve: Serve) -> None:
    """Return when the mount is usable.

    Errors: ExitError with what the daemon said. Ctrl-C stops the daemon that is starting.
    """
    reading, writing = os.pipe()
    # What is buffered now would be written twice.
    sys.stdout.flush()
    sys.stderr.flush()
    # Until it is known whom to stop, Ctrl-C waits.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    child = os.fork()
    if child == 0:
        os.close(reading)
        _detach(writing, serve, mask)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        pid = _number(_decode(pipe.readline()), "pid", 0)
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):  # who stops the command means the mount
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup(1) has it
                    signal.signal(number, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _await_ready(pipe)
        except KeyboardInterrupt:
            if pid:
                os.kill(pid, signal.SIGTERM)
            raise


def _await_ready(pipe: Iterable[bytes]) -> None:
    for line in pipe:
        told = _decode(line)
        if told.get("ready"):
            return
        if "exit" in told:
            raise ExitError(str(told.get("message", "")), _number(told, "exit", 1))
    raise VfsError(
        "the daemon ended before the mount was usable; its log says why: journalctl -t vfs"
    )


def _decode(line: bytes) -> dict[str, object]:
    return cast("dict[str, object]", json.loads(line or b"{}"))


def _number(told: dict[str, object], name: str, default: int) -> int:
    value = told.get(name, default)
    return value if isinstance(value, int) else default


def _detach(writing: int, serve: Serve, mask: Iterable[int]) -> NoReturn:
    """Become a daemon; nothing returns into the caller's code, which belongs to the parent."""
    status = 1
    try:
        os.setsid()
        # The second child is no session leader: it can never get a terminal.
        if os.fork():
            os._exit(0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        _close_inherited({0, 1, 2, writing})
        os.chdir("/")
        os.umask(0o077)
        status = _serve(writing, serve)
    finally:
        os._exit(status)


def _close_inherited(kept: set[int]) -> None:
    """Let go of the caller's files: a lock or a pipe of a shell would live as long as the mount."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all that is wanted
        if int(name) not in kept:
            with suppress(OSError):  # the listing's own
                os.close(int(name))


def _serve(writing: int, serve: Serve) -> int:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    waiting = True

    def tell(told: dict[str, object]) -> None:
        try:
            os.write(writing, json.dumps(told).encode() + b"\n")
        except BrokenPipeError:  # the command was stopped; the daemon goes on
            return

    def ready() -> None:
        nonlocal waiting
        if waiting:
            waiting = False
            tell({"ready": True})
            os.close(writing)
            # Until now a crash could still be seen on the terminal.
            for descriptor in (1, 2):
                os.dup2(null, descriptor)

    tell({"pid": os.getpid()})
    try:
        status, message = serve(ready), "the daemon ended before the mount was usable"
    except BaseException as error:
        status, message = _outcome(error)
        if not waiting:
            log.critical("%s", message, exc_info=error)
    if waiting:
        tell({"exit": status, "message": message})
    return status


def _outcome(error: BaseException) -> tuple[int, str]:
    if isinstance(error, VfsError):
        return exit_code(error), error.message
    return 1, f"the daemon failed: {type(error).__name__}: {error}"
