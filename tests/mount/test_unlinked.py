"""Files that are unlinked while they are open, and what takes their names at once."""

import os

import pytest


def write(name: str, data: bytes) -> None:
    with open(name, "wb") as file:
        file.write(data)


def make_like_the_unlinked(rounds: int) -> None:
    for data in (b"", b"same"):
        name = f"lock-{len(data)}"
        for _ in range(rounds):
            write(name, data)
            with open(name, "rb") as file:
                os.unlink(name)
                write(name, data)
                assert file.read() == data


def rename_onto_the_unlinked(rounds: int) -> None:
    for number in range(rounds):
        write("a", b"unlinked")
        write("b", b"%d" % number)
        with open("a", "rb"):
            os.unlink("a")
        os.rename("b", "a")


@pytest.mark.promise("S-name-2")
def test_a_new_file_like_an_unlinked_one_outlives_its_last_close(mount):
    mount.call(make_like_the_unlinked, 5)
    mount.umount()
    assert mount.store.read("lock-0") == b""
    assert mount.store.read("lock-4") == b"same"


@pytest.mark.promise("S-name-2")
def test_a_file_takes_the_name_of_one_that_was_just_closed(mount):
    mount.call(rename_onto_the_unlinked, 20)
    mount.umount()
    assert mount.store.read("a") == b"19"
    stored = mount.store.keys()
    assert [key for key in stored if not key.startswith(".vfs")] == ["a"]
