"""System calls on a mount answer as ext4 does, or as docs/semantics.md says."""

import errno
import fcntl
import mmap
import os
import stat
from pathlib import Path

import pytest

from tests.support.mount import ChildError

MIB = 1 << 20


def refused(number: int, function, *arguments) -> None:
    with pytest.raises(OSError) as caught:
        function(*arguments)
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


def write(name: str, data: bytes = b"") -> None:
    with open(name, "wb") as file:
        file.write(data)


def read(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()


# --- content ------------------------------------------------------------------------------------


def change_a_mapping() -> None:
    write("file", bytes(3 * MIB))
    with open("file", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[MIB : MIB + 5] = b"hello"
        view.flush()
        os.fsync(file.fileno())
        view[2 * MIB : 2 * MIB + 5] = b"world"


@pytest.mark.promise("S-write-11")
def test_what_a_shared_mapping_changes_is_stored(mount):
    mount.call(change_a_mapping)
    expected = bytearray(3 * MIB)
    expected[MIB : MIB + 5] = b"hello"
    expected[2 * MIB : 2 * MIB + 5] = b"world"
    mount.umount()
    assert mount.store.read("file") == bytes(expected)
    mount.start()
    assert mount.call(read, "file") == bytes(expected)


def msync_only() -> None:
    write("file", bytes(MIB))
    with open("file", "r+b") as file:
        view = mmap.mmap(file.fileno(), 0)
    view[100:105] = b"hello"
    view.flush()  # msync(MS_SYNC), with no file open but the mapping


def test_msync_stores_what_a_mapping_without_an_open_file_has_changed(mount):
    mount.call(msync_only)
    mount.umount()
    assert mount.store.read("file")[100:105] == b"hello"


def cut_and_grow() -> None:
    write("file", b"x" * 3 * MIB)
    os.truncate("file", 5000)
    os.truncate("file", 2 * MIB)
    assert read("file") == b"x" * 5000 + bytes(2 * MIB - 5000)
    with open("file", "r+b") as file:
        file.truncate(100)
        file.truncate(MIB)
        file.seek(MIB + 7)
        file.write(b"end")
    assert read("file") == b"x" * 100 + bytes(MIB - 100 + 7) + b"end"


@pytest.mark.promise("S-write-12")
def test_a_file_that_is_cut_and_grown_reads_zeros_in_between(mount):
    mount.call(cut_and_grow)
    expected = b"x" * 100 + bytes(MIB - 93) + b"end"
    assert mount.store.read("file") == expected
    mount.remount()
    assert mount.call(read, "file") == expected


def test_truncate_without_an_open_file_is_stored_when_it_returns(mount):
    mount.call(write, "file", b"0123456789")
    mount.call(os.truncate, "file", 4)
    assert mount.store.read("file") == b"0123"
    mount.call(os.truncate, "file", 6)
    assert mount.store.read("file") == b"0123\0\0"
    mount.call(os.truncate, "file", 0)
    assert mount.store.read("file") == b""


def write_unaligned() -> None:
    """O_DIRECT at sizes and offsets that a disk would refuse or not, from aligned memory."""
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, 64 << 10)
    expected = bytearray()
    for number, size in enumerate([512, 4096, 1000, 1, 65_536, 777]):
        memory[:size] = bytes([number + 1]) * size
        offset = len(expected)
        with memoryview(memory)[:size] as view:
            assert os.pwrite(descriptor, view, offset) == size
        expected += bytes([number + 1]) * size
    back = bytearray()
    while count := os.preadv(descriptor, [memory], len(back)):
        back += memory[:count]
    assert back == expected
    assert os.preadv(descriptor, [memory], 10 * MIB) == 0
    os.close(descriptor)
    assert read("file") == expected


@pytest.mark.promise("S-write-11")
def test_direct_writes_of_odd_sizes_are_exact(mount):
    mount.call(write_unaligned)
    mount.assert_survives("file")


def mix_direct_and_buffered() -> None:
    write("file", b"a" * 64_000)
    plain = os.open("file", os.O_RDWR)
    direct = os.open("file", os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, 4096)
    memory[:] = b"b" * 4096
    assert os.pread(plain, 10, 8192) == b"a" * 10
    os.pwrite(direct, memory, 8192)
    assert os.pread(plain, 10, 8192) == b"b" * 10
    os.pwrite(plain, b"c" * 100, 8200)
    os.preadv(direct, [memory], 8192)
    assert memory[:200] == b"b" * 8 + b"c" * 100 + b"b" * 92
    os.close(plain)
    os.close(direct)


def test_direct_and_buffered_access_to_one_file_see_each_other(mount):
    mount.call(mix_direct_and_buffered)
    mount.assert_survives("file")


def append_from(writers: int, lines: int) -> None:
    children = []
    for writer in range(writers):
        if (child := os.fork()) == 0:
            descriptor = os.open("log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
            for line in range(lines):
                os.write(descriptor, f"{writer} {line:04} {'x' * 50}\n".encode())
            os.close(descriptor)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * writers


@pytest.mark.promise("S-write-10")
def test_two_processes_that_append_to_one_file_lose_no_line(mount):
    mount.call(append_from, 2, 500)
    mount.umount()
    lines = mount.store.read("log").decode().splitlines()
    assert sorted(lines) == [f"{w} {n:04} {'x' * 50}" for w in range(2) for n in range(500)]


def append_after_a_seek() -> None:
    descriptor = os.open("file", os.O_CREAT | os.O_APPEND | os.O_RDWR)
    os.write(descriptor, b"one")
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"two")
    os.ftruncate(descriptor, 4)
    os.write(descriptor, b"end")
    assert os.pread(descriptor, 100, 0) == b"onetend"
    os.close(descriptor)


@pytest.mark.promise("S-write-10")
def test_appending_ignores_where_the_file_stands(mount):
    mount.call(append_after_a_seek)
    assert mount.store.read("file") == b"onetend"


def fsync_in_the_middle(keys) -> None:
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"first")
    os.fsync(descriptor)
    assert keys.read("file") == b"first"
    os.write(descriptor, b" second")
    os.fdatasync(descriptor)
    assert keys.read("file") == b"first second"
    os.pwrite(descriptor, b"F", 0)
    assert os.pread(descriptor, 20, 0) == b"First second"
    os.close(descriptor)


