"""`ls`, `stat`, `rm` and `cp` on stores, in memory and in a directory."""

import itertools
import json
import os

import pytest
import trio

from vfs.cli.location import Location, locate
from vfs.errors import ConfigError
from vfs.store.base import BytesBody
from vfs.store.memory import MemoryStore
from vfs.values import Key

_serial = itertools.count()


@pytest.fixture
def bucket():
    """The URL of a store in memory with some objects."""
    url = f"mem://cli-{next(_serial)}"
    fill(
        url,
        {
            "a.img": b"a" * 2000,
            "dir/b": b"bb",
            "dir/sub/c": b"ccc",
            "dir/.vfs.attrs": b"{}",
            ".vfs/tmp/x": b"",
        },
    )
    return url


def fill(url, objects):
    async def write():
        for key, data in objects.items():
            await MemoryStore(url).write(Key(key), BytesBody(data))

    trio.run(write)


def keys(url):
    async def collect():
        return [str(info.key) for info in (await MemoryStore(url).list(Key(""))).objects]

    return trio.run(collect)


@pytest.mark.parametrize(
    ("url", "root", "key", "directory"),
    [
        ("s3://b", "s3://b", "", False),
        ("s3://b/", "s3://b", "", False),
        ("s3://b/x/y", "s3://b", "x/y", False),
        ("s3://b/x/", "s3://b", "x", True),
        ("S3://b/x%20y z", "s3://b", "x%20y z", False),
        ("s3+http://h:1/b/x", "s3+http://h:1/b", "x", False),
        ("s3+https://h/b", "s3+https://h/b", "", False),
        ("mem://n/x", "mem://n", "x", False),
        ("file:///d/x%20y", "file:///d", "x y", False),
        ("file:///d/x/", "file:///d", "x", True),
        ("file:///x", "file:///", "x", False),
        ("file:///", "file:///", "", True),
    ],
)
def test_a_url_is_split_into_store_and_key(url, root, key, directory):
    assert locate(url) == Location(root, Key(key), directory)


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3+http://h", "s3+http://h/", "mem://"])
def test_a_url_without_a_bucket_is_refused(url):
    with pytest.raises(ConfigError, match="name of a bucket is missing"):
        locate(url)


def test_a_listing_shows_what_is_directly_below_and_hides_our_own(bucket, vfs):
    outcome = vfs("ls", bucket)
    assert [line.split()[-1] for line in outcome.out.splitlines()] == ["a.img", "dir/"]
    assert vfs("ls", f"{bucket}/dir").out == vfs("ls", f"{bucket}/dir/").out
    entries = json.loads(vfs("ls", "--json", f"{bucket}/dir").out)["entries"]
    assert [(entry["name"], entry["kind"], entry.get("size")) for entry in entries] == [
        ("b", "object", 2),
        ("sub", "directory", None),
    ]
    assert entries[0]["url"] == f"{bucket}/dir/b"


def test_a_listing_of_one_object_shows_it(bucket, vfs):
    assert vfs("ls", f"{bucket}/a.img").out.split()[0::2] == ["2000", "a.img"]


def test_what_is_not_there_is_not_found(bucket, vfs):
    for verb in (["ls"], ["stat"], ["rm"], ["rm", "-r"], ["cp", "-r"]):
        tail = ["/nowhere"] if verb[0] == "cp" else []
        outcome = vfs(*verb, f"{bucket}/none", *tail)
        assert outcome.code == 3, verb
        assert outcome.err == f"vfs: {bucket}/none: nothing is there\n"
    assert vfs("ls", f"mem://empty-{next(_serial)}").code == 0


def test_stat_describes_an_object_and_a_directory(bucket, vfs):
    found = json.loads(vfs("stat", "--json", f"{bucket}/a.img").out)
    assert found["version"] == 1
    assert (found["object"]["size"], found["object"]["kind"]) == (2000, "object")
    assert json.loads(vfs("stat", "--json", f"{bucket}/dir").out)["object"]["kind"] == "directory"
    assert "2000" in vfs("stat", f"{bucket}/a.img").out


def test_rm_removes_one_object(bucket, vfs):
    outcome = vfs("rm", f"{bucket}/a.img")
    assert (outcome.code, outcome.out) == (0, f"removed {bucket}/a.img\n")
    assert "a.img" not in keys(bucket)


