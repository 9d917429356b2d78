"""Small metadata on the disk: what is believed, what is not, and that nothing here is an error."""

import json
import os
import pickle
import random
import sqlite3
import stat
from contextlib import closing, contextmanager

import pytest

from vfs.cache.disk.metadata import LIMIT_BYTES, MetadataCache

DAY_S = 86_400.0


@pytest.fixture
def path(tmp_path):
    (tmp_path / "metadata").mkdir(mode=0o700)
    return tmp_path / "metadata"


@contextmanager
def opened(path, seal=None):
    cache = MetadataCache(path)
    cache.open()
    yield cache
    if seal is not None:
        cache.seal(seal)
    cache.close()


async def test_what_was_sealed_is_there_after_a_restart(path):
    value = {"names": ["a", "caf\U0010ffe9", None], "size": 1 << 60}
    with opened(path, seal={"changed": []}) as cache:
        assert cache.found is None
        await cache.put_json("page\0d\0", value, DAY_S)
        await cache.put_bytes("object\0d/x\0001", b"\x00\xff" * 1000, DAY_S)
    with opened(path) as cache:
        assert cache.found == {"changed": []}
        assert await cache.get_json("page\0d\0") == value
        assert await cache.get_bytes("object\0d/x\0001") == b"\x00\xff" * 1000
        assert await cache.get_json("page\0e\0") is None


@pytest.mark.parametrize("seal", ["", "{", "7", '{"version": 2, "value": {}}', '{"version": 1}'])
async def test_nothing_is_believed_that_no_clean_end_has_sealed(path, seal):
    with opened(path) as cache:
        await cache.put_json("a", 1, DAY_S)
    if seal:
        (path / "sealed").write_text(seal)
    with opened(path) as cache:
        assert cache.found is None
        assert await cache.get_json("a") is None
        await cache.put_json("a", 2, DAY_S)
        assert await cache.get_json("a") == 2


async def test_a_seal_counts_once(path):
    with opened(path, seal={}) as cache:
        await cache.put_json("a", 1, DAY_S)
    with opened(path) as cache:  # as if it were killed: it is not sealed again
        assert await cache.get_json("a") == 1
    with opened(path) as cache:
        assert await cache.get_json("a") is None


async def test_a_value_is_gone_when_its_time_is_over(path):
    with opened(path) as cache:
        await cache.put_json("a", 1, -1.0)
        assert await cache.get_json("a") is None


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
async def test_a_pickle_or_a_file_in_the_database_is_never_loaded(
    path, tmp_path, monkeypatch, expect_log, mode
):
    """Modes of diskcache: 1 raw, 2 a file of bytes, 3 a file of text, 4 pickle."""
    expect_log("fails")
    monkeypatch.setenv("BOMB", str(tmp_path / "bomb"))
    bomb = pickle.dumps(Bomb())
    (path / "planted").write_bytes(bomb)
    with opened(path, seal={}) as cache:
        await cache.put_json("a", 1, DAY_S)
    (path / "planted").write_bytes(bomb)
    file = "planted" if mode in {2, 3} else None
    with closing(sqlite3.connect(path / "cache.db")) as database, database:
        row = (mode, None if file else bomb, file)
        assert database.execute("UPDATE Cache SET mode=?, value=?, filename=?", row).rowcount == 1
    with opened(path) as cache:
        assert await cache.get_json("a") is None
        assert not cache.is_in_use
    assert not (tmp_path / "bomb").exists()
    assert (path / "planted").exists()


async def test_a_file_that_the_database_names_is_not_removed(path, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("x")
    with opened(path, seal={}) as cache:
        await cache.put_json("a", 1, DAY_S)
    with closing(sqlite3.connect(path / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET filename='../precious', expire_time=1")
    with opened(path) as cache:
        await cache.put_json("b", 1, DAY_S)
        await cache.put_json("a", 2, DAY_S)
        assert await cache.get_json("a") == 2
    assert precious.exists()


async def test_a_value_below_another_key_is_not_believed(path, expect_log):
    expect_log("another key")
    with opened(path, seal={}) as cache:
        await cache.put_json("a", 1, DAY_S)
        await cache.put_json("b", 2, DAY_S)
    with closing(sqlite3.connect(path / "cache.db")) as database, database:
        [(value,)] = database.execute("SELECT value FROM Cache WHERE key=?", (b"a".hex(),))
        database.execute("UPDATE Cache SET value=? WHERE key=?", (value, b"b".hex()))
    with opened(path) as cache:
        assert await cache.get_json("b") is None


async def test_random_damage_costs_values_and_nothing_else(path, expect_log):
    expect_log("fails|starts empty")
    pick = random.Random(os.environ.get("CACHE_SEED", "7"))
    values = {f"key {number}": pick.randbytes(3000).hex() for number in range(100)}
    for _ in range(20):
        with opened(path, seal={}) as cache:
            for key, value in values.items():
                assert await cache.get_json(key) in {None, value}
                await cache.put_json(key, value, DAY_S)
        if (path / "cache.db").exists():
            with (path / "cache.db").open("r+b") as file:
                size = file.seek(0, os.SEEK_END)
                for _ in range(pick.choice([1, 5, 50])):
                    file.seek(pick.randrange(size))
                    file.write(pick.randbytes(pick.choice([1, 16, 600])))


async def test_a_directory_that_goes_away_is_told_once(path, expect_log):
    expect_log("fails")
    with opened(path) as cache:
        path.joinpath("cache.db").unlink()
        path.rename(path.with_name("elsewhere"))
        path.write_text("no directory")
        for number in range(10):
            await cache.put_json(f"{number}", number, DAY_S)
            await cache.get_json(f"{number}")
    with opened(path) as cache:
        assert not cache.is_in_use


@pytest.mark.slow
async def test_its_size_is_bounded(path):
    pick = random.Random(1)
    with opened(path) as cache:
        for number in range(700):
            await cache.put_bytes(f"{number}", pick.randbytes(200_000), DAY_S)
        assert await cache.get_bytes("699") is not None
        assert await cache.get_bytes("0") is None
    used = sum(file.stat().st_size for file in path.iterdir())
    assert used <= LIMIT_BYTES * 1.1


async def test_what_is_sealed_is_json_for_everybody(path):
    with opened(path, seal={"trees": {"a": 1}}):
        pass
    assert json.loads((path / "sealed").read_text()) == {"version": 1, "value": {"trees": {"a": 1}}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