@pytest.mark.promise("S-write-2", "S-write-3")
def test_what_was_synced_is_in_the_store_before_the_file_is_closed(mount):
    mount.call(fsync_in_the_middle, mount.store)
    assert mount.store.read("file") == b"First second"


def sparse_terabyte() -> None:
    with open("big", "wb") as file:
        file.truncate(100 << 30)
        assert os.fstat(file.fileno()).st_size == 100 << 30
        file.truncate(10)
    assert read("big") == bytes(10)


def test_a_huge_truncate_that_is_taken_back_uploads_nothing(mount):
    mount.call(sparse_terabyte)
    assert mount.store.read("big") == bytes(10)


def too_large() -> None:
    write("file", b"kept")
    refused(errno.EFBIG, os.truncate, "file", 1 << 60)
    assert read("file") == b"kept"


@pytest.mark.promise("S-write-13")
@pytest.mark.parametrize("store", [pytest.param("rgw", marks=pytest.mark.rgw)], indirect=True)
def test_a_size_beyond_the_limit_of_the_store_is_refused_at_once(mount):
    mount.call(too_large)


def holes() -> None:
    with open("sparse", "wb") as file:
        file.seek(40 * MIB)
        file.write(b"end")
        file.flush()
        assert os.fstat(file.fileno()).st_blocks * 512 < 40 * MIB
    with open("sparse", "rb") as file:
        assert file.read(MIB) == bytes(MIB)
        file.seek(39 * MIB)
        assert file.read() == bytes(MIB) + b"end"
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) > 0


@pytest.mark.promise("S-read-4")
@pytest.mark.promise("S-attr-8")
def test_a_sparse_file_reads_zeros_where_nothing_was_written(mount):
    mount.call(holes)
    mount.assert_survives("sparse")


# --- names --------------------------------------------------------------------------------------


