"""How keys and metadata are written for S3. Pure."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

from vfs.errors import InvalidError, InvalidNameError, NameTooLongError
from vfs.values import Key, Version

MAX_KEY_BYTES = 1024
"""S3 User Guide, "Naming Amazon S3 objects": bytes of UTF-8, the prefix included."""

_MD5 = re.compile(r"[0-9a-f]{32}\Z")
_METADATA_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")

# Printable ASCII but `%`: what a header carries unchanged.
_METADATA_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

# Spaces at either end, and all but the last of a run: signatures count a run as one.
_LOST_SPACE = re.compile("^ | $| (?= )")

# What XML 1.0 cannot carry, not even as a character reference ("Characters", section 2.2), and CR,
# which a parser turns into LF.
_NOT_XML = re.compile("[^\t\n\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys below one prefix of a bucket."""

    prefix: str  # empty, or ending in a slash

    def full(self, key: Key) -> str:
        """Return the key in the bucket.

        Errors: NameTooLongError; InvalidNameError for what UTF-8 cannot carry.
        """
        text = self.prefix + key
        if "\0" in text:  # services and proxies refuse it in a path, each in its own way
            raise InvalidNameError(f"{key!r} cannot be a key: it has a NUL", key=key)
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            raise InvalidNameError(f"{key!r} cannot be a key: it is not Unicode text") from error
        if size > MAX_KEY_BYTES:
            raise NameTooLongError(
                f"path too long for S3: {size} bytes with the prefix, {MAX_KEY_BYTES} at most",
                key=key,
            )
        return text

    def short(self, text: str) -> Key:
        """Return the key below the prefix."""
        return Key(text[len(self.prefix) :])


def fits_xml(text: str) -> bool:
    """Tell whether a request body in XML can name this key."""
    return _NOT_XML.search(text) is None


def encode_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return user metadata as headers can carry it.

    Values are percent-encoded where they are not printable ASCII, and spaces that headers or their
    signatures lose; plain ones (the numbers that s3fs writes) stay as they are.
    Errors: InvalidError for a name that is not lower-case ASCII.
    """
    for name in metadata:
        if not _METADATA_NAME.match(name):
            raise InvalidError(f"not a metadata name: {name!r}")
    return {name: _encode_value(value) for name, value in metadata.items()}


def _encode_value(value: str) -> str:
    return _LOST_SPACE.sub("%20", quote(value, safe=_METADATA_SAFE))


def decode_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return user metadata as it was given to `encode_metadata`."""
    return {name.lower(): unquote(value) for name, value in metadata.items()}


def version_of(etag: str) -> Version:
    """Return the version for an ETag: without its quotes, which some services leave out."""
    return Version(etag if etag.startswith("W/") else etag.strip('"'))


def etag_of_parts(etags: Sequence[str]) -> str | None:
    """Return the ETag that a finished upload gets, None where that is not known.

    The MD5 of the parts' MD5s and their number: no service documents it, all do it, but those
    whose parts have other ETags (encryption).
    """
    digests = [etag.strip('"') for etag in etags]
    if not all(_MD5.match(digest) for digest in digests):
        return None
    joined = hashlib.md5(bytes.fromhex("".join(digests)), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(digests)}"


def etag_of(version: Version) -> str:
    """Return a version as an entity tag; a weak one keeps its own quotes."""
    return version if version.startswith("W/") else f'"{version}"'
