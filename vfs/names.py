r"""File names (bytes, from the kernel) and key components (text, for stores), one to one.

Stores want UTF-8; the kernel takes any byte but `/` and NUL. A byte that is not part of valid
UTF-8 becomes one character of a private range (U+10FF00 + byte), and characters of that range which
stand in a name are themselves written byte by byte, so the way back is exact:

    decode(b"caf\xe9")  ->  "caf\U0010ffe9"  ->  encode  ->  b"caf\xe9"

A key whose component is not what `decode` would have made of its own name is not canonical: no file
name leads to it, so it is hidden like the other keys that cannot be names.
"""

import codecs
import os

from vfs.errors import InvalidNameError, NameTooLongError, NotPermittedError
from vfs.values import Key

NAME_MAX_BYTES = 255
"""NAME_MAX of Linux: the kernel refuses to look up anything longer."""

SIDECAR_PREFIX = ".vfs.attrs"
LONGEST_SIDECAR = f"{SIDECAR_PREFIX}.65535-65536"
OWN_DIRECTORY = ".vfs"

_ESCAPE_BASE = 0x10FF00
_FIRST_ESCAPED = chr(_ESCAPE_BASE + 0x80)
_LAST_ESCAPED = chr(_ESCAPE_BASE + 0xFF)


def _escape_invalid(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(chr(_ESCAPE_BASE + byte) for byte in bad), error.end


codecs.register_error("vfs.escape", _escape_invalid)


def decode(name: bytes) -> str:
    """Return the key component for a file name."""
    text = name.decode("utf-8", "vfs.escape")
    if text.isascii() or not any(_FIRST_ESCAPED <= char <= _LAST_ESCAPED for char in text):
        return text
    # Rare: some character of the range is there, either put there by the escape above or standing
    # in the name itself. Decode piece by piece so that the two can be told apart.
    out: list[str] = []
    for char, raw in _characters(name):
        if len(raw) > 1 and _FIRST_ESCAPED <= char <= _LAST_ESCAPED:
            out.extend(chr(_ESCAPE_BASE + byte) for byte in raw)
        else:
            out.append(char)
    return "".join(out)


def _characters(name: bytes) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    position = 0
    while position < len(name):
        for width in (1, 2, 3, 4):
            piece = name[position : position + width]
            try:
                found.append((piece.decode("utf-8"), piece))
            except UnicodeDecodeError:
                continue
            position += width
            break
        else:
            found.append((chr(_ESCAPE_BASE + name[position]), name[position : position + 1]))
            position += 1
    return found


def encode(component: str) -> bytes:
    """Return the file name for a key component."""
    if component.isascii():
        return component.encode("ascii")
    out = bytearray()
    for char in component:
        if _FIRST_ESCAPED <= char <= _LAST_ESCAPED:
            out.append(ord(char) - _ESCAPE_BASE)
        else:
            out += char.encode("utf-8", "surrogatepass")
    return bytes(out)


def is_name(component: str) -> bool:
    """Tell whether a key component can be a file name that leads back to the same key."""
    if component in {"", ".", ".."} or "\0" in component or "/" in component:
        return False
    name = encode(component)
    return len(name) <= NAME_MAX_BYTES and decode(name) == component


def is_reserved(component: str) -> bool:
    """Tell whether a name is one of our own objects, invisible in the tree at every depth."""
    return component == OWN_DIRECTORY or component.startswith(SIDECAR_PREFIX)


def check_new(component: str) -> None:
    """Refuse a name that nobody may create.

    Errors: NameTooLongError, InvalidNameError, NotPermittedError for our own names.
    """
    if len(encode(component)) > NAME_MAX_BYTES:
        raise NameTooLongError(f"name too long: {len(encode(component))} bytes, 255 at most")
    if not is_name(component):
        raise InvalidNameError(f"not a file name: {component!r}")
    if is_reserved(component):
        raise NotPermittedError(f"{component!r} is a name that vfs keeps for its own objects")


def child(directory: Key, component: str) -> Key:
    """Return the key of a name in a directory key (`""` is the root, others end in no slash)."""
    return Key(f"{directory}/{component}") if directory else Key(component)


def as_prefix(directory: Key) -> Key:
    """Return the listing prefix of a directory: the root is empty, others end in a slash."""
    return Key(f"{directory}/") if directory else Key("")


def path_key(path: str) -> Key:
    """Return the key of a path relative to the mount, as a command line gives it."""
    return Key("/".join(decode(os.fsencode(part)) for part in path.split("/") if part != "."))
