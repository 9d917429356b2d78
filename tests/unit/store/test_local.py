"""What a directory does beyond the contract: what is hidden, what is durable, what is in the way."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest
import trio

from vfs.clock import wall_ns
from vfs.errors import (
    ConflictError,
    DeniedError,
    InvalidError,
    IsDirectoryError,
    NotEmptyError,
    NotFoundError,
    StaleError,
    WrongKindError,
)
from vfs.store.backend.local import LocalStore
from vfs.store.backend.local_files import Files
from vfs.store.backend.local_list import Lister
from vfs.store.backend.local_tree import Tree
from vfs.store.backend.local_upload import PartGoneError, Places
from vfs.store.base import (
    ABSENT,
    SHA256,
    Body,
    BytesBody,
    Condition,
    Part,
    Properties,
    Upload,
)
from vfs.values import MIB, Key, Span

KEY = Key("vm/disk.img")
TEMPORARY = Key(".vfs/tmp/")


@pytest.fixture
def root(tmp_path):
    directory = tmp_path / "root"
    directory.mkdir()
    return directory


@pytest.fixture
async def store(root):
    opened = LocalStore(root)
    yield opened
    await opened.aclose()


async def keys(store, prefix="", **options):
    page = await store.list(Key(prefix), **options)
    return [info.key for info in page.objects] + list(page.prefixes)


async def temporaries(store):
    return [key for key in await keys(store, TEMPORARY) if not key.endswith("/")]


# What is in the directory


async def test_an_object_is_a_file_that_any_program_can_read(store, root):
    await store.write(KEY, BytesBody(b"content"))
    assert (root / KEY).read_bytes() == b"content"
    assert stat.S_IMODE((root / KEY).stat().st_mode) & 0o600 == 0o600


async def test_a_file_of_another_program_is_an_object(store, root):
    (root / "vm").mkdir()
    (root / KEY).write_bytes(b"content")
    info = await store.head(KEY)
    assert await store.read(info.pin, Span(0, 7)) == b"content"
    assert await keys(store) == ["vm/", KEY]


async def test_a_name_that_is_not_utf8_is_listed_and_read(store, root):
    (root / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    assert await keys(store) == ["caf\U0010ffe9"]
    assert (await store.head(Key("caf\U0010ffe9"))).size == 1


async def test_symbolic_links_and_special_files_are_hidden(store, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(outside / "secret")
    (root / "linked").symlink_to(outside)
    (root / "inner").symlink_to("file")
    (root / "file").write_bytes(b"x")
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
    assert await keys(store) == ["file"]
    for key in ("link", "linked/", "linked/secret", "inner", "fifo", "socket"):
        with pytest.raises(NotFoundError):
            await store.head(Key(key))
    await store.remove([Key("link"), Key("fifo"), Key("linked/"), Key("linked/secret")])
    assert (root / "link").is_symlink()
    assert (outside / "secret").exists()


async def test_nothing_is_written_through_a_symbolic_link(store, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "linked").symlink_to(outside)
    (root / "link").symlink_to(outside / "secret")
    source = await store.write(KEY, BytesBody(b"x"))
    for key in ("linked/new", "linked/deep/new", "link"):
        with pytest.raises((DeniedError, WrongKindError)):
            await store.write(Key(key), BytesBody(b"x"))
        with pytest.raises((DeniedError, WrongKindError)):
            await store.copy(source.pin, Key(key))
        with pytest.raises((DeniedError, WrongKindError)):
            await store.move(source.pin, Key(key))
    assert list(outside.iterdir()) == [outside / "secret"]
    assert (outside / "secret").read_bytes() == b"secret"


async def test_our_own_directory_is_hidden_at_the_root_alone(store, root):
    await store.write(Key(".vfs/tmp/mine"), BytesBody(b"x"))
    await store.write(Key("d/.vfs/x"), BytesBody(b"x"))
    assert await keys(store) == ["d/", "d/.vfs/", "d/.vfs/x"]
    assert await keys(store, delimiter="/") == ["d/"]
    assert await keys(store, ".vfs/tmp/") == [".vfs/tmp/", ".vfs/tmp/mine"]


async def test_removing_the_last_file_keeps_its_directory(store):
    await store.write(KEY, BytesBody(b"x"))
    await store.remove([KEY])
    assert await keys(store) == ["vm/"]


async def test_a_directory_that_is_not_empty_is_not_removed(store, root):
    await store.write(KEY, BytesBody(b"x"))
    with pytest.raises(NotEmptyError):
        await store.remove([Key("vm/")])
    await store.remove([KEY])
    await store.remove([Key("vm/")])
    assert not (root / "vm").exists()


async def test_a_file_and_a_directory_cannot_share_a_name(store):
    await store.write(KEY, BytesBody(b"x"))
    with pytest.raises(IsDirectoryError):
        await store.write(Key("vm"), BytesBody(b"x"))
    with pytest.raises(WrongKindError):
        await store.write(Key("vm/disk.img/"), BytesBody(b""))
    with pytest.raises(WrongKindError):
        await store.write(Key("vm/disk.img/below"), BytesBody(b""))


async def test_the_version_of_a_directory_is_that_of_its_identity(store):
    await store.write(Key("d/"), BytesBody(b""))
    before = await store.head(Key("d/"))
    await store.write(Key("d/x"), BytesBody(b""))
    assert (await store.head(Key("d/"))).version == before.version


# Other programs


async def test_a_change_in_place_makes_another_version(store, root):
    info = await store.write(KEY, BytesBody(b"content"))
    with (root / KEY).open("r+b") as file:
        file.write(b"CONTENT")
    os.utime(root / KEY, ns=(1, 1))
    with pytest.raises(StaleError):
        await store.read(info.pin, Span(0, 7))
    condition = Condition(if_version=info.version)
    with pytest.raises(ConflictError):
        await store.write(KEY, BytesBody(b"x"), condition=condition)
    with pytest.raises(ConflictError):
        await store.remove([KEY], if_version=info.version)


async def test_two_daemons_on_one_directory_agree_who_was_first(root):
    stores = [LocalStore(root) for _ in range(4)]
    won = []

    async def write(number):
        content = BytesBody(b"%04d" % number)
        try:
            await stores[number % 4].write(KEY, content, condition=ABSENT)
        except ConflictError:
            return
        won.append(b"%04d" % number)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(write, number)
    assert won == [(root / KEY).read_bytes()]
    for store in stores:
        await store.aclose()


async def test_counters_of_two_daemons_lose_no_step(root):
    """Read, add one, write if nobody else did: what conditions are for."""
    stores = [LocalStore(root) for _ in range(2)]
    await stores[0].write(KEY, BytesBody(b"000"))

    async def count(store):
        done = 0
        while done < 10:
            try:
                info = await store.head(KEY)
                value = int(await store.read(info.pin, Span(0, 3)))
                body = BytesBody(b"%03d" % (value + 1))
                await store.write(KEY, body, condition=Condition(if_version=info.version))
                done += 1
            except (ConflictError, StaleError):
                pass

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(count, stores[number % 2])
    assert (root / KEY).read_bytes() == b"040"
    for store in stores:
        await store.aclose()


async def test_a_copy_of_a_file_that_changes_meanwhile_is_stale(root):
    tree = Tree(root, "file:///root")
    files = Files(tree, "file:///root")
    (root / "source").write_bytes(b"before")
    info = files.describe(Key("source"))

    def change():
        (root / "source").write_bytes(b"behind our back")

    with pytest.raises(StaleError):
        files.copy(info.pin, Key("target"), Condition(), None, change)
    assert not (root / "target").exists()
    tree.close()


async def test_a_version_has_its_own_time_of_modification(store, root):
    """The kernel's clock for files moves in steps, which two quick versions could share."""
    before = wall_ns()
    info = await store.write(KEY, BytesBody(b"x"))
    assert before <= info.mtime_ns <= wall_ns()


