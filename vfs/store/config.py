"""Options of the object store."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from vfs.options import Count, Duration, Flag, LocalPath, Section, Text
from vfs.store.rates import NO_LIMITS, BandwidthRates

Endpoint = Annotated[Text, StringConstraints(pattern=r"^https?://[^/@\s]+(/[^@\s]*)?$")]


class StoreConfig(Section):
    """How the store is reached, and how patiently."""

    endpoint: Endpoint | None = Field(
        None,
        description="Address of the S3 service; without it that of the region, or the URL's own.",
        examples=["https://s3.example.com"],
    )
    region: Text | None = Field(
        None,
        description="Region of the bucket; without it the one that the SDK finds.",
        examples=["eu-central-1"],
    )
    addressing: Literal["auto", "path", "virtual"] = Field(
        "auto",
        description="Where the bucket's name stands: in the path or in the host name.",
        examples=["path"],
    )
    profile: Text | None = Field(
        None,
        description="Profile of the provider's own configuration that holds the credentials.",
        examples=["backup"],
    )
    credentials_file: LocalPath | None = Field(
        None,
        description="File with credentials in the provider's own format, readable by us alone.",
        examples=["/etc/vfs/credentials"],
    )
    requester_pays: Flag = Field(
        default=False, description="Agree to pay for requests to somebody else's bucket."
    )
    tls_verify: Flag = Field(
        default=True, description="Check the server's certificate; `no` only for tests."
    )
    ca_bundle: LocalPath | None = Field(
        None,
        description="File of certificates to trust instead of the system's.",
        examples=["/etc/ssl/certs/private-ca.pem"],
    )
    timeout: Duration = Field(
        300.0, gt=0, description="Longest that one request may take, all its attempts together."
    )
    max_connections: Count = Field(
        64, ge=1, le=4096, description="Requests to the store at one time.", examples=["32"]
    )
    bandwidth: BandwidthRates = Field(
        NO_LIMITS,
        description=(
            "Most bytes a second to the store and from it, of all attempts together: `UP:DOWN`, one"
            " size for each; 0 or nothing is no limit, the least is 16K, and without a colon one"
            " size holds for both. `vfs set` changes it while mounted."
        ),
        examples=["20M:100M"],
    )
    max_retries: Count = Field(
        3, le=100, description="Repetitions of a request that failed for a passing reason."
    )
    retry_delay: Duration = Field(
        0.1,
        gt=0,
        le=3600,
        description="Pause before the first repetition; doubled, with jitter, for each one more.",
        examples=["100ms"],
    )
    storage_class: Text | None = Field(
        None,
        description="Storage class of what is written; without it the bucket's own.",
        examples=["STANDARD_IA"],
    )
    sse: Literal["AES256", "aws:kms"] | None = Field(
        None, description="Encryption that the server applies to what is written."
    )
    sse_kms_key: Text | None = Field(
        None,
        description="Name of the key for `sse=aws:kms`; without it the account's default key.",
        examples=["alias/images"],
    )

    @model_validator(mode="after")
    def _check_encryption(self) -> Self:
        if self.sse_kms_key is not None and self.sse != "aws:kms":
            raise ValueError("option sse_kms_key needs sse=aws:kms beside it")
        return self
