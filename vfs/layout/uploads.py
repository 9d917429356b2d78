"""Uploads in parts: who begins them, and sees to it that none is left behind."""

import logging
from abc import ABC, abstractmethod

from typing_extensions import override

from vfs.errors import VfsError
from vfs.store.base import Properties, Store, Upload
from vfs.values import Key

log = logging.getLogger(__name__)


class Uploads(ABC):
    """What a draft asks for its upload. The store keeps, and bills, what is never ended."""

    @abstractmethod
    async def begin(self, target: Key, properties: Properties) -> Upload:
        """Begin an upload to a key. Errors: any store error."""

    @abstractmethod
    async def finished(self, upload: Upload) -> None:
        """Take note that an upload has become an object."""

    @abstractmethod
    async def abort(self, upload: Upload) -> None:
        """Give an upload up. Errors: none, and no wait for a store that does not answer."""


class DirectUploads(Uploads):
    """For a command that ends soon: each upload is tried to be aborted once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @override
    async def begin(self, target: Key, properties: Properties) -> Upload:
        return await self._store.begin_upload(target, properties=properties)

    @override
    async def finished(self, upload: Upload) -> None:
        return

    @override
    async def abort(self, upload: Upload) -> None:
        try:
            await self._store.abort_upload(upload)
        except VfsError as error:
            log.warning("an upload of %r stays in the store: %s", upload.key, error.message)