# Temporary files


class BrokenBody(Body):
    size = 3 * MIB

    def read_into(self, offset, buffer):
        if offset:
            raise OSError(5, "broken")
        buffer[:] = b"x" * buffer.nbytes


async def test_a_write_that_fails_leaves_no_temporary_file(store):
    with pytest.raises(Exception, match="Input/output error"):
        await store.write(KEY, BrokenBody())
    await store.write(KEY, BytesBody(b"x"))
    with pytest.raises(ConflictError):
        await store.write(KEY, BytesBody(b"y"), condition=ABSENT)
    assert await temporaries(store) == []


async def test_a_cancelled_write_leaves_no_temporary_file(store):
    reached, go_on = threading.Event(), threading.Event()

    class SlowBody(Body):
        size = 3 * MIB

        def read_into(self, offset, buffer):
            reached.set()
            go_on.wait(30)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, KEY, SlowBody())
        await trio.to_thread.run_sync(reached.wait)
        nursery.cancel_scope.cancel()
        go_on.set()
    assert await temporaries(store) == []
    with pytest.raises(NotFoundError):
        await store.head(KEY)


async def test_a_finished_and_an_aborted_upload_leave_no_temporary_file(store):
    for end in ("finish", "abort"):
        upload = await store.begin_upload(KEY)
        part = await store.upload_part(upload, 1, BytesBody(b"x"), offset=0)
        assert await temporaries(store) == [f"{TEMPORARY}upload-{upload.upload_id}"]
        if end == "finish":
            await store.finish_upload(upload, [part])
        else:
            await store.abort_upload(upload)
        assert await temporaries(store) == []


