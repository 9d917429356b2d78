"""A body as the SDK reads it."""

from hashlib import sha256

from vfs.store.backend.s3_body import BodyFile
from vfs.store.base import BytesBody
from vfs.values import MIB

DATA = bytes(range(256)) * (5 * MIB // 256) + b"end"


def read_all(file):
    file.seek(0)
    while file.read(MIB):
        pass


def test_the_sha256_is_that_of_all_bytes_however_often_they_are_read():
    file = BodyFile(BytesBody(DATA), hashed=True)
    file.read(100)
    assert file.sha256() is None
    for _ in range(2):
        read_all(file)
        assert file.sha256() == sha256(DATA).hexdigest()


def test_bytes_that_were_not_read_in_order_have_no_sha256():
    file = BodyFile(BytesBody(DATA), hashed=True)
    file.seek(MIB)
    file.read(-1)
    assert file.sha256() is None


def test_an_empty_body_has_one_too():
    assert BodyFile(BytesBody(b""), hashed=True).sha256() == sha256(b"").hexdigest()


def test_nothing_is_hashed_unasked():
    file = BodyFile(BytesBody(DATA))
    read_all(file)
    assert file.sha256() is None
