"""What services say becomes the right error, with the remedy and without secrets."""

import ssl

import botocore.exceptions as sdk
import pytest
import urllib3.exceptions
from urllib3.util.ssl_match_hostname import CertificateError

from vfs import errors
from vfs.store.backend.s3_codes import CODES, STATUSES
from vfs.store.backend.s3_errors import (
    Doing,
    Fault,
    fault_of_refusal,
    meant_for_tls,
    translate,
    translate_fault,
)

HEAD = Doing("head", "vm/disk.img", "s3://bucket/images")
READ = Doing("read", "k", "s3://b", missing=errors.StaleError, mismatch=errors.StaleError)


def client_error(code, status, headers=None, **said):
    response = {
        "Error": {"Code": code, "Message": "the service's words", **said},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return sdk.ClientError(response, "HeadObject")


@pytest.mark.parametrize(
    ("code", "status", "kind", "remedy"),
    [
        ("NoSuchKey", 404, errors.NotFoundError, ""),
        ("404", 404, errors.NotFoundError, ""),
        ("NoSuchBucket", 404, errors.NotFoundError, "create it"),
        ("NoSuchUpload", 404, errors.NotFoundError, "gone"),
        ("AccessDenied", 403, errors.DeniedError, "policies"),
        ("403", 403, errors.DeniedError, "policies"),
        ("InvalidAccessKeyId", 403, errors.AuthenticationError, "access key"),
        ("SignatureDoesNotMatch", 403, errors.AuthenticationError, "secret key"),
        ("ExpiredToken", 400, errors.AuthenticationError, "renew"),
        ("RequestTimeTooSkewed", 403, errors.AuthenticationError, "clock"),
        ("PreconditionFailed", 412, errors.ConflictError, ""),
        ("412", 412, errors.ConflictError, ""),
        ("ConditionalRequestConflict", 409, errors.TransientError, ""),
        ("InvalidObjectState", 403, errors.BusyError, "restore"),
        ("EntityTooLarge", 400, errors.TooLargeError, ""),
        ("QuotaExceeded", 403, errors.QuotaError, ""),
        ("InvalidRange", 416, errors.StaleError, ""),
        ("InvalidBucketName", 400, errors.ConfigError, "URL"),
        ("SlowDown", 503, errors.ThrottledError, ""),
        ("503", 503, errors.ThrottledError, ""),
        ("InternalError", 500, errors.TransientError, ""),
        ("SlowDown", 200, errors.ThrottledError, ""),
        ("Whatever", 418, errors.VfsError, "Whatever"),
    ],
)
def test_a_code_becomes_its_error(code, status, kind, remedy):
    error = translate(client_error(code, status), HEAD)
    assert type(error) is kind
    assert remedy in error.message
    assert "s3://bucket/images" in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize("operation", ["probe", "list", "write", "begin_upload"])
@pytest.mark.parametrize("code", ["", "404"])
def test_a_404_that_is_none_of_s3_doubts_the_endpoint(operation, code):
    doing = Doing(operation, "", "s3+http://host:1/bucket")
    error = translate(client_error(code, 404), doing)
    assert type(error) is errors.NotFoundError
    assert "does not look like an S3 service: it answers 404" in error.message


@pytest.mark.parametrize(
    ("operation", "code"),
    [("head", "404"), ("read", ""), ("list", "NoSuchKey"), ("list", "NoSuch")],
)
def test_a_404_of_an_object_or_with_a_code_does_not_doubt_the_endpoint(operation, code):
    error = translate(client_error(code, 404), Doing(operation, "k", "s3://bucket"))
    assert type(error) is errors.NotFoundError
    assert "look like" not in error.message


def test_a_missing_bucket_is_told_from_a_missing_key_by_its_empty_key():
    assert translate(client_error("NoSuchBucket", 404), HEAD).key == ""
    assert translate(client_error("NoSuchKey", 404), HEAD).key == "vm/disk.img"


@pytest.mark.parametrize("code", ["NoSuchKey", "NoSuchVersion", "PreconditionFailed", "412"])
def test_what_is_missing_to_a_read_is_stale(code):
    status = 412 if code in {"PreconditionFailed", "412"} else 404
    assert type(translate(client_error(code, status), READ)) is errors.StaleError


def test_a_missing_bucket_is_not_found_also_to_a_read():
    assert type(translate(client_error("NoSuchBucket", 404), READ)) is errors.NotFoundError


@pytest.mark.parametrize(
    "error",
    [
        client_error("PermanentRedirect", 301, {"x-amz-bucket-region": "eu-central-1"}),
        client_error("301", 301, {"x-amz-bucket-region": "eu-central-1"}),
        client_error("AuthorizationHeaderMalformed", 400, Region="eu-central-1"),
    ],
)
def test_the_wrong_region_names_the_right_one(error):
    found = translate(error, HEAD)
    assert type(found) is errors.ConfigError
    assert "set region=eu-central-1" in found.message


def test_a_throttled_request_says_how_long_to_wait():
    error = translate(client_error("SlowDown", 503, {"retry-after": "7"}), HEAD)
    assert error.retry_after_s == 7
    assert translate(client_error("SlowDown", 503), HEAD).retry_after_s is None


def test_an_error_body_is_read():
    body = (
        b'<?xml version="1.0"?><Error><Code>SignatureDoesNotMatch</Code><Message>no</Message>'
        b"<AWSAccessKeyId>AKID</AWSAccessKeyId><StringToSign>secretish</StringToSign></Error>"
    )
    fault = fault_of_refusal(403, {"retry-after": "3"}, body)
    assert (fault.code, fault.message, fault.retry_after_s) == ("SignatureDoesNotMatch", "no", 3)
    assert "secretish" not in str(translate_fault(fault, HEAD).to_dict())


@pytest.mark.parametrize(
    "body", [b"", b"<html><br>", b"\xff\xfe", b'<!DOCTYPE x [<!ENTITY a "b">]><Error/>']
)
def test_an_error_body_that_says_nothing_leaves_the_status(body):
    assert fault_of_refusal(503, {}, body) == Fault(503)


def refused_certificate(code, why):
    cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
    cause.reason, cause.verify_code, cause.verify_message = "CERTIFICATE_VERIFY_FAILED", code, why
    return cause


def broken_handshake(reason):
    cause = ssl.SSLError(1, reason)
    cause.reason = reason
    return cause


@pytest.mark.parametrize(
    ("cause", "kind", "says"),
    [
        (refused_certificate(18, "self-signed certificate"), errors.AuthenticationError,
         ["not trusted (self-signed certificate)", "set ca_bundle"]),
        (refused_certificate(62, "Hostname mismatch"), errors.AuthenticationError,
         ["certificate", "for another name", "in the URL"]),
        (CertificateError("hostname 'h' doesn't match 'g'"), errors.AuthenticationError,
         ["certificate", "hostname 'h' doesn't match 'g'", "in the URL"]),
        (refused_certificate(10, "certificate has expired"), errors.AuthenticationError,
         ["certificate has expired", "renew it", "clock"]),
        (broken_handshake("WRONG_VERSION_NUMBER"), errors.ConfigError,
         ["does not speak TLS", "write s3+http:// in the URL"]),
        (broken_handshake("UNEXPECTED_EOF_WHILE_READING"), errors.UnreachableError,
         ["UNEXPECTED_EOF_WHILE_READING", "check the endpoint"]),
    ],
)  # fmt: skip
def test_tls_that_fails_names_the_cause_and_the_remedy(cause, kind, says):
    error = sdk.SSLError(endpoint_url="https://h", error=urllib3.exceptions.SSLError(cause))
    found = translate(error, HEAD)
    assert type(found) is kind
    assert [word for word in says if word not in found.message] == []
    assert HEAD.store in found.message


def test_a_connection_that_breaks_off_is_no_matter_of_tls_where_nobody_speaks_it():
    closed = sdk.ConnectionClosedError(endpoint_url="http://127.0.0.1:1/bucket")
    assert meant_for_tls(closed, HEAD) is None
    encrypted = sdk.ConnectionClosedError(endpoint_url="https://127.0.0.1:1/bucket")
    assert meant_for_tls(encrypted, HEAD) is None
    plain = Doing("head", "k", "s3+http://127.0.0.1:1/bucket")
    assert meant_for_tls(client_error("400", 400), plain) is None
    assert meant_for_tls(client_error("NoSuchKey", 404), plain) is None


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sdk.NoCredentialsError(), errors.AuthenticationError),
        (sdk.EndpointConnectionError(endpoint_url="http://h"), errors.UnreachableError),
        (sdk.ConnectTimeoutError(endpoint_url="http://h"), errors.UnreachableError),
        (sdk.ReadTimeoutError(endpoint_url="http://h"), errors.UnreachableError),
        (sdk.ConnectionClosedError(endpoint_url="http://h"), errors.UnreachableError),
        (sdk.ParamValidationError(report="x"), errors.InvalidError),
        (sdk.BotoCoreError(), errors.TransientError),
    ],
)
def test_a_failure_of_the_sdk_becomes_its_error(error, kind):
    assert type(translate(error, HEAD)) is kind


def test_what_is_not_of_the_sdk_is_not_translated():
    assert translate(ValueError("ours"), HEAD) is None


def test_every_entry_has_one_line():
    for _, why in (*CODES.values(), *STATUSES.values()):
        assert why
        assert "\n" not in why
