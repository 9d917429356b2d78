"""Staged files: what is read, what a commit sees, what is paid for."""

import os
import random
import tracemalloc

import pytest
import trio

from vfs.errors import FullError
from vfs.layout.base import FileVersion
from vfs.spans import EMPTY, SpanSet
from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk
from vfs.stage.file import StagedFile
from vfs.stage.frozen import LiveBody
from vfs.store.base import ObjectVersion
from vfs.values import GIB, KIB, MIB, Key, Span, Version


def version_of(size):
    return FileVersion(ObjectVersion(Key("a"), Version("v")), size, 0)


async def put(staged, offset, data):
    await staged.write(offset, data)


async def text(staged, start, stop):
    out = bytearray(stop - start)
    await staged.read_into(Span(start, stop), memoryview(out))
    return bytes(out)


def body_of(frozen, span):
    out = bytearray(span.size)
    frozen.body(span).read_into(0, memoryview(out))
    return bytes(out)


def charged(staged):
    """What the file really holds on the stage's disk."""
    return staged.present.minus(staged.holes).size


class HeldDisk(Disk):
    """A disk whose writes can be held before they begin, or before they return."""

    def __init__(self):
        super().__init__()
        self.hold_at = None
        self.held, self.go_on = trio.Event(), trio.Event()

    async def write(self, fd, offset, data):
        await self._pass("begin")
        await super().write(fd, offset, data)
        await self._pass("end")

    async def _pass(self, point):
        if point == self.hold_at:
            self.held.set()
            await self.go_on.wait()


@pytest.mark.promise("S-write-1")
async def test_what_was_written_is_read_back(make_staged):
    staged = make_staged()
    await put(staged, 5, b"hello")
    assert staged.size == 10
    assert await text(staged, 0, 10) == b"\0\0\0\0\0hello"
    assert staged.dirty == SpanSet([Span(0, 10)])
    assert staged.holes == SpanSet([Span(0, 5)])


async def test_only_bytes_that_exist_are_charged(make_staged, budget):
    staged = make_staged()
    await staged.truncate(40 * MIB)
    assert budget.used_bytes == 0
    await put(staged, 8 * MIB, b"x" * 4096)
    await put(staged, 8 * MIB + 1024, b"y" * 4096)
    assert budget.used_bytes == 5120
    await staged.truncate(8 * MIB + 2048)
    assert budget.used_bytes == 2048
    staged.close()
    assert budget.used_bytes == 0


@pytest.mark.promise("S-write-12")
async def test_a_file_cut_and_grown_again_reads_zeros(make_staged):
    staged = make_staged()
    await put(staged, 0, b"a" * 100)
    await staged.truncate(10)
    await staged.truncate(50)
    assert await text(staged, 0, 50) == b"a" * 10 + bytes(40)
    assert staged.dirty == SpanSet([Span(0, 50)])


async def test_bytes_of_the_base_that_were_cut_off_never_come_back(make_staged):
    staged = make_staged(base_size=100)
    await staged.truncate(10)
    await staged.truncate(100)
    assert staged.base_size == 10
    assert list(staged.present.missing(Span(0, 100))) == [Span(0, 10)]
    assert await text(staged, 10, 100) == bytes(90)


async def test_fetched_bytes_never_replace_written_ones(make_staged):
    staged = make_staged(base_size=20)
    await put(staged, 5, b"NEW")
    await staged.fill(Span(0, 20), memoryview(b"o" * 20))
    assert await text(staged, 0, 20) == b"o" * 5 + b"NEW" + b"o" * 12
    assert staged.dirty == SpanSet([Span(5, 8)])


async def test_a_fill_beside_a_hole_pays_for_the_fill_alone(make_staged, budget):
    staged = make_staged(base_size=1000)
    await staged.truncate(100_000)
    for _ in range(3):
        await staged.fill(Span(0, 100_000), memoryview(bytes(100_000)))
    assert budget.used_bytes == 1000