async def test_an_upload_id_cannot_name_another_file(store, root):
    (root / "precious").write_bytes(b"x")
    for upload_id in ("../../precious", "", "x", "0" * 31 + "/"):
        upload = Upload(KEY, upload_id)
        await store.abort_upload(upload)
        with pytest.raises(NotFoundError):
            await store.upload_part(upload, 1, BytesBody(b"y"), offset=0)
    assert (root / "precious").read_bytes() == b"x"


# Parts


async def test_a_part_goes_straight_to_its_place(store, root):
    upload = await store.begin_upload(KEY)
    last = await store.upload_part(upload, 2, BytesBody(b"tail"), offset=10 * MIB)
    place = root / TEMPORARY / f"upload-{upload.upload_id}"
    inode = place.stat().st_ino
    first = await store.upload_part(upload, 1, BytesBody(bytes(10 * MIB)), offset=0)
    info = await store.finish_upload(upload, [first, last])
    assert (root / KEY).stat().st_ino == inode  # renamed, not copied
    assert info.size == 10 * MIB + 4
    assert (root / KEY).stat().st_blocks * 512 < MIB  # zeros are a hole


async def test_zeros_take_the_place_of_what_a_part_held_before(store):
    upload = await store.begin_upload(KEY)
    await store.upload_part(upload, 1, BytesBody(b"x" * 2 * MIB), offset=0)
    part = await store.upload_part(upload, 1, BytesBody(bytes(2 * MIB)), offset=0)
    info = await store.finish_upload(upload, [part])
    assert await store.read(info.pin, Span(0, 2 * MIB)) == bytes(2 * MIB)


async def test_parts_must_lie_end_to_end(store):
    upload = await store.begin_upload(KEY)
    first = await store.upload_part(upload, 1, BytesBody(b"12345"), offset=0)
    far = await store.upload_part(upload, 3, BytesBody(b"x"), offset=7)
    with pytest.raises(InvalidError):
        await store.finish_upload(upload, [first, far])
    with pytest.raises(InvalidError):
        await store.finish_upload(upload, [far])
    with pytest.raises(InvalidError):
        await store.upload_part(upload, 2, BytesBody(b"x"))
    between = await store.upload_part(upload, 2, BytesBody(b"67"), offset=5)
    assert (await store.finish_upload(upload, [first, between, far])).size == 8


async def test_a_part_that_another_wrote_over_is_gone(store):
    upload = await store.begin_upload(KEY)
    first = await store.upload_part(upload, 1, BytesBody(b"1" * 10), offset=0)
    second = await store.upload_part(upload, 2, BytesBody(b"2" * 10), offset=10)
    over = await store.upload_part(upload, 3, BytesBody(b"3" * 10), offset=5)
    for parts in ([first, second], [first, over], [over]):
        with pytest.raises((NotFoundError, InvalidError)):
            await store.finish_upload(upload, parts)
    again = await store.upload_part(upload, 1, BytesBody(b"4" * 20), offset=0)
    info = await store.finish_upload(upload, [again])
    assert await store.read(info.pin, Span(0, 20)) == b"4" * 20