def use_after_unlink() -> None:
    write("file", b"old content")
    descriptor = os.open("file", os.O_RDWR)
    os.unlink("file")
    refused(errno.ENOENT, os.stat, "file")
    assert os.listdir(".") == []
    assert os.pread(descriptor, 100, 0) == b"old content"
    os.pwrite(descriptor, b"NEW", 0)
    os.fsync(descriptor)
    assert os.pread(descriptor, 100, 0) == b"NEW content"
    assert os.fstat(descriptor).st_nlink == 0
    write("file", b"another")  # the name is free
    assert os.pread(descriptor, 100, 0) == b"NEW content"
    assert read("file") == b"another"
    os.close(descriptor)
    assert read("file") == b"another"


@pytest.mark.promise("S-name-2")
def test_an_open_file_outlives_its_name(mount):
    mount.call(use_after_unlink)
    assert mount.store.read("file") == b"another"
    mount.remount()
    assert mount.sh("cat file; ls -A") == "anotherfile\n"


def unlink_new_file() -> None:
    descriptor = os.open("temporary", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"x" * 9 * MIB)
    os.unlink("temporary")
    assert os.pread(descriptor, 3, 9 * MIB - 3) == b"xxx"
    os.write(descriptor, b"more")
    os.close(descriptor)


def test_a_file_that_loses_its_name_before_it_is_closed_leaves_no_object(mount):
    mount.call(unlink_new_file)
    mount.umount()
    assert mount.store.keys() == set()


def rename_over_open() -> None:
    write("target", b"old target")
    write("source", b"new content")
    old = os.open("target", os.O_RDONLY)
    new = os.open("source", os.O_RDWR)
    assert os.pread(old, 100, 0) == b"old target"
    os.rename("source", "target")
    assert os.pread(old, 100, 0) == b"old target"  # what was read stays readable
    assert os.pread(new, 100, 0) == b"new content"
    os.pwrite(new, b"NEW", 0)
    os.fsync(new)
    assert read("target") == b"NEW content"
    assert os.fstat(new).st_ino == os.stat("target").st_ino
    assert os.fstat(old).st_nlink == 0
    assert os.listdir(".") == ["target"]
    os.close(old)
    os.close(new)


@pytest.mark.promise("S-name-3")
def test_a_rename_over_an_open_file_leaves_both_readable(mount):
    mount.call(rename_over_open)
    assert mount.store.read("target") == b"NEW content"
    assert mount.store.keys() == {"target"}
    mount.remount()
    assert mount.sh("cat target; ls -A") == "NEW contenttarget\n"


def read_what_is_gone() -> None:
    """The object is replaced and nothing of it was read: the old bytes or ESTALE, never the new."""
    old = os.open("target", os.O_RDONLY)
    write("source", b"new content")
    os.rename("source", "target")
    try:
        assert os.pread(old, 100, 0) == b"old target"
    except OSError as error:
        assert error.errno == errno.ESTALE
    os.close(old)
    assert read("target") == b"new content"


@pytest.mark.promise("S-read-2")
def test_an_open_file_never_shows_the_bytes_of_the_one_that_took_its_name(mount):
    mount.call(write, "target", b"old target")
    mount.remount()
    mount.expect_log("not the version that was expected|the file has changed")
    mount.call(read_what_is_gone)


def rename_back_and_forth() -> None:
    write("a", b"content")
    for _ in range(3):
        os.rename("a", "b")
        assert not os.path.exists("a")
        os.rename("b", "a")
    os.rename("a", "a")
    assert read("a") == b"content"
    os.mkdir("d")
    refused(errno.EISDIR, os.rename, "a", "d")
    refused(errno.ENOTDIR, os.rename, "d", "a")
    refused(errno.EINVAL, os.rename, "d", "d/inner")
    refused(errno.ENOENT, os.rename, "missing", "x")
    write("d/x")
    os.mkdir("e")
    os.rename("d", "e")  # over an empty directory
    assert os.listdir("e") == ["x"]
    os.mkdir("f")
    refused(errno.ENOTEMPTY, os.rename, "f", "e")


def test_renames_follow_the_rules_of_rename_2(mount):
    mount.call(rename_back_and_forth)
    assert mount.store.keys() == {"a", "e/x"}
    mount.remount()
    assert mount.sh("find . | sort") == ".\n./a\n./e\n./e/x\n./f\n"


def rename_dirty() -> None:
    descriptor = os.open("before", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"x" * 6 * MIB)
    os.rename("before", "after")
    os.write(descriptor, b"end")
    os.close(descriptor)
    assert read("after") == b"x" * 6 * MIB + b"end"


