import pytest
from botocore.credentials import Credentials
from botocore.exceptions import CredentialRetrievalError

from vfs.store.backend.s3_credentials import RenewableCredentials


class Source:
    """Where credentials are looked for."""

    def __init__(self) -> None:
        self.now: Credentials | Exception | None = Credentials("key-1", "secret-1", "token-1")

    def find(self) -> Credentials | None:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def credentials(source):
    return RenewableCredentials(source.find(), source.find)


def key(credentials):
    return credentials.get_frozen_credentials().access_key


def test_the_same_credentials_are_no_news(credentials):
    assert not credentials.renew()
    assert key(credentials) == "key-1"


def test_other_credentials_count_for_whoever_was_refused_with_the_old_ones(source, credentials):
    source.now = Credentials("key-2", "secret-2")
    assert credentials.renew()
    assert credentials.renew()
    assert credentials.get_frozen_credentials() == ("key-2", "secret-2", None, None)


@pytest.mark.parametrize(
    "found", [None, CredentialRetrievalError(provider="file", error_msg="half written")], ids=repr
)
def test_where_none_are_found_the_old_ones_stay(source, credentials, found):
    source.now = found
    assert not credentials.renew()
    assert key(credentials) == "key-1"
