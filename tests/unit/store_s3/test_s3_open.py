"""URLs, options and credentials become a way to a bucket, or one clear line."""

import pytest

from tests.support.s3_access import S3Access
from vfs.errors import AuthenticationError, ConfigError
from vfs.store.backend.s3_open import open_link, parse_s3_url
from vfs.store.config import StoreConfig

ACCESS = S3Access("http://127.0.0.1:1", "an-access-key", "a-secret-key")


@pytest.fixture
def credentials():
    with ACCESS.credentials():
        yield


@pytest.mark.parametrize(
    ("url", "bucket", "prefix", "endpoint"),
    [
        ("s3://bucket", "bucket", "", None),
        ("s3://bucket/", "bucket", "", None),
        ("s3://bucket/a/b/", "bucket", "a/b/", None),
        ("s3://bucket/100%?#x y", "bucket", "100%?#x y/", None),
        ("s3+http://127.0.0.1:9000/bucket/p", "bucket", "p/", "http://127.0.0.1:9000"),
        ("s3+https://store.example.com/bucket", "bucket", "", "https://store.example.com"),
        ("s3+http://[::1]:9000/bucket", "bucket", "", "http://[::1]:9000"),
    ],
)
def test_a_url_names_bucket_prefix_and_endpoint(url, bucket, prefix, endpoint):
    found = parse_s3_url(url)
    assert (found.bucket, found.prefix, found.endpoint) == (bucket, prefix, endpoint)


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3+ftp://h/b", "s3+http://host", "gs://b", "s3+https://k:hush@h/b",
     "s3://k:hush@bucket/x", "s3://b?x=hush", "s3://b#hush/x", "s3://b/../x", "s3://b/a/./x"],
)  # fmt: skip
def test_a_url_that_is_none_is_refused_without_repeating_secrets(url):
    with pytest.raises(ConfigError) as caught:
        parse_s3_url(url)
    assert "hush" not in caught.value.message


def test_own_endpoints_are_addressed_by_path(credentials):
    link = open_link("s3+http://127.0.0.1:9000/bucket/p", StoreConfig())
    assert (link.route.host, link.route.path) == ("127.0.0.1:9000", "/bucket/")
    assert link.route.endpoint.tls is None


def test_amazon_is_addressed_by_host_name_and_region(credentials):
    link = open_link("s3://bucket", StoreConfig(region="eu-west-1"))
    assert link.route.host == "bucket.s3.eu-west-1.amazonaws.com"
    assert (link.route.path, link.route.region) == ("/", "eu-west-1")
    assert link.route.endpoint.port == 443
    assert link.route.endpoint.tls is not None


def test_a_bucket_name_with_dots_is_addressed_by_path(credentials):
    link = open_link("s3://my.bucket", StoreConfig(region="eu-west-1"))
    assert link.route.path == "/my.bucket/"


def test_the_way_of_addressing_can_be_chosen(credentials):
    options = StoreConfig(endpoint="https://store.example.com", addressing="virtual")
    assert open_link("s3://bucket", options).route.host == "bucket.store.example.com"


def test_reads_go_through_the_sdk_where_a_proxy_is_set(credentials, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    assert open_link("s3+http://store.example.com/bucket", StoreConfig()).route is None
    monkeypatch.setenv("no_proxy", "store.example.com")
    assert open_link("s3+http://store.example.com/bucket", StoreConfig()).route is not None


def test_directory_buckets_are_read_through_the_sdk(credentials):
    link = open_link("s3://images--use1-az4--x-s3", StoreConfig(region="us-east-1"))
    assert link.route is None


def test_missing_credentials_name_the_remedy(credentials, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AuthenticationError, match="AWS_ACCESS_KEY_ID"):
        open_link("s3://bucket", StoreConfig())


def test_credentials_come_from_a_file(credentials, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text("[backup]\naws_access_key_id = FROMFILE\naws_secret_access_key = s\n")
    link = open_link("s3://b", StoreConfig(credentials_file=file, profile="backup"))
    assert link.frozen_credentials().access_key == "FROMFILE"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"profile": "nobody"}, "profile"),
        ({"credentials_file": "/nonexistent"}, "credentials_file"),
        ({"ca_bundle": "/nonexistent"}, "ca_bundle"),
    ],
)
def test_an_option_that_leads_nowhere_is_named(credentials, options, named):
    with pytest.raises(ConfigError, match=named):
        open_link("s3+https://127.0.0.1:1/b", StoreConfig(**options))


def test_a_file_without_certificates_is_named(credentials, tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(ConfigError, match="ca_bundle"):
        open_link("s3+https://127.0.0.1:1/b", StoreConfig(ca_bundle=file))
