"""What is tried again, when, and how a lost answer is told from a refusal."""

import logging

import pytest
import trio

from tests.support.faulty import FaultyStore
from vfs.errors import (
    ConflictError,
    DeniedError,
    NotFoundError,
    StaleError,
    ThrottledError,
    TransientError,
    UnreachableError,
)
from vfs.store.base import (
    ABSENT,
    COMMIT_ID,
    PLAIN_PROPERTIES,
    BytesBody,
    Condition,
    ObjectVersion,
    PartRules,
    Properties,
)
from vfs.store.memory import MemoryStore, everything
from vfs.store.wrap.retry import MAX_PAUSE_S, RetryingStore
from vfs.values import Key, Span, Version

KEY = Key("disk.img")
OTHER = Key("other.img")
OURS = Properties({COMMIT_ID: "ours"})
THEIRS = Properties({COMMIT_ID: "theirs"})
BODY = BytesBody(b"content")
DOWN = UnreachableError("no route to host")


@pytest.fixture
def faulty():
    return FaultyStore(MemoryStore(features=everything(PartRules(min_bytes=1))))


@pytest.fixture
def store(faulty):
    return RetryingStore(faulty, jitter=lambda: 1.0)


@pytest.fixture
def lost(faulty):
    """A function that loses the next answers to an operation."""

    def lose(operation, times=1):
        faulty.lose_reply(operation, times=times)

    return lose


# Repetition


async def test_a_passing_failure_is_not_seen(store, faulty, autojump_clock):
    faulty.fail("write", DOWN, times=3)
    await store.write(KEY, BODY)
    assert faulty.count("write") == 4


async def test_pauses_double(store, faulty, autojump_clock):
    faulty.fail("head", DOWN, times=3)
    with pytest.raises(NotFoundError):
        await store.head(KEY)
    assert trio.current_time() == pytest.approx(0.1 + 0.2 + 0.4)


async def test_pauses_have_a_bound(faulty, autojump_clock):
    store = RetryingStore(faulty, max_retries=3, retry_delay_s=3000, jitter=lambda: 1.0)
    faulty.fail("head", DOWN, times=9)
    with pytest.raises(UnreachableError):
        await store.head(KEY)
    assert trio.current_time() == pytest.approx(3 * MAX_PAUSE_S)


async def test_jitter_shortens_a_pause(faulty, autojump_clock):
    store = RetryingStore(faulty, jitter=lambda: 0.25)
    faulty.fail("remove", DOWN)
    await store.remove([KEY])
    assert trio.current_time() == pytest.approx(0.025)


async def test_a_store_that_says_how_long_to_wait_is_believed(store, faulty, autojump_clock):
    faulty.fail("read", ThrottledError("slow down", retry_after_s=7))
    info = await store.write(KEY, BODY)
    assert await store.read(info.pin, Span(0, 3)) == b"con"
    assert trio.current_time() == 7


async def test_a_store_that_asks_for_less_than_the_pause_waits_the_pause(
    store, faulty, autojump_clock
):
    faulty.fail("remove", ThrottledError("slow down", retry_after_s=0.01))
    await store.remove([KEY])
    assert trio.current_time() == pytest.approx(0.1)


async def test_what_will_not_pass_is_not_repeated(store, faulty, autojump_clock):
    faulty.fail("head", DeniedError("no"), times=2)
    with pytest.raises(DeniedError):
        await store.head(KEY)
    assert faulty.count("head") == 1


async def test_attempts_are_logged_for_those_who_look_closely(
    store, faulty, caplog, autojump_clock
):
    faulty.fail("head", DOWN, times=9)
    with caplog.at_level(logging.DEBUG), pytest.raises(UnreachableError):
        await store.head(KEY)
    assert [record.levelname for record in caplog.records] == ["DEBUG"] * 4
    last = caplog.records[-1]
    assert last.getMessage() == "head given up after 4 attempts: no route to host"
    assert last.key == KEY
    assert faulty.count("head") == 4


