"""What the answers of S3 services and the failures of the SDK mean, as errors of ours.

Two ways lead here: a ClientError of the SDK and a refusal of the wire client. Both become a `Fault`
first. What cannot be told from the code alone (a missing key is `StaleError` to a read of a version
and `NotFoundError` to a head) is said by the caller in `Doing`.
"""

import ssl
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import botocore.exceptions as sdk
from urllib3.util.ssl_match_hostname import CertificateError

from vfs.errors import (
    AuthenticationError,
    ConfigError,
    ConflictError,
    InvalidError,
    NotFoundError,
    RetainedError,
    ThrottledError,
    TransientError,
    UnreachableError,
    VfsError,
)
from vfs.store.backend.s3_codes import (
    CODES,
    CONDITION_FAILED,
    MISSING_KEY,
    RENEW,
    RETAINED_CODES,
    STATUSES,
    WRONG_REGION,
)
from vfs.store.wire.tls import handshake_failed, needs_tls, other_name, speaks_tls

if TYPE_CHECKING:
    from botocore.exceptions import ClientError


@dataclass(frozen=True, slots=True)
class Fault:
    """What a service said when it said no."""

    status: int
    code: str = ""
    message: str = ""
    region: str = ""  # the region that the bucket is in, where the service names it
    retry_after_s: float | None = None

    @property
    def detail(self) -> str:
        """Return what it said, in one line. Never holds a secret: signatures are not in it."""
        said = f"{self.code}: {self.message}" if self.message else self.code
        return " ".join((said or f"status {self.status}").split())[:300]


@dataclass(frozen=True, slots=True)
class Doing:
    """What was being done, and what two answers mean to it."""

    operation: str
    key: str
    store: str  # URL
    missing: type[VfsError] = NotFoundError  # there is no such key or version
    mismatch: type[VfsError] = ConflictError  # a condition does not hold

    @property
    def target(self) -> str:
        """Name what it is done to, for messages."""
        return (
            f"{self.operation} of {self.key!r} in {self.store}"
            if self.key
            else (f"{self.operation} in {self.store}")
        )


def translate_fault(fault: Fault, doing: Doing) -> VfsError:
    """Return the error that an answer stands for."""
    kind, why = _meaning(fault, doing)
    message = f"{doing.target}: {why}"
    # A missing bucket is told from a missing key by its empty key.
    key = "" if fault.code == "NoSuchBucket" else doing.key
    if issubclass(kind, ThrottledError):
        return kind(
            message,
            operation=doing.operation,
            store=doing.store,
            key=key,
            detail=fault.detail,
            retry_after_s=fault.retry_after_s,
        )
    return kind(message, operation=doing.operation, store=doing.store, key=key, detail=fault.detail)


def _meaning(fault: Fault, doing: Doing) -> tuple[type[VfsError], str]:
    if fault.code in WRONG_REGION or fault.status in {301, 307}:
        named = f"set region={fault.region}" if fault.region else "set region to the bucket's own"
        return ConfigError, f"the bucket is in another region or at another endpoint: {named}"
    if fault.code in CODES:
        kind, why = CODES[fault.code]
        if fault.code == "NoSuchBucket":
            why = f"there is no such bucket: {why}"
        return kind, why
    if fault.status == HTTPStatus.NOT_FOUND and is_foreign(fault, doing):
        return doing.missing, (
            "the endpoint does not look like an S3 service: it answers 404 without an S3 error"
            " code; check address and port"
        )
    if fault.code in MISSING_KEY or fault.status == HTTPStatus.NOT_FOUND:
        return doing.missing, "there is no such object, or not this version of it any more"
    if fault.code in CONDITION_FAILED or fault.status == HTTPStatus.PRECONDITION_FAILED:
        return doing.mismatch, "the object in the store is not the version that was expected"
    if fault.code in RETAINED_CODES:
        return RetainedError, "a retention rule of the bucket forbids it"
    kind, why = STATUSES.get(fault.status, (VfsError, "the service refused"))
    return kind, f"{why} ({fault.detail})"


def is_foreign(fault: Fault, doing: Doing) -> bool:
    """Tell whether no S3 service can have said this: of a missing bucket they all give a code."""
    # The SDK takes the status for the code where the page is not one of S3; answers to HEAD have
    # no page, and what is asked of one object may be refused by a proxy that knows the service.
    return fault.code in {"", str(fault.status)} and doing.operation in _NEED_THE_BUCKET_ALONE


_NEED_THE_BUCKET_ALONE = frozenset({"probe", "list", "write", "begin_upload"})


def fault_of_client_error(error: "ClientError") -> Fault:
    """Read what the SDK parsed."""
    response = error.response
    said = response.get("Error", {})
    metadata = response.get("ResponseMetadata")
    headers = metadata["HTTPHeaders"] if metadata else {}
    extra: Mapping[str, object] = {**said}
    return Fault(
        status=metadata["HTTPStatusCode"] if metadata else 0,
        code=said.get("Code", ""),
        message=said.get("Message", ""),
        region=str(extra.get("Region") or headers.get("x-amz-bucket-region") or ""),
        retry_after_s=_seconds(headers.get("retry-after")),
    )


