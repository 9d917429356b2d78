"""The daemon's memory is bounded by `memory`, however much is open."""

import os

import pytest

from tests.support.mount import mounted

MIB = 1 << 20
LIMIT = 406_000_000
FILES = 200
PIECE = 256 << 10


def read_all_at_once(count: int, size: int) -> None:
    """Read all files piece by piece, every one a little further in each round."""
    files = [os.open(f"in-{number}", os.O_RDONLY) for number in range(count)]
    for offset in range(0, size, PIECE):
        for number, file in enumerate(files):
            assert os.pread(file, PIECE, offset) == bytes([number]) * PIECE
    for file in files:
        os.close(file)


def write_all_at_once(count: int, size: int) -> None:
    files = [os.open(f"out-{number}", os.O_CREAT | os.O_WRONLY) for number in range(count)]
    for offset in range(0, size, PIECE):
        for number, file in enumerate(files):
            assert os.pwrite(file, bytes([number]) * PIECE, offset) == PIECE
    for file in files:
        os.close(file)


@pytest.mark.timeout(900)
@pytest.mark.promise("S-read-7")
@pytest.mark.parametrize(
    "size", [pytest.param(2 * MIB), pytest.param(16 * MIB, marks=pytest.mark.slow)]
)
def test_two_hundred_open_files_fit_into_the_memory_that_was_given(store, size):
    for number in range(FILES):
        store.put(f"in-{number}", bytes([number]) * size)
    with mounted(store, "memory=256M") as mount:
        mount.call(read_all_at_once, FILES, size, timeout=400)
        mount.call(write_all_at_once, FILES, size, timeout=400)
        assert mount.peak_rss() <= LIMIT
    for number in (0, 17, FILES - 1):
        assert store.read(f"out-{number}") == bytes([number]) * size


def test_a_large_file_is_written_and_read_within_the_memory_that_was_given(store):
    with mounted(store, "memory=256M") as mount:
        mount.sh("head -c 400M /dev/zero | tr '\\0' x > large; [ $(stat -c %s large) = 419430400 ]")
        mount.remount()
        mount.sh("tr -d x < large | wc -c | grep -x 0")
        assert mount.peak_rss() <= LIMIT
