"""`make bench`: do each piece of work by vfs and by others in turn, several times; write a report.

make bench                                        # all of it, 2 GiB, three rounds
make bench ARGS="--size 256M --only read"         # something small
make bench ARGS="--compare --round-trip-ms 20"    # also s3fs and rclone, on a slow line
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import bench.works  # noqa: F401 - importing is registering
from bench import machine
from bench.children import ROOT, BenchError, run, tell
from bench.gateway import delayed, open_gateway
from bench.mounts import OTHERS
from bench.report import Report, Result, limits, show
from bench.work import MIB, VFS_OPTIONS, WORKS, Bench, Contender, Row, Work

RESULTS = ROOT / "bench" / "results"
COPIES = 6  # of the large file, at worst: source, stage, cache, in the store twice, its garbage


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=size, default=2 << 30, help="of the large file (2G)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(WORKS), help="may be repeated")
    parser.add_argument(
        "--compare", action="store_true", help="also s3fs and rclone; installs them where missing"
    )
    parser.add_argument("--round-trip-ms", type=float, default=0, help="put a delay in the line")
    parser.add_argument("-o", dest="options", action="append", default=[], help="option of vfs")
    parser.add_argument("--no-wait", action="store_true", help="measure on a busy machine, too")
    parser.add_argument("--directory", default="/var/tmp", help="for sources, stages and caches")
    return parser.parse_args(arguments)


def size(text: str) -> int:
    """Read a size such as 64M or 2G."""
    found = re.fullmatch(r"(\d+)([MG])", text)
    if found is None:
        raise argparse.ArgumentTypeError("a number of M or G")
    return int(found[1]) << {"M": 20, "G": 30}[found[2]]


def others(*, compare: bool) -> list[str]:
    """Return the other mounts to compare with."""
    if not compare:
        return []
    missing = [name for name in OTHERS if shutil.which(name) is None]
    if missing:
        tell(f"installing {' '.join(missing)}")
        with contextlib.suppress(BenchError):
            run("apt-get", "install", "--yes", "-qq", "--no-install-recommends", *missing)
    found = [name for name in OTHERS if shutil.which(name)]
    if len(found) < len(OTHERS):
        tell(f"not installed, so left out: {' '.join(sorted(set(OTHERS) - set(found)))}")
    return found


def carry_out(work: Work, rounds: int) -> Result:
    """Let the contenders of a work take turns; what fails is told and ends this work only."""
    result = Result(work.name, work.title, {})
    try:
        tell(f"{work.name}: preparing")
        work.prepare()
        contenders = work.contenders()
        result.rows = {found.name: Row(found.name, found.kind) for found in contenders}
        for number in range(rounds):
            shift = number % len(contenders)  # nobody always comes first
            for contender in contenders[shift:] + contenders[:shift]:
                label = f"{work.name} {number + 1}/{rounds}"
                take_turn(contender, result, label, work.bench.size_bytes)
        result.verdicts = work.judge(result.rows)
        result.notes += work.notes
    except BenchError as error:
        result.failure = str(error)
    finally:
        try:
            work.stack.close()
        except BenchError as error:
            result.failure = result.failure or str(error)
        finally:
            work.finish()
    return result


def take_turn(contender: Contender, result: Result, label: str, size_bytes: int) -> None:
    """Measure once; another program that cannot do it is told of, and does not spoil ours."""
    result.loads.append(round(os.getloadavg()[0], 2))
    machine.supply_pages(2 * size_bytes)  # of the mount, and of its stage or cache
    os.sync()  # what the one before wrote must not be written in this one's time
    try:
        sample = contender.turn()
    except BenchError as error:
        if contender.kind != "other":
            raise
        result.notes.append(str(error))
        return
    tell(f"{label} {contender.name}: {sample.seconds:.2f} s")
    result.rows[contender.name].samples.append(sample)


def make_source(path: Path, size_bytes: int) -> None:
    """Write a file of bytes that no one can compress."""
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))


def carry_out_all(given: argparse.Namespace, report: Report) -> None:
    found = others(compare=given.compare)
    with contextlib.ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="vfs-bench-", dir=given.directory))
        # What is still mounted must not be walked into; it stays, and its path is told.
        stack.callback(shutil.rmtree, base, ignore_errors=True)
        near = stack.enter_context(open_gateway())
        far = stack.enter_context(delayed(near, given.round_trip_ms))
        options = ",".join([VFS_OPTIONS, *given.options])
        bench = Bench(far.gateway, near, base, given.size, found, options, given.round_trip_ms)
        make_source(bench.source, given.size)
        if not given.no_wait:
            machine.wait_until_quiet()
        report.machine = machine.describe()
        for name in given.only or WORKS:
            result = carry_out(WORKS[name](bench), given.rounds)
            report.results.append(result)
            print(show(result), flush=True)
        print(limits(report.results), flush=True)


def end(number: int, _frame: object) -> None:
    """Turn a signal into an exception, so that everything is unmounted and removed."""
    sys.exit(128 + number)


def main() -> int:
    given = parse(sys.argv[1:])
    if shutil.disk_usage(given.directory).free < COPIES * given.size:
        tell(f"bench: needs {COPIES * given.size >> 30} GiB free in {given.directory}")
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # also where a shell ignores them
        signal.signal(number, end)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    now = datetime.now(UTC)
    words = " ".join(sys.argv[1:])
    report = Report(
        now.strftime("%Y-%m-%d %H:%M UTC"),
        machine.commit(),
        f'make bench ARGS="{words}"' if words else "make bench",
        given.size,
        given.rounds,
        given.round_trip_ms,
        {},
    )
    try:
        carry_out_all(given, report)
    except BenchError as error:
        tell(f"bench: {error}")
        return 1
    finally:
        if report.results:
            name = f"{now.strftime('%Y%m%d-%H%M%S')}-{report.commit}"
            tell(f"written: {report.write(RESULTS, name)}, .json, .svg")
    return 0 if all(result.passed for result in report.results) else 1


if __name__ == "__main__":
    sys.exit(main())
