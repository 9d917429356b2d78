"""From URLs to stores."""

import pytest

from vfs.errors import ConfigError
from vfs.metrics import Metrics
from vfs.store.base import BytesBody
from vfs.store.open import open_store
from vfs.store.wrap.bandwidth import Bandwidth
from vfs.values import Key, Span

KEY = Key("disk.img")


async def test_a_directory_is_opened_by_its_url(tmp_path):
    async with open_store(f"file://{tmp_path}") as store:
        await store.write(KEY, BytesBody(b"x"))
    assert (tmp_path / KEY).read_bytes() == b"x"


async def test_a_directory_with_odd_characters_is_opened_by_its_url(tmp_path):
    root = tmp_path / "with space, 100% and é"
    root.mkdir()
    async with open_store(root.as_uri()) as store:
        await store.write(KEY, BytesBody(b"x"))
        assert store.url == root.as_uri()
    assert (root / KEY).read_bytes() == b"x"


async def test_memory_stores_of_one_name_share_their_content():
    async with open_store("mem://shared/by") as one, open_store("MEM://shared") as other:
        await one.write(KEY, BytesBody(b"x"))
        assert (await other.head(Key("by/disk.img"))).size == 1


async def test_every_attempt_is_counted(tmp_path):
    metrics = Metrics()
    limits = Bandwidth()
    async with open_store(f"file://{tmp_path}", metrics=metrics, limits=limits) as store:
        info = await store.write(KEY, BytesBody(b"content"))
        await store.read(info.pin, Span(0, 3))
    assert metrics.snapshot().total("store_calls_total") == 2
    assert metrics.snapshot().total("store_bytes_in_total") == 3


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/srv/images",
        "ftp://host/dir",
        "file://host/dir",
        "file://dir",
        "file:///a%00b",
        "file:/dir",
        "mem://",
        "mem:///",
        "s3://",
    ],
)
async def test_a_url_that_means_no_store_is_refused_in_one_line(url):
    with pytest.raises(ConfigError) as caught:
        async with open_store(url):
            pass
    assert "\n" not in caught.value.message


async def test_a_url_that_is_not_understood_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        async with open_store("ftp://user:hunter2@host/"):
            pass
    assert "hunter2" not in str(caught.value)