async def test_a_commit_reads_what_the_file_held_when_it_was_frozen(make_staged):
    staged = make_staged()
    await put(staged, 0, b"a" * 200_000)
    frozen = await staged.freeze()
    await put(staged, 1000, b"b" * 100_000)
    await put(staged, 50_000, b"c" * 100_000)
    await put(staged, 200_000, b"d" * 10)
    assert frozen.size == 200_000
    assert body_of(frozen, Span(0, 200_000)) == b"a" * 200_000
    staged.thaw(stored=version_of(200_000))
    assert staged.dirty == SpanSet([Span(1000, 150_000), Span(200_000, 200_010)])


async def test_clean_bytes_overwritten_before_a_commit_fetched_them_are_still_frozen(make_staged):
    staged = make_staged(base_size=100)
    await put(staged, 0, b"A" * 10)
    frozen = await staged.freeze()
    await put(staged, 50, b"B" * 10)
    await put(staged, 45, b"C" * 10)  # the same place once more
    assert list(frozen.missing(Span(0, 100))) == [Span(10, 100)]
    await staged.fill(Span(10, 100), memoryview(b"o" * 90))
    assert list(frozen.missing(Span(0, 100))) == []
    assert body_of(frozen, Span(0, 100)) == b"A" * 10 + b"o" * 90
    assert await text(staged, 0, 100) == b"A" * 10 + b"o" * 35 + b"C" * 10 + b"B" * 5 + b"o" * 40


async def test_cutting_below_a_frozen_size_waits_for_the_commit(make_staged, autojump_clock):
    staged = make_staged()
    await put(staged, 0, b"a" * 100)
    frozen = await staged.freeze()
    done = []

    async def cut():
        await staged.truncate(10)
        done.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut)
        await trio.sleep(1)
        assert not done
        assert body_of(frozen, Span(0, 100)) == b"a" * 100
        staged.thaw(stored=version_of(100))
    assert staged.size == staged.base_size == 10
    assert not staged.dirty


async def test_only_one_commit_at_a_time_may_freeze_a_file(make_staged):
    staged = make_staged()
    await staged.freeze()
    with pytest.raises(ValueError, match="frozen"):
        await staged.freeze()


async def test_dropping_clean_bytes_gives_their_space_back(make_staged, budget):
    staged = make_staged()
    await put(staged, 0, b"a" * MIB)
    await staged.freeze()
    staged.thaw(stored=version_of(MIB))
    await put(staged, 100, b"b" * 10)
    staged.drop_clean()
    assert budget.used_bytes == 10
    assert staged.present == staged.dirty == SpanSet([Span(100, 110)])
    assert await text(staged, 100, 110) == b"b" * 10


async def test_nothing_is_dropped_under_a_reader_or_a_commit(make_staged):
    staged = make_staged()
    await put(staged, 0, b"a" * 1000)
    await staged.freeze()
    staged.drop_clean()
    assert staged.present
    staged.thaw(stored=version_of(1000))
    with staged.reading():
        staged.drop_clean()
        assert staged.present
    staged.drop_clean()
    assert staged.present == EMPTY


async def test_bytes_that_are_being_written_are_not_dropped_with_the_clean_ones(
    make_staged, budget
):
    disk = HeldDisk()
    staged = make_staged(disk=disk)
    await put(staged, 0, b"a" * MIB)
    await staged.freeze()
    staged.thaw(stored=version_of(MIB))
    disk.hold_at = "end"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, staged, 8 * KIB, b"b" * 8 * KIB)
        await disk.held.wait()
        staged.drop_clean()
        disk.go_on.set()
    assert staged.present == staged.dirty == SpanSet([Span(8 * KIB, 16 * KIB)])
    assert await text(staged, 8 * KIB, 16 * KIB) == b"b" * 8 * KIB
    assert budget.used_bytes == 8 * KIB


async def test_a_write_that_does_not_fit_changes_nothing(make_staged, tmp_path):
    small = StageBudget(1000, wait_s=1)
    staged = StagedFile(tmp_path / "small", small, 0, Disk())
    staged.create()
    await put(staged, 0, b"a" * 900)
    with pytest.raises(FullError):
        await put(staged, 5000, b"b" * 1001)
    assert staged.size == 900
    assert small.used_bytes == 900
    staged.close()


