"""Hit rates on traces: a guest on one image while another image is read from end to end."""

import bisect
import random
from collections import OrderedDict
from itertools import accumulate, cycle

import pytest

from vfs.cache.ram import BlockKey, RamCache
from vfs.values import KIB

BLOCK = 4 * KIB
COUNT = 1024
AHEAD = 32


class Lru:
    """The reference: a cache that forgets what was not touched for longest."""

    def __init__(self):
        self.kept = OrderedDict()

    def touch(self, key):
        if key in self.kept:
            self.kept.move_to_end(key)
            return True
        self.fetch(key)
        return False

    def fetch(self, key):
        if key not in self.kept:
            if len(self.kept) == COUNT:
                self.kept.popitem(last=False)
            self.kept[key] = True


class Ram:
    """The RAM tier, driven as reads do."""

    def __init__(self):
        self.cache = RamCache(COUNT * BLOCK, BLOCK)

    def touch(self, key):
        if self.cache.get(key) is not None:
            return True
        self.fetch(key)
        self.cache.get(key)
        return False

    def fetch(self, key):
        if key not in self.cache:
            frame = self.cache.take()
            self.cache.keep(key, frame)
            self.cache.release(frame)


def zipf(pick, blocks, exponent):
    """Yield blocks of an image as a guest asks for them: few often, many seldom."""
    weights = list(accumulate(1 / rank**exponent for rank in range(1, blocks + 1)))
    order = pick.sample(range(blocks), blocks)
    while True:
        yield order[bisect.bisect(weights, pick.random() * weights[-1])]


def run_guest(cache, numbers, count):
    """Return the hit rate of so many reads."""
    return sum(cache.touch(BlockKey("guest", next(numbers))) for _ in range(count)) / count


def scan(cache, blocks, ahead=AHEAD, beside=lambda: None):
    """Read a file in order and ahead, four touches a block; return how many were fetched late."""
    late = 0
    for number in range(blocks):
        if number % ahead == 0:
            for later in range(number, min(number + 2 * ahead, blocks)):
                cache.fetch(BlockKey("scan", later))
        for _ in range(4):
            late += not cache.touch(BlockKey("scan", number))
        beside()
    return late


def during_scan(cache, numbers):
    """Return the hit rate of a guest that reads a block for every five of a long scan."""
    hits = []
    turns = cycle([True, False, False, False, False])
    scan(
        cache,
        8 * COUNT,
        beside=lambda: next(turns) and hits.append(cache.touch(BlockKey("guest", next(numbers)))),
    )
    return sum(hits) / len(hits)


def compare(measure):
    """Return a measure of the RAM tier and of LRU on the same trace."""
    ours, theirs = measure(Ram()), measure(Lru())
    print(f"RAM tier {ours:.3f}, LRU {theirs:.3f}")
    return ours, theirs


@pytest.mark.parametrize("image", [COUNT // 2, 2 * COUNT])
def test_a_guest_keeps_its_blocks_while_another_image_is_read(image):
    def measure(cache):
        numbers = zipf(random.Random(1), image, 0.9)
        run_guest(cache, numbers, 20_000)
        return during_scan(cache, numbers)

    ours, theirs = compare(measure)
    assert 1 - ours < 0.6 * (1 - theirs)


def test_a_guest_finds_its_blocks_again_after_another_image_was_read():
    def measure(cache):
        numbers = zipf(random.Random(1), COUNT // 2, 0.9)
        run_guest(cache, numbers, 20_000)
        scan(cache, 8 * COUNT)
        return run_guest(cache, numbers, 500)

    ours, theirs = compare(measure)
    assert ours > 0.9
    assert theirs < 0.6


def test_a_guest_that_boots_during_a_scan_gets_its_blocks_kept():
    def measure(cache):
        return during_scan(cache, zipf(random.Random(1), COUNT // 4, 0))

    ours, theirs = compare(measure)
    assert ours > 0.7
    assert theirs < 0.6


@pytest.mark.parametrize("exponent", [0, 0.5, 0.9, 1.2])
def test_without_a_scan_it_is_as_good(exponent):
    def measure(cache):
        return run_guest(cache, zipf(random.Random(1), 3 * COUNT, exponent), 30_000)

    ours, theirs = compare(measure)
    assert ours > theirs - 0.005


def fetches(cache, blocks, passes):
    """Return how many blocks are fetched by reading a file again and again."""
    count = 0
    for _ in range(passes):
        for number in range(blocks):
            count += not cache.touch(BlockKey("file", number))
    return count


@pytest.mark.parametrize("size", [0.9, 1.0, 1.1, 1.3, 1.7, 2.5])
@pytest.mark.parametrize("passes", [2, 4])
def test_reading_a_file_again_is_no_worse(size, passes):
    ours, theirs = compare(lambda cache: fetches(cache, int(size * COUNT), passes))
    assert ours <= theirs


def test_a_part_of_a_file_that_is_read_in_circles_and_does_not_fit_stays():
    ours, theirs = compare(lambda cache: fetches(cache, COUNT * 5 // 4, 6))
    assert ours < 0.8 * theirs


@pytest.mark.parametrize("kept", ["nothing", "hot blocks"])
@pytest.mark.parametrize("ahead", [AHEAD, COUNT // 4])
def test_what_was_read_ahead_is_there_when_it_is_read(kept, ahead):
    cache = Ram()
    if kept == "hot blocks":
        run_guest(cache, zipf(random.Random(1), 2 * COUNT, 0.5), 60_000)
    assert scan(cache, 4 * COUNT, ahead) == 0
