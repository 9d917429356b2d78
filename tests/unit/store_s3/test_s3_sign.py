"""Our signature is the SDK's, for whatever key."""

import datetime as dt

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as SdkCredentials

from vfs.store.backend.s3_sign import (
    EMPTY_SHA256,
    Credentials,
    encode_path,
    encode_query,
    format_time,
    sign,
)

KEYS = [
    "plain",
    "vm/disk.img",
    "a b",
    "a+b",
    "100%",
    "a%2Fb",
    "q?x=1&y=2",
    "frag#ment",
    "(paren)'quote'*star!",
    "~tilde_-.",
    "$&,:;=@",
    '[]{}|\\^`<>"',
    "caf\u00e9/\u65e5\u672c/\U0001f4be",
    "line\nfeed\ttab\r",
    "a//b/./c/../d/",
    "\U0010ffe9",
    "\x01\x7f",
]


class FixedTime(S3SigV4Auth):
    """The SDK's signer at a time of our choice, signing the payload of nothing."""

    def payload(self, request):
        return EMPTY_SHA256


def authorization_of_the_sdk(monkeypatch, url, headers, credentials, region):
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: moment)
    request = AWSRequest("GET", url, headers=headers)
    keys = SdkCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    FixedTime(keys, "s3", region).add_auth(request)
    return request.headers["Authorization"]


@pytest.mark.parametrize("token", [None, "session/token+=="], ids=["key pair", "session"])
@pytest.mark.parametrize("version_id", [None, "3/L4kqtJl+40Nr=="], ids=["current", "version"])
@pytest.mark.parametrize("key", KEYS)
def test_the_signature_is_that_of_the_sdk(monkeypatch, key, version_id, token):
    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCY", token)
    target = encode_path(f"/bucket/{key}")
    if version_id:
        target += "?" + encode_query({"versionId": version_id, "a": "~ b"})
    fields = {"host": "localhost:8443", "range": "bytes=0-9", "if-match": '"abc-1"'}
    signed = dict(
        sign("GET", target, fields, credentials, region="eu-west-1", amz_date="20260102T030405Z")
    )
    given = {name: value for name, value in fields.items() if name != "host"}
    expected = authorization_of_the_sdk(
        monkeypatch, f"https://localhost:8443{target}", given, credentials, "eu-west-1"
    )
    assert signed["authorization"].replace(" ", "") == expected.replace(" ", "")
    assert signed.get("x-amz-security-token") == token


def test_time_is_written_in_utc():
    assert format_time(1_767_323_045) == "20260102T030405Z"


def test_secrets_are_not_shown():
    assert "hidden" not in repr(Credentials("AKID", "hidden1", "hidden2"))
