"""What is in memory of a cached file: who may write while who reads, and what a commit hands on."""

import pytest

from vfs.cache.disk.data import DataFile
from vfs.cache.disk.index import CHUNK_BLOCKS, Chunk, ChunkId
from vfs.cache.disk.known import CachedFile, checksum, chunks_of


@pytest.fixture
def data(tmp_path):
    opened = DataFile(tmp_path / "1")
    yield opened
    opened.close()


def test_what_the_index_tells_is_not_proved_before_it_was_compared(data):
    cached = CachedFile(1, 40, data, [Chunk.of(ChunkId(1, 1), [7, 0, 9])])
    assert [block for block in range(40) if cached.has(block)] == [32, 34]
    assert not cached.is_proved(32, 32)
    cached.prove(32)
    assert cached.is_proved(32, 32)
    assert not cached.is_proved(32, 34)


def test_nothing_is_written_where_a_reader_of_the_version_before_may_look(data):
    old = CachedFile(1, 64, data, [])
    old.put(range(64), [5] * 64)
    old.use([0])
    heir = old.succeed(64)
    assert not heir.may_write([0])
    assert heir.may_write([1])
    old.let_go([0])
    assert heir.may_write([0])


def test_nothing_is_written_where_space_is_being_given_back(data):
    cached = CachedFile(1, 64, data, [])
    cached.punching.add(1)
    assert cached.may_write([0])
    assert not cached.may_write([0, 1])
    assert not cached.is_free(1)


def test_what_is_written_for_the_version_before_does_not_count_for_the_next(data):
    old = CachedFile(1, 4, data, [])
    heir = old.succeed(4)
    assert old.put(range(4), [5] * 4) == 0
    old.prove(0)
    assert not heir.has(0)
    assert not old.may_write([0])
    heir.put(range(2), [6, 6])
    assert old.drop(range(4)) == 0
    assert heir.has(1)


@pytest.mark.parametrize("blocks", [3, 4, 5000])
def test_the_next_version_has_the_blocks_that_it_still_covers(data, blocks):
    old = CachedFile(1, 4, data, [])
    old.put(range(4), [1, 2, 3, 4])
    heir = old.succeed(blocks)
    kept = min(blocks, 4)
    assert heir.sums(range(kept)) == [1, 2, 3, 4][:kept]
    assert heir.is_proved(0, kept - 1)
    assert not heir.has(kept)


def test_a_checksum_is_never_that_of_nothing():
    assert checksum(memoryview(b"")) != 0
    assert checksum(memoryview(b"a")) != checksum(memoryview(b"b"))


def test_the_gaps_of_a_chunk_are_what_is_not_there():
    chunk = Chunk.of(ChunkId(3, 1), [1, 0, 0, 2])
    assert chunk.blocks == 2
    assert chunk.gaps() == [range(33, 35), range(36, 64)]
    assert chunks_of(range(31, 33)) == range(2)
    assert CHUNK_BLOCKS == 32
