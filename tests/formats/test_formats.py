"""What an earlier version wrote is read for ever; what a newer one wrote is refused, untouched."""

import shutil
import stat
from pathlib import Path

import pytest
import trio

from tests.support.cached import Source, opened
from tests.support.faulty import FaultyStore
from vfs.cache.disk.metadata import MetadataCache
from vfs.daemon.known import FORMAT_VERSION, recall, remember
from vfs.errors import CorruptError, MetadataError
from vfs.layout.digest import decode as decode_digest
from vfs.layout.digest import encode as encode_digest
from vfs.layout.plain import PlainLayout
from vfs.runtime import read_record
from vfs.stage.budget import StageBudget
from vfs.stage.directory import Stage
from vfs.stage.records import RecordLog, read_log
from vfs.store.base import Features, ObjectVersion
from vfs.store.memory import MemoryStore
from vfs.tree.pages import Pages
from vfs.tree.sidecar import decode_entry, decode_sidecar, encode_sidecar
from vfs.values import Key, Version

V1 = Path(__file__).parent / "v1"


def test_a_sidecar_of_version_1_is_read_whole():
    entries = decode_sidecar((V1 / "vfs.attrs").read_bytes())
    disk = entries["disk.qcow2"]
    assert disk.sequence == 7
    assert disk.attributes is not None
    assert disk.attributes.mode == stat.S_IFREG | 0o640
    assert (disk.attributes.uid, disk.attributes.gid) == (107, 107)
    assert disk.attributes.mtime_ns == 1700000000123456789
    assert disk.attributes.version == "9b2cf535f27731c974343645a3985328"
    assert entries["link"].attributes.target == "disk.qcow2"
    assert entries["sub"].attributes.version is None
    assert entries["pipe"].attributes.xattrs == {"user.note": b"\x00\xff"}
    assert "caf\U0010ffe9" in entries


def test_a_sidecar_of_version_1_is_still_written_byte_for_byte():
    data = (V1 / "vfs.attrs").read_bytes()
    assert encode_sidecar(decode_sidecar(data), 1) == data


@pytest.mark.promise("S-attr-5")
def test_a_sidecar_of_a_newer_version_is_refused_with_the_remedy():
    data = (V1 / "vfs.attrs").read_bytes().replace(b'"version":1', b'"version":2', 1)
    with pytest.raises(MetadataError, match=r"format version 2.*newer vfs"):
        decode_sidecar(data)


def test_a_digest_of_version_1_is_read_whole():
    kept = decode_digest((V1 / "digest.json").read_bytes())
    assert kept.key == "vm/caf\U0010ffe9.raw"
    assert kept.version == "9b2cf535f27731c974343645a3985328-3"
    sizes = [leaf.span.size for leaf in kept.digest.leaves]
    assert sizes == [5 << 20, 5 << 20, 2 << 20]
    assert [leaf.sha256 for leaf in kept.digest.leaves] == ["0f" * 32, None, "7b" * 32]


def test_a_digest_of_version_1_is_still_written_byte_for_byte():
    data = (V1 / "digest.json").read_bytes()
    assert encode_digest(decode_digest(data)) == data


def test_a_digest_of_a_newer_version_is_refused_with_the_remedy():
    data = (V1 / "digest.json").read_bytes().replace(b'"version":1', b'"version":2', 1)
    with pytest.raises(MetadataError, match=r"format version 2.*newer vfs"):
        decode_digest(data)


def test_a_names_log_of_version_1_is_read_whole():
    data = (V1 / "names.log").read_bytes()
    records, valid = read_log(data, "names", V1 / "names.log")
    assert valid == len(data)
    assert [record["op"] for record in records] == [
        "attributes",
        "unlink",
        "done",
        "move",
        "move_directory",
    ]
    assert decode_entry(records[0]["entry"]).sequence == 7
    assert records[3]["file"]["size"] == 10


def test_a_names_log_of_a_newer_version_is_refused_and_left_untouched(tmp_path):
    path = tmp_path / "names.log"
    data = (V1 / "names.log").read_bytes().replace(b"vfs-log 1", b"vfs-log 2", 1)
    path.write_bytes(data)
    with pytest.raises(MetadataError, match=r"format version 2.*newer vfs"):
        RecordLog(path, "names").open()
    assert path.read_bytes() == data


def test_a_log_of_another_kind_is_refused_and_left_untouched(tmp_path):
    path = tmp_path / "names.log"
    path.write_bytes((V1 / "names.log").read_bytes())
    with pytest.raises(CorruptError, match="another kind"):
        RecordLog(path, "spans").open()
    assert path.read_bytes() == (V1 / "names.log").read_bytes()


def test_a_stage_of_a_newer_version_is_refused_and_left_untouched(tmp_path):
    owner = tmp_path / "owner"
    data = (V1 / "owner").read_bytes().replace(b'"version": 1', b'"version": 2', 1)
    owner.write_bytes(data)
    stage = Stage(tmp_path, "s3://bucket/images", StageBudget(1 << 20, 1))
    with pytest.raises(MetadataError, match=r"format version 2.*newer vfs"):
        stage.open()
    assert owner.read_bytes() == data