async def test_a_live_body_reads_the_bytes_of_now(make_staged):
    staged = make_staged()
    await put(staged, 0, b"abcdef")
    body = LiveBody(staged, Span(2, 5))
    out = bytearray(3)
    body.read_into(0, memoryview(out))
    assert (body.size, bytes(out)) == (3, b"cde")


async def test_a_closed_file_is_gone_unless_it_holds_the_only_copy(make_staged):
    gone, kept = make_staged(), make_staged()
    await put(kept, 0, b"mine")
    kept.preserved = True
    gone.close()
    kept.close()
    assert not gone.path.exists()
    assert kept.path.read_bytes() == b"mine"
    assert not list(kept.path.parent.glob(".saved*"))


async def test_a_write_that_saves_frozen_bytes_may_outlast_the_commit(make_staged):
    disk = HeldDisk()
    staged = make_staged(disk=disk)
    await put(staged, 0, b"a" * 1000)
    await staged.freeze()
    disk.hold_at = "begin"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, staged, 100, b"b" * 10)
        await disk.held.wait()
        staged.thaw(stored=version_of(1000))
        other = make_staged()  # takes the next free descriptors
        await put(other, 0, b"other")
        disk.go_on.set()
    assert await text(other, 0, 5) == b"other"
    assert await text(staged, 0, 1000) == b"a" * 100 + b"b" * 10 + b"a" * 890
    assert staged.dirty == SpanSet([Span(100, 110)])


async def test_what_a_write_or_a_part_costs_does_not_grow_with_the_number_of_changes(tmp_path):
    many = SpanSet(Span(at, at + 4 * KIB) for at in range(0, GIB, 16 * KIB))
    budget = StageBudget(GIB, wait_s=1)
    budget.settle(-many.size)
    staged = StagedFile(tmp_path / "many", budget, GIB, Disk())
    staged.create()
    staged.present = staged.dirty = many  # 65,536 spans, without as many writes
    frozen = await staged.freeze()

    async def work():
        await put(staged, 160 * KIB, bytes(12 * KIB))
        part = Span(100 * KIB, 200 * KIB)
        assert sum(gap.size for gap in frozen.missing(part)) == part.size - 6 * 4 * KIB

    await work()  # what is made once is made now
    tracemalloc.start()
    try:
        await work()
        assert tracemalloc.get_traced_memory()[1] < 128 * KIB  # a copy of the set takes a MiB
    finally:
        tracemalloc.stop()
    staged.close()
    assert budget.used_bytes == 0


class _Model:
    """What a staged file must do, on plain bytes."""

    def __init__(self, base):
        self.base = base
        self.now = bytearray(base)
        self.frozen = None

    def write(self, offset, data):
        self.now.extend(bytes(max(0, offset + len(data) - len(self.now))))
        self.now[offset : offset + len(data)] = data

    def truncate(self, size):
        self.now = self.now[:size] + bytes(max(0, size - len(self.now)))


async def _read_all(staged, model):
    out = bytearray(model.base[: staged.base_size].ljust(staged.size, b"?"))
    for part in staged.present:
        out[part.start : part.stop] = await text(staged, part.start, part.stop)
    return bytes(out)


async def _check_frozen(staged, model, frozen, pick):
    size = len(model.frozen)
    span = Span(*sorted((pick.randint(0, size), pick.randint(0, size))))
    for gap in list(frozen.missing(span)):
        await staged.fill(gap, memoryview(model.base[gap.start : gap.stop]))
    assert body_of(frozen, span) == model.frozen[span.start : span.stop]


