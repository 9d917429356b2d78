"""Mistakes of whoever mounts: one line with cause and remedy, the exit code, nothing mounted."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.mount import VFS, Bucket, Directory, Mount, mount_minor, mounted
from tests.support.rgw import rgw
from vfs.config import CONTRACT_OPTIONS, SECTIONS

FAILED, USAGE, NOT_FOUND, DENIED, UNREACHABLE = 1, 2, 3, 4, 5
LIMIT_S = 15.0


@pytest.fixture
def local(tmp_path_factory) -> Iterator[Mount]:
    """Yield what could mount a local directory, but does not yet."""
    with mounted(Directory(tmp_path_factory.mktemp("store")), start=False) as mount:
        yield mount


@pytest.fixture
def bucket() -> Iterator[Mount]:
    """Yield what could mount a bucket, but does not yet."""
    with (
        rgw().bucket() as name,
        mounted(Bucket(rgw(), name, prefix=""), start=False) as mount,
    ):
        yield mount


def refused(
    mount: Mount,
    *words: object,
    code: int,
    says: str,
    options: tuple[str, ...] = (),
    before: tuple[str, ...] = (),
    **environ: str,
) -> str:
    """Run `vfs mount`, which must fail as the contract says; return its one line."""
    stage = any(option.startswith("stage_dir=") for option in options)
    given = options if stage else (f"stage_dir={mount.stage}", *options)
    words = words or (mount.url, mount.path)
    command = (*before, VFS, "mount", "-o", ",".join(given), *map(str, words))
    done = mount.run(*command, timeout=LIMIT_S, check=False, environ=environ)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines), done.stdout) == (code, 1, ""), done.stderr
    assert says in lines[0]
    secret = (mount.environ | environ).get("AWS_SECRET_ACCESS_KEY")
    assert not secret or secret not in done.stderr + mount.log()
    assert mount_minor(mount.path) is None
    records = Path("/run/vfs").glob("*.json")
    assert not any(str(mount.path) in path.read_text() for path in records)
    return lines[0]


@contextmanager
def tmpfs(path, options: str) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], check=True, timeout=10)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True, timeout=10)


# --- the store ----------------------------------------------------------------------------------


@pytest.mark.rgw
def test_a_missing_bucket_is_not_found(bucket):
    url = bucket.url.replace(bucket.store.name, "vfs-no-such-bucket")
    refused(bucket, url, bucket.path, code=NOT_FOUND, says="vfs-no-such-bucket")


@pytest.mark.rgw
def test_a_wrong_secret_is_denied(bucket):
    refused(
        bucket,
        code=DENIED,
        says="check the access key and the secret key",
        AWS_SECRET_ACCESS_KEY="not-the-secret-at-all",
    )


@pytest.mark.rgw
def test_an_unknown_access_key_is_denied(bucket):
    refused(
        bucket,
        code=DENIED,
        says="check the access key and the secret key",
        AWS_ACCESS_KEY_ID="nobody",
    )


@pytest.mark.rgw
def test_missing_credentials_are_denied_before_anything_is_asked(bucket):
    empty = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    refused(bucket, code=DENIED, says="credentials", **empty)


@pytest.mark.rgw
def test_a_bucket_of_somebody_else_is_denied(bucket):
    other = rgw(other=True)
    refused(
        bucket,
        code=DENIED,
        says=bucket.store.name,
        AWS_ACCESS_KEY_ID=other.access_key,
        AWS_SECRET_ACCESS_KEY=other.secret_key,
    )


KEYS = {"AWS_ACCESS_KEY_ID": "an-access-key", "AWS_SECRET_ACCESS_KEY": "a-secret-key"}


@contextmanager
def swallowing(*, backlog: bool) -> Iterator[str]:
    """Yield the URL of a port that takes packets and says nothing.

    With a backlog the kernel still accepts connections for it, without one not even that.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        if backlog:
            listener.listen(64)
        else:
            for _ in range(4):
                client = stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(address)
        yield f"s3+http://127.0.0.1:{address[1]}/bucket"


@pytest.mark.parametrize("backlog", [True, False], ids=["silent", "black hole"])
def test_an_endpoint_that_swallows_everything_is_given_up_in_time(local, backlog):
    with swallowing(backlog=backlog) as url:
        says = f"{url} has not answered for 10 s"
        refused(local, url, local.path, code=UNREACHABLE, says=says, **KEYS)