def test_a_stage_of_version_1_is_taken_over(tmp_path):
    (tmp_path / "owner").write_bytes((V1 / "owner").read_bytes())
    (tmp_path / "names.log").write_bytes((V1 / "names.log").read_bytes())
    stage = Stage(tmp_path, "s3://bucket/images", StageBudget(1 << 20, 1))
    stage.open()
    try:
        assert len(stage.names.open()) == 5
    finally:
        stage.close()


def test_a_mount_record_of_version_1_is_read():
    record = read_record(V1 / "record.json")
    assert (record.mountpoint, record.pid) == ("/mnt/images", 4711)


def test_what_version_1_knew_of_a_store_is_believed_for_seven_days():
    probed_s = 1_764_000_000
    found = recall(V1, clock=lambda: (probed_s + 7 * 86_400 - 1) * 10**9)
    assert found is not None
    assert found.write_if_absent
    assert found.multipart
    assert not found.write_if_version
    assert found.quirks == {"unquoted-etags"}
    assert recall(V1, clock=lambda: (probed_s + 7 * 86_400) * 10**9) is None
    assert recall(V1, clock=lambda: (probed_s - 1) * 10**9) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{"version": 1, "probed_s"', f'{{"version": {FORMAT_VERSION + 1}, "probed_s"'),
        ('"features": {"version": 1', '"features": {"version": 2'),
        ('"multipart": true', '"multipart": "perhaps"'),
        ("}}", "}"),
    ],
)
def test_knowledge_that_is_newer_or_damaged_is_none(tmp_path, old, new):
    text = (V1 / "known.json").read_text()
    assert old in text
    (tmp_path / "known.json").write_text(text.replace(old, new))
    assert recall(tmp_path, clock=lambda: 1_764_000_001 * 10**9) is None


def test_knowledge_that_cannot_be_written_is_no_failure(tmp_path):
    remember(tmp_path / "missing", Features())
    assert recall(tmp_path / "missing") is None


async def test_a_cache_of_version_1_is_read_without_asking_the_store(tmp_path):
    shutil.copytree(V1 / "cache", tmp_path / "cache")
    source = Source(1, 3 * 4096 + 100)
    async with opened(tmp_path / "cache", source, block=4096) as reader:
        assert await reader.asked() == 0


async def test_a_cache_of_a_newer_version_is_left_untouched(tmp_path, expect_log):
    expect_log("has format version 2; this program reads 1.*use the newer vfs")
    shutil.copytree(V1 / "cache", tmp_path / "cache")
    owner = tmp_path / "cache" / "owner"
    owner.write_bytes(owner.read_bytes().replace(b'"version": 1', b'"version": 2', 1))
    index = (tmp_path / "cache" / "index.db").read_bytes()
    async with opened(tmp_path / "cache", Source(1, 100), block=4096) as reader:
        assert await reader.asked() == 100
    assert (tmp_path / "cache" / "index.db").read_bytes() == index


async def test_metadata_of_version_1_is_read_without_asking_the_store(tmp_path):
    shutil.copytree(V1 / "metadata", tmp_path / "metadata")
    told_ns, now_ns = 1_764_000_000 * 10**9, 1_764_000_100 * 10**9
    kept = MetadataCache(tmp_path / "metadata")
    kept.open()
    try:
        store = FaultyStore(MemoryStore())
        pages = Pages(PlainLayout(store), kept, ttl_s=3600.0, wall_ns=lambda: now_ns)
        listed = await pages.page(Key("vm"), None, trio.current_time() - 3600.0)
        assert trio.current_time() - listed.asked_s == pytest.approx(
            (now_ns - told_ns) / 1e9, abs=5
        )
        disk, sub = listed.page.entries
        assert disk.file is not None
        assert (disk.name, disk.file.size) == ("caf\U0010ffe9.raw", 12_582_912)
        assert disk.file.pin == ObjectVersion(
            Key("vm/caf\U0010ffe9.raw"), Version("9b2c-3"), "id-1"
        )
        assert (sub.name, sub.is_directory) == ("sub", True)
        assert [one.key for one in listed.page.sidecars] == ["vm/.vfs.attrs"]
        assert listed.page.marker
        assert store.calls == []
        await pages.page(Key("changed"), None, trio.current_time() - 3600.0)
        assert store.count("list", "changed/") == 1
        assert await kept.get_bytes("object\0vm/.vfs.attrs\0007") == b"attributes"
    finally:
        kept.close()


async def test_metadata_of_a_newer_version_is_not_believed(tmp_path):
    shutil.copytree(V1 / "metadata", tmp_path / "metadata")
    sealed = tmp_path / "metadata" / "sealed"
    sealed.write_text(sealed.read_text().replace('"version": 1', '"version": 2', 1))
    kept = MetadataCache(tmp_path / "metadata")
    kept.open()
    try:
        assert kept.found is None
        assert await kept.get_bytes("object\0vm/.vfs.attrs\0007") is None
    finally:
        kept.close()