@pytest.mark.parametrize("seed", range(60))
async def test_any_sequence_of_changes_agrees_with_plain_bytes(make_staged, budget, seed):
    pick = random.Random(seed)
    base = pick.randbytes(pick.choice([0, 1, 70_000, 3000]))
    staged, model, frozen = make_staged(len(base)), _Model(base), None
    top = 100_000 if seed % 2 else 4000
    for _ in range(120):
        match pick.choice("wwwwwtfFbbThd"):
            case "w":
                offset = pick.randint(0, top)
                data = pick.choice([pick.randbytes, pick.randbytes, bytes])(
                    pick.choice([1, 100, 3000, 5000, 80_000 if seed % 2 else 10])
                )
                await put(staged, offset, data)
                model.write(offset, data)
            case "t":
                size = pick.randint(0, top)
                if frozen is None or size >= frozen.size:
                    await staged.truncate(size)
                    model.truncate(size)
            case "f":  # clean bytes that a part needs
                limit = staged.base_size
                span = Span(*sorted((pick.randint(0, limit), pick.randint(0, limit))))
                await staged.fill(span, memoryview(model.base[span.start : span.stop]))
            case "F" if frozen is None:
                frozen = await staged.freeze()
                model.frozen = bytes(model.now)
            case "b" if frozen is not None:
                await _check_frozen(staged, model, frozen, pick)
            case "T" if frozen is not None:  # the commit has succeeded
                await _check_frozen(staged, model, frozen, pick)
                staged.thaw(stored=version_of(frozen.size))
                model.base, frozen = model.frozen, None
            case "h" if frozen is not None:  # the commit has failed
                staged.thaw(stored=None)
                frozen = None
            case "d":
                staged.drop_clean()
            case _:
                pass
        assert staged.size == len(model.now)
        assert await _read_all(staged, model) == bytes(model.now)
        assert budget.used_bytes == charged(staged) + (frozen.saved_bytes if frozen else 0)
        assert staged.present.covers(Span(staged.base_size, staged.size))
        assert not staged.dirty.minus(staged.present)
        assert not staged.holes.minus(staged.present)
        for hole in staged.holes:
            assert not any(model.now[hole.start : hole.stop])


async def test_writes_during_a_commit_never_show_in_it_whatever_the_order_of_threads(make_staged):
    pick = random.Random(1)
    staged = make_staged()
    before = pick.randbytes(4 * MIB)
    await put(staged, 0, before)
    frozen = await staged.freeze()

    async def write():
        for _ in range(60):
            at = pick.randrange(0, 4 * MIB - 200 * KIB)
            await put(staged, at, os.urandom(pick.choice([4096, 150 * KIB])))

    async def upload():
        for _ in range(20):
            data = await trio.to_thread.run_sync(body_of, frozen, Span(0, 4 * MIB))
            assert data == before

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(upload)


async def test_zeros_take_no_space(make_staged, budget):
    staged = make_staged()
    await put(staged, 0, os.urandom(MIB))
    await put(staged, MIB, bytes(4 * MIB))
    assert budget.used_bytes == MIB
    assert staged.path.stat().st_blocks * 512 <= MIB + 64 * KIB
    assert staged.size == 5 * MIB
    await put(staged, 512 * KIB, bytes(512 * KIB))  # over bytes that were there
    assert budget.used_bytes == 512 * KIB
    assert not any(await text(staged, 512 * KIB, 5 * MIB))


async def test_zeros_written_during_a_commit_do_not_show_in_it(make_staged):
    staged = make_staged()
    data = os.urandom(100_000)
    await put(staged, 0, data)
    frozen = await staged.freeze()
    await put(staged, 0, bytes(50_000))
    assert body_of(frozen, Span(0, 100_000)) == data
    assert await text(staged, 0, 100_000) == bytes(50_000) + data[50_000:]


async def test_a_write_that_failed_half_way_leaves_zeros_where_nothing_was(make_staged):
    class TornDisk(Disk):
        async def write(self, fd, offset, data):
            os.pwrite(fd, data[: len(data) // 2], offset)
            raise OSError(28, "No space left on device")

    staged = make_staged(disk=TornDisk())
    with pytest.raises(FullError):
        await put(staged, 100, b"x" * 1000)
    await staged.truncate(5000)
    assert not any(await text(staged, 0, 5000))
