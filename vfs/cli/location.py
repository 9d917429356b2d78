"""What a URL on the command line points at: a store, and a key in it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from vfs.config import check_url, local_path
from vfs.errors import ConfigError, NotPermittedError
from vfs.names import decode, encode, is_reserved
from vfs.store.base import ObjectInfo, Store
from vfs.values import Key


@dataclass(frozen=True, slots=True)
class Location:
    """One place in a store; the empty key is the whole of it."""

    root: str  # URL of the store
    key: Key  # without a slash at its end
    directory: bool  # the URL ended in a slash

    @property
    def prefix(self) -> Key:
        """The listing prefix of what is below."""
        return Key(f"{self.key}/") if self.key else Key("")

    @property
    def is_local(self) -> bool:
        """Tell whether the store is a directory of this machine."""
        return self.root.startswith("file://")

    def url_of(self, key: Key) -> str:
        """Return the URL of a key of the same store, as it would be typed."""
        if self.is_local:
            path = "/".join(quote_from_bytes(encode(part)) for part in key.split("/"))
            return f"{self.root.rstrip('/')}/{path}"
        return f"{self.root.rstrip('/')}/{key}"

    def below(self, name: str) -> "Location":
        """Return the place of a relative key below this one."""
        return Location(self.root, Key(self.prefix + name), directory=False)


def locate(url: str) -> Location:
    """Split a URL into store and key.

    Errors: ConfigError, NotInThisVersionError.
    """
    check_url(url)
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "file":
        return _locate_local(rest)
    # The address of a server comes before the bucket, where the URL names one.
    head = 2 if scheme.lower() in {"s3+http", "s3+https"} else 1
    parts = rest.split("/", head)
    if len(parts) < head or not all(parts[:head]):
        raise ConfigError(f"{url}: the name of a bucket is missing")
    tail = parts[head] if len(parts) > head else ""
    root = f"{scheme.lower()}://{'/'.join(parts[:head])}"
    return Location(root, Key(tail.rstrip("/")), directory=tail.endswith("/"))


def check_ours(url: str) -> None:
    """Refuse a URL to be changed that holds a name of vfs's own objects, at whatever depth.

    Errors: NotPermittedError; those of `locate`.
    """
    where = locate(url)
    # The mounted directory may be any of those above, but a bucket may have whatever name it likes.
    parts = local_path(url).parts if where.is_local else where.key.split("/")
    for part in parts:
        check_not_ours(part, url)


def check_not_ours(name: str, what: str) -> None:
    """Refuse a name that only vfs itself writes and removes.

    Errors: NotPermittedError.
    """
    if is_reserved(name):
        raise NotPermittedError(f"{what}: {name} belongs to vfs, which alone writes and removes it")


def _locate_local(rest: str) -> Location:
    path = "/" + rest.partition("/")[2]
    # The parent is the store, so that a file has a key, too.
    parent, _, name = path.rstrip("/").rpartition("/")
    key = decode(unquote_to_bytes(name))
    return Location(f"file://{parent or '/'}", Key(key), directory=path.endswith("/"))


async def walk(
    store: Store, prefix: Key, *, delimiter: str = ""
) -> AsyncIterator[ObjectInfo | Key]:
    """Yield what is below a prefix, in the order of the keys; folded prefixes come as keys."""
    cursor: str | None = None
    while True:
        page = await store.list(prefix, delimiter=delimiter, cursor=cursor)
        found: list[tuple[Key, ObjectInfo | Key]] = [
            *((info.key, info) for info in page.objects),
            *((key, key) for key in page.prefixes),
        ]
        for _, entry in sorted(found, key=lambda pair: pair[0]):
            yield entry
        cursor = page.cursor
        if cursor is None:
            return


def is_own(key: Key, prefix: Key) -> bool:
    """Tell whether a key below a prefix is one of our own objects, which no listing shows."""
    return any(is_reserved(part) for part in key[len(prefix) :].split("/"))