def test_no_command_waits_longer_for_an_endpoint_that_swallows_everything(local):
    file = local.base / "file"
    file.touch()
    with swallowing(backlog=True) as url, ExitStack() as stack:
        lines = (("ls", url), ("stat", f"{url}/x"), ("rm", f"{url}/x"), ("cp", file, f"{url}/x"))
        running = [stack.enter_context(local.popen(VFS, *line, environ=KEYS)) for line in lines]
        for command in running:
            _, err = command.communicate(timeout=2 * LIMIT_S)  # beside each other, they are slow
            assert (command.returncode, err.count("\n")) == (UNREACHABLE, 1), err
            assert "has not answered for 10 s" in err


def test_an_endpoint_where_nobody_listens_is_unreachable(local):
    url = "s3+http://127.0.0.1:9/bucket"
    refused(local, url, local.path, code=UNREACHABLE, says="127.0.0.1:9", **KEYS)


def test_an_endpoint_whose_name_does_not_resolve_is_unreachable(local):
    url = "s3+http://no-such-host.invalid:80/bucket"
    refused(local, url, local.path, code=UNREACHABLE, says="no-such-host.invalid", **KEYS)


@pytest.mark.rgw
def test_a_certificate_that_nobody_vouches_for_is_refused(bucket):
    secure = rgw(tls=True)
    line = refused(
        bucket, secure.url(bucket.store.name), bucket.path, code=DENIED, says="certificate"
    )
    assert "ca_bundle" in line


def also_refused_by_ls(mount: Mount, url: str, *, code: int, says: str, options: str) -> None:
    done = mount.run(VFS, "ls", "-o", options, url, timeout=LIMIT_S, check=False)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines), done.stdout) == (code, 1, ""), done.stderr
    assert says in lines[0]


@pytest.mark.rgw
def test_a_certificate_for_another_name_is_refused(bucket):
    secure = rgw(tls=True)
    # Another way to write 127.0.0.1, which no certificate names.
    url = secure.url(bucket.store.name).replace("localhost", "127.1")
    options = f"ca_bundle={secure.ca}"
    case = {"code": DENIED, "says": "write a name that it has in the URL"}
    line = refused(bucket, url, bucket.path, options=(options,), **case)
    assert "the certificate of s3+https://127.1" in line
    also_refused_by_ls(bucket, url, options=options, **case)


@pytest.mark.rgw
def test_a_server_that_does_not_speak_tls_is_told_from_one_that_is_down(bucket):
    url = bucket.url.replace("s3+http:", "s3+https:")
    case = {"code": USAGE, "says": "does not speak TLS: write s3+http:// in the URL"}
    refused(bucket, url, bucket.path, **case)
    also_refused_by_ls(bucket, url, options="tls_verify=no", **case)


@pytest.mark.rgw
def test_a_server_that_speaks_tls_is_told_from_one_that_is_down(bucket):
    url = rgw(tls=True).url(bucket.store.name).replace("s3+https:", "s3+http:")
    case = {"code": USAGE, "says": "speaks TLS: write s3+https:// in the URL"}
    refused(bucket, url, bucket.path, **case)
    also_refused_by_ls(bucket, url, options="max_retries=3", **case)


@pytest.mark.rgw
def test_a_certificate_that_is_vouched_for_is_accepted(bucket):
    secure = rgw(tls=True)
    bucket.url = secure.url(bucket.store.name)
    bucket.options = (f"ca_bundle={secure.ca}",)
    bucket.start()
    bucket.sh("echo hello > file")
    assert bucket.store.read("file") == b"hello\n"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://", "bucket"),
        ("s3+http:///bucket", "host"),
        ("s3+http://host:port/bucket", "URL"),
        ("s3+http://[::1/bucket", "URL"),
        ("s3+http://user:hunter2@127.0.0.1/bucket", "secret"),
        ("ftp://host/x", "ftp"),
        ("file://relative/path", "file:///"),
        ("/just/a/path", "file:///"),
        ("", "URL"),
        ("://", "known are"),
    ],
)
def test_a_malformed_url_is_a_mistake_of_the_caller(local, url, says):
    line = refused(local, url, local.path, code=USAGE, says="", **KEYS)
    assert says.lower() in line.lower()
    assert "hunter2" not in line


