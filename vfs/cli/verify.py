"""`vfs verify`: read everything and compare it with the SHA-256 that it was stored with."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote_to_bytes

import click
import trio

from vfs.cli.check import (
    OBJECTS_AT_ONCE,
    Checker,
    Finding,
    Found,
    Objects,
    corrupt_error,
    remove_orphans,
    spread,
)
from vfs.cli.location import Location, is_own, locate, walk
from vfs.cli.progress import Meter, open_meter
from vfs.cli.text import show_bytes
from vfs.cli.verb import Verb, as_json, option_strings
from vfs.config import Config, load_options
from vfs.errors import NotFoundError, VfsError
from vfs.layout.digests import DIGESTS_OF_DIRECTORY
from vfs.names import OWN_DIRECTORY, decode
from vfs.runtime import EXIT_DONE, exit_code
from vfs.store.base import ObjectInfo, Store
from vfs.store.open import open_reached
from vfs.values import Key

VERSION = 1

STATUSES = ("ok", "filled", "corrupt", "unreadable")


@dataclass(slots=True)
class Outcome:
    """What verifying a place has shown."""

    findings: list[Finding] = field(default_factory=list[Finding])
    removed_digests: int = 0
    error: VfsError | None = None  # that ended it early

    @property
    def failed(self) -> list[Finding]:
        """What is corrupt, then what could not be read."""
        bad = [one for one in self.findings if one.status in {"corrupt", "unreadable"}]
        return sorted(bad, key=lambda one: one.status)


@click.command("verify", cls=Verb)
@click.option("--dry-run", is_flag=True, help="Keep no digests of what had none.")
@as_json()
@option_strings()
@click.argument("url")
def verify_command(url: str, dry_run: bool, json_output: bool, options: Sequence[str]) -> int:
    """Read the object at URL, or all below it, and check every SHA-256.

    What has none is hashed, and its digest is kept for the next time.
    """
    where, default_root = find_mounted(locate(url))
    config = load_options(options, os.environ)
    # A bar on the terminal redirects what is printed; what goes elsewhere must not take that way.
    out = None if sys.stdout.isatty() else sys.stdout

    def tell(finding: Finding) -> None:
        if not json_output:
            click.echo(_line(where, finding, dry_run=dry_run), file=out)

    with open_meter(f"verify {url}") as meter:
        outcome = trio.run(_verify, where, default_root, config, dry_run, tell, meter)
    if json_output:
        click.echo(json.dumps(_report(where, outcome, dry_run=dry_run), indent=2))
    if outcome.error is not None:
        raise outcome.error
    return _conclude(where, outcome)


def _line(where: Location, finding: Finding, *, dry_run: bool) -> str:
    word = "would fill" if dry_run and finding.status == "filled" else finding.status
    why = _why(where, finding)
    return f"{word:10}  {where.url_of(finding.key)}" if why is None else f"{word:10}  {why.message}"


def _why(where: Location, finding: Finding) -> VfsError | None:
    if finding.status == "corrupt":
        return corrupt_error(where.url_of(finding.key), finding)
    return finding.error


def _report(where: Location, outcome: Outcome, *, dry_run: bool) -> dict[str, object]:
    counts = Counter(finding.status for finding in outcome.findings)
    report: dict[str, object] = {
        "version": VERSION,
        "dry_run": dry_run,
        **{status: counts[status] for status in STATUSES},
        "bytes": sum(finding.size for finding in outcome.findings),
        "removed_digests": outcome.removed_digests,
        "objects": [_described(where, finding) for finding in outcome.findings],
    }
    if outcome.error is not None:
        report["error"] = outcome.error.message
    return report


def _described(where: Location, finding: Finding) -> dict[str, object]:
    described: dict[str, object] = {
        "url": where.url_of(finding.key),
        "status": finding.status,
        "size": finding.size,
    }
    if finding.ranges:
        described["ranges"] = [[span.start, span.stop] for span in finding.ranges]
    if finding.error is not None:
        described["error"] = finding.error.message
    return described


def _conclude(where: Location, outcome: Outcome) -> int:
    counts = Counter(finding.status for finding in outcome.findings)
    said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    if not outcome.failed:
        if sys.stderr.isatty():
            size = sum(finding.size for finding in outcome.findings)
            click.echo(f"{show_bytes(size)} in {len(outcome.findings)} objects: {said}", err=True)
        return EXIT_DONE
    first = _why(where, outcome.failed[0])
    click.echo(f"vfs: of {len(outcome.findings)} objects {said}; first: {first}", err=True)
    return exit_code(first) if first is not None else EXIT_DONE


async def _verify(
    where: Location,
    default_root: Key | None,
    config: Config,
    dry_run: bool,
    tell: Callable[[Finding], None],
    meter: Meter,
) -> Outcome:
    async with open_reached(where.root, config.store) as store, trio.open_nursery() as nursery:
        run = _Run(store, where, tell, meter)
        checker = Checker(store, default_root, dry_run=dry_run, advance=run.advance)
        try:
            await run.read_all(checker, nursery)
        except VfsError as error:
            run.outcome.error = error
        nursery.cancel_scope.cancel()
    run.outcome.findings.sort(key=lambda finding: finding.key)
    return run.outcome


class _Run:
    """One run over a place."""

    def __init__(
        self, store: Store, where: Location, tell: Callable[[Finding], None], meter: Meter
    ) -> None:
        self.outcome = Outcome()
        self._store = store
        self._where = where
        self._tell = tell
        self._meter = meter
        self._done = self._total = 0

    def advance(self, count: int) -> None:
        """Show that so many more bytes were read."""
        self._done += count
        self._meter.update(self._done, max(self._done, self._total))

    async def _count(self) -> None:
        """Find out how much there is, while it is read already."""
        with suppress(VfsError):  # who reads will meet it, too
            async for entry in walk(self._store, self._where.prefix):
                if isinstance(entry, ObjectInfo) and not is_own(entry.key, self._where.prefix):
                    self._total += entry.size

    async def read_all(self, checker: Checker, nursery: trio.Nursery) -> None:
        """Read the object or all below the place. Errors: NotFoundError; those of the store."""

        async def check(found: Found) -> None:
            finding = await checker.check(found)
            if finding is not None:
                self.outcome.findings.append(finding)
                self._tell(finding)

        objects = Objects(self._store, self._where)
        single = await objects.single()
        if single is not None:
            self._total = single.size
            await check(single)
            return
        nursery.start_soon(self._count)
        if checker.default_root is None:
            checker.default_root = self._where.prefix
        await spread(objects.below(), check, OBJECTS_AT_ONCE)
        if not objects.exists and self._where.key:
            raise NotFoundError(f"{self._where.url_of(self._where.key)}: nothing is there")
        for root in [] if checker.dry_run else objects.roots:
            removed = await remove_orphans(self._store, root)
            self.outcome.removed_digests += removed


def find_mounted(where: Location) -> tuple[Location, Key | None]:
    """Return a place as seen from the directory that was mounted, and the prefix for new digests.

    Only directories tell: a mount leaves its digests there, or at least a lock. Elsewhere, and
    where nothing was mounted, it is as if the URL were; None is the directory of each object.
    """
    if not where.is_local:
        return where, where.prefix if where.directory or not where.key else None
    if where.key and _path(where.url_of(where.key)).is_dir():
        where = Location(where.url_of(where.key), Key(""), directory=True)
    for ours in (DIGESTS_OF_DIRECTORY, OWN_DIRECTORY):
        for root, key in _seen_from_above(where):
            if (_path(root) / ours).is_dir():
                return Location(root, key, where.directory), Key("")
    return where, Key("")


def _seen_from_above(where: Location) -> Iterator[tuple[str, Key]]:
    """Yield a place of a directory as root and key: from its root, its parent, and so on."""
    root, key = where.root, where.key
    while True:
        yield root, key
        parent, _, name = root.rpartition("/")
        if not name:
            return
        root = parent if parent != "file://" else "file:///"
        key = Key("/".join(filter(None, [decode(unquote_to_bytes(name)), key])))


def _path(url: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(url.removeprefix("file://"))))
