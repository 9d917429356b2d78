"""Objects that other tools have put into the store, under keys that a file could not have."""

import os

import pytest

from tests.support.mount import mounted

RGW = pytest.mark.parametrize("store", [pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)

STRANGE = [
    "a//b",
    "//double",
    "/leading",
    "trailing//",
    "../x",
    "up/../../../etc/passwd",
    "./here",
    "a/./b",
    "..",
    ".",
    "dots/..",
    "n" * 300,
    "deep/" + "n" * 300 + "/file",
    "\N{SNOWMAN}" * 86,
    "\U0010ffff/noncharacter",
    "\U0010ffe9",
    "a\\b",
]


@RGW
@pytest.mark.promise("S-name-10")
def test_keys_that_cannot_be_names_are_hidden_and_lead_nowhere(store):
    stored = {key: f"content of {key[:20]}".encode() for key in STRANGE}
    stored |= {"ok": b"fine", "deep/ok": b"fine", "a/ok": b"fine"}
    for key, data in stored.items():
        store.client.put_object(Bucket=store.name, Key=store.prefix + key, Body=data)
    outside = "images/outside"
    store.client.put_object(Bucket=store.name, Key=outside, Body=b"not ours")
    with mounted(store) as mount:
        mount.expect_log("cannot be (a )?(file )?names?")
        listing = mount.sh("find . -type f | sort; ls -lR > /dev/null; du -a > /dev/null")
        shown = set(listing.splitlines())
        assert {"./ok", "./deep/ok", "./a/ok", "./a\\b"} <= shown
        assert not {name for name in shown if "//" in name or "outside" in name or "passwd" in name}
        assert all(len(os.fsencode(part)) <= 255 for name in shown for part in name.split("/"))
        assert mount.sh("cat ok deep/ok a/ok") == "finefinefine"
        assert mount.status()["state"] == "ready"
        # A directory that still holds what nobody sees must not be lost by removing it.
        mount.sh("rm a/ok; ! rmdir a 2>/dev/null")
    assert store.client.get_object(Bucket=store.name, Key=outside)["Body"].read() == b"not ours"
    found = {
        item["Key"].removeprefix(store.prefix)
        for item in store.client.list_objects_v2(Bucket=store.name, Prefix=store.prefix)["Contents"]
    }
    assert set(stored) - {"a/ok"} <= found


@RGW
@pytest.mark.promise("S-name-11")
def test_where_a_file_and_a_directory_share_a_name_the_directory_shows_until_it_is_gone(store):
    for key, data in {"a": b"file", "a/": b"", "b": b"file", "b/c": b"child"}.items():
        store.client.put_object(Bucket=store.name, Key=store.prefix + key, Body=data)
    with mounted(store) as mount:
        mount.expect_log("both")
        assert mount.sh("find . | sort") == ".\n./a\n./b\n./b/c\n"
        assert mount.sh("stat -c %F a b; cat b/c") == "directory\ndirectory\nchild"
        mount.sh("rm -r b; rmdir a")
        mount.remount()
        assert mount.sh("cat a b; ls") == "filefilea\nb\n"


@RGW
def test_a_directory_marker_with_content_is_a_directory_and_keeps_its_content(store):
    store.client.put_object(Bucket=store.name, Key=store.prefix + "d/", Body=b"some content")
    with mounted(store) as mount:
        assert mount.sh("stat -c %F d; ls -A d; touch d/file; ls d") == "directory\nfile\n"
        mount.sh("rm d/file; ls -A d")
    body = store.client.get_object(Bucket=store.name, Key=store.prefix + "d/")["Body"].read()
    assert body == b"some content"


def test_what_another_program_has_put_and_changed_and_removed_shows(store):
    with mounted(store, "metadata_ttl=0", "negative_ttl=0") as mount:
        assert mount.sh("ls -A") == ""
        store.put("new", b"one")
        assert mount.sh("cat new") == "one"
        store.put("new", b"another")
        assert mount.sh("cat new; stat -c %s new") == "another7\n"
        store.put("sub/dir/file", b"deep")
        assert mount.sh("find . -type f | sort") == "./new\n./sub/dir/file\n"


@pytest.mark.promise("S-mount-4")
def test_a_read_only_mount_reads_everything_and_writes_nothing(store):
    store.put("dir/file", b"content")
    before = everything(store)
    with mounted(store, "ro") as mount:
        assert mount.sh("cat dir/file; ls; ls dir") == "contentdir\nfile\n"
        for command in (
            "echo x > new", "echo x >> dir/file", "rm dir/file", "mkdir d", "rmdir dir",
            "mv dir/file x", "chmod 600 dir/file", "touch dir/file", "truncate -s 1 dir/file",
            "ln -s a b",
        ):  # fmt: skip
            done = mount.run("bash", "-c", f'cd "$0"; {command}', mount.path, check=False)
            assert "Read-only file system" in done.stderr, command
        mount.remount()
    assert everything(store) == before


def everything(store) -> set[str]:
    """Return all keys, our own as well."""
    if hasattr(store, "client"):
        return {item["Key"] for item in store.client.list_objects_v2(Bucket=store.name)["Contents"]}
    return {str(path) for path in store.path.rglob("*")}


NAMES_ON_DISK = [b"caf\xe9", b"line\nfeed", b"\xff", "\N{SNOWMAN}".encode(), b"-x", b"n" * 255]


@pytest.mark.parametrize("store", ["local"], indirect=True)
def test_every_name_in_a_local_directory_shows_as_it_is(store):
    for name in NAMES_ON_DISK:
        with open(os.fsencode(store.path) + b"/" + name, "wb") as file:
            file.write(name)
    (store.path / "link").symlink_to("/etc/passwd")
    (store.path / "outside").symlink_to("/etc")
    with mounted(store) as mount:
        mount.expect_log("link")
        seen = mount.call(read_all)
        assert {name: seen.get(name) for name in NAMES_ON_DISK} == {n: n for n in NAMES_ON_DISK}
        assert b"root:" not in b"".join(filter(None, seen.values()))


def read_all() -> dict[bytes, bytes]:
    found = {}
    for name in os.listdir(b"."):
        if os.path.isfile(name) and not os.path.islink(name):
            with open(name, "rb") as file:
                found[name] = file.read()
    return found
