"""Credentials that are looked for once more when the service refuses them.

The SDK renews those whose end it knows. A file that somebody else keeps up to date, and a session
that was revoked before its time, it does not notice.
"""

import threading
import time
from collections.abc import Callable

from botocore.credentials import Credentials as SdkCredentials
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError
from typing_extensions import override

RECENT_S = 30.0
"""Whoever was refused so soon after a renewal had asked with the old ones."""


class RenewableCredentials(SdkCredentials):
    """The credentials of one client, whichever they are by now."""

    def __init__(self, found: SdkCredentials, find: Callable[[], SdkCredentials | None]) -> None:
        frozen = found.get_frozen_credentials()
        super().__init__(
            frozen.access_key or "", frozen.secret_key or "", frozen.token, method=found.method
        )
        self._find = find
        self._found = found
        self._renewed_s = float("-inf")
        self._lock = threading.Lock()

    @override
    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return self._found.get_frozen_credentials()

    def renew(self) -> bool:
        """Look for others; True when those that were refused need not be used again. Blocking."""
        with self._lock:
            try:
                fresh = self._find()
                now = fresh.get_frozen_credentials() if fresh is not None else None
            except BotoCoreError:
                return False
            if fresh is not None and now != self._before():
                self._found = fresh
                self._renewed_s = time.monotonic()
            return time.monotonic() - self._renewed_s < RECENT_S

    def _before(self) -> ReadOnlyCredentials | None:
        try:
            return self._found.get_frozen_credentials()
        except BotoCoreError:  # they have expired and cannot be renewed where they came from
            return None


class Provider:
    """Gives an SDK session credentials that were found elsewhere."""

    def __init__(self, credentials: SdkCredentials) -> None:
        self._credentials = credentials

    def load_credentials(self) -> SdkCredentials:
        """Return them: the SDK asks by this name."""
        return self._credentials
