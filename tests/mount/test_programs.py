"""Ordinary programs work on a mount as they do on a disk."""

import os
import shutil
import sqlite3
import textwrap

import pytest

from tests.support.mount import ChildError

MIB = 1 << 20
SOURCES = "/usr/include/asm-generic"

TREE = (
    """
    make_tree() {
        mkdir -p "$1/deep/er" "$1/empty"
        cp -a %s "$1/headers"
        head -c 3000000 /dev/urandom > "$1/deep/random"
        printf 'x' > "$1/deep/er/tiny"
        : > "$1/none"
        truncate -s 5M "$1/hole" && printf 'end' >> "$1/hole"
        ln -s deep/random "$1/link"
        ln -s /nowhere "$1/dangling"
        mkfifo "$1/fifo"
        chmod 640 "$1/none"; chmod 2750 "$1/deep"; chmod 600 "$1/deep/random"
        chown 1234:567 "$1/none"
        touch -h -d '2001-02-03 04:05:06.123456789' "$1/link" "$1/none" "$1/deep/random"
        touch -h -d '2020-02-29 12:00:00.5' "$1/dangling" "$1/fifo"
        touch -d '1999-12-31 23:59:59.5' "$1/deep/er" "$1/deep" "$1/empty" "$1"
    }
    describe() {  # all that `cp -a` keeps
        (cd "$1" && find . -printf '%%p %%y %%#m %%U:%%G %%T@ %%l\\n' | sort)
    }
    digest() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
"""
    % SOURCES
)


# --- copying ------------------------------------------------------------------------------------


def test_rsync_in_place_changes_only_what_differs_and_the_result_is_equal(mount):
    source = mount.base / "source"
    mount.run("dd", "if=/dev/urandom", f"of={source}", "bs=1M", "count=24", "status=none")
    mount.sh('rsync --inplace "$1" disk', source)
    mount.run(
        "dd", "if=/dev/urandom", f"of={source}", "bs=4k", "count=3", "seek=2000", "conv=notrunc"
    )
    mount.sh('rsync -I --inplace --no-whole-file "$1" disk && cmp "$1" disk', source)
    mount.assert_survives("disk")
    mount.sh(
        'truncate -s 9M "$1"; rsync -I --inplace --no-whole-file "$1" disk; cmp "$1" disk', source
    )
    mount.assert_survives("disk")


def test_a_second_rsync_has_nothing_to_transfer(mount):
    source = mount.base / "source"
    mount.sh(TREE + 'make_tree "$1"; rsync -aH "$1/" copy', source)
    for _ in range(2):
        itemized = mount.sh('rsync -aHi --delete "$1/" copy', source)
        assert itemized == ""
        mount.remount()
    assert mount.sh('rsync -aHi --checksum --delete "$1/" copy', source) == ""


def test_rsync_of_the_mount_into_a_directory_brings_everything_back(mount):
    back = mount.base / "back"
    mount.sh(TREE + 'make_tree tree; rsync -a tree/ "$1"', back)
    mount.sh(
        TREE + 'diff <(describe tree) <(describe "$1"); diff <(digest tree) <(digest "$1")', back
    )


@pytest.mark.parametrize("sparse", ["always", "never", "auto"])
def test_cp_with_and_without_holes_copies_every_byte(mount, sparse):
    source = mount.base / "source"
    with source.open("wb") as file:
        for offset in (0, 3 * MIB + 17, 9 * MIB):
            file.seek(offset)
            file.write(os.urandom(MIB))
        file.truncate(12 * MIB)
    mount.sh('cp --sparse=$2 -- "$1" there && cmp there "$1"', source, sparse)
    mount.sh("cp --sparse=$1 there again && cmp there again", sparse)
    mount.sh('cp --sparse=$2 again "$1.back" && cmp "$1.back" "$1"', source, sparse)
    mount.assert_survives("there", "again")


@pytest.mark.promise("S-attr-1", "S-name-13", "S-name-7")
def test_cp_keeps_modes_owners_times_links_and_empty_directories_over_a_remount(mount):
    source = mount.base / "source"
    check = (
        TREE
        + """
        diff <(describe "$1") <(describe copy)
        diff <(digest "$1") <(digest copy)
    """
    )
    mount.sh(TREE + 'make_tree "$1"; cp -a "$1" copy', source)
    mount.sh(check, source)
    mount.remount()
    mount.sh(check, source)
    mount.remount(fresh=False)
    mount.sh(check, source)


