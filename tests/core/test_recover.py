"""Stages without a mount: what they hold, what became of it, and how it gets out of them."""

import json
import os
import random
from dataclasses import replace

import pytest
import trio

from tests.support.faulty import Fault, FaultyStore
from tests.support.leftovers import CHANGES, LOCAL, leave, look_at, write
from tests.support.tree import get, keys, put, shell_on
from vfs.config import load_config
from vfs.daemon import export, recovery, resume
from vfs.daemon.leftovers import choose, hold, read_stage
from vfs.errors import (
    BusyError,
    ConfigError,
    CorruptError,
    ExistsError,
    MetadataError,
    NotFoundError,
    TransientError,
    VfsError,
)
from vfs.spans import SpanSet
from vfs.stage.journal import Extent, StagedState, records_of
from vfs.stage.records import encode_record
from vfs.store.memory import MemoryStore, everything
from vfs.values import KIB, MIB, Key, Span

BASE = random.Random(1).randbytes(3 * MIB)


@pytest.fixture(autouse=True)
def _uploads_fail(expect_log):
    expect_log("upload of .* failed", maybe=True)
    expect_log("first sight of", maybe=True)
    expect_log("is not safe in the stage", maybe=True)


@pytest.fixture
def stage(backend, tmp_path):
    """Leave files in a stage by a scenario; return what is there."""

    async def make(scenario, **more):
        return read_stage(await leave(backend, tmp_path / "stage", scenario, **more))

    return make


async def change(shell):
    """Change some bytes of a file that is stored, and cut nothing off."""
    await write(shell, "d/a", 1000, b"changed")


def config(*options):
    return load_config("mem://x", options, environ={}).config


async def upload(stage, store, *ids, options=()):
    chosen = ids or [one.id for one in stage.files]
    return await resume.upload(stage, chosen, store, config(*options), lambda *_: None)


# What is there


async def test_a_new_file_is_complete_and_a_changed_one_needs_its_base(stage, backend):
    await put(backend, "d/a", BASE)

    async def scenario(shell):
        await change(shell)
        await write(shell, "new", 0, b"12345")

    found = await stage(scenario)
    by_key = {one.key: one for one in found.files}
    assert (by_key["new"].size, by_key["new"].dirty_bytes) == (5, 5)
    assert (by_key["d/a"].size, by_key["d/a"].dirty_bytes) == (len(BASE), 7)
    assert recovery.offline(by_key["new"]).state == "complete"
    assert recovery.offline(by_key["d/a"]).state == "needs base"


async def test_to_look_changes_nothing(stage, backend):
    await put(backend, "d/a", BASE)
    found = await stage(change)
    log = found.files[0].path.with_suffix(".log")
    with log.open("ab") as file:  # a mount would cut this off
        file.write(b"half a rec")
    before = look_at(found.path)
    assert [one.key for one in read_stage(found.path).files] == ["d/a"]
    assert look_at(found.path) == before


async def test_a_stage_whose_owner_lives_is_not_looked_into(backend, tmp_path):
    async with shell_on(backend, tmp_path / "stage") as shell:
        path = shell.fs.context.stage.path
        found = read_stage(path)
        assert (found.mounted, found.pid, found.files) == (True, os.getpid(), ())
        with pytest.raises(BusyError, match=f"mounted by process {os.getpid()}: unmount it"):
            hold(path).__enter__()
    assert not read_stage(path).mounted


async def test_who_holds_a_stage_keeps_mounts_away(stage, backend, tmp_path):
    found = await stage(change_new)
    with hold(found.path), pytest.raises(BusyError, match=f"process {os.getpid()}"):
        async with shell_on(backend, tmp_path / "stage"):
            pass
    assert read_stage(found.path).url == backend.url


async def change_new(shell):
    await write(shell, "new", 0, b"12345")


