"""The gateway that is measured against: a fresh bucket on it, and access by other means than vfs."""

import contextlib
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

from bench import machine
from bench.children import ROOT, BenchError, environment, run

SCRIPTS = ROOT / "scripts" / "servers"
REGION = "us-east-1"
REMOVERS = 8
PROXY_END_S = 5.0


@dataclass(frozen=True)
class Gateway:
    """Where it is, who we are to it, and our bucket."""

    host: str
    port: int
    access_key: str
    secret_key: str
    home: Path
    bucket: str
    tls_port: int
    ca: Path | None = None  # who vouches for it, when it is spoken to over TLS

    @property
    def endpoint(self) -> str:
        """The URL of the service."""
        return f"{'https' if self.ca else 'http'}://{self.host}:{self.port}"

    def over_tls(self) -> "Gateway":
        """Return the same gateway, spoken to over TLS."""
        return replace(self, port=self.tls_port, ca=self.home / "ca.pem")

    def url(self, prefix: str = "") -> str:
        """Return what vfs mounts."""
        return f"s3+{self.endpoint}/{self.bucket}" + (f"/{prefix}" if prefix else "")

    def environ(self) -> dict[str, str]:
        """Return the environment of a child that finds our credentials and nobody else's."""
        return environment(
            {
                "AWS_ACCESS_KEY_ID": self.access_key,
                "AWS_SECRET_ACCESS_KEY": self.secret_key,
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "AWS_EC2_METADATA_DISABLED": "true",
            }
        )

    def client(self, connections: int = 10) -> "S3Client":
        """Return a client of the SDK."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=None if self.ca is None else str(self.ca),
            config=Config(
                max_pool_connections=connections,
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )

    def size(self, key: str) -> int | None:
        """Return the size of an object; None when there is none."""
        client = self.client()
        try:
            return client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]
        except client.exceptions.ClientError:
            return None

    def put_twice(self, source: Path, key: str) -> None:
        """Make an object of a file's content and that again; the second half is copied."""
        client = self.client()
        half = f"{key}.half"
        client.upload_file(str(source), self.bucket, half)
        begun = client.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
        tags = [
            client.upload_part_copy(
                Bucket=self.bucket,
                Key=key,
                UploadId=begun,
                PartNumber=number,
                CopySource={"Bucket": self.bucket, "Key": half},
            )["CopyPartResult"]["ETag"]
            for number in (1, 2)
        ]
        client.complete_multipart_upload(
            Bucket=self.bucket,
            Key=key,
            UploadId=begun,
            MultipartUpload={
                "Parts": [{"PartNumber": at, "ETag": tag} for at, tag in enumerate(tags, 1)]
            },
        )
        client.delete_object(Bucket=self.bucket, Key=half)
        self.collect_garbage()

    def remove(self, prefix: str = "") -> None:
        """Delete all objects below a prefix and give their space back."""
        client = self.client(REMOVERS)

        def delete(keys: list[str]) -> None:
            client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True},
            )

        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        found = [[one["Key"] for one in page.get("Contents", [])] for page in pages]
        with ThreadPoolExecutor(REMOVERS) as pool:
            for _ in pool.map(delete, filter(None, found)):
                pass
        self.collect_garbage()

    def collect_garbage(self) -> None:
        """Free deleted objects now: later the gateway would do it in the middle of a measurement."""
        admin = ("radosgw-admin", "-c", self.home / "ceph.conf", "--name", "client.rgw.a")
        run(*admin, "gc", "process", "--include-all", timeout=300)

    def drop(self) -> None:
        """Remove the bucket with all that is in it."""
        client = self.client()
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket):
            for upload in page.get("Uploads", []):
                client.abort_multipart_upload(
                    Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
        self.remove()
        client.delete_bucket(Bucket=self.bucket)


@contextlib.contextmanager
def open_gateway() -> Iterator[Gateway]:
    """Start the gateway where it does not run, and make a bucket; remove the bucket at the end.

    The gateway itself stays: tests and other measurements share it (scripts/servers/rgw-stop.sh).
    """
    run(SCRIPTS / "rgw-install.sh", env=dict(os.environ))
    printed = run(SCRIPTS / "rgw-start.sh", env=dict(os.environ), timeout=300)
    found = dict(line.split("=", 1) for line in printed.splitlines())
    address = re.fullmatch(r"http://([^:]+):(\d+)", found["RGW_ENDPOINT"])
    tls_port = re.search(r":(\d+)$", found["RGW_TLS_ENDPOINT"])
    if address is None or tls_port is None:
        raise BenchError(f"what address is {found['RGW_ENDPOINT']}?")
    gateway = Gateway(
        address[1],
        int(address[2]),
        found["RGW_ACCESS_KEY"],
        found["RGW_SECRET_KEY"],
        Path(found["RGW_CA"]).parent,
        f"bench-{secrets.token_hex(4)}",
        int(tls_port[1]),
    )
    gateway.client().create_bucket(Bucket=gateway.bucket)
    try:
        yield gateway
    finally:
        gateway.drop()


T = TypeVar("T")


@dataclass
class Line:
    """The way to a gateway, and the process that delays what goes over it."""

    gateway: Gateway
    pid: int | None = None  # None: nothing is in between
    busiest: float = 0.0  # share of one processor that the process took while it was watched

    def watch(self, action: Callable[[], T]) -> T:
        """Do something; note how busy the process was meanwhile: a full processor is the limit."""
        if self.pid is None:
            return action()
        began_s, before_s = time.perf_counter(), machine.cpu_s(self.pid)
        result = action()
        taken_s = machine.cpu_s(self.pid) - before_s
        self.busiest = max(self.busiest, taken_s / (time.perf_counter() - began_s))
        return result


@contextlib.contextmanager
def delayed(gateway: Gateway, round_trip_ms: float) -> Iterator[Line]:
    """Put the gateway behind a line with this round trip; without one, leave it as it is."""
    if not round_trip_ms:
        yield Line(gateway)
        return
    command = (sys.executable, "-m", "bench.delay_proxy", "--round-trip-ms", str(round_trip_ms))
    target = f"{gateway.host}:{gateway.port}"
    with subprocess.Popen(
        [*command, target],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,  # Ctrl-C must leave it until nothing is mounted over it
    ) as proxy:
        try:
            assert proxy.stdout is not None
            line = proxy.stdout.readline()
            if not line:
                raise BenchError("the delay proxy did not start")
            yield Line(replace(gateway, port=int(line)), proxy.pid)
        finally:
            proxy.terminate()
            try:
                proxy.wait(PROXY_END_S)
            except subprocess.TimeoutExpired:
                proxy.kill()
