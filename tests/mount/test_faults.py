"""Real mounts on a network that misbehaves: what programs wrote is what is stored, once."""

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError

from tests.support import mixed_writes
from tests.support.behind import BehindProxy
from tests.support.mount import VFS, mounted, wait_until
from tests.support.proxy import FaultProxy, Hold, no_worse_than, storm
from tests.support.rgw import rgw
from tests.support.wait import readable

MIB = 1 << 20
GIB = 1 << 30

pytestmark = pytest.mark.rgw

# An upload whose begin was not answered stays in the bucket: tests/faults/test_network.py.
ANSWERED = ("CreateMultipartUpload",)

STORED = ("CompleteMultipartUpload", "UploadPart", "UploadPartCopy", "PutObject", "CopyObject")
PASSING_FAULTS = (
    r"cannot be used|cannot connect|broke off|closed the connection|nothing has moved"
    r"|kept in the stage|not stored yet"
)


@pytest.fixture
def proxy():
    with FaultProxy(rgw().endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket(proxy):
    with rgw().bucket() as name:
        yield BehindProxy(rgw(), name, proxy=proxy)


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "reference"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def seed_of(name):
    """Return a seed that a failed run shows, and that a new run may be given."""
    seed = int(os.environ.get("FAULT_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
    print(f"{name}: FAULT_SEED={seed}")
    return seed


def start_writing(mount, reference, seed, size, limit_s=240):
    program = Path(mixed_writes.__file__)
    words = (mount.path, reference, str(seed), str(size), str(limit_s))
    return mount.popen(sys.executable, program, *words)


def finish_writing(mount, process, timeout=300):
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        mount.abort()
        process.kill()
        process.communicate(timeout=30)
        raise
    print(f"{out}{err}")
    assert process.returncode == 0, err
    return json.loads(out)


def digests(directory):
    found = {}
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(directory))] = digest
    return found


def check(mount, bucket, reference, proxy, *, fresh_weather=None):
    """Compare byte for byte: in the store without vfs, then through a fresh mount."""
    wanted = digests(reference)
    mount.umount(timeout=300)
    calls = proxy.asked()
    proxy.clear()
    stored = {}
    for name in sorted(bucket.keys()):
        try:
            stored[name] = bucket.sha256(name)
        except BotoCoreError as error:
            stored[name] = f"cannot be read: {error}"
        if stored[name] != wanted.get(name):
            print(history(calls, name))
    assert stored == wanted
    bucket.assert_tidy(*wanted)
    mount.stage = mount.base / "stage-fresh"
    mount.start()
    if fresh_weather is not None:
        proxy.weather = fresh_weather
    shown = mount.sh("find . -type f -print0 | xargs -0 sha256sum", timeout=300)
    pairs = (re.split(r" [ *]\./", line, maxsplit=1) for line in shown.splitlines())
    assert {name: digest for digest, name in pairs} == wanted
    proxy.clear()
    status = mount.status()
    assert (status["conflicts"], status["dirty_files"], status["failed_uploads"]) == (0, 0, 0)


def history(calls, name):
    """Return what was asked of one object: what a wrong one came from."""
    lines = [
        f"{call.begun_s:.3f} {call.ended_s:.3f} {call.operation} {call.status} {call.fault}"
        f" {call.query.get('partNumber', '')} {call.query.get('uploadId', '')}"
        f" {call.get('x-amz-copy-source-range') or ''}"
        for call in calls
        if call.key.endswith(f"/{name}")
    ]
    return "\n".join([f"history of {name!r}:", *lines])


def played(proxy):
    return {request.fault for request in proxy.asked() if request.fault}


def in_a_storm(bucket, proxy, reference, size, *options):
    """Write through a storm that is never worse than what the retries bear: nobody notices."""
    seed = seed_of("storm")
    pick = random.Random(seed)
    with mounted(bucket, "retry_delay=10ms", "max_retries=12", *options) as mount:
        proxy.weather = no_worse_than(storm(pick, 0.15, answered=ANSWERED), 4)
        done = finish_writing(mount, start_writing(mount, reference, seed, size), 900)
        weather = no_worse_than(storm(pick, 0.15, answered=ANSWERED), 4)
        check(mount, bucket, reference, proxy, fresh_weather=weather)
    assert done["errors"] == {}
    assert {"Refuse", "ResetRequest", "ResetReply", "LoseReply", "Delay"} <= played(proxy)


SYNC = """
import errno, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print("open", flush=True)
sys.stdin.readline()
os.pwrite(fd, b"precious" * 1000, 0)
while True:
    try:
        os.fsync(fd)
        break
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
        sys.stdin.readline()
print("stored", flush=True)
try:
    os.close(fd)
except OSError as error:  # what it tells is told once: fsync has gone well since
    print("close", errno.errorcode[error.errno], flush=True)
"""


def in_an_outage(bucket, proxy, reference, size, outage_s, *options, silent=False):
    """Write, lose the store for a while in the middle, and find that programs have heard of it."""
    seed = seed_of("outage")
    with mounted(bucket, *options) as mount:
        mount.expect_log(PASSING_FAULTS)
        process = start_writing(mount, reference, seed, size, outage_s * 4 + 120)
        syncing = talk(mount, SYNC, mount.path / "synced")
        assert hear(syncing) == "open"
        limit = size // 3 // (5 * MIB)
        wait_until(lambda: proxy.count(*STORED) > limit, "a third is on its way", 120)
        (proxy.freeze if silent else proxy.outage)()
        begun = time.monotonic()
        say(syncing)
        told = hear(syncing)
        state = mount.status()
        time.sleep(max(0.0, begun + outage_s - time.monotonic()))  # noqa: TID251
        proxy.recover()
        say(syncing)
        while (heard := hear(syncing)) == told:
            say(syncing)
        done = finish_writing(mount, process, 900)
        assert syncing.communicate(timeout=60) == ("", "")
        (reference / "synced").write_bytes(b"precious" * 1000)
        check(mount, bucket, reference, proxy)
    assert told in {"EIO", "ETIMEDOUT"}
    assert heard == "stored"
    assert state["dirty_files"] > 0
    if not silent:  # a store that says nothing has not failed yet
        assert state["state"] == "degraded"
        assert state["failed_uploads"] > 0
    print(f"outage of {outage_s} s: {done['errors']}")


def talk(mount, program, *words):
    """Start a program on a mount that waits for a line now and then."""
    command = [sys.executable, "-c", program, *words]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=mount.environ,
    )


