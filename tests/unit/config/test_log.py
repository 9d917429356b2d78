"""How log lines look, where they go, and that no secret is in them."""

import json
import logging
import socket

import pytest

from vfs import log
from vfs.log import (
    ConsoleFormatter,
    JournalHandler,
    JsonFormatter,
    LogConfig,
    PlainFormatter,
    PrefixFormatter,
    configure_log,
    redact,
    set_level,
)


def record(message="flush failed", level=logging.WARNING, *, error=None, **extra):
    made = logging.makeLogRecord(
        {
            "name": "vfs.file",
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "msg": message,
        }
    )
    made.created = 1_700_000_000.25
    if error:
        made.exc_info = (type(error), error, None)
    vars(made).update(extra)
    return made


@pytest.fixture
def quiet_root(monkeypatch):
    """Give the root logger back as it was."""
    root, ours = logging.getLogger(), logging.getLogger("vfs")
    before = list(root.handlers), root.level, ours.level
    yield root
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def handler_of(root):
    return next(handler for handler in root.handlers if handler.name == "vfs")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=HUNTER2",
        "{'Authorization': 'Bearer HUNTER2'}",
        "GET /b/k?X-Amz-Signature=HUNTER2&x=1",
        "GET /b/k?x-amz-credential=HUNTER2%2Fus",
        "X-Amz-Security-Token: HUNTER2",
        '"x-amz-security-token": "HUNTER2"',
        "az://a/c?sv=1&sig=HUNTER2&se=2",
        "password=HUNTER2 user=x",
        'secret_access_key: "HUNTER2"',
        "s3+http://key:HUNTER2@host/bucket",
        "token=HUNTER2",
    ],
)
def test_secrets_are_taken_out(text):
    assert "HUNTER2" not in redact(text)
    assert "[redacted]" in redact(text)


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/a@b", "etag=abc", "part 7 of upload XYZ", "http://host:80/path", "sigma=3"],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_a_line_for_people_has_time_level_message_and_facts():
    line = ConsoleFormatter().format(record(key="a b", attempt=3))
    assert line == '2023-11-14 22:13:20.250 warning flush failed key="a b" attempt=3'


def test_facts_and_tracebacks_are_redacted_too():
    line = ConsoleFormatter().format(record(error=ValueError("sig=HUNTER2"), url="x://u:HUNTER2@h"))
    assert "HUNTER2" not in line
    assert "ValueError" in line


def test_a_json_line_is_one_object_with_the_facts():
    line = JsonFormatter().format(record("a\nb", key="k", attempt=3, error=ValueError("x")))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "vfs.file",
        "message": "a\nb",
        "key": "k",
        "attempt": 3,
        "traceback": "ValueError: x",
    }


@pytest.mark.parametrize(
    ("level", "prefix"),
    [
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
        (logging.DEBUG, 7),
    ],
)
def test_systemd_reads_the_priority_from_the_line(level, prefix):
    line = PrefixFormatter().format(record("a\nb", level))
    assert line == f"<{prefix}>a | b"


def test_the_journal_gets_fields_and_keeps_line_breaks(tmp_path):
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        handler = JournalHandler(path)
        handler.setFormatter(PlainFormatter())
        handler.emit(record("one"))
        assert journal.recv(4096) == (
            b"MESSAGE=one\nPRIORITY=4\nSYSLOG_IDENTIFIER=vfs\nLOGGER=vfs.file\n"
        )
        handler.emit(record("a\nb", logging.ERROR))
        assert journal.recv(4096).startswith(b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=3\n")
        handler.close()


def test_in_the_background_the_journal_is_the_first_choice(tmp_path, monkeypatch, quiet_root):
    path = tmp_path / "journal"
    monkeypatch.setattr(log, "JOURNAL_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        configure_log(LogConfig(), background=True, fallback=tmp_path / "log")
        logging.getLogger("vfs.x").info("hello")
        assert b"MESSAGE=hello\nPRIORITY=6\n" in journal.recv(4096)


def test_without_a_journal_it_is_syslog(tmp_path, monkeypatch, quiet_root):
    path = tmp_path / "log.sock"
    monkeypatch.setattr(log, "JOURNAL_SOCKET", tmp_path / "none")
    monkeypatch.setattr(log, "SYSLOG_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        configure_log(LogConfig(), background=True, fallback=tmp_path / "log")
        logging.getLogger("vfs.x").info("hello")
        assert b"vfs: hello" in syslog.recv(4096)


def test_without_either_it_is_a_file_beside_the_stage(tmp_path, monkeypatch, quiet_root):
    monkeypatch.setattr(log, "JOURNAL_SOCKET", tmp_path / "none")
    monkeypatch.setattr(log, "SYSLOG_SOCKET", tmp_path / "none")
    fallback = tmp_path / "stage/vfs.log"
    configure_log(LogConfig(log_format="json"), background=True, fallback=fallback)
    logging.getLogger("vfs.x").info("hello")
    assert json.loads(fallback.read_text())["message"] == "hello"


def test_a_second_set_up_replaces_the_first(tmp_path, quiet_root):
    for _ in range(2):
        configure_log(LogConfig(), background=False, fallback=tmp_path / "log")
    assert [handler.name for handler in quiet_root.handlers].count("vfs") == 1


def test_libraries_are_heard_only_when_it_matters(tmp_path, quiet_root):
    configure_log(LogConfig(log_level="debug"), background=False, fallback=tmp_path / "log")
    assert logging.getLogger("vfs.x").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("botocore").isEnabledFor(logging.INFO)
    set_level("error")
    assert not logging.getLogger("vfs.x").isEnabledFor(logging.WARNING)


def test_under_systemd_stderr_has_priorities(tmp_path, monkeypatch, quiet_root):
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    configure_log(LogConfig(), background=False, fallback=tmp_path / "log")
    assert isinstance(handler_of(quiet_root).formatter, PrefixFormatter)