async def test_what_was_replaced_or_is_stored_is_not_listed(stage, store, tmp_path):
    async def scenario(shell):
        await write(shell, "a", 0, b"old")
        await write(shell, "b", 0, b"new")
        await shell.rename("b", "a")
        await write(shell, "c", 0, b"gone")
        await shell.unlink("c")

    found = await stage(scenario)
    assert [(one.key, one.size) for one in found.files] == [("a", 3)]
    assert found.files[0].path.read_bytes() == b"new"


async def test_a_rename_that_only_the_journal_of_names_knows_counts(stage, store, backend):
    await put(backend, "d/a", BASE)
    found = await stage(change)
    (one,) = found.files
    assert one.state is not None
    base = one.state.base
    decision = {
        "op": "move",
        "id": 7,
        "file": {
            "key": base.pin.key,
            "version": base.pin.version,
            "version_id": base.pin.version_id,
            "size": base.size,
            "mtime_ns": base.mtime_ns,
        },
        "target": "e",
        "replaces": None,
    }
    with (found.path / "names.log").open("r+b") as file:
        data = file.read().rstrip(b"\0")
        file.seek(len(data))
        file.write(encode_record(decision))
    again = read_stage(found.path)
    assert [one.key for one in again.files] == ["e"]
    assert again.decisions == 1
    assert choose([again], "e", exact=True)
    with pytest.raises(BusyError, match="upload all of the stage"):
        await resume.upload(again, [], store, config(), lambda *_: None)


@pytest.mark.parametrize("cut", [False, True])
async def test_a_journal_that_is_damaged_in_the_middle_is_told_with_its_name(stage, cut):
    async def scenario(shell):
        fd = await shell.create("a")
        for number in range(4):
            await shell.pwrite(fd, number * 10, b"0123456789")
            await shell.fsync(fd)

    found = await stage(scenario)
    log = found.files[0].path.with_suffix(".log")
    data = bytearray(log.read_bytes())
    if cut:  # at the end: what a crash does
        log.write_bytes(data.rstrip(b"\0")[:-5])
        assert read_stage(found.path).files[0].error is None
        return
    lines = data.split(b"\n")
    data[len(lines[0]) + len(lines[1]) + 20] ^= 1
    log.write_bytes(data)
    (one,) = read_stage(found.path).files
    assert isinstance(one.error, CorruptError)
    assert (one.key, one.state, recovery.offline(one).state) == ("a", None, "damaged")


async def test_bytes_that_are_missing_are_damage(stage):
    found = await stage(change_new)
    os.truncate(found.files[0].path, 3)
    (one,) = read_stage(found.path).files
    assert "shorter than its journal says" in str(one.error)
    found.files[0].path.unlink()
    (one,) = read_stage(found.path).files
    assert "is missing" in str(one.error)


def plant(path, key, extent, name="aaaaaaaaaaaa-000000", data=b"", over=()):
    """Put a staged file into a stage, as an enemy would."""
    state = StagedState(Key(key), None, None, extent, over=over, promised=True)
    (path / "files").mkdir(parents=True, exist_ok=True)
    records = b"".join(encode_record(one) for one in records_of(state))
    (path / "files" / f"{name}.log").write_bytes(b"vfs-log 1 stage\n" + records)
    (path / "files" / name).write_bytes(data)


@pytest.mark.parametrize(
    "key", ["../x", "/etc/x", "a/../../x", "", "a//b", ".", "a/.vfs/b", ".vfs.attrs", "a\0b"]
)
async def test_a_key_that_is_no_file_is_damage(tmp_path, key):
    plant(tmp_path / "s", key, Extent(1, 0, SpanSet([Span(0, 1)])), data=b"x")
    (one,) = read_stage(tmp_path / "s").files
    assert "which is no file" in str(one.error)


@pytest.mark.parametrize(
    "extent",
    [
        Extent(1, 0, SpanSet([Span(0, 2)])),
        Extent(1, 2, SpanSet([Span(0, 1)])),
        Extent(5, 5, SpanSet([Span(0, 1)])),
        Extent(5, 0, SpanSet([Span(0, 1)]), SpanSet([Span(2, 3)])),
    ],
)
async def test_a_journal_that_contradicts_itself_is_damage(tmp_path, extent):
    plant(tmp_path / "s", "a", extent, data=b"xxxxx")
    (one,) = read_stage(tmp_path / "s").files
    assert "contradicts itself" in str(one.error)