def say(process):
    process.stdin.write("go on\n")
    process.stdin.flush()


def hear(process, limit_s=90):
    """Return the next line; a mount that does not answer at all is no place to wait in."""
    assert readable(process.stdout, limit_s), "no answer"
    return process.stdout.readline().strip()


@pytest.mark.promise("S-write-7", "S-write-4")
def test_mixed_writes_in_a_storm_are_stored_once_and_nobody_notices(bucket, proxy, reference):
    in_a_storm(bucket, proxy, reference, 64 * MIB)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.promise("S-write-7", "S-write-4")
def test_2_gib_of_mixed_writes_in_a_storm_are_stored_once(bucket, proxy, reference):
    in_a_storm(bucket, proxy, reference, 2 * GIB)


@pytest.mark.promise("S-write-7")
@pytest.mark.slow  # some runs leave an upload in the bucket: tests/faults/test_network.py
def test_an_outage_is_told_and_everything_is_stored_afterwards(bucket, proxy, reference):
    in_an_outage(bucket, proxy, reference, 64 * MIB, 3, "max_retries=2", "retry_delay=20ms")


@pytest.mark.promise("S-write-7")
def test_a_silence_longer_than_stage_wait_is_told_and_everything_is_stored_afterwards(
    bucket, proxy, reference
):
    in_an_outage(bucket, proxy, reference, 64 * MIB, 5, "stage_wait=2s", silent=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.promise("S-write-7")
def test_2_gib_of_mixed_writes_outlive_30_s_without_a_store(bucket, proxy, reference):
    in_an_outage(bucket, proxy, reference, 2 * GIB, 30)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.promise("S-write-7", "S-write-9")
def test_2_gib_of_mixed_writes_outlive_a_silence_longer_than_stage_wait(bucket, proxy, reference):
    in_an_outage(bucket, proxy, reference, 2 * GIB, 25, "stage_wait=10s", silent=True)


FILL = """
import errno, os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
piece, seen = os.urandom(1 << 20), []
for number in range(int(sys.argv[2])):
    while True:
        try:
            assert os.pwrite(fd, piece, number << 20) == 1 << 20
            break
        except OSError as error:
            seen.append(error.errno)
            assert error.errno in {errno.ENOSPC, errno.EIO, errno.ETIMEDOUT}
            print("failed", errno.errorcode[error.errno], flush=True)
os.fsync(fd)
os.close(fd)
import hashlib
print(hashlib.sha256(piece * int(sys.argv[2])).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.promise("S-write-9")
def test_a_stage_that_fills_while_the_store_is_away_is_enospc_and_loses_nothing(bucket, proxy):
    with mounted(bucket, "stage_wait=10s", "stage_size=256M") as mount:
        mount.expect_log(f"{PASSING_FAULTS}|the stage is full")
        process = mount.popen(sys.executable, "-c", FILL, mount.path / "big", "400")
        wait_until(lambda: proxy.count("UploadPart") > 3, "the upload begins")
        proxy.outage()
        assert process.stdout is not None
        assert process.stdout.readline() == "failed ENOSPC\n"
        proxy.recover()
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        mount.umount(timeout=300)
        bucket.assert_tidy("big")
        assert bucket.sha256("big") == out.split()[-1]
        mount.start()


@pytest.mark.promise("S-read-6", "S-write-2")
def test_a_slow_line_only_takes_longer(bucket, proxy, reference):
    seed = seed_of("slow line")
    with mounted(bucket) as mount:
        proxy.limit(24 * MIB)
        done = finish_writing(mount, start_writing(mount, reference, seed, 24 * MIB))
        proxy.limit(0)
        check(mount, bucket, reference, proxy)
    assert done["errors"] == {}


BLOCKED = """
import os, sys, threading
def work(number):
    fd = os.open(f"{sys.argv[1]}/blocked-{number}", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"%d" % number * 1000)
    print("closing", flush=True)
    os.close(fd)
threads = [threading.Thread(target=work, args=(number,)) for number in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_200_blocked_closes_leave_ls_reads_and_status_answering(bucket, proxy):
    bucket.put("stored", b"content" * 1000)
    bucket.put("dir/other", os.urandom(4 * MIB))
    with mounted(bucket, "metadata_ttl=0") as mount:
        held: Hold = proxy.hold(*STORED)
        process = mount.popen(sys.executable, "-c", BLOCKED, mount.path)
        assert process.stdout is not None
        for _ in range(200):
            assert process.stdout.readline() == "closing\n"
        wait_until(lambda: mount.status()["dirty_files"] == 200, "all closes wait")
        answers = {
            "ls": lambda: mount.run("ls", "-l", mount.path),
            "ls dir": lambda: mount.run("ls", "-l", mount.path / "dir"),
            "read": lambda: mount.run("cat", mount.path / "stored"),
            "read 4 MiB": lambda: mount.run("cmp", mount.path / "dir/other", mount.path / "stored",
                                            check=False),
            "status": lambda: mount.run(VFS, "status", "--json", mount.path),
        }  # fmt: skip
        took_s = {what: quickest(answer) for what, answer in answers.items()}
        print(took_s)
        assert process.poll() is None
        assert mount.status()["dirty_files"] == 200
        held.release()
        assert process.wait(120) == 0
        process.communicate()
        # A guard against hangs, no measure of speed.
        assert {what: s for what, s in took_s.items() if s > 1.0} == {}
        mount.umount()
        names = [f"blocked-{number}" for number in range(200)]
        bucket.assert_tidy("stored", "dir/other", *names)
        assert bucket.read("blocked-7") == b"7" * 1000
        mount.start()


def quickest(answer, times=3):
    """Return the seconds of the quickest of some runs: others use this machine as well."""
    took = []
    for _ in range(times):
        begun = time.monotonic()
        answer()
        took.append(time.monotonic() - begun)
    return min(took)
