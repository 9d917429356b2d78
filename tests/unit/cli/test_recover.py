"""`vfs recover`: its output, its refusals, its exit codes."""

import itertools
import json
import os
import random
import re

import pytest
import trio

from tests.support.leftovers import leave, look_at, write
from tests.support.tree import get, keys, put, shell_on
from vfs.store.memory import MemoryStore

_serial = itertools.count()
BASE = random.Random(1).randbytes(100_000)
CHANGED = BASE[:10] + b"changed" + BASE[17:]


@pytest.fixture(autouse=True)
def _quiet(expect_log):
    for pattern in ("upload of .* failed", "was written by somebody else", "left alone"):
        expect_log(pattern, maybe=True)


@pytest.fixture
def url():
    return f"mem://recover-{next(_serial)}"


@pytest.fixture
def store(url):
    return MemoryStore(url)


async def new(shell):
    await write(shell, "d/new", 0, b"12345")


async def change(shell):
    await write(shell, "a.img", 10, b"changed")


@pytest.fixture
def left(store, tmp_path):
    """Leave two files in a stage: one that is new, one that has a base."""

    async def make(scenario=None):
        async def both(shell):
            await new(shell)
            await change(shell)

        await put(store, "a.img", BASE)
        await put(store, "d/", b"")
        return await leave(store, tmp_path / "stage", scenario or both)

    return lambda scenario=None: trio.run(make, scenario)


@pytest.fixture
def recover(vfs, tmp_path):
    """Run `vfs recover` on the stages of this test."""
    return lambda *words: vfs("recover", "-o", f"stage_dir={tmp_path}/stage", *words)


def ids(recover):
    return {one["name"]: one["id"] for one in json.loads(recover("--json").out)["files"]}


# List


def test_a_list_shows_each_file_with_its_state(left, recover, url, store):
    left()
    lines = recover().out.splitlines()
    assert lines[0].split() == ["NAME", "SIZE", "NOT", "STORED", "AGE", "STATE", "ID", "URL"]
    shown = {line.split("  ")[0]: re.split(r"  +", line) for line in lines[1:3]}
    assert shown["d/new"][1:3] == ["5 B", "5 B"]
    assert shown["a.img"][1:3] == ["97.7 KiB", "7 B"]
    assert {row[4] for row in shown.values()} == {"complete"}
    assert {row[6] for row in shown.values()} == {url}
    assert recover("--list").out.splitlines()[0] == lines[0]


def test_a_list_for_programs_has_every_field(left, recover, url):
    path = left()
    told = json.loads(recover("--list", "--json").out)
    assert told["version"] == 1
    (stage,) = told["stages"]
    assert stage == {
        "path": str(path),
        "url": url,
        "pid": os.getpid(),
        "state": "left",
        "error": None,
        "store_error": None,
        "unfinished_names": 0,
        "unstored_attributes": stage["unstored_attributes"],
    }
    (one,) = [one for one in told["files"] if one["name"] == "a.img"]
    assert 0 <= one.pop("age_s") < 60
    assert one == {
        "stage": str(path),
        "url": url,
        "id": one["id"],
        "name": "a.img",
        "size": 100_000,
        "dirty_bytes": 7,
        "state": "complete",
        "error": None,
    }


def test_a_list_tells_conflicts_and_what_is_gone(left, recover, store):
    left()
    trio.run(put, store, "a.img", b"theirs")
    trio.run(put, store, "d/new", b"theirs")
    told = json.loads(recover("--json").out)
    assert {one["name"]: one["state"] for one in told["files"]} == {
        "a.img": "partial",
        "d/new": "conflict",
    }


NOBODY = "s3+http://127.0.0.1:1/bucket"


def move_to(path, url):
    """Say that a stage belongs to another URL."""
    owner = json.loads((path / "owner").read_text())
    (path / "owner").write_text(json.dumps({**owner, "url": url}))