async def test_any_damage_of_a_journal_is_survived(stage, backend):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    await put(backend, "d/a", BASE)
    found = await stage(change)
    log = found.files[0].path.with_suffix(".log")
    data = log.read_bytes().rstrip(b"\0")
    for _ in range(300):
        torn = bytearray(data[: dice.randrange(len(data) + 1)])
        for _ in range(dice.randrange(3)):
            if torn:
                torn[dice.randrange(len(torn))] ^= 1 << dice.randrange(8)
        log.write_bytes(torn)
        for one in read_stage(found.path).files:
            assert one.error is not None or (one.key == "d/a" and one.size == len(BASE))


async def test_a_journal_that_was_only_begun_is_nothing(stage):
    found = await stage(change_new)
    log = found.files[0].path.with_suffix(".log")
    for data in (b"", b"vfs-log 1", bytes(4096), b"vfs-log 1 stage\n" + bytes(4096)):
        log.write_bytes(data)
        assert read_stage(found.path).files == ()


# What became of it


async def test_the_store_tells_what_became_of_a_file(stage, store, backend):
    await put(backend, "d/a", BASE)

    async def scenario(shell):
        await change(shell)
        await write(shell, "new", 0, b"12345")

    files = {one.key: one for one in (await stage(scenario)).files}
    found = await recovery.examine_all(store, list(files.values()), 9)
    assert {one.state for one in found.values()} == {"complete"}
    await put(backend, "new", b"theirs")
    assert (await recovery.examine(store, files["new"])).state == "conflict"
    await put(backend, "d/a", b"theirs")
    assert (await recovery.examine(store, files["d/a"])).state == "partial"
    await backend.remove([Key("d/a")])
    assert (await recovery.examine(store, files["d/a"])).state == "partial"


async def test_a_store_that_keeps_silent_is_waited_for_so_long(stage, store, virtual_time):
    found = await stage(change_new)
    store.delay("head", 1000, times=9)
    assert await recovery.examine_all(store, found.files, 20) == {}
    assert trio.current_time() == pytest.approx(20, abs=1)


async def test_a_commit_that_had_landed_is_no_conflict(backend, tmp_path, expect_log):
    expect_log("down", maybe=True)
    await put(backend, "d/a", BASE)
    faulty = FaultyStore(backend)
    faulty.lose_reply("write", TransientError("lost"), times=1)

    async def scenario(shell):
        fd = await shell.open("d/a")
        await shell.pwrite(fd, 1000, b"changed")
        await shell.fsync(fd)
        shell.fs.context.committer.start(shell.handle(fd).node.content)
        while not shell.fs.context.committer.failing:
            await trio.sleep(0.01)

    path = await leave(faulty, tmp_path / "stage", scenario, down=())
    (one,) = read_stage(path).files
    want = BASE[:1000] + b"changed" + BASE[1007:]
    assert await get(backend, "d/a") == want
    assert (await recovery.examine(backend, one)).state == "complete"
    made = await export.export(one, backend, make(tmp_path / "out"))
    assert made.spans is None
    assert made.path.read_bytes() == want


def make(path):
    path.mkdir()
    return path


# Uploading


async def test_an_upload_stores_everything_and_empties_the_stage(stage, store, backend):
    await put(backend, "d/a", BASE)

    async def scenario(shell):
        await change(shell)
        await shell.write("new", b"12345", mode=0o640)
        await write(shell, "big", 9 * MIB, b"far")

    found = await stage(scenario)
    done = await upload(found, store)
    assert sorted(one.key for one in done.stored) == ["big", "d/a", "new"]
    assert (done.copies, done.left, done.decisions, done.attributes) == ((), (), 0, 0)
    assert await get(backend, "d/a") == BASE[:1000] + b"changed" + BASE[1007:]
    assert await get(backend, "new") == b"12345"
    assert await get(backend, "big") == bytes(9 * MIB) + b"far"
    assert list((found.path / "files").iterdir()) == []
    assert read_stage(found.path).attributes == 0
    async with shell_on(backend, found.path.parent) as shell:
        assert await shell.mode("new") == 0o640


