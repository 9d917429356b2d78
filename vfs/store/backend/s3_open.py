"""From a URL and options to a way of talking to a bucket: address, client, credentials, trust.

Credentials come from the SDK's own chain (environment, profile, instance role, SSO) or from a file
in its format, and are asked for at every request, so that those which expire are renewed; those
that are refused are looked for once more.
"""

import functools
import logging
import re
import ssl
import urllib.request
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ProfileNotFound
from botocore.loaders import Loader
from botocore.parsers import ResponseParserFactory
from urllib3.exceptions import InsecureRequestWarning

from vfs.errors import AuthenticationError, ConfigError
from vfs.store.backend.s3_credentials import Provider, RenewableCredentials
from vfs.store.backend.s3_errors import Doing, translate
from vfs.store.backend.s3_shapes import parse_time
from vfs.store.backend.s3_sign import Credentials
from vfs.store.config import StoreConfig
from vfs.store.wire import Endpoint
from vfs.store.wire.dial import CONNECT_TIMEOUT_S

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class _ClientMaker(Protocol):
    def client(
        self,
        service_name: Literal["s3"],
        *,
        region_name: str,
        endpoint_url: str | None,
        verify: bool | str | None,
        config: Config,
    ) -> "S3Client": ...


_URL = re.compile(r"s3(?:\+(?P<scheme>https?)://(?P<host>[^/]*)/|://)(?P<path>.*)\Z", re.DOTALL)

# Silence that means a dead connection. Reads are answered within seconds; copies of gigabytes are
# not, so the SDK's calls wait as long as `timeout` says.
_STALL_S = 60.0

# Distributions keep the system's authorities in one of these; the SDK would use a list of its own.
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)

# Directory buckets have session credentials of their own, which the SDK makes.
_DIRECTORY_BUCKET = "--x-s3"

# Where the SDK sends those who hold a presigned URL, and only those. It redirects reads of buckets
# of other regions that are not a day old.
_GLOBAL_HOST = "s3.amazonaws.com"

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class S3Address:
    """Which objects a URL means."""

    url: str
    bucket: str
    prefix: str  # empty, or ending in a slash
    endpoint: str | None  # None is that of the options, or the provider's own


def parse_s3_url(url: str) -> S3Address:
    """Parse `s3://bucket/prefix`, `s3+http://host:port/bucket/prefix`, `s3+https://...`.

    Keys are taken literally, `%`, `?` and `#` too.
    Errors: ConfigError, which does not repeat what may be a secret.
    """
    found = _URL.match(url)
    if found is None:
        raise ConfigError(
            "not an S3 URL: write s3://BUCKET/PREFIX or s3+https://HOST/BUCKET/PREFIX"
        )
    host = found["host"]
    if host is not None and ("@" in host or not host):
        raise ConfigError(
            "an S3 URL names a host and no credentials: use profile or the environment"
        )
    bucket, _, prefix = found["path"].partition("/")
    if not bucket or "@" in bucket:
        raise ConfigError("an S3 URL names a bucket: s3://BUCKET/PREFIX")
    if strange := set("?#&= ") & set(bucket):
        raise ConfigError(
            f"a bucket name has no {min(strange)!r}: options are given as NAME=VALUE beside the URL"
        )
    prefix = prefix.rstrip("/")
    if {".", ".."} & set(prefix.split("/")):
        raise ConfigError("a prefix is taken literally: write it without . and ..")
    return S3Address(
        url.rstrip("/"),
        bucket,
        f"{prefix}/" if prefix else "",
        f"{found['scheme']}://{host}" if host is not None else None,
    )


@dataclass(frozen=True, slots=True)
class DataRoute:
    """How the wire client reaches the objects of a bucket."""

    endpoint: Endpoint
    host: str  # value of the Host field
    path: str  # what stands before the encoded key
    region: str  # of the signature


@dataclass(frozen=True, slots=True)
class Link:
    """A way of talking to one bucket."""

    address: S3Address
    options: StoreConfig
    client: "S3Client"
    credentials: RenewableCredentials
    route: DataRoute | None  # None: only by the SDK

    @property
    def endpoint(self) -> str:
        """The address of the service."""
        return self.client.meta.endpoint_url

    def frozen_credentials(self) -> Credentials:
        """Return credentials for one request, renewed if it is time. Blocking."""
        found = self.credentials.get_frozen_credentials()
        if not found.access_key or not found.secret_key:
            raise AuthenticationError(f"no credentials for {self.address.url}: set profile")
        return Credentials(found.access_key, found.secret_key, found.token)


