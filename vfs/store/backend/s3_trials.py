"""Try things on an S3 service, on a few small objects below one directory. Blocking.

A condition counts only when the service refused where it did not hold *and* agreed where it did:
some ignore conditions in silence, some want ETags without their quotes. What fails for a passing
reason raises; what fails otherwise is absent.
"""

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from vfs.errors import ConflictError, DeniedError, StaleError, TransientError, VfsError
from vfs.store.backend.s3_bucket import remove_versions
from vfs.store.backend.s3_keys import etag_of
from vfs.store.backend.s3_requests import S3Requests
from vfs.store.backend.s3_shapes import Conditions, IfMatch
from vfs.store.base import BytesBody, ObjectInfo, ObjectVersion, Part, Properties, Upload
from vfs.values import Key, Span, Version

ABSENT: Conditions = {"IfNoneMatch": "*"}
CONTENT = b"written by vfs to find out what this service does\n"

_PROPERTIES = Properties({"vfs-probe": "caf\u00e9 100%"}, "text/plain")
_NO_SUCH_VERSION = Version("0123456789abcdef0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Basics:
    """A first object."""

    info: ObjectInfo
    created_if_absent: bool
    metadata: bool


@dataclass(frozen=True, slots=True)
class Writes:
    """Conditions of a write; the object as it is after them."""

    info: ObjectInfo
    if_absent: bool
    if_version: bool


@dataclass(frozen=True, slots=True)
class Copies:
    """Conditions of a copy."""

    if_absent: bool = False
    if_version: bool = False
    pins_source: bool = False


@dataclass(frozen=True, slots=True)
class Uploads:
    """What uploads in parts can do, and whether their result is removed by version."""

    multipart: bool = False
    copy_part: bool = False
    pins_source: bool = False
    if_absent: bool = False
    if_version: bool = False
    remove_if_version: bool = False


def _heeds(attempt: Callable[[], object]) -> bool:
    """Tell whether a request whose condition does not hold is refused for it."""
    try:
        attempt()
    except (ConflictError, StaleError):
        return True
    except TransientError:
        raise
    except VfsError:
        pass
    return False


def _works(attempt: Callable[[], object]) -> bool:
    """Tell whether a request is carried out."""
    try:
        attempt()
    except TransientError:
        raise
    except VfsError:
        return False
    return True


class Trials:
    """Requests on objects below one directory of our own. Blocking."""

    def __init__(self, requests: S3Requests, directory: Key) -> None:
        self._requests = requests
        self._directory = directory
        self._body = BytesBody(CONTENT)
        self._uploads: list[Upload] = []
        self._doing = requests.doing("probe", directory)
        self._pinning = dataclasses.replace(self._doing, mismatch=StaleError)
        self.url = requests.link.address.url
        self.quoted = True

    def _key(self, name: str) -> Key:
        return Key(self._directory + name)

    def _match(self, version: Version) -> Conditions:
        return {"IfMatch": etag_of(version) if self.quoted else version}

    def _put(self, name: str, conditions: Conditions) -> ObjectInfo:
        return self._requests.put(self._key(name), self._body, _PROPERTIES, conditions, self._doing)

    def may_remove(self) -> bool:
        """Tell whether removing is allowed, before anything is written."""
        try:
            self._requests.remove(self._key("a"), {}, self._doing)
        except DeniedError:
            return False
        return True

    def multipart_leaves_nothing(self) -> bool:
        """Begin an upload and drop it: it never becomes an object that a rule could keep."""
        try:
            upload = self._requests.begin_upload(self._key("u"), _PROPERTIES, self._doing)
            self._requests.abort_upload(upload, self._doing)
        except TransientError:
            raise
        except VfsError:
            return False
        return True

    def basics(self) -> Basics:
        """Write an object and look at it.

        Errors: DeniedError when what is written is not encrypted as it should be.
        """
        created = _works(lambda: self._put("a", ABSENT))
        if not created:
            self._put("a", {})  # raises what is wrong, if it was not the condition
        found = self._requests.head(self._key("a"), self._doing)
        wanted = self._requests.link.options.sse
        if wanted is not None and found.encryption != wanted:
            raise DeniedError(
                f"{self.url}: {self._requests.link.endpoint} ignores sse={wanted} and stores"
                " objects without it: drop the option, or use a service that encrypts",
            )
        metadata = found.info.metadata == _PROPERTIES.metadata
        return Basics(found.info, created, metadata)

    def writes(self, base: Basics) -> Writes:
        """Try the conditions of a write; find out how ETags are to be written."""
        if_absent = base.created_if_absent and _heeds(lambda: self._put("a", ABSENT))
        if_version = _heeds(lambda: self._put("a", self._match(_NO_SUCH_VERSION)))
        info = self._requests.head(self._key("a"), self._doing).info
        if if_version:
            if_version = _works(lambda: self._put("a", self._match(info.version)))
            if not if_version:
                self.quoted = False
                if_version = _works(lambda: self._put("a", self._match(info.version)))
                self.quoted = not if_version
            # Its ETag may be new where the service encrypts.
            info = self._requests.head(self._key("a"), self._doing).info
        return Writes(info, if_absent, if_version)

    def copies(self, source: ObjectInfo) -> Copies:
        """Try the conditions of a copy, on its source and on its target."""

        def copy(conditions: Conditions, version: Version = source.version) -> ObjectInfo:
            pinned = dataclasses.replace(source, version=version)
            return self._requests.copy(pinned, self._key("c"), None, conditions, self._doing)

        if_absent = _works(lambda: copy(ABSENT))
        if not (if_absent or _works(lambda: copy({}))):
            return Copies()
        if_absent = if_absent and _heeds(lambda: copy(ABSENT))
        if_version = _heeds(lambda: copy(self._match(_NO_SUCH_VERSION)))
        if if_version:
            version = self._requests.head(self._key("c"), self._doing).info.version
            if_version = _works(lambda: copy(self._match(version)))
        return Copies(if_absent, if_version, _heeds(lambda: copy({}, _NO_SUCH_VERSION)))

    def uploads(self, source: ObjectInfo) -> Uploads:
        """Try range copies and the conditions of finishing, then those of removing the result."""
        self._put("u", {})
        if not _works(self._begin):
            return Uploads()
        upload = self._uploads[-1]
        wrong = ObjectVersion(source.key, _NO_SUCH_VERSION)
        pins_source = _heeds(lambda: self._copy_part(upload, wrong))
        copy_part = _works(lambda: self._copy_part(upload, source.pin))
        if_absent = _heeds(lambda: self._finish(upload, ABSENT))
        if not if_absent:
            upload = self._begin()  # the other one may be finished
        if_version = self._finishes_by_version(upload)
        return Uploads(
            multipart=True,
            copy_part=copy_part,
            pins_source=copy_part and pins_source,
            if_absent=if_absent,
            if_version=if_version,
            remove_if_version=self._removes_by_version(),
        )

    def _finishes_by_version(self, upload: Upload) -> bool:
        if not _heeds(lambda: self._finish(upload, self._match(_NO_SUCH_VERSION))):
            return False
        version = self._requests.head(self._key("u"), self._doing).info.version
        return _works(lambda: self._finish(upload, self._match(version)))

    def _begin(self) -> Upload:
        upload = self._requests.begin_upload(self._key("u"), _PROPERTIES, self._doing)
        self._uploads.append(upload)
        return upload

    def _copy_part(self, upload: Upload, source: ObjectVersion) -> Part:
        span = Span(0, len(CONTENT))
        try:
            return self._requests.copy_part(upload, 1, source, span, self._pinning)
        except (StaleError, TransientError):
            raise
        except VfsError:
            # Amazon takes no range of an object of 5 MiB or less, only all of it.
            return self._requests.copy_part(upload, 1, source, span, self._pinning, whole=True)

    def _finish(self, upload: Upload, conditions: Conditions) -> ObjectInfo:
        part = self._requests.upload_part(upload, 1, self._body, self._doing)
        return self._requests.finish_upload(upload, [part], conditions, self._doing)

    def _removes_by_version(self) -> bool:
        def remove(version: Version) -> None:
            match: IfMatch = {"IfMatch": self._match(version).get("IfMatch", "")}
            self._requests.remove(self._key("u"), match, self._doing)

        if not _heeds(lambda: remove(_NO_SUCH_VERSION)):
            return False
        version = self._requests.head(self._key("u"), self._doing).info.version
        return _works(lambda: remove(version))

    def removes_in_bulk(self) -> bool:
        """Remove what is left in one request; some services want a digest that is out of use."""
        keys = [self._key(name) for name in "acu"]
        return _works(lambda: self._remove_all(keys))

    def _remove_all(self, keys: list[Key]) -> None:
        refused = self._requests.remove_many(keys, self._doing)
        if refused:
            raise DeniedError(f"{self.url}: not removed: {refused}")

    def clean(self, *, versions: bool) -> None:
        """Remove whatever is left, as far as the service lets us."""
        for upload in self._uploads:
            _tidy(partial(self._requests.abort_upload, upload, self._doing))
        for name in "acu":
            _tidy(partial(self._requests.remove, self._key(name), {}, self._doing))
        if versions:
            _tidy(partial(remove_versions, self._requests.link, self._directory))


def _tidy(attempt: Callable[[], None]) -> None:
    """Try to remove a leftover: one that stays is below `.vfs/tmp/` and does no harm."""
    with suppress(VfsError):
        attempt()