async def test_an_upload_is_finished_by_the_next_process(root):
    before = LocalStore(root)
    properties = Properties({"mode": "33188"})
    upload = await before.begin_upload(KEY, properties=properties)
    first = await before.upload_part(upload, 1, BytesBody(b"12345"), offset=0)
    await before.aclose()
    after = LocalStore(root)
    second = await after.upload_part(upload, 2, BytesBody(b"678"), offset=5)
    info = await after.finish_upload(upload, [first, second])
    assert await after.read(info.pin, Span(0, 8)) == b"12345678"
    await after.aclose()


async def test_a_part_of_an_earlier_boot_is_gone(root):
    before, after = LocalStore(root), LocalStore(root)
    upload = await before.begin_upload(KEY)
    part = await before.upload_part(upload, 1, BytesBody(b"12345"), offset=0)
    start, size, boot, serial = part.tag.split("-")
    earlier = Part(1, f"{start}-{size}-{'0' * len(boot)}-{serial}", 5)
    with pytest.raises(NotFoundError, match="part 1 is gone"):
        await after.finish_upload(upload, [earlier])
    assert (await after.finish_upload(upload, [part])).size == 5
    await before.aclose()
    await after.aclose()


def test_a_finish_keeps_writers_out_unless_it_fails():
    places = Places("boot")
    with pytest.raises(ZeroDivisionError), places.finishing():
        1 / 0  # noqa: B018
    with places.writing(Span(0, 5)):
        places.check()
    with places.finishing(), pytest.raises(PartGoneError):
        places.check()
    with pytest.raises(PartGoneError), places.writing(Span(5, 9)):
        pass
    with pytest.raises(PartGoneError), places.finishing():
        pass


def test_writers_of_one_place_take_turns():
    places, order = Places("boot"), []
    begun = threading.Event()

    def second():
        begun.set()
        with places.writing(Span(5, 15)):
            order.append("second")

    thread = threading.Thread(target=second)
    with places.writing(Span(0, 10)):
        thread.start()
        begun.wait()
        with places.writing(Span(20, 30)):  # elsewhere: no wait
            order.append("elsewhere")
        order.append("first")
    thread.join()
    assert order == ["elsewhere", "first", "second"]


async def test_a_writer_that_is_late_cannot_touch_the_finished_object(store, root):
    reached, go_on = threading.Event(), threading.Event()

    class LateBody(Body):
        size = 2 * MIB

        def read_into(self, offset, buffer):
            reached.set()
            go_on.wait(30)
            buffer[:] = b"!" * buffer.nbytes

    outcome = []

    async def send_late(upload):
        try:
            await store.upload_part(upload, 2, LateBody(), offset=5)
        except NotFoundError as error:
            outcome.append(error.key)

    upload = await store.begin_upload(KEY)
    part = await store.upload_part(upload, 1, BytesBody(b"12345"), offset=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_late, upload)
        await trio.to_thread.run_sync(reached.wait)
        nursery.start_soon(store.finish_upload, upload, [part])
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
    assert (root / KEY).read_bytes() == b"12345"
    assert outcome in ([KEY], [])


async def test_holes_stay_holes_in_a_copy(store, root):
    (root / "sparse").write_bytes(b"head")
    with (root / "sparse").open("r+b") as file:
        file.truncate(64 * MIB)
        file.seek(32 * MIB)
        file.write(b"middle")
    info = await store.head(Key("sparse"))
    await store.copy(info.pin, Key("copy"))
    upload = await store.begin_upload(Key("parts"))
    parts = [
        await store.copy_part(upload, n + 1, info.pin, span, offset=span.start)
        for n, span in enumerate(Span(0, info.size).pieces(20 * MIB))
    ]
    await store.finish_upload(upload, parts)
    for name in ("copy", "parts"):
        assert (root / name).read_bytes() == (root / "sparse").read_bytes()
        assert (root / name).stat().st_blocks * 512 < MIB