def test_files_move_in_and_out_of_the_mount(mount):
    source = mount.base / "source"
    mount.sh(TREE + 'make_tree "$1"; describe "$1" > "$1.txt"; digest "$1" > "$1.sum"', source)
    mount.sh('mv "$1" inside', source)
    mount.remount()
    mount.sh(TREE + 'mv inside renamed; mv renamed "$1"; describe "$1" | diff "$1.txt" -', source)
    mount.sh(TREE + 'digest "$1" | diff "$1.sum" -; [ -z "$(ls -A)" ]', source)


@pytest.mark.parametrize("option", ["", "S"])
def test_a_tree_goes_through_tar_and_back(mount, option):
    source = mount.base / "source"
    mount.sh(
        TREE
        + """
        make_tree "$1"
        tar -C "$1" --format=posix -c$2f all.tar .
        mkdir out
        tar -C out -x$2pf all.tar
        tar -C out -df all.tar
        diff <(describe "$1") <(describe out)
        diff <(digest "$1") <(digest out)
        tar -c$2 out | tar -t$2 > /dev/null
        """,
        source,
        option,
    )
    mount.assert_survives("all.tar")
    mount.sh(
        TREE + 'diff <(describe "$1") <(describe out); diff <(digest "$1") <(digest out)', source
    )


# --- git ----------------------------------------------------------------------------------------

IDENTITY = (
    "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b\n"
)


def test_git_clones_commits_and_finds_nothing_wrong(mount):
    upstream = mount.base / "upstream"
    mount.sh(
        IDENTITY
        + """
        git init -q -b main "$1" && cp -a %s "$1/headers"
        git -C "$1" add . && git -C "$1" commit -qm first
        git clone -q "file://$1" clone
        cd clone
        [ -z "$(git status --porcelain)" ]
        echo changed >> headers/ioctl.h
        git mv headers/stat.h headers/renamed.h
        git rm -q headers/types.h
        [ "$(git status --porcelain | wc -l)" = 3 ]
        git commit -qam second
        git checkout -q -b other HEAD~1 && echo other > new && git add new && git commit -qm other
        git merge -q -m merged main
        git gc -q
        git fsck --strict --full
        [ -z "$(git status --porcelain)" ]
        """
        % SOURCES,
        upstream,
    )
    mount.remount()
    mount.sh(
        """
        cd clone
        git fsck --strict --full
        [ -z "$(git status --porcelain)" ]
        [ "$(git rev-list --count HEAD)" = 4 ]
        git push -q "file://$1" other
        """,
        upstream,
    )


# --- sqlite -------------------------------------------------------------------------------------


def fill_database(journal: str, writers: int, rows: int) -> int:
    """Write from several processes at once; return how many rows there are."""
    with sqlite3.connect("data.db", timeout=60) as db:
        assert db.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
        db.execute("create table t(writer int, number int, text)")
    db.close()
    children = []
    for writer in range(writers):
        if (child := os.fork()) == 0:
            status = 1
            try:
                connection = sqlite3.connect("data.db", timeout=60, isolation_level=None)
                for number in range(rows):
                    connection.execute("begin immediate")
                    connection.execute("insert into t values(?, ?, ?)", (writer, number, "x" * 999))
                    connection.execute("commit")
                connection.close()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [
        0
    ] * writers
    return count_rows()


def count_rows() -> int:
    db = sqlite3.connect("data.db", timeout=60)
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    [found] = db.execute("select count(*) from t").fetchone()
    assert (
        found == db.execute("select count(distinct writer * 100000 + number) from t").fetchone()[0]
    )
    db.close()
    return found


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate", "persist"])
def test_sqlite_with_several_connections_loses_no_row(mount, journal):
    rows = 20 if mount.url.startswith("file") else 5  # each commit waits for the store
    assert mount.call(fill_database, journal, 3, rows, timeout=120) == 3 * rows
    mount.remount()
    assert mount.call(count_rows) == 3 * rows


def read_while_writing() -> None:
    writer = sqlite3.connect("data.db", isolation_level=None, timeout=60)
    writer.execute("pragma journal_mode=wal")
    writer.execute("create table t(writer int, number int)")
    reader = sqlite3.connect("data.db", isolation_level=None, timeout=60)
    writer.execute("insert into t values(0, 0)")
    reader.execute("begin")
    assert reader.execute("select count(*) from t").fetchone() == (1,)
    writer.execute("insert into t values(0, 1)")
    assert reader.execute("select count(*) from t").fetchone() == (1,)  # its own snapshot
    reader.execute("end")
    assert reader.execute("select count(*) from t").fetchone() == (2,)
    writer.execute("pragma wal_checkpoint(truncate)")
    reader.close()
    writer.close()