def test_a_local_store_that_is_not_there_is_not_found(local):
    missing = local.base / "missing"
    refused(local, f"file://{missing}", local.path, code=NOT_FOUND, says=str(missing))


def test_a_local_store_that_is_a_file_is_refused(local):
    (local.base / "file").touch()
    url = f"file://{local.base / 'file'}"
    refused(local, url, local.path, code=FAILED, says="it is not a directory")


def test_a_name_that_no_file_configures_is_not_found(local):
    refused(local, "images", local.path, code=NOT_FOUND, says="images")


# --- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("memroy=1G", "memory"),
        ("nonsense", "nonsense"),
        ("memory=lots", "memory"),
        ("memory=-5", "memory"),
        ("umask=999", "umask"),
        ("metadata_ttl=soon", "metadata_ttl"),
        ("secret_access_key=hunter2", "secret"),
        ("log_level=loud", "log_level"),
    ],
)
def test_an_option_that_means_nothing_is_refused_with_what_was_meant(local, option, says):
    line = refused(local, code=USAGE, says=says, options=(option,))
    assert "hunter2" not in line


def test_an_option_of_the_environment_is_checked_like_any_other(local):
    line = refused(local, code=USAGE, says="memory", VFS_MEMORY="lots")
    assert "VFS_MEMORY" in line


LATER_VALUES = {"layout": "chunked", "attributes": "metadata"}


def test_everything_of_a_later_version_is_refused_and_never_ignored(local):
    built = {name for model in SECTIONS.values() for name in model.model_fields}
    later = [f"{name}=x" for name in CONTRACT_OPTIONS if name not in built]
    later += [f"{name}={value}" for name, value in LATER_VALUES.items()]
    assert len(later) > 10
    for option in later:
        refused(local, code=USAGE, says="not in this version", options=(option,))


@pytest.mark.parametrize(
    "url", ["gs://bucket/prefix", "az://account/container", "http://host/x", "https://host/x"]
)
def test_a_store_of_a_later_version_is_refused(local, url):
    refused(local, url, local.path, code=USAGE, says="not in this version")


# --- the mount point ----------------------------------------------------------------------------


def test_a_mount_point_that_is_missing_is_not_found(local):
    missing = local.base / "missing"
    refused(local, local.url, missing, code=NOT_FOUND, says=f"{missing}: no such directory")
    assert not missing.exists()


def test_a_mount_point_that_is_a_file_is_refused(local):
    file = local.base / "file"
    file.touch()
    refused(local, local.url, file, code=USAGE, says="not a directory")


def test_a_mount_point_that_is_mounted_already_is_busy(local, local_mount):
    point = local_mount.path
    line = refused(local, local.url, point, code=FAILED, says="mount point already")
    assert "unmount" in line
    assert local_mount.sh("echo still works") == "still works\n"
    assert local_mount.status()["state"] == "ready"


@pytest.mark.promise("S-mount-5")
def test_a_stage_that_another_mount_uses_is_refused_with_its_pid(local_mount, local):
    pid = local_mount.status()["pid"]
    options = (f"stage_dir={local_mount.stage}",)
    line = refused(local, local_mount.url, local.path, code=FAILED, says=str(pid), options=options)
    assert str(local_mount.stage) in line
    local_mount.sh("echo works > file; cat file")


def test_a_mount_point_that_is_not_empty_is_mounted_with_a_word_of_warning(local):
    (local.path / "hidden").write_text("hidden")
    command = ("mount", "-o", f"stage_dir={local.stage}", local.url, local.path)
    done = local.run(VFS, *command)
    assert "not empty" in done.stderr
    assert local.sh("ls") == ""
    local.umount()
    assert (local.path / "hidden").read_text() == "hidden"


def test_a_dead_mount_is_named_and_its_remedy_works(local):
    local.start()
    local.sh("echo kept > file")
    pid = local.status()["pid"]
    local.abort()
    local.run("bash", "-c", f"while [ -e /proc/{pid} ]; do sleep 0.05; done", timeout=30)
    local.expect_log(".")
    if mount_minor(local.path) is not None:
        command = ("mount", "-o", f"stage_dir={local.stage}", local.url, local.path)
        done = local.run(VFS, *command, check=False, timeout=LIMIT_S)
        assert (done.returncode, len(done.stderr.splitlines())) == (FAILED, 1)
        assert "umount -l" in done.stderr
        local.run("umount", "-l", local.path)
    local.start()
    assert local.sh("cat file") == "kept\n"


