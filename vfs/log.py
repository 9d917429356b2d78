"""Logging: where lines go, how they look, and that no secret is in them.

Standard library logging throughout: modules call `logging.getLogger(__name__)` and pass facts in
`extra`. In the foreground lines go to stderr: with time and level, with a priority prefix where
systemd reads them, or as one JSON object a line. In the background they go to the journal, else to
syslog, else to a file. Every line passes the redaction, which is a last net: messages hold no
secret to begin with.
"""

import errno
import json
import logging
import logging.handlers
import os
import re
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field
from typing_extensions import override

from vfs.errors import ConfigError, DeniedError
from vfs.options import Section

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
SYSLOG_SOCKET = Path("/dev/log")
REDACTED = "[redacted]"
_HANDLER = "vfs"

_SECRETS = (
    # Any scheme of the header: `Authorization: AWS4-HMAC-SHA256 Credential=..., Signature=...`.
    re.compile(r"(?i)(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+"),
    re.compile(
        r"(?i)((?:x-amz-(?:signature|credential|security-token)|x-goog-signature|\bsig|\bsignature"
        r"|passw(?:or)?d|passphrase|secret(?:_?access)?(?:_?key)?|session_?token|\btoken)"
        r"['\"]?\s*[:=]\s*['\"]?)[^\s&'\",;]+"
    ),
    re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+(?=@)"),
    re.compile(r"(?i)(\bBearer )[A-Za-z0-9._~+/=-]+"),
)
# Attributes that every record has; whatever else is there came from `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# syslog(3) levels, which the journal and sd-daemon(3) share.
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class LogConfig(Section):
    """What is logged, and how it looks."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least serious lines that are logged.", examples=["debug"]
    )
    log_format: Literal["console", "json"] = Field(
        "console",
        description="Form of each line: `console` for people, `json` for one JSON object.",
        examples=["json"],
    )


def redact(text: str) -> str:
    """Return the text without anything that looks like a secret."""
    for pattern in _SECRETS:
        text = pattern.sub(rf"\1{REDACTED}", text)
    return text


class ConsoleFormatter(logging.Formatter):
    """Lines for people: time, level, message, facts."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        moment = _moment(record).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        return f"{moment} {record.levelname.lower():<7} {self.body(record)}"

    def body(self, record: logging.LogRecord) -> str:
        """Return the line without time and level."""
        facts = "".join(f" {name}={_fact(value)}" for name, value in _extra(record).items())
        return redact(f"{record.getMessage()}{facts}{_traceback(self, record)}")


class PlainFormatter(ConsoleFormatter):
    """Lines for a reader that adds time and level itself: journal, syslog."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        return self.body(record)


class PrefixFormatter(ConsoleFormatter):
    """Lines for a stderr that systemd reads: sd-daemon(3) priority first."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        # A line break would start a new entry, without a priority.
        return f"<{_priority(record)}>" + self.body(record).replace("\n", " | ")


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _moment(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        fields |= {
            name: value if isinstance(value, int | float) else redact(str(value))
            for name, value in _extra(record).items()
            if name not in fields
        }
        if trace := _traceback(self, record):
            fields["traceback"] = redact(trace.strip())
        return json.dumps(fields, ensure_ascii=False)


class JournalHandler(logging.Handler):
    r"""Sends each line to journald as one datagram in its native protocol.

    Source: systemd's JOURNAL_NATIVE_PROTOCOL: `NAME=value\n`, or for values with line breaks
    `NAME\n`, the length as 64 bit little endian, the value, `\n`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    @override
    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(_priority(record)),
            "SYSLOG_IDENTIFIER": "vfs",
            "LOGGER": record.name,
        }
        try:
            self._socket.send(b"".join(_journal_field(*field) for field in fields.items()))
        except OSError:
            self.handleError(record)

    @override
    def close(self) -> None:
        self._socket.close()
        super().close()


def configure_log(config: LogConfig, *, background: bool, fallback: Path) -> None:
    """Send all logging where it belongs; replaces what an earlier call set up.

    `fallback` is the file that is used in the background where neither journal nor syslog answer.
    """
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if handler.name == _HANDLER]:
        root.removeHandler(old)
        old.close()
    handler = _background(config, fallback) if background else _foreground(config)
    handler.name = _HANDLER
    root.addHandler(handler)
    # Libraries only when it matters: their debug lines show whole requests.
    root.setLevel(logging.WARNING)
    set_level(config.log_level)


def set_level(level: str) -> None:
    """Change what is logged from now on."""
    logging.getLogger("vfs").setLevel(level.upper())


def current_level() -> str:
    """Return what is logged now."""
    return logging.getLevelName(logging.getLogger("vfs").level).lower()


def _foreground(config: LogConfig) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    elif "JOURNAL_STREAM" in os.environ and not sys.stderr.isatty():  # systemd.exec(5)
        handler.setFormatter(PrefixFormatter())
    else:
        handler.setFormatter(ConsoleFormatter())
    return handler


def _background(config: LogConfig, fallback: Path) -> logging.Handler:
    handler: logging.Handler | None = _journal() or _syslog()
    formatter: logging.Formatter = PlainFormatter()
    if handler is None:
        handler = _file(fallback)
        formatter = ConsoleFormatter()
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else formatter)
    return handler


def _file(path: Path) -> logging.Handler:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Watched: logrotate may move the file away under a daemon that runs for months.
        return logging.handlers.WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        kind = DeniedError if error.errno in (errno.EROFS, errno.EACCES) else ConfigError
        raise kind(
            f"the log {path} cannot be written ({error.strerror}): choose another stage_dir"
        ) from error


def _journal() -> logging.Handler | None:
    try:
        return JournalHandler(JOURNAL_SOCKET)
    except OSError:
        return None


def _syslog() -> logging.Handler | None:
    # Without the file the handler would quietly try UDP to localhost.
    if not SYSLOG_SOCKET.exists():
        return None
    try:
        handler = logging.handlers.SysLogHandler(str(SYSLOG_SOCKET))
    except OSError:
        return None
    handler.ident = "vfs: "
    return handler


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _priority(record: logging.LogRecord) -> int:
    return next((value for level, value in _PRIORITIES if record.levelno >= level), 7)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _fact(value: object) -> str:
    text = str(value)
    return text if text and re.fullmatch(r"[^\s=\"]+", text) else json.dumps(text)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    return "\n" + formatter.formatException(record.exc_info)


def _journal_field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