def test_a_reader_of_a_wal_database_keeps_its_snapshot(mount):
    mount.call(read_while_writing)
    mount.remount()
    assert mount.call(count_rows) == 2


def test_the_shell_of_sqlite_dumps_what_it_was_given(mount):
    mount.sh("""
        sqlite3 a.db "create table t(a, b); insert into t values(1, 'x'), (2, 'y'); vacuum;"
        sqlite3 a.db .dump | sqlite3 b.db
        cmp <(sqlite3 a.db .dump) <(sqlite3 b.db .dump)
    """)
    mount.assert_survives("a.db", "b.db")


# --- editors, shells and small tools ------------------------------------------------------------


def test_dd_without_truncation_changes_only_its_blocks(mount):
    source = mount.base / "source"
    mount.sh(
        """
        head -c 20000000 /dev/urandom > "$1"
        cp "$1" disk
        for file in "$1" disk; do
            printf 'ABCDEFGH' | dd of="$file" bs=1 seek=7777777 conv=notrunc status=none
            head -c 700000 /dev/zero | dd of="$file" bs=100000 seek=3 conv=notrunc status=none
            head -c 65536 /dev/zero | dd of="$file" oflag=append conv=notrunc status=none
        done
        cmp "$1" disk
        """,
        source,
    )
    mount.assert_survives("disk")
    mount.sh('cmp "$1" disk', source)


@pytest.mark.parametrize("flags", ["direct", "sync", "dsync"])
def test_dd_with_every_kind_of_output_flag_writes_the_same(mount, flags):
    source = mount.base / "source"
    mount.sh('head -c 4194304 /dev/urandom > "$1"', source)
    mount.sh('dd if="$1" of=disk bs=512k oflag=$2 status=none; cmp "$1" disk', source, flags)
    mount.sh('dd if=disk of=copy bs=512k iflag=direct status=none; cmp "$1" copy', source)
    mount.assert_survives("disk", "copy")


def test_an_editor_that_keeps_a_backup_and_writes_anew_loses_nothing(mount):
    for number in range(3):
        mount.sh(
            """
            [ ! -e notes ] || mv notes notes~
            echo "text $1" > notes
            chmod 640 notes
            sync notes
            rm -f notes~
            """,
            str(number),
        )
        assert mount.store.read("notes") == f"text {number}\n".encode()
        mount.remount()
        assert mount.sh("cat notes; ls") == f"text {number}\nnotes\n"
        assert mount.store.keys() == {"notes"}