def open_link(url: str, options: StoreConfig) -> Link:
    """Find credentials and prepare the SDK; no request is made to the store. Blocking.

    Errors: ConfigError, AuthenticationError.
    """
    address = parse_s3_url(url)
    doing = Doing("open", "", address.url)
    try:
        return _open(address, options)
    except ProfileNotFound as error:
        raise ConfigError(f"option profile: there is no profile {options.profile!r}") from error
    except (BotoCoreError, ValueError) as error:
        known = translate(error, doing)
        if known is None:
            raise ConfigError(f"cannot open {address.url}: {error}") from error
        raise known from error


def _session(options: StoreConfig) -> botocore.session.Session:
    core = botocore.session.Session(profile=options.profile)
    core.register_component("data_loader", _descriptions())
    if options.credentials_file is not None:
        core.set_config_variable("credentials_file", str(options.credentials_file))
    return core


def _open(address: S3Address, options: StoreConfig) -> Link:
    if options.credentials_file is not None:
        _check_file("credentials_file", options.credentials_file)
    found = _session(options).get_credentials()
    if found is None:
        raise AuthenticationError(
            f"no credentials for {address.url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "or option profile or credentials_file",
        )
    credentials = RenewableCredentials(found, lambda: _session(options).get_credentials())
    core = _session(options)
    core.register_component("credential_provider", Provider(credentials))
    parsers: ResponseParserFactory = core.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=parse_time)
    bundle = _bundle(options, core.get_config_variable("ca_bundle"))
    session = boto3.Session(botocore_session=core, region_name=options.region or None)
    if not options.tls_verify:  # chosen by the user, who need not hear of it at each connection
        warnings.filterwarnings("ignore", category=InsecureRequestWarning)
    # It logs a certificate for another name and raises it, too; our error says so already.
    logging.getLogger("urllib3.connection").setLevel(logging.ERROR)
    # The stubs name every service of the SDK; a checker without all of them knows none.
    client = cast("_ClientMaker", session).client(
        "s3",
        region_name=session.region_name or "us-east-1",
        endpoint_url=address.endpoint or options.endpoint,
        verify=bundle if options.tls_verify else False,
        config=_sdk_config(address, options),
    )
    return Link(address, options, client, credentials, _route(client, address, options, bundle))


@functools.cache
def _descriptions() -> Loader:
    """Share the SDK's descriptions of the service: a tenth of a second of parsing each time."""
    return Loader()


def _check_file(option: str, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(f"option {option}: there is no file {path}")


def _bundle(options: StoreConfig, configured: object) -> str | None:
    if options.ca_bundle is not None:
        _check_file("ca_bundle", options.ca_bundle)
        return str(options.ca_bundle)
    if configured:  # AWS_CA_BUNDLE, or the SDK's own configuration
        return str(configured)
    return next((path for path in _SYSTEM_BUNDLES if Path(path).is_file()), None)


def _sdk_config(address: S3Address, options: StoreConfig) -> Config:
    own_endpoint = bool(address.endpoint or options.endpoint)
    style = options.addressing
    if style == "auto" and own_endpoint:
        style = "path"  # few installations have a wildcard in their DNS and certificate
    return Config(
        signature_version="s3v4",
        # Each attempt is counted, paid for and retried by the wrappers.
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Trailing checksums are refused by many services (411 MissingContentLength).
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=options.max_connections,
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=options.timeout,
        tcp_keepalive=True,
        s3={"addressing_style": style},
    )


def _route(
    client: "S3Client", address: S3Address, options: StoreConfig, bundle: str | None
) -> DataRoute | None:
    """Learn from the SDK where it would send a read; None where only the SDK can."""
    if address.bucket.endswith(_DIRECTORY_BUCKET):
        return None
    signed = urlsplit(
        client.generate_presigned_url("get_object", Params={"Bucket": address.bucket, "Key": "x"})
    )
    netloc = signed.netloc
    if netloc.endswith(_GLOBAL_HOST):
        regional = urlsplit(client.meta.endpoint_url).netloc
        netloc = netloc.removesuffix(_GLOBAL_HOST) + regional
    host = urlsplit(f"//{netloc}").hostname or ""
    if signed.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return None
    scope = parse_qs(signed.query)["X-Amz-Credential"][0].split("/")
    tls = _tls(options, bundle) if signed.scheme == "https" else None
    port = signed.port or _DEFAULT_PORTS[signed.scheme]
    stall_s = min(_STALL_S, options.timeout)
    return DataRoute(
        Endpoint(host, port, tls, stall_s=stall_s),
        host=netloc,
        path=unquote(signed.path).removesuffix("x"),
        region=unquote(scope[-3]),
    )


def _tls(options: StoreConfig, bundle: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"option ca_bundle: {bundle} holds no certificates") from error
    if not options.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
