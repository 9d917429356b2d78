"""The kernel's side of names: what it may believe, for how long, and what it is made to forget."""

import ctypes
import mmap
import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.behind import BehindProxy
from tests.support.mount import Directory, mounted, wait_until
from tests.support.proxy import FaultProxy
from tests.support.rgw import rgw

MIB = 1 << 20
SIZE = 4 * MIB
MOST_PAGES = SIZE // mmap.PAGESIZE * 9 // 10  # the kernel may take some back at any time


def pause(seconds: float) -> None:
    """Let the time of something pass that only the kernel and the daemon measure."""
    time.sleep(seconds)  # noqa: TID251 - no loop is running here


def resident(path: str) -> int:
    """Return how many pages of a file the kernel has, after opening it as a reader does."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        with closing(mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE)) as mapped:
            pages = -(-size // mmap.PAGESIZE)
            seen = (ctypes.c_ubyte * pages)()
            start = ctypes.c_char.from_buffer(mapped)
            done = libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), size, seen)
            del start
            assert done == 0
            return sum(one & 1 for one in seen)


@pytest.mark.promise("S-read-12")
def test_the_kernel_keeps_its_pages_until_another_host_changes_the_file(store):
    store.put("file", b"1" * SIZE)
    with mounted(store, "metadata_ttl=1s") as mount:
        assert mount.run("sha256sum", mount.path / "file").returncode == 0
        pause(1.5)  # past metadata_ttl: it is looked up anew, and has the same version
        assert mount.call(resident, "file") >= MOST_PAGES
        store.put("file", b"2" * SIZE)
        pause(1.5)
        assert mount.call(resident, "file") == 0
        assert mount.sha256("file") == store.sha256("file")
        assert mount.call(resident, "file") >= MOST_PAGES


def test_the_kernel_keeps_the_pages_of_what_was_written_here(store):
    with mounted(store, "metadata_ttl=1s") as mount:
        mount.sh(f"head -c {SIZE} /dev/urandom > file; cat file > /dev/null")
        pause(1.5)
        # Not each of them: a page that was written in two pieces may have to be read once.
        assert mount.call(resident, "file") >= MOST_PAGES
        assert mount.sha256("file") == store.sha256("file")


@pytest.fixture
def counted():
    """A bucket behind a proxy that counts what is asked of it."""
    with FaultProxy(rgw().endpoint) as proxy, rgw().bucket() as name:
        yield BehindProxy(rgw(), name, proxy=proxy)


def asked(bucket, *operations: str) -> int:
    return bucket.proxy.count(*operations)


@pytest.mark.rgw
@pytest.mark.promise("S-name-16")
def test_fifty_processes_that_list_a_cold_directory_cost_one_listing(counted):
    for number in range(40):
        counted.put(f"dir/file-{number}", b"x")
    with mounted(counted, "metadata_ttl=60s") as mount:
        mount.sh("stat dir")
        before = asked(counted, "ListObjects"), asked(counted, "HeadObject", "GetObject")
        lines = mount.sh("for n in $(seq 50); do ls -l dir | wc -l & done; wait").split()
        assert lines == ["41"] * 50
        assert asked(counted, "ListObjects") - before[0] == 1
        assert asked(counted, "HeadObject", "GetObject") == before[1]


@pytest.mark.rgw
@pytest.mark.promise("S-name-17")
def test_what_is_not_there_is_not_asked_for_again_while_that_may_be_believed(counted):
    counted.put("dir/file", b"x")
    with mounted(counted, "metadata_ttl=60s", "negative_ttl=30s") as mount:
        mount.sh("! stat dir/missing 2>&1")
        before = asked(counted, "ListObjects", "HeadObject")
        mount.sh("for n in $(seq 50); do ! stat dir/missing dir/other-$n 2>&1; done")
        assert asked(counted, "ListObjects", "HeadObject") == before
        mount.sh("echo here > dir/missing; grep -q here dir/missing; mkdir dir/other-1")
        assert sorted(mount.sh("ls dir").split()) == ["file", "missing", "other-1"]


@pytest.mark.rgw
@pytest.mark.promise("S-name-19")
def test_names_are_not_asked_for_again_after_a_restart(counted):
    for number in range(40):
        counted.put(f"dir/file-{number}", b"x")
    with mounted(counted, "metadata_ttl=1h", "cache_size=64M") as mount:
        mount.sh("chmod 600 dir/file-7; ls -l dir")
        mount.remount(fresh=False)
        mount.sh("ls -l dir; mv dir/file-8 dir/moved; mkdir dir/made")
        mount.remount(fresh=False)
        before = asked(counted, "ListObjects")
        shown = mount.sh("ls dir").split()
        assert asked(counted, "ListObjects") - before == 1  # it was changed
        assert set(shown) == {"made", "moved"} | {f"file-{n}" for n in range(40) if n != 8}
        mount.remount(fresh=False)
        before = asked(counted, "ListObjects", "HeadObject", "GetObject")
        assert mount.sh("ls dir").split() == shown
        assert mount.sh("stat -c %a dir/file-7").strip() == "600"
        assert asked(counted, "ListObjects", "HeadObject", "GetObject") == before


@pytest.mark.promise("S-name-17")
def test_what_another_host_makes_is_there_when_its_absence_may_be_believed_no_more(store):
    store.put("dir/file", b"x")
    with mounted(store, "metadata_ttl=60s", "negative_ttl=1s") as mount:
        mount.sh("! stat dir/late 2>&1")
        store.put("dir/late", b"x")
        pause(1.2)
        mount.sh("stat dir/late")


@pytest.mark.promise("S-read-3")
def test_the_kernel_believes_a_size_no_longer_than_the_listing_it_is_from(store):
    """Each look takes the rest of the time to live, not a new one."""
    store.put("file", b"1" * 10)
    with mounted(store, "metadata_ttl=3s") as mount:
        mount.sh("ls -l")
        asked_s = time.monotonic()
        pause(2)
        mount.sh("stat file")  # the kernel asks us, perhaps, and is told the rest
        store.put("file", b"2" * 25)
        pause(max(0, asked_s + 3.2 - time.monotonic()))
        assert mount.sh("stat -c %s file").strip() == "25"


def rss(mount) -> int:
    text = Path(f"/proc/{mount.status()['pid']}/status").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.promise("S-name-15")
def test_hundreds_of_thousands_of_names_fit_into_bounded_memory(tmp_path):
    """Twice the names do not take twice the memory: the kernel is made to forget."""
    count = 150_000
    for half in ("one", "two"):
        (tmp_path / "store" / half).mkdir(parents=True)
        for number in range(count):
            os.close(os.open(tmp_path / "store" / half / f"{number:07}", os.O_CREAT))
    with mounted(Directory(tmp_path / "store"), "memory=64M", "metadata_ttl=60s") as mount:
        before = rss(mount)
        mount.sh(f"[ $(ls -l one | wc -l) = {count + 1} ]", timeout=400)
        once = rss(mount)
        mount.sh(f"[ $(ls -l two | wc -l) = {count + 1} ]", timeout=400)
        twice = rss(mount)
        print(before / MIB, once / MIB, twice / MIB)
        assert twice - before <= 220 * MIB
        assert twice - once <= 60 * MIB
        wait_until(lambda: mount.sh("stat -c %n one/0000000").strip() != "", "it is there")
