"""The SSD tier: what it keeps, what it gives back, and that it never makes a wrong byte."""

import errno
import json
import mmap
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
import trio

from tests.support.cached import BLOCK, CHUNK, SIZE, Source, opened
from vfs.cache.disk.data import DataFile
from vfs.errors import DeniedError
from vfs.layout.base import FileVersion
from vfs.spans import SpanSet
from vfs.store.base import ObjectVersion
from vfs.values import KIB, Key, Span, Version


@pytest.fixture
def source():
    seed = int(os.environ.get("CACHE_SEED") or random.randrange(1 << 30))
    print(f"CACHE_SEED={seed}")
    return Source(seed)


def used_bytes(path):
    return sum(file.stat().st_blocks * 512 for file in (path / "data").iterdir())


async def test_what_was_read_once_comes_from_the_disk(tmp_path, source):
    async with opened(tmp_path / "c", source) as reader:
        assert await reader.asked() == SIZE
        await reader.written()
        assert await reader.asked() == 0
        assert reader.tier.used_bytes == -(-SIZE // BLOCK) * BLOCK


async def test_it_is_there_after_a_restart(tmp_path, source):
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
        used = reader.tier.used_bytes
    async with opened(tmp_path / "c", source) as reader:
        assert reader.tier.used_bytes == used
        assert await reader.asked() == 0


async def test_small_reads_need_no_whole_block(tmp_path, source):
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
        misses = reader.tier.hits
        for _ in range(200):
            assert await reader.asked(source.span(4096)) == 0
        assert reader.tier.hits - misses <= 400  # one for each block that a span touches


async def test_another_version_is_another_file(tmp_path, source):
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
        old = source.file
        source.add(source.pick.randbytes(SIZE))
        assert await reader.asked() == SIZE
        await reader.read(file=old)


async def test_a_commit_hands_its_untouched_blocks_over(tmp_path, source):
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
        old, data = source.file, bytearray(source.data)
        data[100:200] = bytes(100)
        data += b"more" * BLOCK
        new = source.add(bytes(data))
        changed = SpanSet([Span(100, 200), Span(old.size, new.size)])
        reader.fetcher.hand_over(old, new, changed)
        grown = -(-new.size // BLOCK) - old.size // BLOCK
        assert await reader.asked() == BLOCK + grown * BLOCK - (-new.size % BLOCK)
        await reader.written()
    async with opened(tmp_path / "c", source) as reader:
        assert await reader.asked() == 0
        assert await reader.asked(Span(50, 250)) == 0


async def test_the_limit_holds_and_open_files_are_evicted(tmp_path, source):
    limit = 2 * CHUNK
    async with opened(tmp_path / "c", source, limit) as reader:
        for _ in range(3):
            await reader.read()
            await reader.written()
            assert reader.tier.used_bytes <= limit
            assert used_bytes(tmp_path / "c") <= limit + 64 * KIB
    async with opened(tmp_path / "c", source, CHUNK) as reader:  # a smaller limit than before
        await reader.read()
        await reader.written()
        assert reader.tier.used_bytes <= CHUNK


async def test_a_damaged_block_is_fetched_again(tmp_path, source, expect_log):
    expect_log("damaged blocks, 1 so far, the latest of 'disk.img'")
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
    [file] = (tmp_path / "c" / "data").iterdir()
    with file.open("r+b") as stream:
        stream.seek(3 * BLOCK + 5)
        stream.write(b"\xff" if source.data[3 * BLOCK + 5] != 0xFF else b"\x00")
    async with opened(tmp_path / "c", source) as reader:
        assert await reader.asked(Span(0, 10)) == 0
        assert await reader.asked(Span(3 * BLOCK, 3 * BLOCK + 10)) == BLOCK
        await reader.written()
        assert await reader.asked() == 0


@pytest.mark.parametrize("name", ["index.db", "index.db-wal", "owner"])
async def test_an_index_that_is_damaged_is_made_anew(tmp_path, source, expect_log, name):
    expect_log("it starts empty|damaged blocks", maybe=True)
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
    target = tmp_path / "c" / name
    target.write_bytes(source.pick.randbytes(8192))
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
        assert await reader.asked() == 0


async def test_a_newer_format_is_left_alone(tmp_path, source, expect_log):
    expect_log("has format version 2; this program reads 1: .*reads without a cache on disk")
    path = tmp_path / "c"
    async with opened(path, source) as reader:
        await reader.read()
        await reader.written()
    with closing(sqlite3.connect(path / "index.db")) as db:
        db.execute("PRAGMA user_version = 2")
    before = (path / "index.db").read_bytes()
    async with opened(path, source) as reader:
        assert await reader.asked() == SIZE
    assert (path / "index.db").read_bytes() == before


async def test_a_second_owner_reads_without_it_and_names_the_first(tmp_path, source, expect_log):
    expect_log(f"in use by process {os.getpid()}: only one mount can keep it")
    async with opened(tmp_path / "c", source) as first:
        await first.read()
        async with opened(tmp_path / "c", source) as second:
            assert await second.asked() == SIZE


async def test_a_directory_of_somebody_else_is_refused(tmp_path, source, monkeypatch):
    (tmp_path / "c").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(DeniedError, match="is no directory of this user"):
        async with opened(tmp_path / "c", source):
            pass


async def test_a_link_in_its_place_is_refused(tmp_path, source):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "c").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeniedError, match="is no directory of this user"):
        async with opened(tmp_path / "c", source):
            pass