# --- the stage, and the machine -----------------------------------------------------------------


def test_a_stage_that_may_not_be_written_is_denied(local):
    base = local.base / "readonly"
    with tmpfs(base, "ro,size=1M"):
        options = (f"stage_dir={base / 'stage'}",)
        refused(local, code=DENIED, says=str(base), options=options)


def test_a_stage_directory_on_a_read_only_file_system_is_denied(local):
    base = local.base / "readonly"
    with tmpfs(base, "ro,size=1M"):
        refused(local, code=DENIED, says=str(base), options=(f"stage_dir={base}",))


def test_a_stage_in_memory_is_refused_with_fsync_local(local):
    base = local.base / "memory"
    with tmpfs(base, "size=1G"):
        options = (f"stage_dir={base}/stage", "fsync=local")
        refused(local, code=USAGE, says=f"{base}/stage is on a tmpfs", options=options)


def test_a_stage_that_is_full_is_refused(local):
    base = local.base / "tiny"
    with tmpfs(base, "size=256k"):
        (base / "ballast").write_bytes(bytes(252 << 10))
        line = refused(local, code=FAILED, says=str(base), options=(f"stage_dir={base}/stage",))
    assert "full" in line or "free" in line


def test_a_stage_that_is_a_file_is_refused(local):
    file = local.base / "file"
    file.touch()
    line = refused(local, code=USAGE, says=str(file), options=(f"stage_dir={file}",))
    assert "choose another" in line


def test_a_stage_inside_the_mount_point_is_refused(local):
    inside = (f"stage_dir={local.path}/stage",)
    refused(local, code=USAGE, says="inside the mount point", options=inside)


def test_a_stage_inside_the_mount_point_through_a_link_is_refused(local):
    (local.base / "link").symlink_to(local.path)
    inside = (f"stage_dir={local.base}/link/stage",)
    refused(local, code=USAGE, says="inside the mount point", options=inside)


def test_a_local_store_inside_the_mount_point_is_refused(local):
    (local.path / "store").mkdir()
    url = f"file://{local.path}/store"
    refused(local, url, local.path, code=USAGE, says="inside the mount point")


def test_a_mount_point_inside_the_local_store_is_refused(local):
    inner = local.store.path / "inner"
    inner.mkdir()
    refused(local, local.url, inner, code=USAGE, says="inside the store")


def test_a_machine_without_the_fuse_device_is_told_what_is_missing(local):
    script = """
        mount -t tmpfs dev /dev
        mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9
        exec "$@"
    """
    before = ("unshare", "--mount", "bash", "-euc", script, "-")
    line = refused(local, code=USAGE, says="/dev/fuse", before=before)
    assert "modprobe" in line


def test_a_user_who_may_not_let_others_in_is_told_what_is_missing(local):
    os.chmod(local.path, 0o777)
    script = """
        mount --bind /dev/null /etc/fuse.conf
        exec unshare --user --map-user=1000 --map-group=1000 "$@"
    """
    before = ("unshare", "--mount", "bash", "-euc", script, "-")
    refused(local, code=USAGE, says="user_allow_other", before=before, options=("allow_other",))


def test_umount_of_what_is_not_mounted_is_not_found(local):
    done = local.run(VFS, "umount", local.path, check=False, timeout=LIMIT_S)
    assert (done.returncode, len(done.stderr.splitlines())) == (NOT_FOUND, 1)


def test_umount_of_a_mount_in_use_says_so_and_keeps_it(local_mount):
    with local_mount.popen("env", "-C", local_mount.path, "sleep", "100") as user:
        done = local_mount.run(VFS, "umount", local_mount.path, check=False, timeout=60)
        assert done.returncode == FAILED
        assert len(done.stderr.splitlines()) == 1
        assert "busy" in done.stderr or "in use" in done.stderr
        assert local_mount.sh("echo alive") == "alive\n"
        user.terminate()
        user.wait(timeout=10)
