"""Parse what stands before the body of an HTTP/1.1 response.

Strict, because a connection is used again: whoever misreads where one answer ends takes the rest
for the beginning of the next. Source: RFC 9112.
"""

import re
from dataclasses import dataclass

MAX_HEAD_BYTES = 64 << 10
"""Far above what any store sends; a bound, so that a broken server cannot fill the memory."""

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?\Z")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEX = re.compile(rb"[0-9A-Fa-f]{1,8}\Z")


class HeadError(ValueError):
    """What was received is not the head of an HTTP/1.1 response."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and header fields of a response."""

    status: int
    fields: dict[str, str]  # lower-case names; repeated fields joined by commas
    keeps_alive: bool  # the server will take another request on this connection

    @property
    def content_length(self) -> int | None:
        """Length of the body, where it says so."""
        text = self.fields.get("content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()):
            raise HeadError(f"Content-Length is {text!r}")
        return int(text)

    @property
    def chunked(self) -> bool:
        """Tell whether the body comes in chunks, its length unknown."""
        return "transfer-encoding" in self.fields


def find_end(data: bytearray, length: int) -> int:
    """Return the position of the first byte after the head, -1 when it is not complete yet."""
    found = data.find(b"\r\n\r\n", 0, length)
    return -1 if found < 0 else found + 4


def parse_head(raw: bytes) -> Head:
    """Parse a complete head, with or without its closing empty line.

    Errors: HeadError.
    """
    lines = raw.rstrip(b"\r\n").split(b"\r\n")
    status = _STATUS.match(lines[0])
    if status is None:
        raise HeadError("no HTTP/1.1 status line")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.match(name) or b"\n" in line or b"\0" in line:
            raise HeadError("malformed header field")
        key = name.decode("ascii").lower()
        text = value.strip(b" \t").decode("latin-1")
        if key in fields:
            text = _join(key, fields[key], text)
        fields[key] = text
    options = {option.strip() for option in fields.get("connection", "").lower().split(",")}
    is_1_1 = status[1] == b"1"
    keeps_alive = "close" not in options and (is_1_1 or "keep-alive" in options)
    return Head(int(status[2]), fields, keeps_alive)


def _join(name: str, first: str, second: str) -> str:
    if name in {"content-length", "content-range", "etag"}:
        if first != second:
            raise HeadError(f"two different {name} fields")
        return first
    return f"{first}, {second}"


def join_chunks(data: bytes) -> tuple[bytes, bool]:
    """Return the content of a chunked body as far as it has come, and whether it is complete."""
    out = bytearray()
    position = 0
    while True:
        end = data.find(b"\r\n", position)
        if end < 0:
            return bytes(out), False
        size_text = data[position:end].partition(b";")[0].strip()
        if not _HEX.match(size_text):
            return bytes(out), False
        size = int(size_text, 16)
        if size == 0:
            return bytes(out), True
        start = end + 2
        out += data[start : start + size]
        if start + size + 2 > len(data):
            return bytes(out), False
        position = start + size + 2
