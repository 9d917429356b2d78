from dataclasses import replace

import pytest

from tests.support.faulty import FaultyStore
from vfs.store.memory import MemoryStore, everything


@pytest.fixture
def backend():
    """What is in the bucket, for looking at it and changing it behind the mount's back."""
    return MemoryStore(features=replace(everything(), move=False))


@pytest.fixture
def store(backend):
    """An S3-like store that counts and fails on request."""
    return FaultyStore(backend)


@pytest.fixture
def virtual_time(autojump_clock):
    """Virtual time that waits for worker threads: they are idle to the loop, not to us."""
    autojump_clock.autojump_threshold = 0.03
    return autojump_clock