async def test_nobody_else_may_look(tmp_path, source):
    (tmp_path / "c").mkdir(mode=0o755)
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
        for path in [tmp_path / "c", tmp_path / "c" / "data"]:
            assert path.stat().st_mode & 0o077 == 0, path


async def test_other_blocks_begin_an_empty_index(tmp_path, source, expect_log):
    expect_log("blocks of another size.*it starts empty")
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
    async with opened(tmp_path / "c", source, block=2 * BLOCK) as reader:
        assert reader.tier.used_bytes == 0
        await reader.read()


async def test_a_reader_of_the_version_before_never_takes_blocks_of_the_next(tmp_path, source):
    """The checksums are shared: what a commit has written anew would match them."""
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
        old, data = source.file, bytearray(source.data)
        cached = reader.tier._catalogue.find(old)
        data[:BLOCK] = bytes(BLOCK)
        new = source.add(bytes(data))
        with cached.kept():  # a reader that is between two runs of blocks
            reader.fetcher.hand_over(old, new, SpanSet([Span(0, BLOCK)]))
            await reader.read(Span(0, BLOCK))
            await reader.written()
            frames = [memoryview(mmap.mmap(-1, BLOCK))]  # aligned, as the disk wants it
            missing = await reader.tier._read_run(
                reader.tier._catalogue, cached, old, range(1), frames
            )
        assert missing == [range(1)]


async def test_who_gives_up_waiting_for_frames_keeps_none(tmp_path, source):
    async with opened(tmp_path / "c", source, frames=8) as reader:
        cache = reader.fetcher._cache
        taken = [cache.take() for _ in range(6)]
        with trio.move_on_after(0.05) as scope:
            await reader.fetcher.to_disk(source.file, range(4))
        assert scope.cancelled_caught
        for frame in taken:
            cache.release(frame)
        assert [cache.take() is not None for _ in range(8)] == [True] * 8


class FailingData(DataFile):
    """A data file on a disk that fails."""

    error = 0

    def write(self, offset, views):
        if FailingData.error:
            raise OSError(FailingData.error, os.strerror(FailingData.error))
        super().write(offset, views)


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.setattr("vfs.cache.disk.directory.DataFile", FailingData)
    yield
    FailingData.error = 0


@pytest.fixture
def virtual_time(autojump_clock):
    autojump_clock.autojump_threshold = 0.03
    return autojump_clock


@pytest.mark.promise("S-read-10")
@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_that_fails_is_left_alone_for_a_while(
    tmp_path, source, failing, expect_log, virtual_time, code
):
    expect_log("is full: nothing more" if code in (errno.ENOSPC, errno.EDQUOT) else "fails")
    async with opened(tmp_path / "c", source) as reader:
        FailingData.error = code
        assert await reader.asked() == SIZE
        await reader.written()
        assert await reader.asked() >= SIZE - 8 * BLOCK  # what the RAM tier has
        FailingData.error = 0
        await reader.in_use_again()
        await reader.read()
        await reader.written()
        assert await reader.asked() == 0


async def test_a_directory_that_is_deleted_meanwhile_is_made_again(
    tmp_path, source, expect_log, virtual_time
):
    expect_log("fails|damaged", maybe=True)
    async with opened(tmp_path / "c", source) as reader:
        await reader.read()
        await reader.written()
        shutil.rmtree(tmp_path / "c")
        source.add(source.pick.randbytes(SIZE))
        await reader.read()
        await reader.written()
        await reader.in_use_again()
        await reader.read()
        await reader.written()
        assert (tmp_path / "c" / "index.db").exists()
        assert await reader.asked() == 0


