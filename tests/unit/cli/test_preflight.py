"""Mistakes that are found before anything is mounted."""

import os

import pytest

from vfs.cli import preflight
from vfs.cli.mounts import MountEntry
from vfs.config import load_config
from vfs.errors import BusyError, ConfigError, DeniedError, NotFoundError
from vfs.runtime import Record, write_record


def spec(url="mem://x", *options):
    return load_config(url, options, {})


@pytest.fixture
def table(monkeypatch):
    found = {}
    monkeypatch.setattr(preflight, "find_entry", found.get)
    return found


def test_a_directory_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="no such directory; create it first"):
        preflight.check_mountpoint(tmp_path / "none")


def test_a_file_is_no_mount_point(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/x"):
        with pytest.raises(ConfigError, match="not a directory"):
            preflight.check_mountpoint(path)


def test_a_living_mount_is_refused_and_its_daemon_named(table, runtime, tmp_path):
    table[tmp_path] = MountEntry(tmp_path, "fuse.vfs", "mem://y")
    write_record(runtime, Record(str(tmp_path), "mem://y", os.getpid(), ""))
    with pytest.raises(
        BusyError, match=rf"fuse.vfs of mem://y \(pid {os.getpid()}\); unmount it first"
    ):
        preflight.check_free(tmp_path)


def test_a_dead_mount_is_refused_with_the_remedy(table, runtime, monkeypatch, tmp_path):
    table[tmp_path] = MountEntry(tmp_path, "fuse.vfs", "mem://y")
    monkeypatch.setattr(preflight, "is_dead", lambda path: True)
    with pytest.raises(BusyError, match=f"umount -l {tmp_path}"):
        preflight.check_free(tmp_path)


def test_a_mount_of_another_kind_is_refused(table, runtime, tmp_path):
    table[tmp_path] = MountEntry(tmp_path, "ext4", "/dev/sda")
    with pytest.raises(BusyError, match="ext4 of /dev/sda"):
        preflight.check_free(tmp_path)


def test_a_free_directory_passes(table, tmp_path):
    preflight.check_free(tmp_path)
    preflight.check_mountpoint(tmp_path)


@pytest.mark.parametrize("where", ["mnt", "mnt/inside", ""])
def test_a_stage_inside_or_around_the_mount_is_refused(where, tmp_path):
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to("mnt/..")
    stage = tmp_path / "link" / where
    with pytest.raises(ConfigError, match=r"the stage .* is inside|is inside the stage"):
        preflight.check_apart(spec("mem://x", f"stage_dir={stage}"), tmp_path / "mnt")


@pytest.mark.parametrize("where", ["mnt", "mnt/a%20b", ""])
def test_a_local_store_inside_or_around_the_mount_is_refused(where, tmp_path):
    found = spec(f"file://{tmp_path}/{where}", "stage_dir=/elsewhere")
    with pytest.raises(ConfigError, match=r"the store .* is inside|is inside the store"):
        preflight.check_apart(found, tmp_path / "mnt")


@pytest.mark.parametrize(
    ("store", "stage"),
    [("st", "st/y"), ("st", "st"), ("a%20b", "a b/c/d"), ("st/in", "st"), ("st", "link/y")],
)
@pytest.mark.parametrize("through", ["", "here/"])
def test_a_stage_inside_or_around_a_local_store_is_refused(store, stage, through, tmp_path):
    (tmp_path / "here").symlink_to(".")
    (tmp_path / "link").symlink_to("st")
    found = spec(f"file://{tmp_path}/{through}{store}", f"stage_dir={tmp_path}/{stage}")
    with pytest.raises(ConfigError, match=r"is inside the (store|stage) .*; set stage_dir to"):
        preflight.check_stage(found)


def test_a_store_whose_name_is_not_utf_8_is_looked_at_as_well(tmp_path):
    stage = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9/y")
    found = spec(f"file://{tmp_path}/caf%E9", f"stage_dir={stage}")
    with pytest.raises(ConfigError, match="is inside the store"):
        preflight.check_stage(found)


def test_neighbours_are_no_conflict(tmp_path):
    found = spec(f"file://{tmp_path}/store", f"stage_dir={tmp_path}/mnt2")
    preflight.check_apart(found, tmp_path / "mnt")
    for beside in ("store2", "stor", "mnt2"):
        preflight.check_stage(spec(f"file://{tmp_path}/store", f"stage_dir={tmp_path}/{beside}"))
    preflight.check_stage(spec("mem://store", f"stage_dir={tmp_path}"))


def test_a_machine_without_fuse_is_told_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "FUSE_DEVICE", tmp_path / "fuse")
    with pytest.raises(ConfigError, match="modprobe fuse"):
        preflight.check_device()


