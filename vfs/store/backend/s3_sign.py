"""Sign a request with AWS Signature Version 4. Pure.

The SDK's signer costs ten times as much, per request and holding the GIL.
Source: IAM User Guide, "Create a signed AWS API request"; S3 does not normalise paths, and the
target that is signed is byte for byte the one that is sent.
"""

import functools
import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key pair, with the session token of a temporary one."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def encode_path(path: str) -> str:
    """Percent-encode a path as S3 signs it: all but unreserved characters and slashes."""
    return quote(path, safe="/-_.~")


def encode_query(parameters: Mapping[str, str]) -> str:
    """Return a query string in the order in which it is signed."""
    pairs = (
        f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}"
        for name, value in parameters.items()
    )
    return "&".join(sorted(pairs))


def format_time(seconds: float) -> str:
    """Return seconds since the epoch as signatures write them."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def sign(  # noqa: PLR0913 - the parts of a request
    method: str,
    target: str,
    fields: Mapping[str, str],
    credentials: Credentials,
    *,
    region: str,
    amz_date: str,
    payload_sha256: str = EMPTY_SHA256,
) -> tuple[tuple[str, str], ...]:
    """Return all header fields of a signed request, those given among them.

    `target` is an encoded path with an optional encoded, sorted query; `fields` has lower-case
    names, with `host`, and values without spaces at either end; `payload_sha256` is in hexadecimal.
    """
    sent = {**fields, "x-amz-content-sha256": payload_sha256, "x-amz-date": amz_date}
    if credentials.token:
        sent["x-amz-security-token"] = credentials.token
    names = sorted(sent)
    signed_names = ";".join(names)
    path, _, query = target.partition("?")
    canonical = "\n".join(
        [method, path, query]
        + [f"{name}:{sent[name]}" for name in names]
        + ["", signed_names, payload_sha256]
    )
    date = amz_date[:8]
    scope = f"{date}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{amz_date}\n{scope}\n{digest}"
    key = _signing_key(credentials.secret_key, date, region)
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    sent["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope},"
        f" SignedHeaders={signed_names}, Signature={signature}"
    )
    return tuple(sent.items())


@functools.lru_cache(maxsize=16)
def _signing_key(secret: str, date: str, region: str) -> bytes:
    """Derive the key of one day; four of the five digests of a signature are for this."""
    key = f"AWS4{secret}".encode()
    for word in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, word.encode(), "sha256")
    return key