async def test_only_the_chosen_file_is_stored(stage, store, backend):
    async def scenario(shell):
        await write(shell, "a", 0, b"one")
        await write(shell, "b", 0, b"two")

    found = await stage(scenario)
    ((_, one),) = choose([found], "b", exact=True)
    done = await upload(found, store, one.id)
    assert [one.key for one in done.stored] == ["b"]
    assert await keys(backend) == ["b"]
    again = read_stage(found.path)
    assert [one.key for one in again.files] == ["a"]
    await upload(again, store)
    assert await get(backend, "a") == b"one"


async def test_somebody_elses_version_wins_and_a_copy_is_kept(stage, store, backend, expect_log):
    expect_log("was written by somebody else first")
    found = await stage(change_new)
    await put(backend, "new", b"theirs")
    done = await upload(found, store)
    ((one, copy),) = done.copies
    assert (one.key, done.stored, done.left) == ("new", (), ())
    assert await get(backend, "new") == b"theirs"
    assert await get(backend, copy) == b"12345"
    assert read_stage(found.path).files == ()


async def test_what_has_no_base_stays_and_is_not_mixed(stage, store, backend, expect_log):
    expect_log("its old version is gone")
    await put(backend, "d/a", BASE)
    found = await stage(change)
    await put(backend, "d/a", b"theirs")
    done = await upload(found, store)
    ((one, why),) = done.left
    assert (one.key, done.stored, done.copies) == ("d/a", (), ())
    assert "what it was made from is gone" in why
    assert await keys(backend) == ["d/a"]
    assert [one.dirty_bytes for one in read_stage(found.path).files] == [7]


async def test_a_store_that_refuses_leaves_the_files_where_they_are(stage, store, backend):
    async def scenario(shell):
        await write(shell, "a", 0, b"one")
        await write(shell, "b", 0, b"two")

    found = await stage(scenario)
    store.fail("write", VfsError("not today"), key="a", times=1 << 30)
    done = await upload(found, store)
    assert [one.key for one in done.stored] == ["b"]
    assert [(one.key, why) for one, why in done.left] == [("a", "not today")]
    assert [one.key for one in read_stage(found.path).files] == ["a"]


async def test_a_store_that_hangs_is_given_up_after_stop_wait(stage, store, backend, virtual_time):
    found = await stage(change_new)
    store.block("write", times=1 << 30)
    done = await upload(found, store, options=["stop_wait=30s"])
    assert [why for _, why in done.left] == ["nothing has moved for too long"]
    assert 30 <= trio.current_time() <= 40


async def test_a_damaged_file_stays_and_the_others_are_stored(stage, store, backend, expect_log):
    expect_log("left alone", maybe=True)

    async def scenario(shell):
        await write(shell, "a", 0, b"one")
        await write(shell, "b", 0, b"two")

    found = await stage(scenario)
    os.truncate(next(one.path for one in found.files if one.key == "a"), 1)
    found = read_stage(found.path)
    done = await upload(found, store)
    assert [one.key for one in done.stored] == ["b"]
    assert [one.key for one, _ in done.left] == ["a"]
    assert "shorter" in done.left[0][1]
    assert await keys(backend) == ["b"]


async def test_a_key_that_is_no_file_is_not_uploaded(stage, store, backend):
    found = await stage(change_new)
    plant(found.path, "../x", Extent(1, 0, SpanSet([Span(0, 1)])), data=b"x")
    done = await upload(read_stage(found.path), store)
    assert [one.key for one in done.stored] == ["new"]
    assert len(done.left) == 1
    assert await keys(backend) == ["new"]
    assert len(read_stage(found.path).files) == 1