async def test_no_attempt_is_begun_after_the_timeout(faulty, autojump_clock):
    store = RetryingStore(faulty, timeout_s=10, jitter=lambda: 1.0)
    faulty.delay("head", 9)
    faulty.script[-1].before = DOWN
    faulty.delay("head", 9, times=5)
    faulty.script[-1].before = DOWN
    with pytest.raises(UnreachableError):
        await store.head(KEY)
    assert trio.current_time() == pytest.approx(18.1)


async def test_a_pause_can_be_cancelled(store, faulty, autojump_clock):
    faulty.fail("head", ThrottledError("slow down", retry_after_s=1000))
    with trio.move_on_after(5) as scope:
        await store.head(KEY)
    assert scope.cancelled_caught
    assert trio.current_time() == 5


async def test_without_retries_a_failure_is_seen_at_once(faulty, autojump_clock):
    store = RetryingStore(faulty, max_retries=0)
    faulty.fail("head", DOWN)
    with pytest.raises(UnreachableError):
        await store.head(KEY)


async def test_a_body_is_sent_from_its_beginning_each_time(store, faulty, autojump_clock):
    faulty.fail("upload_part", DOWN)
    upload = await store.begin_upload(KEY)
    part = await store.upload_part(upload, 1, BODY, offset=0)
    info = await store.finish_upload(upload, [part])
    assert await store.read(info.pin, Span(0, 7)) == b"content"


# Lost answers


@pytest.mark.parametrize("times", [1, 2])
async def test_a_new_object_whose_answer_was_lost_is_ours(
    store, faulty, lost, times, autojump_clock
):
    lost("write")
    faulty.fail("write", DOWN, times=times - 1)
    info = await store.write(KEY, BODY, condition=ABSENT, properties=OURS)
    assert (await store.head(KEY)).version == info.version


async def test_a_replaced_object_whose_answer_was_lost_is_ours(store, lost, autojump_clock):
    old = await store.write(KEY, BODY)
    lost("write")
    condition = Condition(if_version=old.version)
    info = await store.write(KEY, BODY, condition=condition, properties=OURS)
    assert (await store.head(KEY)).version == info.version


async def test_an_object_of_somebody_else_is_a_conflict_all_the_same(store, faulty, autojump_clock):
    await store.write(KEY, BODY, properties=THEIRS)
    faulty.fail("write", DOWN)
    with pytest.raises(ConflictError):
        await store.write(KEY, BODY, condition=ABSENT, properties=OURS)


async def test_without_a_commit_id_nothing_can_be_told(store, lost, autojump_clock):
    lost("write")
    with pytest.raises(ConflictError):
        await store.write(KEY, BODY, condition=ABSENT, properties=PLAIN_PROPERTIES)


async def test_a_conflict_at_the_first_attempt_is_believed_at_once(store, faulty, autojump_clock):
    await store.write(KEY, BODY, properties=OURS)
    with pytest.raises(ConflictError):
        await store.write(KEY, BODY, condition=ABSENT, properties=OURS)
    assert faulty.count("head") == 0


async def test_the_look_for_our_own_object_is_repeated_too(store, faulty, lost, autojump_clock):
    lost("write")
    faulty.fail("head", DOWN, times=2)
    await store.write(KEY, BODY, condition=ABSENT, properties=OURS)
    assert faulty.count("head") == 3


async def finish(store, condition=ABSENT):
    upload = await store.begin_upload(KEY, properties=OURS)
    part = await store.upload_part(upload, 1, BODY, offset=0)
    return await store.finish_upload(upload, [part], condition=condition)


async def test_a_finish_whose_answer_was_lost_is_ours(store, lost, autojump_clock):
    lost("finish_upload")
    info = await finish(store)
    assert (await store.head(KEY)).version == info.version


async def test_a_finish_of_an_upload_that_is_gone_is_not_found(store, faulty, autojump_clock):
    await store.write(KEY, BODY, properties=THEIRS)
    upload = await store.begin_upload(KEY, properties=OURS)
    part = await store.upload_part(upload, 1, BODY, offset=0)
    await store.abort_upload(upload)
    faulty.fail("finish_upload", DOWN)
    with pytest.raises(NotFoundError):
        await store.finish_upload(upload, [part])