@pytest.fixture
def unreachable(left, monkeypatch):
    """Leave a stage whose store does not answer."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("VFS_MAX_RETRIES", "0")
    path = left()
    move_to(path, NOBODY)
    return path


def test_a_list_without_the_store_says_what_is_known(unreachable, recover):
    before = look_at(unreachable)
    outcome = recover("--json")
    assert outcome.code == 0
    told = json.loads(outcome.out)
    assert {one["name"]: one["state"] for one in told["files"]} == {
        "a.img": "needs base",
        "d/new": "complete",
    }
    assert "127.0.0.1" in told["stages"][0]["store_error"]
    assert f"{NOBODY}: not asked, so the states are what is known here" in recover().out
    assert look_at(unreachable) == before


def test_a_name_chooses_a_file_a_directory_or_an_id(left, recover):
    left()
    by_name = ids(recover)
    for word, expected in (
        ("d/new", ["d/new"]),
        ("d", ["d/new"]),
        ("d/", ["d/new"]),
        (by_name["a.img"], ["a.img"]),
    ):
        told = json.loads(recover("--json", word).out)
        assert [one["name"] for one in told["files"]] == expected, word
    outcome = recover("new")
    assert (outcome.code, outcome.err.count("\n")) == (3, 1)
    assert "new: nothing of that name is staged below" in outcome.err


def test_nothing_left_is_no_failure(recover, tmp_path):
    (tmp_path / "stage").mkdir()
    for words in ([], ["--upload"], ["--export", tmp_path / "out"]):
        outcome = recover(*words)
        assert (outcome.code, outcome.out) == (0, f"nothing is left below {tmp_path}/stage\n")
    assert json.loads(recover("--json").out) == {"version": 1, "stages": [], "files": []}


def test_a_mistyped_stage_directory_is_not_found(recover, tmp_path):
    outcome = recover()
    assert (outcome.code, outcome.err) == (
        3,
        f"vfs: {tmp_path}/stage: no such stage directory; name another with -o stage_dir=DIR\n",
    )


def test_a_stage_can_be_named_itself(left, vfs):
    path = left()
    told = json.loads(vfs("recover", "-o", f"stage_dir={path}", "--json").out)
    assert len(told["files"]) == 2


def test_the_stage_directory_comes_from_environment_and_configuration(
    left, vfs, url, tmp_path, monkeypatch
):
    left()
    file = tmp_path / "vfs.toml"
    file.write_text(f"[mount.one]\nurl = '{url}'\nstage_dir = '{tmp_path}/stage'\n")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert len(json.loads(vfs("recover", "--config", file, "--json").out)["files"]) == 2
    monkeypatch.setenv("VFS_STAGE_DIR", f"{tmp_path}/stage")
    assert len(json.loads(vfs("recover", "--json").out)["files"]) == 2


def test_the_options_of_the_configured_mount_count(left, vfs, url, tmp_path):
    left()
    file = tmp_path / "vfs.toml"
    file.write_text(f"[mount.one]\nurl = '{url}'\nstage_dir = '{tmp_path}/stage'\nro = true\n")
    outcome = vfs("recover", "--config", file, "--upload")
    assert outcome.code == 2
    assert "configured as ro; -o ro=no uploads nevertheless" in outcome.err
    assert vfs("recover", "--config", file, "-o", "ro=no", "--upload").code == 0


def test_names_do_nothing_to_a_terminal(recover, left):
    left(lambda shell: write(shell, "a\x1b[2Jb", 0, b"x"))
    out = recover().out
    assert "\x1b" not in out
    assert "a\\x1b[2Jb" in out


# Living owners, newer and damaged stages


@pytest.mark.parametrize(
    "words", [[], ["--upload"], ["--export", "out"], ["--discard", "x", "--yes"], ["x"]]
)
def test_a_living_owner_is_only_told_of(words, vfs, store, url, tmp_path):
    async def main():
        async with shell_on(store, tmp_path / "stage") as shell:
            path = shell.fs.context.stage.path
            before = look_at(path)
            words_now = [tmp_path / word if word == "out" else word for word in words]
            call = ("recover", "-o", f"stage_dir={tmp_path}/stage", *words_now)
            outcome = await trio.to_thread.run_sync(lambda: vfs(*call))
            assert look_at(path) == before
        return outcome

    outcome = trio.run(main)
    told = f"{url} is mounted by process {os.getpid()}: unmount it, or let it finish"
    if not words:
        assert (outcome.code, outcome.out) == (0, f"{told}\n")
    else:
        assert outcome.code == (3 if "x" in words else 1)
        assert outcome.err.count("\n") == 1
        assert told in outcome.err


def test_a_newer_stage_is_told_and_left_alone(left, recover, tmp_path):
    path = left()
    owner = json.loads((path / "owner").read_text())
    (path / "owner").write_text(json.dumps({**owner, "version": 2}))
    before = look_at(path)
    assert "has format version 2" in recover().out
    assert json.loads(recover("--json").out)["stages"][0]["state"] == "newer"
    for words, code in (
        (["--upload"], 8),
        (["--export", tmp_path / "out"], 8),
        (["--discard", "d/new", "--yes"], 3),
    ):
        outcome = recover(*words)
        assert (outcome.code, outcome.err.count("\n")) == (code, 1)
        assert "use the newer vfs that wrote it" in outcome.err
    assert look_at(path) == before


def damage(path, name, recover):
    os.truncate(path / "files" / ids(recover)[name], 2)


def test_damage_is_told_and_the_rest_is_saved(left, recover, store, tmp_path):
    path = left()
    damage(path, "d/new", recover)
    out = recover().out
    assert re.search(r"^d/new .* damaged ", out, re.MULTILINE)
    assert "is shorter than its journal says" in out
    outcome = recover("--export", tmp_path / "out")
    assert (outcome.code, outcome.err.count("\n")) == (6, 1)
    assert (tmp_path / "out/a.img").read_bytes() == CHANGED
    assert not (tmp_path / "out/d").exists()
    outcome = recover("--upload")
    assert (outcome.code, outcome.err.count("\n")) == (8, 1)
    assert trio.run(get, store, "a.img") == CHANGED
    assert recover("--discard", "d/new", "--yes").code == 0
    assert ids(recover) == {}


def test_a_stage_that_names_no_url_can_be_exported(left, recover, tmp_path):
    path = left()
    (path / "owner").write_bytes(b"rubbish")
    assert "does not say whose stage this is" in recover().out
    outcome = recover("--upload")
    assert outcome.code == 2
    assert "nothing says which URL it belongs to" in outcome.err
    assert recover("--export", tmp_path / "out").code == 1
    assert (tmp_path / "out/d/new").read_bytes() == b"12345"
    assert (tmp_path / "out/a.img.spans.json").exists()


# Upload


def test_an_upload_stores_everything(left, recover, store):
    path = left()
    outcome = recover("--upload")
    assert (outcome.code, outcome.err) == (0, "")
    assert sorted(outcome.out.splitlines()) == ["stored    a.img", "stored    d/new"]
    assert trio.run(get, store, "a.img") == CHANGED
    assert trio.run(get, store, "d/new") == b"12345"
    assert list((path / "files").iterdir()) == []
    assert recover("--upload").out.startswith("nothing is left below")


def test_an_upload_of_one_name_leaves_the_others(left, recover, store):
    left()
    told = json.loads(recover("--upload", "--json", "d/new").out)
    assert [(one["name"], one["state"]) for one in told["files"]] == [("d/new", "stored")]
    assert trio.run(get, store, "a.img") == BASE
    assert list(ids(recover)) == ["a.img"]


def test_a_conflict_copy_is_exit_code_7(left, recover, store):
    left(new_in_root)
    trio.run(put, store, "new", b"theirs")
    outcome = recover("--upload", "--json")
    assert (outcome.code, outcome.err.count("\n")) == (7, 1)
    (one,) = json.loads(outcome.out)["files"]
    assert one["state"] == "conflict"
    assert re.match(r"new\.conflict-.+-\d{8}T\d{6}Z$", one["copy"])
    assert one["copy"] in outcome.err
    assert trio.run(get, store, one["copy"]) == b"12345"
    assert trio.run(get, store, "new") == b"theirs"


async def new_in_root(shell):
    await write(shell, "new", 0, b"12345")


def test_what_stays_is_exit_code_8(left, recover, store):
    path = left()
    trio.run(put, store, "a.img", b"theirs")
    outcome = recover("--upload")
    assert (outcome.code, outcome.err.count("\n")) == (8, 1)
    assert f"a.img is not stored and stays in {path}" in outcome.err
    assert "what it was made from is gone" in outcome.err
    assert trio.run(get, store, "d/new") == b"12345"
    assert list(ids(recover)) == ["a.img"]


def test_a_store_that_does_not_answer_is_exit_code_5(unreachable, recover):
    outcome = recover("--upload")
    assert (outcome.code, outcome.err.count("\n")) == (5, 1)
    assert f"{NOBODY}: nothing is uploaded" in outcome.err
    assert len(list((unreachable / "files").iterdir())) == 4


# Export


def test_an_export_writes_whole_files_and_keeps_the_stage(left, recover, tmp_path):
    path = left()
    before = look_at(path / "files")
    outcome = recover("--export", tmp_path / "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert sorted(outcome.out.splitlines()) == ["complete  a.img", "complete  d/new"]
    assert (tmp_path / "out/a.img").read_bytes() == CHANGED
    assert (tmp_path / "out/d/new").read_bytes() == b"12345"
    assert (tmp_path / "out/d/new").stat().st_mode & 0o777 == 0o600
    assert look_at(path / "files") == before


def test_an_export_overwrites_nothing_and_then_writes_nothing(left, recover, tmp_path):
    left()
    (tmp_path / "out/d").mkdir(parents=True)
    (tmp_path / "out/d/new").write_text("precious")
    outcome = recover("--export", tmp_path / "out")
    assert (outcome.code, outcome.err) == (
        7,
        f"vfs: {tmp_path}/out/d/new is there already: move it away, or export elsewhere\n",
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["d"]
    assert (tmp_path / "out/d/new").read_text() == "precious"


def test_an_export_in_part_says_so(left, recover, store, tmp_path):
    left()
    trio.run(put, store, "a.img", b"theirs")
    outcome = recover("--export", tmp_path / "out", "--json")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "a.img.spans.json says where" in outcome.err
    rows = {one["name"]: one for one in json.loads(outcome.out)["files"]}
    assert rows["d/new"]["state"] == "complete"
    assert (rows["a.img"]["state"], rows["a.img"]["path"], rows["a.img"]["spans"]) == (
        "partial",
        f"{tmp_path}/out/a.img",
        f"{tmp_path}/out/a.img.spans.json",
    )
    spans = json.loads((tmp_path / "out/a.img.spans.json").read_text())
    assert spans == {"version": 1, "size": 100_000, "spans": [[10, 17]]}


def test_an_export_without_its_store_is_exit_code_5(unreachable, recover, tmp_path):
    outcome = recover("--export", tmp_path / "out")
    assert (outcome.code, outcome.err.count("\n")) == (5, 1)
    assert (tmp_path / "out/d/new").read_bytes() == b"12345"
    assert (tmp_path / "out/a.img").read_bytes() == bytes(10) + b"changed" + bytes(99_983)


def test_an_export_into_the_stage_is_refused(left, recover, tmp_path):
    path = left()
    (tmp_path / "link").symlink_to(path)
    for place in (path, path / "files", tmp_path / "link" / "x"):
        outcome = recover("--export", place)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "is inside the stage" in outcome.err
    assert not (path / "x").exists()


# Discard


def test_a_discard_without_yes_says_what_would_be_lost(left, recover):
    path = left()
    before = look_at(path)
    outcome = recover("--discard", "a.img")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert re.match(r"vfs: 7 B of a\.img, written \d+ s ago, would be lost: .*--yes", outcome.err)
    assert look_at(path) == before


def test_a_discard_with_yes_removes_that_file_alone(left, recover, store):
    left()
    outcome = recover("--discard", "a.img", "--yes", "--json")
    assert outcome.code == 0
    told = json.loads(outcome.out)["discarded"]
    assert (told["name"], told["dirty_bytes"], told["upload_aborted"]) == ("a.img", 7, None)
    assert list(ids(recover)) == ["d/new"]
    assert trio.run(get, store, "a.img") == BASE
    assert recover("--upload").code == 0
    assert trio.run(keys, store) == ["a.img", "d/", "d/new"]


def test_a_directory_is_not_discarded(left, recover):
    left()
    assert recover("--discard", "d", "--yes").code == 3
    assert len(ids(recover)) == 2


def test_two_files_of_one_name_are_told_apart_by_their_ids(left, recover, tmp_path):
    first = left(new_in_root)
    second = trio.run(
        leave, MemoryStore(f"mem://recover-{next(_serial)}"), first.parent, new_in_root
    )
    outcome = recover("--discard", "new", "--yes")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "name one of them by its id" in outcome.err
    assert recover("--export", tmp_path / "out").code == 2
    (chosen,) = {path.stem for path in (second / "files").iterdir()}
    assert recover("--discard", chosen, "--yes").code == 0
    assert list((second / "files").iterdir()) == []
    assert len(list((first / "files").iterdir())) == 2


async def half_uploaded(shell):
    fd = await shell.create("big")
    for number in range(20):
        await shell.pwrite(fd, number << 20, random.Random(number).randbytes(1 << 20))
    await shell.fsync(fd)
    shell.fs.context.committer.start(shell.handle(fd).node.content)
    while not shell.fs.context.committer.failing:
        await trio.sleep(0.01)


def test_a_discard_aborts_the_upload_or_says_what_stays(store, recover, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("VFS_MAX_RETRIES", "0")

    async def begin():
        return await leave(store, tmp_path / "stage", half_uploaded, down=("finish_upload",))

    trio.run(begin)
    told = json.loads(recover("--discard", "big", "--yes", "--json").out)
    assert told["discarded"]["upload_aborted"] is True
    path = trio.run(begin)
    move_to(path, NOBODY)
    outcome = recover("--discard", "big", "--yes", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["discarded"]["upload_aborted"] is False
    assert "still has an unfinished upload of big, id " in outcome.err
    assert ids(recover) == {}


# Usage


@pytest.mark.parametrize(
    "words",
    [
        ["--list", "--upload"],
        ["--upload", "--export", "x"],
        ["--export", "x", "--discard", "y"],
        ["--yes"],
        ["--upload", "--yes"],
        ["--discard", "x", "y"],
        ["--discard", ""],
        ["--export", ""],
        [""],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(words, recover):
    outcome = recover(*words)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