# Exporting


async def out(found, store, directory, key=None):
    (one,) = [one for one in found.files if key in {None, one.key}]
    return await export.export(one, store, directory)


async def test_an_export_is_the_file_with_its_holes(stage, backend, tmp_path):
    await put(backend, "d/a", BASE)

    async def scenario(shell):
        fd = await shell.open("d/a")
        await shell.ftruncate(fd, 2 * MIB)
        await shell.pwrite(fd, 1000, b"changed")
        await shell.pwrite(fd, 50 * MIB, b"far")
        await shell.fsync(fd)

    found = await stage(scenario)
    before = look_at(found.path)
    made = await out(found, backend, make(tmp_path / "out"))
    assert made == export.Exported(tmp_path / "out/d/a")
    want = BASE[:1000] + b"changed" + BASE[1007 : 2 * MIB] + bytes(48 * MIB) + b"far"
    assert made.path.read_bytes() == want
    assert made.path.stat().st_blocks * 512 < 4 * MIB
    assert os.listdir(tmp_path / "out/d") == ["a"]
    assert look_at(found.path) == before


async def test_zeros_of_the_base_take_no_space(stage, backend, tmp_path):
    base = BASE[:KIB] + bytes(4 * MIB) + BASE[:KIB] + bytes(5 * MIB)
    await put(backend, "d/a", base)
    found = await stage(change)
    made = await out(found, backend, make(tmp_path / "out"))
    assert made.path.read_bytes() == base[:1000] + b"changed" + base[1007:]
    assert made.path.stat().st_blocks * 512 <= MIB


async def test_an_old_version_is_read_by_its_id(tmp_path):
    backend = MemoryStore(features=replace(everything(versions=True), move=False))
    await put(backend, "d/a", BASE)
    path = await leave(backend, tmp_path / "stage", change)
    await put(backend, "d/a", b"theirs")
    (one,) = read_stage(path).files
    assert (await recovery.examine(backend, one)).state == "conflict"
    made = await export.export(one, backend, make(tmp_path / "out"))
    assert made.spans is None
    assert made.path.read_bytes() == BASE[:1000] + b"changed" + BASE[1007:]


async def partial_export(found, store, directory):
    made = await out(found, store, directory)
    assert made.path.read_bytes() == bytes(1000) + b"changed" + bytes(len(BASE) - 1007)
    assert made.path.stat().st_blocks * 512 <= 64 * KIB
    assert made.spans == directory / "d/a.spans.json"
    assert json.loads(made.spans.read_text()) == {
        "version": 1,
        "size": len(BASE),
        "spans": [[1000, 1007]],
    }
    assert sorted(os.listdir(directory / "d")) == ["a", "a.spans.json"]
    return made


async def test_where_the_base_is_gone_only_what_was_written_is_exported(stage, backend, tmp_path):
    await put(backend, "d/a", BASE)
    found = await stage(change)
    await put(backend, "d/a", b"\xff" * len(BASE))
    made = await partial_export(found, backend, make(tmp_path / "out"))
    assert "what it was made from is gone" in str(made.why)


async def test_without_a_store_only_what_was_written_is_exported(stage, backend, tmp_path):
    await put(backend, "d/a", BASE)
    found = await stage(change)
    why = TransientError("no network")
    made = await partial_export(found, why, make(tmp_path / "out"))
    assert made.why is why


async def test_a_base_that_goes_in_the_middle_leaves_nothing_of_it(stage, store, backend, tmp_path):
    await put(backend, "d/a", BASE)
    found = await stage(change)
    # The first asks whether it is there, the second reads what lies before the change.
    for number in range(3):
        away = Fault("read", times=1 << 30, before=TransientError("away"))
        store.script[:] = [Fault("read", times=number), away]
        made = await partial_export(found, store, make(tmp_path / f"out{number}"))
        assert str(made.why) == "away"


