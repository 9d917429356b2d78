"""A daemon that only talks: it answers each request from a script."""

import contextlib
import json
import os
import socket
import threading
from pathlib import Path

from vfs.runtime import Record, socket_path, write_record


class FakeDaemon:
    """Serves the control socket of a mount point from a thread; keeps what it was asked."""

    def __init__(self, directory: Path, mountpoint: Path, answers, pid=None):
        self.asked = []
        self.answers = answers
        self.record = Record(
            str(mountpoint), "mem://fake", pid or os.getpid(), "2030-01-02T03:04:05Z", "/stage/1"
        )
        write_record(directory, self.record)
        self.path = socket_path(directory, mountpoint)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(self.path))
        self._socket.listen()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        with self._socket:
            while True:
                connection, _ = self._socket.accept()
                # Closing flushes what nobody may be there to read any more.
                gone = contextlib.suppress(BrokenPipeError, ConnectionResetError)
                with gone, connection, connection.makefile("rwb") as lines:
                    request = lines.readline()
                    if not request:  # our own farewell
                        return
                    self.asked.append(json.loads(request))
                    self._answer(lines)

    def _answer(self, lines):
        for answer in self.answers(self.asked[-1]):
            if answer is WAIT:
                lines.flush()
                self._stop.wait()
                return
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n"
            lines.write(raw)
        lines.flush()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as farewell:
            farewell.connect(str(self.path))
            farewell.shutdown(socket.SHUT_WR)
            self._thread.join()
        self._thread.join()


WAIT = object()
"""In a script: say nothing more until the test is over."""


def answering(*answers):
    return lambda request: answers
