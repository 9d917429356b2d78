"""`mount.vfs` as mount(8), fstab and systemd call it."""

import pytest

from vfs.cli import mount_helper, umount_helper
from vfs.cli.mount_helper import FstabOptions, helper_command, helper_exit, sort_options
from vfs.errors import ConfigError

FSTAB = (
    "defaults,auto,noauto,user,users,nofail,_netdev,sync,async,dirsync,atime,noatime,diratime,nodiratime,"
    "relatime,norelatime,strictatime,nostrictatime,lazytime,nolazytime,comment=x,x-systemd.requires=y,"
    "x-gvfs-show,X-mount.mkdir"
)


@pytest.fixture
def helper(vfs, monkeypatch, tmp_path):
    """Call the helper; `mounted` keeps what would have been mounted."""
    mounted = []

    def keep(spec, directory, *, foreground):
        mounted.append((spec, directory, foreground))
        return 0

    monkeypatch.setattr(mount_helper, "mount", keep)

    def call(*arguments):
        outcome = vfs(*arguments, command=helper_command, name="mount.vfs")
        return outcome, mounted

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        ("mem://x", "/d", "-o", "ro,uid=7"),
        ("-o", "ro,uid=7", "mem://x", "/d"),
        ("mem://x", "/d", "-n", "-o", "ro", "-o", "uid=7", "-t", "fuse.vfs"),
        ("mem://x", "/d", "-sn", "-o", "ro,uid=7"),
        ("mem://x", "/d", "-t", "vfs", "-oro,uid=7"),
    ],
)
def test_every_form_in_which_mount_calls_it(arguments, helper):
    outcome, mounted = helper(*arguments)
    assert outcome.code == 0
    ((spec, directory, foreground),) = mounted
    assert (spec.url, str(directory), foreground) == ("mem://x", "/d", False)
    assert (spec.config.tree.ro, spec.config.tree.uid) == (True, 7)


def test_what_fstab_carries_for_others_is_accepted_and_ignored(helper):
    outcome, mounted = helper("mem://x", "/d", "-o", FSTAB)
    assert outcome.code == 0
    spec = mounted[0][0]
    assert set(spec.sources.values()) == {"default"}
    assert spec.kernel_options == ()


def test_kernel_flags_are_applied(helper):
    _, mounted = helper("mem://x", "/d", "-o", "rw,nodev,nosuid,noexec")
    assert mounted[0][0].kernel_options == ("nodev", "nosuid", "noexec")
    assert not mounted[0][0].config.tree.ro


def test_the_last_of_ro_and_rw_counts():
    assert sort_options(["ro,rw"], tolerant=False) == FstabOptions(("ro", "ro=no"), ())


def test_values_with_commas_survive():
    assert sort_options([r"ca-bundle=/a\,b"], tolerant=False).options == (r"ca_bundle=/a\,b",)


def test_remount_is_refused_with_the_remedy(helper):
    outcome, mounted = helper("mem://x", "/d", "-o", "remount,ro")
    assert helper_exit(outcome.code) == 1
    assert "unmount it, then mount it anew" in outcome.err
    assert mounted == []
    with pytest.raises(ConfigError):
        sort_options(["remount"], tolerant=True)


def test_an_unknown_option_is_refused_unless_tolerated(helper):
    outcome, mounted = helper("mem://x", "/d", "-o", "frobnicate")
    assert (helper_exit(outcome.code), mounted) == (1, [])
    outcome, mounted = helper("mem://x", "/d", "-s", "-o", "frobnicate,ro")
    assert outcome.code == 0
    assert mounted[0][0].config.tree.ro


def test_an_option_of_a_later_version_is_never_tolerated(helper):
    outcome, mounted = helper("mem://x", "/d", "-s", "-o", "cdn_url=http://x")
    assert (helper_exit(outcome.code), mounted) == (1, [])
    assert "not in this version" in outcome.err


def test_fake_checks_everything_and_mounts_nothing(helper, monkeypatch, tmp_path):
    checked = []
    monkeypatch.setattr(mount_helper, "check_mount", lambda spec, path: checked.append(path))
    outcome, mounted = helper("mem://x", tmp_path, "-f", "-v")
    assert (outcome.code, mounted, checked) == (0, [], [tmp_path])
    assert outcome.out == f"mount.vfs: mem://x could be mounted on {tmp_path}\n"


def test_a_namespace_that_is_not_there_is_a_wrong_call(helper, monkeypatch):
    monkeypatch.setattr(mount_helper, "import_module", lambda name: None)
    outcome, _ = helper("mem://x", "/d", "-N", "/proc/none/ns/mnt")
    assert helper_exit(outcome.code) == 1
    assert "mount namespace /proc/none/ns/mnt: No such file" in outcome.err


@pytest.mark.parametrize(
    ("code", "told"),
    [(0, 0), (2, 1), (4, 1), (1, 32), (3, 32), (5, 32), (6, 32), (8, 32), (130, 32)],
)
def test_mount_knows_three_exit_codes(code, told):
    assert helper_exit(code) == told


def test_a_wrong_call_is_one_line(helper):
    outcome, _ = helper("mem://x")
    assert helper_exit(outcome.code) == 1
    assert outcome.err.startswith("mount.vfs: Missing argument 'DIR'.")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "lazy"),
    [(["-v"], False), (["-f", "-n", "-r"], False), (["-l", "-t", "fuse.vfs"], True)],
)
def test_the_umount_helper_unmounts_as_the_command_does(arguments, lazy, vfs, monkeypatch):
    called = []
    monkeypatch.setattr(
        umount_helper,
        "unmount",
        lambda path, *, timeout_s, lazy: called.append((str(path), timeout_s, lazy)) or 0,
    )
    command = umount_helper.helper_command
    assert vfs("/d", *arguments, command=command, name="umount.fuse.vfs").code == 0
    assert called == [("/d", None, lazy)]
