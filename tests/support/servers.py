"""Servers on loopback that tests need: how one says that it is not to be had here."""

import os
import re
from typing import NoReturn

import pytest


def unavailable(level: str, reason: str) -> NoReturn:
    """Skip the test, or fail it where `VFS_REQUIRE` names what it needs."""
    if level in re.split(r"[,\s]+", os.environ.get("VFS_REQUIRE", "")):
        pytest.fail(f"{reason}, but VFS_REQUIRE names {level}")
    pytest.skip(f"{level}: {reason}")