async def test_a_finish_that_lost_against_somebody_is_a_conflict(store, faulty, autojump_clock):
    await store.write(KEY, BODY, properties=THEIRS)
    faulty.fail("finish_upload", DOWN)
    with pytest.raises(ConflictError):
        await finish(store)


async def test_an_upload_whose_begin_was_lost_is_begun_again(store, faulty, lost, autojump_clock):
    lost("begin_upload")
    await finish(store)
    assert faulty.count("begin_upload") == 2


async def test_a_copy_whose_answer_was_lost_is_ours(store, lost, autojump_clock):
    source = await store.write(KEY, BODY, properties=THEIRS)
    lost("copy")
    info = await store.copy(source.pin, OTHER, condition=ABSENT, properties=OURS)
    assert (await store.head(OTHER)).version == info.version


async def test_a_copy_that_keeps_the_properties_carries_the_id_of_its_source(
    store, lost, autojump_clock
):
    source = await store.write(KEY, BODY, properties=OURS)
    lost("copy")
    await store.copy(source.pin, OTHER, condition=ABSENT)
    await store.write(OTHER, BODY, properties=THEIRS)
    lost("copy")
    faulty_target = await store.head(OTHER)
    condition = Condition(if_version=faulty_target.version)
    await store.copy(source.pin, OTHER, condition=condition)
    assert (await store.head(OTHER)).metadata[COMMIT_ID] == "ours"


async def test_a_copy_onto_itself_whose_answer_was_lost_is_ours(store, lost, autojump_clock):
    source = await store.write(KEY, BODY, properties=THEIRS)
    lost("copy")
    info = await store.copy(source.pin, KEY, properties=OURS)
    assert info.metadata[COMMIT_ID] == "ours"


async def test_a_remove_whose_answer_was_lost_is_done(store, lost, faulty, autojump_clock):
    info = await store.write(KEY, BODY)
    lost("remove")
    await store.remove([KEY], if_version=info.version)
    with pytest.raises(NotFoundError):
        await store.head(KEY)


async def test_a_remove_that_finds_another_version_is_a_conflict(store, faulty, autojump_clock):
    old = await store.write(KEY, BODY)
    await store.write(KEY, BODY)
    faulty.fail("remove", DOWN)
    with pytest.raises(ConflictError):
        await store.remove([KEY], if_version=old.version)


async def test_a_conflict_of_a_remove_is_settled_by_the_object_being_gone(
    store, faulty, autojump_clock
):
    info = await store.write(KEY, BODY)
    faulty.lose_reply("remove")
    faulty.fail("remove", ConflictError("the version is gone"))  # as some stores answer
    await store.remove([KEY], if_version=info.version)


async def test_a_move_whose_answer_was_lost_is_done(store, lost, autojump_clock):
    source = await store.write(KEY, BODY)
    lost("move")
    moved = await store.move(source.pin, OTHER, condition=ABSENT)
    assert moved.key == OTHER
    assert moved.version == source.version


async def test_a_move_of_a_directory_whose_answer_was_lost_is_done(store, lost, autojump_clock):
    await store.write(Key("d/"), BytesBody(b""))
    lost("move")
    moved = await store.move(ObjectVersion(Key("d/"), Version("")), Key("e/"))
    assert moved.key == "e/"


async def test_a_move_of_what_was_never_there_is_not_found(store, faulty, autojump_clock):
    await store.write(OTHER, BODY)
    faulty.fail("move", DOWN)
    with pytest.raises(NotFoundError):
        await store.move(ObjectVersion(KEY, Version("gone")), OTHER)


async def test_a_move_of_another_version_is_stale(store, faulty, autojump_clock):
    old = await store.write(KEY, BODY)
    await store.write(KEY, BODY)
    faulty.fail("move", DOWN)
    with pytest.raises(StaleError):
        await store.move(old.pin, OTHER)


async def test_a_lost_answer_that_stays_lost_is_the_failure(store, lost, autojump_clock):
    lost("write", times=9)
    with pytest.raises(TransientError):
        await store.write(KEY, BODY)
