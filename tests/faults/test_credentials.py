"""Credentials that end while a file is being stored, on the real gateway behind a proxy."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest
import trio

from tests.support.behind import BehindProxy
from tests.support.proxy import Action, FaultProxy
from tests.support.rgw import rgw
from tests.support.tree import Shell, tree_on
from vfs.errors import AuthenticationError
from vfs.store.config import StoreConfig
from vfs.store.open import open_store
from vfs.values import MIB

pytestmark = pytest.mark.rgw

DATA = random.Random(9).randbytes(24 * MIB)
RETRY = {"retry_delay": 0.01, "max_retries": 2}


@dataclass
class Expired(Action):
    """What the gateway would say of a session that has ended."""

    def play(self, exchange, proxy):
        exchange.refuse(400, "ExpiredToken")


def expire(proxy, access):
    """Let the gateway know a key no more."""

    def weather(request):
        known = access.access_key in (request.get("authorization") or "")
        return Expired() if known else None

    proxy.weather = weather


def write_keys(path, access):
    fresh = path.with_suffix(".new")
    fresh.write_text(
        f"[default]\naws_access_key_id={access.access_key}\n"
        f"aws_secret_access_key={access.secret_key}\n"
    )
    fresh.replace(path)


@pytest.fixture
def proxy():
    with FaultProxy(rgw().endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket(proxy):
    with rgw().bucket() as name:
        yield BehindProxy(rgw(), name, proxy=proxy)


async def write_half(shell, proxy):
    fd = await shell.create("image")
    for offset in range(0, len(DATA), MIB):
        await shell.pwrite(fd, offset, DATA[offset : offset + MIB])
    while proxy.count("UploadPart") < 2:
        await trio.sleep(0.01)
    return fd


async def test_an_upload_goes_on_with_the_keys_that_stand_in_the_file_by_then(
    proxy, bucket, tmp_path, monkeypatch
):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    keys = tmp_path / "keys"
    write_keys(keys, rgw())
    config = StoreConfig(credentials_file=keys, **RETRY)
    async with open_store(bucket.url, config) as store:
        await store.probe(write=True)
        async with tree_on(store, tmp_path / "stage") as mount:
            shell = Shell(mount)
            fd = await write_half(shell, proxy)
            write_keys(keys, rgw(second=True))
            expire(proxy, rgw())
            await shell.pwrite(fd, len(DATA), b"the end")
            await shell.close(fd)
            assert await shell.read("image") == DATA + b"the end"
            await shell.drain()
    assert proxy.count("CreateMultipartUpload", key="image") == 1
    assert bucket.read("image") == DATA + b"the end"
    bucket.assert_tidy("image")


async def test_the_same_upload_goes_on_when_somebody_renews_the_keys_later(
    proxy, bucket, tmp_path, monkeypatch, expect_log
):
    expect_log("upload of 'image' failed")
    expect_log("cannot be used", maybe=True)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    keys = tmp_path / "keys"
    write_keys(keys, rgw())
    config = StoreConfig(credentials_file=keys, **RETRY)
    async with open_store(bucket.url, config) as store:
        await store.probe(write=True)
        async with tree_on(store, tmp_path / "stage") as mount:
            shell = Shell(mount)
            fd = await write_half(shell, proxy)
            expire(proxy, rgw())
            await shell.pwrite(fd, len(DATA), b"the end")
            with pytest.raises(AuthenticationError, match="expired"):
                await shell.fsync(fd)
            write_keys(keys, rgw(second=True))
            await shell.fsync(fd)
            await shell.close(fd)
            await shell.drain()
    assert proxy.count("CreateMultipartUpload", key="image") == 1
    stored = Counter(
        request.target for request in proxy.asked("UploadPart") if request.status == 200
    )
    assert set(stored.values()) == {1}, "parts that the store has are sent again"
    assert bucket.read("image") == DATA + b"the end"
    bucket.assert_tidy("image")