async def test_nothing_is_overwritten(stage, backend, tmp_path):
    found = await stage(change_new)
    target = make(tmp_path / "out")
    (target / "new").write_text("precious")
    with pytest.raises(ExistsError, match="out/new is there already: move it away"):
        export.check_targets(target, [Key("new")])
    with pytest.raises(ExistsError, match="out/new is there already: move it away"):
        await out(found, backend, target)
    assert (target / "new").read_text() == "precious"
    assert os.listdir(target) == ["new"]


async def test_a_map_is_not_left_without_its_file(stage, backend, tmp_path):
    await put(backend, "d/a", BASE)
    found = await stage(change)
    target = make(tmp_path / "out")
    (target / "d").mkdir()
    (target / "d/a").symlink_to("nowhere")
    with pytest.raises(ExistsError):
        export.check_targets(target, [Key("d/a")])
    with pytest.raises(ExistsError):
        await out(found, TransientError("away"), target)
    assert os.listdir(target / "d") == ["a"]
    (target / "d/a").unlink()
    (target / "d/a.spans.json").touch()
    with pytest.raises(ExistsError, match=r"a\.spans\.json is there already"):
        export.check_targets(target, [Key("d/a")])


async def test_two_files_of_one_name_are_not_exported_together(tmp_path):
    with pytest.raises(ConfigError, match="name one of them by its id"):
        export.check_targets(tmp_path, [Key("a"), Key("b"), Key("a")])


async def test_a_link_does_not_lead_out_of_the_directory(stage, backend, tmp_path):
    await put(backend, "d/a", BASE)
    found = await stage(change)
    (tmp_path / "elsewhere").mkdir()
    target = make(tmp_path / "out")
    (target / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="out/d is a link or a file"):
        await out(found, backend, target)
    assert os.listdir(tmp_path / "elsewhere") == []


async def test_a_damaged_file_is_not_exported(stage, backend, tmp_path):
    found = await stage(change_new)
    os.truncate(found.files[0].path, 3)
    target = make(tmp_path / "out")
    with pytest.raises(CorruptError, match="shorter"):
        await out(read_stage(found.path), backend, target)
    assert os.listdir(target) == []


async def test_a_cancelled_export_leaves_nothing(stage, store, backend, tmp_path):
    await put(backend, "d/a", BASE)
    found = await stage(change)
    gate = store.block("read")
    target = make(tmp_path / "out")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out, found, store, target)
            await gate.reached.wait()
            assert len(os.listdir(target / "d")) == 1
            scope.cancel()
    assert os.listdir(target / "d") == []


async def test_what_does_not_read_back_is_told(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"12345678")
    digest = export.hashlib.sha256(b"3456").digest()
    with path.open("rb") as file:
        export.check_written(file.fileno(), 8, [(Span(2, 6), digest)], path)
        with pytest.raises(CorruptError, match="does not read back"):
            export.check_written(file.fileno(), 8, [(Span(1, 5), digest)], path)
        with pytest.raises(CorruptError, match="does not read back"):
            export.check_written(file.fileno(), 9, [(Span(2, 6), digest)], path)


async def test_names_that_are_not_utf_8_are_exported_as_they_were(stage, backend, tmp_path):
    name = "caf\U0010ffe9"
    found = await stage(lambda shell: write(shell, name, 0, b"x"))
    await out(found, backend, make(tmp_path / "out"))
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"caf\xe9"]


# Discarding


async def test_a_discard_removes_exactly_that_file(stage, store, backend):
    async def scenario(shell):
        await write(shell, "a", 0, b"one")
        await write(shell, "b", 0, b"two")

    found = await stage(scenario)
    ((_, one),) = choose([found], "a", exact=True)
    gone, refusal = await recovery.discard(found, one.id, store.abort_upload)
    assert (gone.key, refusal, store.calls) == ("a", None, [])
    (other,) = read_stage(found.path).files
    assert sorted(path.name for path in (found.path / "files").iterdir()) == [
        other.id,
        f"{other.id}.log",
    ]
    async with shell_on(backend, found.path.parent, *LOCAL) as shell:
        assert await shell.ls() == ["b"]
    with pytest.raises(NotFoundError):
        await recovery.discard(found, one.id, store.abort_upload)


