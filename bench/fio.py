"""Random 4 KiB reads and writes by fio."""

import json
from pathlib import Path

from bench.children import run
from bench.work import Sample

BYTES = 4096


def fio(path: Path, kind: str, size_bytes: int, *options: str) -> Sample:
    """Do I/O of a kind, for example randread, in so many bytes of a file; return how fast it was.

    The time is fio's own: its start, which lays out what it will do, is not in it.
    """
    given = (
        "--name=bench",
        f"--filename={path}",
        f"--rw={kind}",
        f"--bs={BYTES}",
        f"--size={size_bytes}",
        "--allow_file_create=0",
        "--output-format=json",
        *options,
    )
    [job] = json.loads(run("fio", *given))["jobs"]
    done = job[kind.removeprefix("rand")]
    return Sample(done["runtime"] / 1000, done["io_bytes"], iops=done["iops"])