def test_rm_of_a_directory_needs_r(bucket, vfs):
    for url in (f"{bucket}/dir", f"{bucket}/dir/", bucket):
        outcome = vfs("rm", url)
        assert (outcome.code, outcome.err) == (
            2,
            f"vfs: {url} is a directory; -r removes everything below it\n",
        )
    assert len(keys(bucket)) == 5


def test_a_dry_run_names_everything_and_removes_nothing(bucket, vfs):
    out = json.loads(vfs("rm", "-r", "--dry-run", "--json", f"{bucket}/dir").out)
    assert (out["dry_run"], len(out["removed"])) == (True, 3)
    assert len(keys(bucket)) == 5


def test_rm_r_removes_sidecars_too_but_not_what_is_being_uploaded(bucket, vfs):
    assert vfs("rm", "-r", bucket).code == 0
    assert keys(bucket) == [".vfs/tmp/x"]


def test_rm_r_of_a_local_directory_leaves_nothing_of_it(vfs, tmp_path):
    (tmp_path / "s/d/e").mkdir(parents=True)
    (tmp_path / "s/d/x y").write_text("x")
    assert vfs("rm", "-r", f"file://{tmp_path}/s/d").code == 0
    assert not (tmp_path / "s/d").exists()


def test_a_file_goes_up_and_comes_down_again(bucket, vfs, tmp_path):
    data = os.urandom(9 << 20)
    (tmp_path / "up").write_bytes(data)
    assert vfs("cp", tmp_path / "up", f"{bucket}/up.img").code == 0
    outcome = vfs("cp", "--json", f"{bucket}/up.img", f"file://{tmp_path}/down")
    assert json.loads(outcome.out) == {"version": 1, "files": 1, "bytes": len(data)}
    assert (tmp_path / "down").read_bytes() == data


@pytest.mark.parametrize(
    ("words", "target", "missing"),
    [([], "a/b/x", "a/b"), ([], "a/", "a"), (["-r"], "a/x", "a")],
)
def test_a_download_makes_no_directory_on_the_way(words, target, missing, bucket, vfs, tmp_path):
    outcome = vfs("cp", *words, f"{bucket}/a.img", f"{tmp_path}/{target}")
    expected = f"vfs: {tmp_path}/{missing}: no such directory; create it first\n"
    assert (outcome.code, outcome.err) == (3, expected)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_becomes_a_new_one(bucket, vfs, tmp_path):
    assert vfs("cp", "-r", f"{bucket}/dir", f"{tmp_path}/new/").code == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]


def test_an_empty_place_is_refused(bucket, vfs):
    for words in (["", bucket], [f"{bucket}/a.img", ""]):
        outcome = vfs("cp", *words)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_a_download_goes_to_standard_output(bucket, vfs, tmp_path):
    # As /dev/stdout is, which a mistake would replace for the whole machine.
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    outcome = vfs("cp", f"{bucket}/a.img", tmp_path / "stdout")
    assert (outcome.code, outcome.out) == (0, "a" * 2000)
    assert (tmp_path / "stdout").is_symlink()


@pytest.mark.parametrize("target", ["{}", "{}/", "{}/a.img"])
def test_a_file_keeps_its_name_in_a_directory(target, bucket, vfs, tmp_path):
    other = f"mem://cli-{next(_serial)}"
    assert vfs("cp", f"{bucket}/a.img", target.format(tmp_path)).code == 0
    assert (tmp_path / "a.img").stat().st_size == 2000
    assert vfs("cp", tmp_path / "a.img", target.format(other)).code == 0
    assert keys(other) == ["a.img"]


def test_a_directory_is_copied_with_r_alone(bucket, vfs, tmp_path):
    assert vfs("cp", f"{bucket}/dir", tmp_path / "d").code == 2
    assert vfs("cp", "-r", f"{bucket}/dir", tmp_path / "d").code == 0
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()) == [
        (tmp_path / name).relative_to(tmp_path) for name in ("d/b", "d/sub/c")
    ]
    other = f"mem://cli-{next(_serial)}"
    assert vfs("cp", tmp_path / "d", other).code == 2
    assert vfs("cp", "-r", tmp_path / "d", f"{other}/x").code == 0
    assert keys(other) == ["x/b", "x/sub/c"]
    assert vfs("cp", "-r", f"{other}/x", f"{other}/y").code == 0
    assert keys(other) == ["x/b", "x/sub/c", "y/b", "y/sub/c"]