def fault_of_refusal(status: int, fields: Mapping[str, str], body: bytes) -> Fault:
    """Read an error answer: XML where it comes from the service, anything from a proxy."""
    said = _children(body)
    return Fault(
        status=status,
        code=said.get("Code", ""),
        message=said.get("Message", ""),
        region=said.get("Region", "") or fields.get("x-amz-bucket-region", ""),
        retry_after_s=_seconds(fields.get("retry-after")),
    )


def _children(body: bytes) -> dict[str, str]:
    # Expat of this Python bounds entity expansion; the body is at most 64 KiB.
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        return {}
    try:
        root = ET.fromstring(body)  # noqa: S314 - see above
    except ET.ParseError:
        return {}
    return {child.tag.rpartition("}")[2]: child.text or "" for child in root}


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdigit() else None


# Each raised before or instead of an answer. Ordered: the first that fits wins.
_SDK_ERRORS: tuple[tuple[type[Exception], type[VfsError], str], ...] = (
    (
        sdk.NoCredentialsError,
        AuthenticationError,
        "no credentials: set AWS_ACCESS_KEY_ID and its secret, profile or credentials_file",
    ),
    (sdk.PartialCredentialsError, AuthenticationError, "the credentials are incomplete"),
    (sdk.CredentialRetrievalError, AuthenticationError, f"no valid credentials: {RENEW}"),
    (sdk.RefreshWithMFAUnsupportedError, AuthenticationError, f"the session expired: {RENEW}"),
    (sdk.SSOError, AuthenticationError, "the SSO session has ended: run `aws sso login`"),
    (sdk.TokenRetrievalError, AuthenticationError, f"the session has expired: {RENEW}"),
    (sdk.MetadataRetrievalError, AuthenticationError, "the instance role gives no credentials"),
    (sdk.NoRegionError, ConfigError, "set region"),
    (sdk.ParamValidationError, InvalidError, "the SDK finds the request wrong"),
    (sdk.ConnectTimeoutError, UnreachableError, "no connection in time; check the network"),
    (sdk.ReadTimeoutError, UnreachableError, "no answer in time"),
    (sdk.ProxyConnectionError, UnreachableError, "the proxy cannot be reached"),
    (sdk.EndpointConnectionError, UnreachableError, "cannot connect; check endpoint and network"),
    (sdk.ConnectionClosedError, UnreachableError, "the connection broke off"),
    (sdk.ConnectionError, UnreachableError, "the connection failed"),
    (sdk.HTTPClientError, UnreachableError, "the connection failed"),
    (sdk.IncompleteReadError, UnreachableError, "the answer broke off"),
    (sdk.BotoCoreError, TransientError, "the SDK could not make sense of the answer"),
)


def translate(error: Exception, doing: Doing) -> VfsError | None:
    """Return the error that an exception of the SDK stands for, None for one that is not its."""
    if isinstance(error, sdk.ClientError):
        return translate_fault(fault_of_client_error(error), doing)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return handshake_failed(doing.store, cause)
        if isinstance(cause, CertificateError):
            return other_name(doing.store, str(cause))
    for kind, becomes, why in _SDK_ERRORS:
        if isinstance(error, kind):
            return becomes(
                f"{doing.target}: {why}",
                operation=doing.operation,
                store=doing.store,
                key=doing.key,
                detail=" ".join(str(error).split())[:300],
            )
    return None


def meant_for_tls(error: Exception, doing: Doing) -> VfsError | None:
    """Say so when plain HTTP was sent to a server that speaks TLS.

    Such servers hang up, send a TLS alert or complain in a page of their own: only a handshake
    tells. Blocking; asked when nothing else explains the answer.
    """
    url = ""
    if isinstance(error, sdk.ConnectionClosedError):
        carried: Mapping[str, object] = error.kwargs
        url = str(carried.get("endpoint_url", ""))
    elif isinstance(error, sdk.ClientError) and fault_of_client_error(error).code == "400":
        url = doing.store.removeprefix("s3+")  # a status alone: the page was not one of S3
    place = urlsplit(url)
    if place.scheme != "http" or not speaks_tls(place.hostname or "", place.port or 80):
        return None
    return needs_tls(doing.store)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it was made from; libraries keep that in all these places."""
    pending: list[object] = [error]
    for _ in range(32):
        if not pending:
            return
        found = pending.pop()
        if isinstance(found, BaseException):
            yield found
            carried: object = getattr(found, "kwargs", None)
            inner = cast("dict[str, object]", carried).get("error") if carried else None
            reason: object = getattr(found, "reason", None)
            pending += [found.__cause__, found.__context__, inner, reason, *found.args]
