"""Decide whether a response is the data that was asked for. Pure; nothing is received here.

A store that is asked for a range of a version may answer with another range, with the whole object,
with another version, or a proxy may answer with a page of its own. None of that is data.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vfs.errors import CorruptError, StaleError, VfsError
from vfs.store.wire.head import Head, HeadError
from vfs.values import Span

PARTIAL_CONTENT = 206
OK = 200
CREATED = 201
NO_CONTENT = 204
FIRST_REFUSAL = 300

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)\Z")


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """A GET of one range of one version."""

    target: str  # path and query, encoded as they go on the wire
    fields: tuple[tuple[str, str], ...]  # with Host and Range; names and values without CR, LF
    span: Span  # not empty
    etag: str  # entity tag of the version, as If-Match has it; "" when it cannot be compared
    what: str  # for messages: the object, as a person would name it


@dataclass(frozen=True, slots=True)
class PutRequest:
    """A PUT of a body; its length is added when it is sent."""

    target: str  # path and query, encoded as they go on the wire
    fields: tuple[tuple[str, str], ...]  # with Host; names and values without CR, LF
    what: str  # for messages: the object, as a person would name it


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that says no."""

    status: int
    fields: Mapping[str, str]  # lower-case names
    body: bytes  # the first 64 KiB at most
    what: str


Refuse = Callable[[Refusal], VfsError]
"""Translates a refusal: the one place of a backend that knows what its service means by it."""


def range_field(span: Span) -> str:
    """Return the value of the Range header field."""
    return f"bytes={span.start}-{span.stop - 1}"


def check_answer(request: RangeRequest, head: Head) -> None:
    """Accept a 2xx response as the data that was asked for, or raise.

    Errors: StaleError when it is of another version; CorruptError when it is anything else.
    """
    try:
        length = head.content_length
    except HeadError as error:
        raise _wrong(request, str(error)) from error
    if head.chunked:
        raise _wrong(request, "the answer does not say how long it is")
    if head.status == PARTIAL_CONTENT:
        _check_range(request, head.fields.get("content-range", ""))
    elif head.status != OK:
        raise _wrong(request, f"status {head.status}")
    elif request.span.start != 0 or length != request.span.size:
        raise _wrong(request, "the server ignores Range (status 200)")
    if length != request.span.size:
        raise _wrong(request, f"{length} bytes instead of {request.span.size}")
    _check_etag(request, head)


def check_stored(request: PutRequest, head: Head) -> None:
    """Accept a 2xx response as the word that a body is stored, or raise CorruptError."""
    if head.status not in {OK, CREATED, NO_CONTENT} or not head.fields.get("etag"):
        raise CorruptError(
            f"upload of {request.what}: wrong answer: status {head.status}"
            f" {'with' if head.fields.get('etag') else 'without'} an ETag;"
            " is a proxy or cache in between?",
            operation="upload_part",
            key=request.what,
        )


def _check_range(request: RangeRequest, text: str) -> None:
    found = _CONTENT_RANGE.match(text)
    if found is None:
        raise _wrong(request, f"Content-Range is {text[:60]!r}")
    start, last = int(found[1]), int(found[2])
    total = None if found[3] == "*" else int(found[3])
    if (start, last + 1) != (request.span.start, request.span.stop):
        raise _wrong(request, f"bytes {start}-{last} instead of {range_field(request.span)}")
    if total is not None and total < request.span.stop:
        raise _wrong(request, f"the object ends at {total}, before the range does")


def _check_etag(request: RangeRequest, head: Head) -> None:
    """Catch servers and caches that ignore If-Match, and pages that are no object at all."""
    if not request.etag:
        return
    etag = head.fields.get("etag")
    if etag is None:
        if head.status == OK:
            raise _wrong(request, "an answer without an ETag")
    elif etag.strip('"') != request.etag.strip('"'):
        raise StaleError(
            f"read of {request.what}: it has changed in the store since it was looked up",
            operation="read",
            key=request.what,
        )


def _wrong(request: RangeRequest, why: str) -> CorruptError:
    return CorruptError(
        f"read of {request.what}: wrong answer: {why}; is a proxy or cache in between?",
        operation="read",
        key=request.what,
        detail=f"asked for {range_field(request.span)}",
    )
