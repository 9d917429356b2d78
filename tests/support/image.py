"""A real system image: an ext4 file system made of files of this machine.

The same files in the same order each time, with their symbolic links, modes and times.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
SOURCES = ("/usr/bin", "/usr/lib", "/usr/share", "/usr/include", "/usr/sbin")
MAX_FILE_BYTES = 64 * MIB  # one huge library would be half of a small tree


def files() -> Iterator[tuple[str, int]]:
    """Yield files and symbolic links of this machine with their sizes."""
    for root in SOURCES:
        for directory, subdirectories, names in os.walk(root):
            subdirectories.sort()
            for name in sorted(names):
                path = Path(directory, name)
                size = path.lstat().st_size
                if size <= MAX_FILE_BYTES and os.access(path, os.R_OK, follow_symlinks=False):
                    yield str(path), size


def copy_tree(target: Path, limit_bytes: int) -> int:
    """Copy files until there are `limit_bytes` of them; return how many bytes."""
    chosen, total = [], 0
    for path, size in files():
        if total >= limit_bytes:
            break
        chosen.append(path)
        total += size
    target.mkdir()
    subprocess.run(
        ["tar", "-c", "-C", "/", "--null", "-T", "-", "-f", target / "tree.tar"],
        input=b"\0".join(path.lstrip("/").encode() for path in chosen),
        check=True,
        timeout=120,
    )
    subprocess.run(["tar", "-x", "-C", target, "-f", target / "tree.tar"], check=True, timeout=120)
    (target / "tree.tar").unlink()
    return total


def build_image(base: Path, tree_bytes: int) -> Path:
    """Return a raw ext4 image of a tree of at least `tree_bytes`."""
    tree, image = base / "tree", base / "disk.raw"
    total = copy_tree(tree, tree_bytes)
    assert total >= tree_bytes, f"this machine has only {total} bytes of files"
    with image.open("wb") as file:
        # What ext4 adds: inode tables, block tails, the journal, and room to write in.
        file.truncate(-(-total * 5 // 4 // (32 * MIB)) * 32 * MIB)
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, image]
    subprocess.run(command, check=True, timeout=300, stdin=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return image