async def test_what_it_had_replaced_does_not_come_back(stage, store, backend):
    found = await stage(nothing)
    # As a crash leaves it that comes before the old file is removed.
    one_byte = Extent(1, 0, SpanSet([Span(0, 1)]))
    plant(found.path, "a", one_byte, "aaaaaaaaaaaa-000000", b"x")
    plant(found.path, "a", one_byte, "aaaaaaaaaaaa-000001", b"y", over=("aaaaaaaaaaaa-000000",))
    found = read_stage(found.path)
    assert [one.id for one in found.files] == ["aaaaaaaaaaaa-000001"]
    await recovery.discard(found, found.files[0].id, store.abort_upload)
    async with shell_on(backend, found.path.parent, *LOCAL) as shell:
        assert await shell.ls() == []
    assert await keys(backend) == []


async def nothing(shell):
    await shell.ls()


async def half_uploaded(shell):
    fd = await shell.create("big")
    for number in range(20):
        await shell.pwrite(fd, number * MIB, random.Random(number).randbytes(MIB))
    await shell.fsync(fd)
    shell.fs.context.committer.start(shell.handle(fd).node.content)
    while not shell.fs.context.committer.failing:
        await trio.sleep(0.01)


async def test_a_discard_aborts_the_upload(stage, store, backend):
    found = await stage(half_uploaded, down=("finish_upload",))
    assert len(backend._bucket.uploads) == 1
    _, refusal = await recovery.discard(found, found.files[0].id, store.abort_upload)
    assert refusal is None
    assert backend._bucket.uploads == {}


async def test_a_discard_without_a_store_says_what_stays_there(stage, store, backend):
    found = await stage(half_uploaded, down=("finish_upload",))
    store.fail("abort_upload", TransientError("no network"))
    one, refusal = await recovery.discard(found, found.files[0].id, store.abort_upload)
    assert str(refusal) == "no network"
    assert one.state is not None
    assert one.state.upload is not None
    assert read_stage(found.path).files == ()


async def test_nothing_is_discarded_of_a_living_owner(stage, store, backend, tmp_path):
    found = await stage(change_new)
    for operation in CHANGES:
        store.fail(operation, TransientError("down"), times=1 << 30)
    with trio.CancelScope() as scope:
        async with shell_on(store, tmp_path / "stage", *LOCAL):
            with pytest.raises(BusyError, match="unmount it"):
                await recovery.discard(found, found.files[0].id, store.abort_upload)
            scope.cancel()
            await trio.sleep_forever()
    assert found.files[0].path.exists()


# Newer versions


@pytest.mark.parametrize("what", ["stage", "names", "file"])
async def test_a_newer_format_is_left_alone(stage, store, backend, what):
    found = await stage(change_new)
    if what == "stage":
        (found.path / "owner").write_text(
            json.dumps({"version": 2, "url": backend.url, "pid": 1, "host": "h"})
        )
    else:
        log = found.path / "names.log"
        log = log if what == "names" else found.files[0].path.with_suffix(".log")
        log.write_bytes(log.read_bytes().replace(b"vfs-log 1", b"vfs-log 9", 1))
    before = look_at(found.path)
    again = read_stage(found.path)
    if what == "file":
        (one,) = again.files
        assert recovery.offline(one).state == "newer"
        with pytest.raises(MetadataError):
            await recovery.discard(again, one.id, store.abort_upload)
    else:
        assert again.is_newer
        assert isinstance(again.refuse(), MetadataError)
        with pytest.raises(MetadataError), hold(found.path):
            pass
    assert {name: one[2] for name, one in look_at(found.path).items() if name != "owner"} == {
        name: one[2] for name, one in before.items() if name != "owner"
    }