def save_over(text: str) -> None:
    """Save as careful editors do: a new file, O_EXCL, synced, renamed over the old one."""
    file = os.open(".notes.swp", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with pytest.raises(FileExistsError):
        os.open(".notes.swp", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(file, text.encode())
    os.fsync(file)
    os.close(file)
    os.replace(".notes.swp", "notes")
    directory = os.open(".", os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


@pytest.mark.promise("S-name-3")
def test_an_editor_that_renames_a_new_file_over_the_old_one_loses_nothing(mount):
    for number in range(4):
        mount.call(save_over, f"text {number}")
        assert mount.store.read("notes") == f"text {number}".encode()
        assert mount.store.keys() == {"notes"}
        if number % 2:
            mount.remount()
        assert mount.sh("cat notes") == f"text {number}"


if shutil.which("vim"):  # a large package for one test: where it is, it is tried

    @pytest.mark.parametrize("copy", ["yes", "no", "auto"])
    def test_vim_edits_a_file(mount, copy):
        edit = "vim -es -u NONE -c \"set backup backupcopy=$1\" -c 's/one/two/' -c wq file"
        mount.sh(f"echo one > file; {edit}", copy)
        mount.remount()
        assert mount.sh("cat file") == "two\n"


def test_sed_in_place_and_sort_onto_itself_work(mount):
    mount.sh("seq 5000 > file; sed -i 's/^/line /' file; sort -r -o file file; head -1 file")
    assert mount.sh("wc -l < file; sort -c -r file") == "5000\n"
    mount.assert_survives("file")


def test_a_shell_appends_line_by_line(mount):
    mount.sh("for i in $(seq 30); do echo line $i >> log; done")
    expected = "".join(f"line {number}\n" for number in range(1, 31))
    assert mount.sh("cat log") == expected
    assert mount.store.read("log") == expected.encode()
    mount.remount()
    mount.sh("echo last >> log")
    assert mount.sh("cat log") == expected + "last\n"


def test_scripts_run_from_the_mount(mount):
    mount.sh("printf '#!/bin/sh\\necho ran $1\\n' > run; chmod 755 run")
    mount.remount()
    assert mount.sh("./run well; cp /usr/bin/true . && ./true") == "ran well\n"


def test_a_program_is_compiled_in_the_mount(mount):
    program = textwrap.dedent("""
        #include <stdio.h>
        int main(void) { puts("compiled"); return 0; }
    """)
    mount.call(write_text, "main.c", program)
    script = (
        'printf "main: main.c\\n\\tgcc -o main main.c\\n" > Makefile; make -s && ./main; make -q'
    )
    assert mount.sh(script) == "compiled\n"
    mount.remount()
    assert mount.sh("make -q && ./main") == "compiled\n"


def write_text(name: str, text: str) -> None:
    with open(name, "w") as file:
        file.write(text)


# --- fio ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "direct"), [("psync", 0), ("psync", 1), ("libaio", 1), ("mmap", 0)]
)
def test_fio_verifies_random_writes_and_reads(mount, engine, direct):
    verify = (
        "fio", "--name=mix", "--filename=disk", "--size=24M", "--rw=randrw", "--bsrange=4k-64k",
        "--verify=crc32c", "--verify_fatal=1", f"--ioengine={engine}", f"--direct={direct}",
        "--iodepth=16", "--randrepeat=1", "--allow_file_create=1", "--end_fsync=1",
        "--output-format=terse", f"--aux-path={mount.base}",
    )  # fmt: skip
    mount.run("env", "-C", mount.path, *verify)
    mount.remount()
    mount.run("env", "-C", mount.path, *verify, "--verify_only")
    mount.assert_survives("disk")


def test_fio_verifies_while_it_syncs_often(mount):
    mount.run(
        "env", "-C", mount.path, "fio", "--name=sync", "--filename=disk", "--size=16M",
        "--rw=randwrite", "--bs=4k", "--io_size=800k", "--fsync=32", "--verify=crc32c", "--verify_fatal=1",
        "--ioengine=psync", "--output-format=terse", f"--aux-path={mount.base}",
    )  # fmt: skip
    mount.assert_survives("disk")


# --- many files ---------------------------------------------------------------------------------

SCALES = [
    pytest.param(1_000, id="1000"),
    pytest.param(10_000, id="10000", marks=pytest.mark.slow),
]


def make_files(count: int) -> None:
    os.mkdir("many")
    for number in range(count):
        with open(f"many/file-{number:05}", "w") as file:
            file.write(f"{number}\n")


@pytest.mark.timeout(900)
@pytest.mark.promise("S-name-15")
@pytest.mark.parametrize("count", SCALES)
def test_many_files_in_one_directory_are_listed_found_and_removed(mount, count):
    mount.call(make_files, count, timeout=600)
    listing = mount.sh("ls -l --time-style=full-iso many", timeout=300)
    assert len(listing.splitlines()) == count + 1
    mount.remount()
    assert mount.sh("ls -l --time-style=full-iso many", timeout=300) == listing
    assert mount.sh("find many -type f -size -9c | wc -l", timeout=300) == f"{count}\n"
    assert mount.sh("cat many/file-00042 many/file-00999") == "42\n999\n"
    assert len(mount.store.keys()) == count
    assert mount.store.read("many/file-00007") == b"7\n"
    mount.sh("rm -rf many; ls -A", timeout=600)
    assert mount.store.keys() == set()
    mount.remount()
    assert mount.sh("ls -A") == ""


def test_a_directory_that_is_emptied_while_it_is_listed_skips_nothing(local_mount):
    local_mount.call(make_files, 600, timeout=120)
    assert local_mount.call(empty_while_listing) == 600


def empty_while_listing() -> int:
    seen = 0
    with os.scandir("many") as entries:
        for entry in entries:
            os.unlink(entry.path)
            seen += 1
    assert os.listdir("many") == []
    return seen


def test_an_unknown_file_is_an_error_of_the_command_not_of_the_mount(mount):
    with pytest.raises(ChildError, match="No such file"):
        mount.sh("cat missing")
    assert mount.status()["state"] == "ready"