def test_a_file_that_is_renamed_while_it_is_written_is_stored_under_its_new_name(mount):
    mount.call(rename_dirty)
    mount.umount()
    assert mount.store.keys() == {"after"}
    assert mount.store.read("after") == b"x" * 6 * MIB + b"end"


def test_a_directory_is_renamed_with_everything_in_it(mount):
    mount.sh("""
        mkdir -p a/b/c a/empty; echo 1 > a/1; echo 2 > a/b/2; echo 3 > a/b/c/3; chmod 700 a/b
        mv a z; [ ! -e a ]; cat z/1 z/b/2 z/b/c/3
    """)
    mount.remount()
    assert mount.sh("find . -printf '%p %m\\n' | sort; cat z/b/c/3") == (
        ". 755\n./z 755\n./z/1 644\n./z/b 700\n./z/b/2 644\n./z/b/c 755\n./z/b/c/3 644\n"
        "./z/empty 755\n3\n"
    )
    assert mount.store.keys() == {"z/1", "z/b/2", "z/b/c/3"}


NAMES = [
    b"caf\xe9",
    b"\xff\xfe\x80",
    b"line\nfeed",
    b"carriage\rreturn",
    b"tab\tname",
    b"-rf",
    b"--help",
    b" leading and trailing ",
    b"*?[a-z]$HOME'\"`\\",
    b"a%2Fb+c&d=e#f;g:h,i",
    b"delete\x7f",
    "\N{SNOWMAN} \U0001f600 u\N{COMBINING DIAERESIS}".encode(),
    "\U0010ffe9".encode(),
    b"..name",
    b"...",
    b".hidden",
    b"n" * 255,
    "\N{SNOWMAN}".encode() * 85,
]


def make_names() -> None:
    for name in NAMES:
        with open(name, "wb") as file:
            file.write(name)
    for name in NAMES:
        os.mkdir(b"d" + name[:254])
        with open(b"d" + name[:254] + b"/" + name, "wb") as file:
            file.write(b"inside")


def check_names() -> None:
    directories = [b"d" + name[:254] for name in NAMES]
    assert sorted(os.listdir(b".")) == sorted(NAMES + directories)
    for name in NAMES:
        assert read(name) == name
        assert os.lstat(name).st_size == len(name)
    for name, directory in zip(NAMES, directories, strict=True):
        assert os.listdir(directory) == [name]
        assert read(directory + b"/" + name) == b"inside"


def rename_names() -> None:
    for number, name in enumerate(NAMES):
        os.rename(name, b"renamed")
        os.rename(b"renamed", name)
        os.rename(b"d" + name[:254], f"d{number}")


def remove_names() -> None:
    for number, name in enumerate(NAMES):
        assert os.listdir(f"d{number}".encode()) == [name]
        os.unlink(f"d{number}".encode() + b"/" + name)
        os.rmdir(f"d{number}")
        os.unlink(name)
    assert os.listdir(b".") == []


@pytest.mark.promise("S-name-9")
def test_every_name_that_ext4_takes_is_kept_byte_by_byte(mount):
    mount.call(make_names)
    mount.call(check_names)
    mount.remount()
    mount.call(check_names)
    mount.call(rename_names)
    mount.remount()
    mount.call(remove_names)
    assert mount.store.keys() == set()


def control_names(directory: bytes) -> None:
    os.makedirs(directory, exist_ok=True)
    for name in (b"\x01", b"\x1b[31m", b"\x1f", b"\b"):
        with open(directory + b"/" + name, "wb") as file:
            file.write(name)
        assert read(directory + b"/" + name) == name
    assert len(os.listdir(directory)) == 4


def test_names_may_have_control_characters(mount):
    mount.call(control_names, b"plain")
    mount.remount()
    mount.call(control_names, b"plain")


def test_names_of_directories_may_have_control_characters(mount, request):
    if mount.url.startswith("s3"):
        mount.expect_log("500: Internal Server Error")
        reason = "Ceph 16 answers 500 to a listing whose prefix has a control character"
        request.applymarker(pytest.mark.xfail(raises=ChildError, strict=True, reason=reason))
    mount.call(control_names, b"d\x01\x1b[31m")
    mount.remount()
    mount.call(control_names, b"d\x01\x1b[31m")