# Listing


@pytest.mark.parametrize("window", [1, 2, 7, 1000])
@pytest.mark.parametrize("limit", [1, 3, 150])
async def test_a_listing_in_windows_is_the_same_listing(root, window, limit):
    for number in range(150):
        (root / f"{number:03d}{'-x' if number % 7 else ''}").write_bytes(b"")
    for name in ("010", "010-x", "02"):
        (root / f"dir{name}" / "sub").mkdir(parents=True)
        (root / f"dir{name}" / "sub" / "file").write_bytes(b"")
        (root / f"dir{name}" / "sub-file").write_bytes(b"")
    expected = sorted(
        f"{path.relative_to(root)}{'/' if path.is_dir() else ''}" for path in root.rglob("*")
    )
    lister = Lister(Tree(root, "file:///root"), "file:///root", window_names=window)
    found, cursor = [], None
    while True:
        page = lister.page(Key(""), "", "", cursor, limit)
        found += [info.key for info in page.objects]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == expected
    lister.close()


async def test_a_forgotten_walk_is_begun_again_after_its_cursor(store, root):
    for number in range(400):
        (root / f"{number:03d}").write_bytes(b"")
    first = await store.list(Key(""), limit=150)
    for _ in range(50):  # other listings push it out
        await store.list(Key(""), limit=150)
    for _ in range(2):  # and a cursor may be used twice
        second = await store.list(Key(""), limit=150, cursor=first.cursor)
        assert [info.key for info in second.objects] == [f"{n:03d}" for n in range(150, 300)]
    last = await store.list(Key(""), limit=150, cursor=second.cursor)
    assert last.cursor is None
    assert [info.key for info in last.objects] == [f"{n:03d}" for n in range(300, 400)]


async def test_what_is_removed_during_a_listing_is_not_listed(store, root):
    for number in range(400):
        (root / f"{number:03d}").write_bytes(b"")
    page = await store.list(Key(""), limit=150)
    await store.remove([Key(f"{number:03d}") for number in range(100, 200)])
    page = await store.list(Key(""), limit=150, cursor=page.cursor)
    assert page.objects[0].key == "200"


# Probing


async def test_a_missing_root_is_told_with_its_remedy(tmp_path):
    store = LocalStore(tmp_path / "missing")
    with pytest.raises(NotFoundError, match="create it") as caught:
        await store.probe(write=False)
    assert caught.value.key == ""


async def test_a_root_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WrongKindError, match="not a directory"):
        await LocalStore(tmp_path / "file").probe(write=True)


async def test_a_probe_that_may_not_write_leaves_an_empty_directory_empty(store, root):
    await store.probe(write=False)
    await store.list(Key(""))
    assert list(root.iterdir()) == []


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_descriptors_are_given_back(root):
    store = LocalStore(root)
    await store.write(KEY, BytesBody(b"x"))
    before = open_descriptors()
    for number in range(200):
        await store.write(Key(f"many/{number}"), BytesBody(b"x"))
        with pytest.raises(NotFoundError):
            await store.head(Key("many/none"))
        with pytest.raises(ConflictError):
            await store.write(KEY, BytesBody(b"x"), condition=ABSENT)
    await store.list(Key(""), limit=1)
    await store.list(Key(""), limit=150)
    await store.aclose()
    assert open_descriptors() < before


async def test_a_sha256_counts_only_for_the_bytes_that_it_was_written_with(store, root):
    sha256 = "ab" * 32
    await store.write(KEY, BytesBody(b"content"), properties=Properties({SHA256: sha256}))
    assert (await store.head(KEY)).metadata == {SHA256: sha256}
    moved = await store.move((await store.head(KEY)).pin, Key("moved"))
    copied = await store.copy(moved.pin, KEY)
    assert copied.metadata == moved.metadata == {SHA256: sha256}
    with (root / KEY).open("r+b") as file:
        file.write(b"C")
    assert (await store.head(KEY)).metadata == {}
    assert (await store.copy((await store.head(KEY)).pin, Key("copy"))).metadata == {}