def test_a_key_cannot_lead_out_of_the_target(vfs, tmp_path):
    url = f"mem://cli-{next(_serial)}"
    fill(url, {"d/../../evil": b"x", "d//y": b"x", "d/good": b"x"})
    (tmp_path / "in").mkdir()
    outcome = vfs("cp", "-r", f"{url}/d", tmp_path / "in/side")
    assert outcome.code == 0
    assert outcome.err.count("is left out: not a file name") == 2
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["good"]


def test_names_that_are_not_utf_8_survive_the_round_trip(vfs, tmp_path):
    url = f"mem://cli-{next(_serial)}"
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / name).touch()
    assert vfs("cp", "-r", tmp_path / "up", url).code == 0
    assert vfs("cp", "-r", url, tmp_path / "down").code == 0
    assert [entry.name for entry in (tmp_path / "down").iterdir()] == [name]


def test_our_own_names_and_special_files_are_not_uploaded(bucket, vfs, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/.vfs.attrs").touch()
    assert vfs("cp", "-r", tmp_path / "own", f"{bucket}/z").code == 4
    os.mkfifo(tmp_path / "pipe")
    assert vfs("cp", tmp_path / "pipe", f"{bucket}/z").code == 1
    assert len(keys(bucket)) == 5


RESERVED = [
    ".vfs",
    ".vfs/evil",
    "dir/.vfs.attrs",
    ".vfs.attrs",
    "dir/.vfs/x/",
    "dir/.vfs.attrs.1-2",
]


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize("kind", ["mem", "file", "escaped"])
def test_names_of_our_own_are_neither_written_nor_removed(name, kind, bucket, vfs, tmp_path):
    (tmp_path / "x").touch()
    there = tmp_path / name
    there.parent.mkdir(parents=True, exist_ok=True)
    root = bucket if kind == "mem" else f"file://{tmp_path}"
    url = f"{root}/{name.replace('.vfs', '%2evfs') if kind == 'escaped' else name}"
    source = tmp_path / "x" if kind == "mem" else f"{bucket}/a.img"
    for words in (["cp", source, url], ["cp", "-r", tmp_path, url], ["rm", url], ["rm", "-r", url]):
        outcome = vfs(*words)
        assert (outcome.code, outcome.err.count("\n")) == (4, 1), words
        assert f"vfs: {url}: .vfs" in outcome.err
        assert "belongs to vfs" in outcome.err
    assert len(keys(bucket)) == 5
    assert not there.is_file()


def test_a_copy_into_a_directory_gets_no_name_of_our_own(bucket, vfs, tmp_path):
    other = f"mem://cli-{next(_serial)}"
    for target in (other, f"{other}/dir/"):
        outcome = vfs("cp", f"{bucket}/dir/.vfs.attrs", target)
        assert (outcome.code, "belongs to vfs" in outcome.err) == (4, True)
    assert keys(other) == []
    # To look at it is nobody's harm.
    assert vfs("cp", f"{bucket}/dir/.vfs.attrs", tmp_path).code == 0


def test_a_key_that_ends_in_no_file_name_needs_one(vfs, tmp_path):
    url = f"mem://cli-{next(_serial)}"
    fill(url, {"x/..": b"evil"})
    outcome = vfs("cp", f"{url}/x/..", tmp_path)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert vfs("cp", f"{url}/x/..", tmp_path / "good").code == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["good"]


@pytest.mark.parametrize("words", [["ls"], ["stat"], ["rm"]])
def test_a_path_is_refused_with_the_url_that_was_meant(words, vfs):
    outcome = vfs(*words, "/tmp/a b")
    assert (outcome.code, outcome.err) == (
        2,
        "vfs: /tmp/a b: not a URL; a local directory is written file:///tmp/a%20b\n",
    )
    assert "a local directory is written file:///path/to" in vfs(*words, "images").err


def test_two_local_sides_are_left_to_cp(vfs, tmp_path):
    outcome = vfs("cp", tmp_path, f"file://{tmp_path}/x")
    assert outcome.code == 2
    assert "use cp" in outcome.err


def test_a_local_file_that_is_not_there_is_not_found(bucket, vfs, tmp_path):
    outcome = vfs("cp", tmp_path / "none", bucket)
    assert (outcome.code, outcome.err) == (3, f"vfs: {tmp_path}/none: No such file or directory\n")