def too_long() -> None:
    name = b"n" * 256
    refused(errno.ENAMETOOLONG, os.open, name, os.O_CREAT | os.O_WRONLY)
    refused(errno.ENAMETOOLONG, os.mkdir, name)
    refused(errno.ENAMETOOLONG, os.stat, name)
    refused(errno.ENAMETOOLONG, os.symlink, "x", name)
    write("file")
    refused(errno.ENAMETOOLONG, os.rename, b"file", name)


@pytest.mark.promise("S-name-9")
def test_a_name_of_256_bytes_is_too_long(mount):
    mount.call(too_long)


def deep_path() -> None:
    """A path of more than 1024 bytes is no key for S3: an error, not a crash."""
    top = os.getcwd()
    try:
        for _ in range(12):
            os.mkdir("d" * 100)
            os.chdir("d" * 100)
        write("file", b"deep")
        assert read("file") == b"deep"
    except OSError as error:
        assert error.errno == errno.ENAMETOOLONG
    os.chdir(top)


def test_a_path_longer_than_a_key_may_be_is_refused_or_works(mount):
    mount.call(deep_path)
    mount.remount()
    mount.sh("find . > /dev/null; rm -rf d*; ls -A")


def links() -> None:
    write("file", b"content")
    os.symlink("file", "link")
    os.symlink(b"caf\xe9/\xff", b"odd")
    os.symlink("x" * 4000, "long")
    os.symlink("link", "second")
    assert os.readlink("link") == "file"
    assert read("second") == b"content"
    assert os.lstat("link").st_size == 4
    os.mkfifo("fifo", 0o640)
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    check_links()