def test_a_device_that_cannot_be_opened_is_denied(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "FUSE_DEVICE", tmp_path)  # a directory cannot be opened so
    with pytest.raises(DeniedError, match="SYS_ADMIN"):
        preflight.check_device()


@pytest.mark.parametrize("text", [None, "", "#user_allow_other\n", "mount_max = 1\n"])
def test_allow_other_needs_a_line_in_fuse_conf(text, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "FUSE_CONF", tmp_path / "fuse.conf")
    monkeypatch.setattr(preflight.shutil, "which", lambda name: name)
    if text is not None:
        (tmp_path / "fuse.conf").write_text(text)
    with pytest.raises(ConfigError, match="user_allow_other"):
        preflight.check_user(allow_other=True)
    preflight.check_user(allow_other=False)
    (tmp_path / "fuse.conf").write_text("mount_max = 1\n user_allow_other # yes\n")
    preflight.check_user(allow_other=True)


def test_users_need_fusermount(monkeypatch):
    monkeypatch.setattr(preflight.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="fusermount3 is missing"):
        preflight.check_user(allow_other=False)


def test_content_that_the_mount_would_hide_is_noticed(tmp_path):
    assert not preflight.hidden_content(tmp_path)
    (tmp_path / "x").touch()
    assert preflight.hidden_content(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mem://x", "{tmp}/none"], 3, "no such directory"),
        (["mem://x", "-o", "bogus", "{tmp}"], 2, "unknown option bogus"),
        (["ftp://x", "{tmp}"], 2, "unknown kind of store"),
        (["nameless", "{tmp}"], 3, "no mount is named nameless"),
        (["mem://x", "-o", "stage_dir={tmp}/s", "{tmp}"], 2, "the stage"),
        (
            ["file://{tmp}/st", "-o", "stage_dir={tmp}/st/y", "{tmp}/run"],
            2,
            "would show as files; set stage_dir to a directory beside it",
        ),
        (["{tmp}/st", "{tmp}/run"], 2, "neither a URL nor a name; a local directory is written"),
    ],
)
def test_the_command_ends_with_the_right_code(arguments, code, message, vfs, runtime, tmp_path):
    outcome = vfs("mount", *(argument.format(tmp=tmp_path) for argument in arguments))
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err
    assert outcome.err.count("\n") == 1


def test_a_promise_that_a_power_cut_breaks_is_refused(monkeypatch, tmp_path):
    made = []

    def containing(path):
        made.append(path)
        return MountEntry(tmp_path, "tmpfs", "none")

    monkeypatch.setattr(preflight, "containing", containing)
    with pytest.raises(ConfigError, match=r"is on a tmpfs.* fsync=remote"):
        preflight.check_durable(spec("mem://x", f"stage_dir={tmp_path}/s", "fsync=local"))
    assert made == [tmp_path / "s"]
    preflight.check_durable(spec("mem://x", f"stage_dir={tmp_path}/s"))
    preflight.check_durable(spec("mem://x", f"stage_dir={tmp_path}/s", "fsync=local", "ro"))
