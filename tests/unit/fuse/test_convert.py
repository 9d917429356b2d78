"""What the kernel and the log are told of failures."""

import errno

import pyfuse3
import pytest
import trio

from vfs.errors import CorruptError, NotFoundError, StaleError, UnreachableError
from vfs.fuse.convert import reply
from vfs.repeats import QUIET_S
from vfs.values import Key


@pytest.fixture
def fail(caplog, expect_log):
    """Return what answers a request by a failure and tells errno and lines of the log.

    What was told is known to the process: each test has failures of its own.
    """
    expect_log(".*", maybe=True)

    async def answer(error, operation="read"):
        caplog.clear()
        with pytest.raises(pyfuse3.FUSEError) as caught:
            async with reply(operation):
                raise error
        lines = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
        return caught.value.errno_, lines

    return answer


@pytest.mark.promise("S-mount-11")
async def test_a_damaged_object_is_told_once_however_often_it_is_read(fail, autojump_clock):
    def damage(key):
        return CorruptError("wrong answer", key=Key(key))

    assert await fail(damage("a")) == (errno.EIO, ["read 'a': wrong answer"])
    for _ in range(100):
        assert await fail(damage("a")) == (errno.EIO, [])
    assert await fail(damage("b")) == (errno.EIO, ["read 'b': wrong answer"])
    await trio.sleep(QUIET_S)
    told = "read 'a': wrong answer (and 100 times more since this was last told)"
    assert await fail(damage("a")) == (errno.EIO, [told])


@pytest.mark.promise("S-mount-11")
async def test_an_outage_is_told_once_however_many_files_are_read(fail):
    told = []
    for number in range(100):
        code, lines = await fail(UnreachableError("no route", key=Key(f"file-{number}")))
        assert code == errno.ETIMEDOUT
        told += lines
    assert told == ["read 'file-0': no route"]


async def test_a_fault_of_ours_is_told_with_its_traceback_each_time(fail):
    for _ in range(2):
        code, lines = await fail(ZeroDivisionError("ours"))
        assert (code, lines) == (errno.EIO, ["read: unexpected error"])


@pytest.mark.parametrize(
    ("error", "operation"),
    [
        (NotFoundError("none", key=Key("a")), "lookup"),
        (StaleError("changed", key=Key("a")), "open"),
    ],
)
async def test_an_everyday_refusal_is_nobody_s_business(fail, error, operation):
    assert await fail(error, operation) == (error.errno, [])
