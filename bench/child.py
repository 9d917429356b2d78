"""Work on a mount that no ordinary program does, in a process of its own: a mount may hang.

python -m bench.child create DIR COUNT          make small files, eight at a time
python -m bench.child hammer DIR COUNT SIZE     read and write COUNT open files at once
python -m bench.child compare FILE FILE         compare sizes and some ranges
"""

import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MIB = 1 << 20
CREATORS = 8
SPOTS = 32


def create(directory: str, count: str) -> None:
    """Make small files."""

    def make(number: int) -> None:
        Path(directory, name(number)).write_bytes(CONTENT)

    with ThreadPoolExecutor(CREATORS) as pool:
        for _ in pool.map(make, range(int(count))):
            pass


CONTENT = b"one of many small files\n"


def name(number: int) -> str:
    """Return the name of one of many files."""
    return f"file-{number:06}"


def hammer(directory: str, count: str, size: str) -> None:
    """Hold COUNT files open, half of them read from `in`, half written to `out`, all at once."""
    files = int(count) // 2
    data = os.urandom(MIB)
    sources = [os.open(f"{directory}/in/{name(n)}", os.O_RDONLY) for n in range(files)]
    create_flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    targets = [os.open(f"{directory}/out/{name(n)}", create_flags, 0o644) for n in range(files)]

    def read(file: int) -> None:
        at = 0
        while got := len(os.pread(file, MIB, at)):
            at += got
        if at != int(size):
            raise SystemExit(f"{at} bytes read instead of {size}")

    def write(file: int) -> None:
        for at in range(0, int(size), MIB):
            os.pwrite(file, data, at)
            os.pread(file, 4096, at // 2)

    with ThreadPoolExecutor(2 * files) as pool:
        done = [pool.submit(read, file) for file in sources]
        done += [pool.submit(write, file) for file in targets]
        for future in done:
            future.result()
        for future in [pool.submit(os.close, file) for file in sources + targets]:
            future.result()


def compare(first: str, second: str) -> None:
    """Compare sizes, both ends and some ranges between: fast reading of wrong bytes is no feat."""
    size = Path(first).stat().st_size
    if Path(second).stat().st_size != size:
        raise SystemExit(f"{second} has another size than {first}")
    middle = [random.randrange(size) for _ in range(SPOTS)]
    with Path(first).open("rb") as one, Path(second).open("rb") as other:
        for at in [0, max(0, size - MIB), *middle]:
            if os.pread(one.fileno(), MIB, at) != os.pread(other.fileno(), MIB, at):
                raise SystemExit(f"{second} differs from {first} after {at}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["create", into, how_many]:
            create(into, how_many)
        case ["hammer", into, how_many, each]:
            hammer(into, how_many, each)
        case ["compare", one, other]:
            compare(one, other)
        case _:
            sys.exit(__doc__)