def check_links() -> None:
    assert os.readlink(b"odd") == b"caf\xe9/\xff"
    assert os.readlink("long") == "x" * 4000
    assert stat.S_ISLNK(os.lstat("link").st_mode)
    found = os.lstat("fifo")
    assert stat.S_ISFIFO(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o640
    device = os.lstat("null")
    assert stat.S_ISCHR(device.st_mode)
    assert device.st_rdev == os.makedev(1, 3)
    refused(errno.ENOENT, os.stat, "missing")
    refused(errno.EINVAL, os.readlink, "file")


@pytest.mark.promise("S-name-13")
def test_symbolic_links_fifos_and_devices_are_kept(mount):
    mount.call(links)
    mount.remount()
    mount.call(check_links)


def talk_through_fifo() -> bytes:
    os.mkfifo("fifo")
    if os.fork() == 0:
        with open("fifo", "wb") as file:
            file.write(b"through")
        os._exit(0)
    answer = read("fifo")
    os.wait()
    return answer


def test_a_fifo_connects_two_processes(mount):
    assert mount.call(talk_through_fifo) == b"through"


def hard_link() -> None:
    write("file", b"one")
    refused(errno.EPERM, os.link, "file", "second")
    assert os.stat("file").st_nlink == 1
    assert os.listdir(".") == ["file"]


@pytest.mark.promise("S-name-13")
def test_a_hard_link_is_not_permitted(mount):
    mount.call(hard_link)


def reserved() -> None:
    for name in (".vfs", ".vfs.attrs", ".vfs.attrs.0-2"):
        refused(errno.EPERM, os.open, name, os.O_CREAT | os.O_WRONLY)
        refused(errno.EPERM, os.mkdir, name)
        refused(errno.EPERM, os.symlink, "x", name)
        refused(errno.ENOENT, os.stat, name)
    write("file")
    os.chmod("file", 0o600)
    refused(errno.EPERM, os.rename, "file", ".vfs")
    assert os.listdir(".") == ["file"]


@pytest.mark.promise("S-name-14")
def test_our_own_objects_are_invisible_and_their_names_not_permitted(mount):
    mount.call(reserved)
    mount.remount()
    assert mount.sh("ls -A") == "file\n"


# --- directories --------------------------------------------------------------------------------


def directories() -> None:
    os.makedirs("a/b/c")
    refused(errno.EEXIST, os.mkdir, "a")
    refused(errno.ENOTEMPTY, os.rmdir, "a")
    refused(errno.EISDIR, os.unlink, "a/b/c")
    write("file")
    refused(errno.ENOTDIR, os.rmdir, "file")
    refused(errno.ENOTDIR, os.stat, "file/x")
    refused(errno.EISDIR, os.open, "a", os.O_WRONLY)
    assert os.stat("a").st_nlink in {1, 2, 3}


@pytest.mark.promise("S-name-7", "S-name-8")
def test_empty_directories_stay(mount):
    mount.call(directories)
    mount.remount()
    assert mount.sh("find . -type d | sort") == ".\n./a\n./a/b\n./a/b/c\n"
    mount.sh("rmdir a/b/c a/b; ls -A a")
    mount.remount()
    assert mount.sh("find . -type d | sort") == ".\n./a\n"


@pytest.mark.promise("S-name-7")
def test_a_directory_that_exists_only_by_its_keys_is_a_directory(mount):
    mount.store.put("implicit/deep/file", b"content")
    assert mount.sh("ls; ls implicit; ls implicit/deep; cat implicit/deep/file") == (
        "implicit\ndeep\nfile\ncontent"
    )
    mount.sh("mkdir implicit/new; rm implicit/deep/file; ls -d implicit/deep; rmdir implicit/deep")
    assert mount.sh("ls -A implicit") == "new\n"


def remove_while_attributes_are_stored(rounds: int) -> None:
    for number in range(rounds):
        name = f"directory-{number}"
        os.mkdir(name)
        for file in "abc":
            write(f"{name}/{file}", b"x")
            os.chmod(f"{name}/{file}", 0o600)
        descriptor = os.open(name, os.O_RDONLY)
        if (child := os.fork()) == 0:
            try:
                os.fsync(descriptor)
            finally:
                os._exit(0)
        for file in "abc":
            os.unlink(f"{name}/{file}")
        os.rmdir(name)
        os.waitpid(child, 0)
        os.close(descriptor)
    assert os.listdir(".") == []


def test_a_directory_that_is_removed_while_its_attributes_are_stored_stays_removed(mount):
    mount.call(remove_while_attributes_are_stored, 15)
    mount.remount()
    assert mount.sh("ls -A") == ""


# --- attributes ---------------------------------------------------------------------------------


def set_attributes() -> None:
    write("file", b"x")
    os.mkdir("dir")
    os.symlink("file", "link")
    for name, mode, when in (("file", 0o4751, 1_000_000_000_123_456_789), ("dir", 0o1703, 5)):
        os.chown(name, 1111, 2222)
        os.chmod(name, mode)
        os.utime(name, ns=(when + 1, when))
    os.chown("link", 3333, 4444, follow_symlinks=False)
    os.utime("link", ns=(7, 8_000_000_009), follow_symlinks=False)
    check_attributes()


def check_attributes() -> None:
    file, directory, link = os.stat("file"), os.stat("dir"), os.lstat("link")
    assert (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid) == (0o4751, 1111, 2222)
    assert (stat.S_IMODE(directory.st_mode), directory.st_uid) == (0o1703, 1111)
    assert file.st_mtime_ns == 1_000_000_000_123_456_789
    assert directory.st_mtime_ns == 5
    assert (link.st_uid, link.st_gid, link.st_mtime_ns) == (3333, 4444, 8_000_000_009)


@pytest.mark.promise("S-attr-1")
def test_modes_owners_and_times_survive_a_remount(mount):
    mount.call(set_attributes)
    mount.remount()
    mount.call(check_attributes)
    mount.remount(fresh=False)
    mount.call(check_attributes)


@pytest.mark.promise("S-attr-1")
def test_a_change_of_mode_does_not_write_the_object_again(mount):
    mount.call(write, "file", b"x" * MIB)
    before = version(mount.store)
    mount.sh("chmod 600 file; touch -d 2001-01-01 file; chown 5:6 file")
    mount.remount()
    assert version(mount.store) == before
    assert mount.sh("stat -c '%a %u:%g %Y' file") == "600 5:6 978307200\n"


def version(store) -> object:
    if hasattr(store, "client"):
        return store.client.head_object(Bucket=store.name, Key=store.prefix + "file")[
            "LastModified"
        ]
    found = (store.path / "file").stat()
    return found.st_ino, found.st_mtime_ns


def times() -> None:
    write("file", b"x")
    first = os.stat("file").st_mtime_ns
    directory = os.stat(".").st_mtime_ns
    with open("file", "ab") as file:
        file.write(b"y")
    assert os.stat("file").st_mtime_ns >= first
    write("other")
    assert os.stat(".").st_mtime_ns >= directory
    os.utime("file", ns=(0, 0))
    assert os.stat("file").st_mtime_ns == 0
    with open("file", "ab") as file:
        file.write(b"z")
    assert os.stat("file").st_mtime_ns > first


def test_writing_renews_the_time_of_a_file(mount):
    mount.call(times)
    before = mount.sh("stat -c %.Y file other")
    mount.remount()
    assert mount.sh("stat -c %.Y file other") == before


@pytest.mark.promise("S-attr-7")
def test_statfs_shows_plenty_of_room(mount):
    mount.sh("head -c 1000000 /dev/zero > file")
    found = mount.call(os.statvfs, ".")
    assert found.f_bavail * found.f_frsize >= 1 << 40
    assert found.f_favail > 1_000_000
    assert found.f_namemax == 255
    fields = mount.sh("df -P -B1 . | tail -1").split()
    assert fields[0] == mount.url
    assert int(fields[3]) >= 1 << 40


def test_the_kernel_shows_the_url_as_the_source_of_the_mount(mount):
    lines = [
        line.split()
        for line in Path("/proc/mounts").read_text().splitlines()
        if str(mount.path) in line
    ]
    assert [(fields[0], fields[2]) for fields in lines] == [(mount.url, "fuse.vfs")]


def no_xattr() -> None:
    write("file")
    refused(errno.EOPNOTSUPP, os.setxattr, "file", "user.a", b"x")
    refused(errno.EOPNOTSUPP, os.getxattr, "file", "user.a")


@pytest.mark.promise("S-attr-6")
def test_extended_attributes_are_not_supported_by_default(mount):
    mount.call(no_xattr)


def exclusive() -> None:
    descriptor = os.open("file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    refused(errno.EEXIST, os.open, "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.close(descriptor)
    refused(errno.EEXIST, os.open, "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@pytest.mark.promise("S-name-1")
def test_exclusive_creation_asks_the_store(mount):
    mount.call(exclusive)
    mount.sh("cat elsewhere 2>/dev/null || true")  # now it is known to be missing
    mount.store.put("elsewhere", b"of another program")
    mount.call(refuse_to_create, "elsewhere")
    assert mount.store.read("elsewhere") == b"of another program"


def refuse_to_create(name: str) -> None:
    refused(errno.EEXIST, os.open, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


@pytest.mark.promise("S-name-1")
def test_an_empty_file_is_an_object_once_it_is_closed(mount):
    mount.sh(": > empty; touch touched")
    assert mount.store.keys() == {"empty", "touched"}
    assert mount.store.read("empty") == b""


def lock() -> None:
    write("file", b"x")
    first = open("file", "r+b")
    fcntl.lockf(first, fcntl.LOCK_EX)
    if (child := os.fork()) == 0:
        with open("file", "r+b") as second:
            try:
                fcntl.lockf(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    first.close()
    third, fourth = open("file"), open("file")
    fcntl.flock(third, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(fourth, fcntl.LOCK_EX | fcntl.LOCK_NB)
    third.close()
    fcntl.flock(fourth, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fourth.close()


@pytest.mark.promise("S-mount-7")
def test_locks_exclude_each_other(mount):
    mount.call(lock)


def positional_vectors() -> None:
    descriptor = os.open("file", os.O_CREAT | os.O_RDWR)
    os.pwritev(descriptor, [b"abc", b"", b"defg"], 5)
    first, second = bytearray(3), bytearray(20)
    assert os.preadv(descriptor, [first, second], 4) == 8
    assert bytes(first) + bytes(second[:5]) == b"\0abcdefg"
    assert os.copy_file_range(descriptor, descriptor, 3, 5, 100) == 3
    os.close(descriptor)
    assert read("file")[100:] == b"abc"


def test_vectors_and_copies_within_a_file_are_exact(mount):
    mount.call(positional_vectors)
    mount.assert_survives("file")
