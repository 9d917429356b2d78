"""Work on a mount that no ordinary program does, in a process of its own: a mount may hang.

python -m bench.child create DIR COUNT          make small files, eight at a time
python -m bench.child hammer DIR READ WRITE SIZE   read and write so many open files at once
python -m bench.child compare FILE FILE         compare sizes and some ranges
python -m bench.child scatter FILE COUNT SIZE SEED      write pieces here and there, then sync
python -m bench.child scattered FILE COUNT SIZE SEED    compare them
python -m bench.child repeat SOURCE FILE SIZE   write a file over and over until it has the size
python -m bench.child repeated SOURCE FILE SIZE compare all of it
"""

import os
import random
import sys
from collections.abc import Iterator
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


def hammer(directory: str, readers: str, writers: str, size: str) -> None:
    """Hold many files open, some of them read from `in`, some written to `out`, all at once."""
    data = os.urandom(MIB)
    sources = [os.open(f"{directory}/in/{name(n)}", os.O_RDONLY) for n in range(int(readers))]
    create_flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    names = [f"{directory}/out/{name(n)}" for n in range(int(writers))]
    targets = [os.open(path, create_flags, 0o644) for path in names]

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

    with ThreadPoolExecutor(len(sources) + len(targets)) as pool:
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


def spots(seed: int, size: int, count: int, piece: int) -> list[int]:
    """Return where `scatter` writes."""
    pick = random.Random(seed)
    return [pick.randrange(size // piece) * piece for _ in range(count)]


def _pieces(file: int, count: str, piece: str, seed: str) -> Iterator[tuple[int, bytes]]:
    size = os.fstat(file).st_size
    for at in spots(int(seed), size, int(count), int(piece)):
        yield at, random.Random(f"{seed} {at}").randbytes(int(piece))


def scatter(path: str, count: str, piece: str, seed: str) -> None:
    """Write pieces of a seed here and there in a file, and sync it once."""
    with Path(path).open("r+b", buffering=0) as file:
        for at, data in _pieces(file.fileno(), count, piece, seed):
            os.pwrite(file.fileno(), data, at)
        os.fsync(file.fileno())


def scattered(path: str, count: str, piece: str, seed: str) -> None:
    """Compare what `scatter` wrote."""
    with Path(path).open("rb", buffering=0) as file:
        for at, data in _pieces(file.fileno(), count, piece, seed):
            if os.pread(file.fileno(), len(data), at) != data:
                raise SystemExit(f"{path} does not hold what was written at {at}")


def repeat(source: str, path: str, size: str) -> None:
    """Write a file over and over, 1 MiB at a time, until the other has that size; then sync."""
    with Path(source).open("rb") as one, Path(path).open("wb", buffering=0) as other:
        length = Path(source).stat().st_size
        other.writelines(
            os.pread(one.fileno(), min(MIB, int(size) - at), at % length)
            for at in range(0, int(size), MIB)
        )
        os.fsync(other.fileno())


def repeated(source: str, path: str, size: str) -> None:
    """Compare all that `repeat` wrote."""
    with Path(source).open("rb") as one, Path(path).open("rb", buffering=0) as other:
        length = Path(source).stat().st_size
        if Path(path).stat().st_size != int(size):
            raise SystemExit(f"{path} has another size than {size}")
        for at in range(0, int(size), MIB):
            wanted = os.pread(one.fileno(), min(MIB, int(size) - at), at % length)
            if os.pread(other.fileno(), MIB, at) != wanted:
                raise SystemExit(f"{path} is wrong after {at}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["create", into, how_many]:
            create(into, how_many)
        case ["hammer", into, readers, writers, each]:
            hammer(into, readers, writers, each)
        case ["compare", one, other]:
            compare(one, other)
        case ["scatter", path, count, piece, seed]:
            scatter(path, count, piece, seed)
        case ["scattered", path, count, piece, seed]:
            scattered(path, count, piece, seed)
        case ["repeat", one, other, total]:
            repeat(one, other, total)
        case ["repeated", one, other, total]:
            repeated(one, other, total)
        case _:
            sys.exit(__doc__)