async def test_a_disk_with_little_room_is_not_filled(tmp_path, source, monkeypatch, expect_log):
    expect_log("is full: nothing more is kept")
    found = os.statvfs(tmp_path)
    # 5 % of the disk and not a byte more are free
    low = os.statvfs_result(
        (found.f_bsize, found.f_frsize, found.f_blocks, 0, found.f_blocks // 20, *found[5:])
    )
    async with opened(tmp_path / "c", source) as reader:
        monkeypatch.setattr("vfs.cache.disk.tier.os.statvfs", lambda _path: low)
        await reader.read()
        await reader.written()
        assert reader.tier.used_bytes == 0


async def test_a_crash_at_any_moment_leaves_no_wrong_byte_and_no_lost_space(
    tmp_path, source, expect_log
):
    """What a SIGKILL leaves is what the files hold at some moment: here, copies of them."""
    expect_log("damaged blocks|it starts empty", maybe=True)  # the copy itself takes its time
    copies = []
    async with opened(tmp_path / "c", source, 2 * CHUNK) as reader:
        for turn in range(6):
            for _ in range(20):
                await reader.read(source.span(3 * BLOCK))
            if turn % 2:
                await trio.sleep(0.3)
            copies.append(tmp_path / f"copy{turn}")
            shutil.copytree(tmp_path / "c", copies[-1])
            data = bytearray(source.data)
            span = source.span(BLOCK)
            data[span.start : span.stop] = source.pick.randbytes(span.size)
            old = source.file
            reader.fetcher.hand_over(old, source.add(bytes(data)), SpanSet([span]))
    for copy in copies:
        async with opened(copy, source, 2 * CHUNK) as reader:
            for name in source.versions:
                number = name.partition("\0")[2]
                size = len(source.versions[name])
                file = FileVersion(ObjectVersion(Key("disk.img"), Version(number)), size, 0)
                await reader.read(file=file)
            await reader.written()
            assert used_bytes(copy) <= 2 * CHUNK + 64 * KIB


async def test_a_storm_of_everything_makes_no_wrong_byte(tmp_path, source, expect_log):
    expect_log("damaged blocks|it starts empty|fails", maybe=True)
    path, pick = tmp_path / "c", source.pick
    old = source.file
    for _ in range(8):
        async with opened(path, source, pick.choice([CHUNK, 2 * CHUNK, 8 * CHUNK])) as reader:
            for _ in range(60):
                what = pick.randrange(12)
                if what < 7:
                    async with trio.open_nursery() as nursery:
                        for _ in range(pick.randint(1, 4)):
                            nursery.start_soon(reader.read, source.span(pick.choice([10, CHUNK])))
                elif what == 7:
                    file = pick.choice([old, source.file])
                    await reader.read(source.span(BLOCK).clip(Span(0, file.size)), file)
                elif what == 8:
                    data, span = bytearray(source.data), source.span(2 * BLOCK)
                    data[span.start : span.stop] = pick.randbytes(span.size)
                    size = pick.choice([len(data), len(data), len(data) - BLOCK, len(data) + 99])
                    data = data[:size] + pick.randbytes(max(size - len(data), 0))
                    old = source.file
                    new = source.add(bytes(data))
                    end = min(old.size, new.size)
                    changed = SpanSet([span, Span(end, max(old.size, new.size))])
                    reader.fetcher.hand_over(old, new, changed)
                elif what == 9:
                    await reader.tier.forget(source.file)
                elif what == 10:
                    await reader.written()
                else:
                    await trio.sleep(0.01)
            await reader.written()
            assert reader.tier.used_bytes <= reader.tier.limit_bytes
        if pick.random() < 0.5:
            spoil(path, pick)


def spoil(path, pick):
    """Do to a cache what nobody should."""
    target = pick.choice([one for one in path.rglob("*") if one.is_file()])
    size = target.stat().st_size
    if not size or pick.random() < 0.2:
        target.unlink()
    elif pick.random() < 0.3:
        os.truncate(target, pick.randrange(size))
    else:
        with target.open("r+b") as stream:
            stream.seek(pick.randrange(size))
            stream.write(pick.randbytes(pick.choice([1, 100, 20_000])))


KILLED = """
import sys, trio
from pathlib import Path
from tests.support.cached import CHUNK, BLOCK, Source, opened
async def main():
    source = Source(int(sys.argv[2]))
    async with opened(Path(sys.argv[1]), source, 2 * CHUNK) as reader:
        print("ready", flush=True)
        while True:
            await reader.read(source.span(3 * BLOCK))
trio.run(main)
"""


def test_a_killed_process_leaves_a_cache_that_the_next_one_uses(tmp_path):
    async def read_all():
        async with opened(tmp_path / "c", Source(77), 2 * CHUNK) as reader:
            await reader.read()
            assert json.loads((tmp_path / "c" / "owner").read_text())["pid"] == os.getpid()

    for turn in range(3):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "c"), "77"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout.readline() == "ready\n"
            time.sleep(0.2 + 0.9 * turn)  # noqa: TID251 - as long as it lives
            child.kill()
        trio.run(read_all)
