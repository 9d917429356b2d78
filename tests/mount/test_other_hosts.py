"""What another host does to a file shows here whole, or not yet: never cut, never mixed."""

import os
import time
from contextlib import suppress

import pytest

from tests.support.mount import mounted

LIMIT_S = 30


def until(seen, wanted):
    """Ask again and again, and check every answer on the way, until the wanted one comes."""
    deadline = time.monotonic() + LIMIT_S
    while (found := seen()) != wanted:
        assert time.monotonic() < deadline, f"still {found!r}"


@pytest.mark.promise("S-read-3")
@pytest.mark.parametrize(
    ("old", "new"),
    [(b"1" * 10, b"2" * 25), (b"1" * 25, b"2" * 10), (b"1" * 10, b"2" * 300_000)],
    ids=["longer", "shorter", "much longer"],
)
def test_a_file_that_another_host_replaced_is_read_whole(store, old, new):
    store.put("dir/file", old)
    with mounted(store, "metadata_ttl=1s") as mount:
        path = mount.path / "dir/file"

        def read():
            # A status on the way gives the kernel attributes of its own to believe in.
            path.stat()
            data = path.read_bytes()
            assert data in {old, new}
            return data

        until(read, old)
        store.put("dir/file", new)
        until(read, new)
        assert path.stat().st_size == len(new)


@pytest.mark.promise("S-read-2")
def test_the_next_open_after_a_stale_read_sees_the_new_version(store):
    store.put("file", b"old")
    with mounted(store, "metadata_ttl=60s") as mount:
        mount.expect_log("replaced|changed|not the version")
        path = mount.path / "file"
        with path.open("rb"):
            store.put("file", b"the new one")
            with pytest.raises(OSError, match="Stale"):
                path.read_bytes()
            assert path.read_bytes() == b"the new one"


@pytest.mark.promise("S-read-3")
def test_what_is_appended_goes_behind_what_another_host_has_written(store):
    old, new, own = b"old\n" * 3, b"line of another host\n" * 4, b"mine\n"
    store.put("log", old)
    with mounted(store, "metadata_ttl=1s") as mount:
        path = mount.path / "log"
        until(path.read_bytes, old)
        store.put("log", new)
        until(lambda: path.stat().st_size, len(new))
        with path.open("ab") as file:
            file.write(own)
    assert store.read("log") == new + own


@pytest.mark.promise("S-read-3")
def test_an_append_before_the_news_came_is_kept_apart_and_cuts_nothing(store):
    old, new, own = b"old\n" * 3, b"line of another host\n" * 4, b"mine\n"
    store.put("log", old)
    with mounted(store, "metadata_ttl=1s") as mount:
        path = mount.path / "log"
        mount.expect_log("somebody else")
        until(path.read_bytes, old)
        store.put("log", new)
        with suppress(OSError), path.open("ab") as file:
            file.write(own)
    assert store.read("log") in {new, new + own}


@pytest.mark.promise("S-write-6")
def test_a_name_can_be_written_again_right_after_a_conflict(store):
    with mounted(store, "metadata_ttl=60s") as mount:
        path = mount.path / "file"
        mount.expect_log("somebody else")
        path.write_bytes(b"one")
        fd = os.open(path, os.O_RDWR)
        store.put("file", b"of another host")
        os.pwrite(fd, b"two", 0)
        with pytest.raises(OSError, match="Stale"):
            os.fsync(fd)
        with pytest.raises(OSError, match="Stale"):
            os.close(fd)
        until(path.read_bytes, b"of another host")
        path.write_bytes(b"three")
        assert store.read("file") == b"three"
