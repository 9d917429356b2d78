from datetime import UTC, datetime

import pytest
from botocore.utils import parse_timestamp

from vfs.store.backend.s3_shapes import parse_time


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-02T03:04:05.678Z",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05+02:00",
        "Fri, 02 Jan 2026 03:04:05 GMT",
        1767323045,
        "1767323045",
        "20260102T030405Z",
    ],
)
def test_every_time_stamp_is_read_as_the_sdk_reads_it(value):
    assert parse_time(value) == parse_timestamp(value)


def test_a_time_stamp_of_a_listing_keeps_its_milliseconds():
    expected = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    assert parse_time("2026-01-02T03:04:05.678Z") == expected
