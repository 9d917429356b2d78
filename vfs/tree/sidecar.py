"""The bytes of a sidecar: the attributes of one directory's names in one small object.

    {"version": 1, "shards": 4, "entries": {"NAME": ENTRY, ...}}

ENTRY has `seq` (of two entries for one name the higher wins), `v` (object version, null for
directories), `mode uid gid mtime ctime` (times in nanoseconds), and where there is something to say
`target`, `rdev`, `xattr` (base64). `.vfs.attrs` holds everything up to 4,096 entries; a larger
directory has 2, 4, 8... shards `.vfs.attrs.K-N` by the leading bits of the name's SHA-256.
docs/format.md is the normative twin of this module.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

from vfs import names
from vfs.errors import MetadataError
from vfs.stage.records import Value
from vfs.tree.attributes import NO_XATTRS, Attributes
from vfs.values import Version

SIDECAR_VERSION = 1
SHARD_ENTRIES = 4096
SELF = ""
"""Name of the entry for the directory itself; only the mount's root has one."""


@dataclass(frozen=True, slots=True)
class SidecarEntry:
    """Attributes with the sequence number that orders writers."""

    sequence: int
    attributes: Attributes | None  # None: the name's attributes were removed


def shard_count(entries: int) -> int:
    """Return how many shards hold that many entries."""
    count = 1
    while entries > SHARD_ENTRIES * count:
        count *= 2
    return count


def shard_of(name: str, count: int) -> int:
    """Return the shard of a name: the leading bits of its hash."""
    first = int.from_bytes(
        hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:4], "big"
    )
    return first * count >> 32


def shard_names(count: int) -> list[str]:
    """Return the object names of all shards, in order."""
    if count == 1:
        return [names.SIDECAR_PREFIX]
    return [f"{names.SIDECAR_PREFIX}.{shard}-{count}" for shard in range(count)]


def encode_entry(entry: SidecarEntry) -> dict[str, object]:
    """Return an entry as JSON values; also the form that the journal keeps."""
    attributes = entry.attributes
    if attributes is None:
        return {"seq": entry.sequence, "gone": True}
    out: dict[str, object] = {
        "seq": entry.sequence,
        "v": attributes.version,
        "mode": attributes.mode,
        "uid": attributes.uid,
        "gid": attributes.gid,
        "mtime": attributes.mtime_ns,
        "ctime": attributes.ctime_ns,
    }
    if attributes.target is not None:
        out["target"] = attributes.target
    if attributes.rdev:
        out["rdev"] = attributes.rdev
    if attributes.xattrs:
        out["xattr"] = {
            name: base64.b64encode(value).decode("ascii")
            for name, value in attributes.xattrs.items()
        }
    return out


def attributes_value(attributes: Attributes) -> dict[str, Value]:
    """Return attributes as the JSON values that journals keep."""
    return cast("dict[str, Value]", encode_entry(SidecarEntry(0, attributes)))


def decode_entry(value: object) -> SidecarEntry:
    """Return the entry of its JSON values. Errors: MetadataError."""
    try:
        fields = cast("dict[str, object]", value)
        sequence = _integer(fields["seq"])
        if fields.get("gone"):
            return SidecarEntry(sequence, None)
        version = fields["v"]
        target = fields.get("target")
        return SidecarEntry(
            sequence,
            Attributes(
                mode=_integer(fields["mode"]),
                uid=_integer(fields["uid"]),
                gid=_integer(fields["gid"]),
                mtime_ns=_integer(fields["mtime"]),
                ctime_ns=_integer(fields["ctime"]),
                version=None if version is None else Version(str(version)),
                target=None if target is None else str(target),
                rdev=_integer(fields.get("rdev", 0)),
                xattrs=_xattrs(fields.get("xattr")),
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MetadataError(f"not an attribute entry: {error}") from error


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a number was expected, not {value!r}")
    return value


def _xattrs(value: object) -> Mapping[str, bytes]:
    if value is None:
        return NO_XATTRS
    pairs = cast("dict[str, str]", value)
    return {name: base64.b64decode(text, validate=True) for name, text in pairs.items()}


def encode_sidecar(entries: Mapping[str, SidecarEntry], shards: int) -> bytes:
    """Return the object of one shard."""
    body = {
        "version": SIDECAR_VERSION,
        "shards": shards,
        "entries": {name: encode_entry(entries[name]) for name in sorted(entries)},
    }
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def decode_sidecar(data: bytes) -> dict[str, SidecarEntry]:
    """Return the entries of one shard. Errors: MetadataError, also for a newer version."""
    try:
        body: object = json.loads(data.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise MetadataError(f"not a sidecar: {error}") from error
    if not isinstance(body, dict):
        raise MetadataError("not a sidecar: no JSON object")
    fields = cast("dict[str, object]", body)
    if fields.get("version") != SIDECAR_VERSION:
        raise MetadataError(
            f"the sidecar has format version {fields.get('version')!r}; this program reads "
            f"{SIDECAR_VERSION}: use the newer vfs that wrote it"
        )
    entries = fields.get("entries")
    if not isinstance(entries, dict):
        raise MetadataError("not a sidecar: no entries")
    pairs = cast("dict[str, object]", entries)
    return {name: decode_entry(value) for name, value in pairs.items()}


def merge(sources: Iterable[Mapping[str, SidecarEntry]]) -> dict[str, SidecarEntry]:
    """Return the union of entries; for one name the highest sequence wins."""
    merged: dict[str, SidecarEntry] = {}
    for source in sources:
        for name, entry in source.items():
            known = merged.get(name)
            if known is None or entry.sequence > known.sequence:
                merged[name] = entry
    return merged
