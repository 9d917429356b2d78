"""What a probe found can be kept as plain data."""

import json

import pytest

from vfs.store.base import Features, PartRules
from vfs.store.features import features_from_dict, features_to_dict

FOUND = Features(
    write_if_absent=True,
    multipart=True,
    remove_max_keys=1000,
    parts=PartRules(equal_parts=True, min_bytes=7),
    quirks=frozenset({"unquoted-etags"}),
)


def test_features_survive_json():
    assert features_from_dict(json.loads(json.dumps(features_to_dict(FOUND)))) == FOUND


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"version": None}, {"parts": None}, {"multipart": "perhaps"}, {"new": True}],
)
def test_an_entry_that_is_strange_is_no_entry(change):
    assert features_from_dict({**features_to_dict(FOUND), **change}) is None


def test_an_entry_that_lacks_a_field_is_no_entry():
    data = features_to_dict(FOUND)
    del data["copy_part"]
    assert features_from_dict(data) is None
