"""`vfs cp`: copy files between local paths and URLs.

`cp -r A B` makes B hold what A holds, whether B is there already or not. A single file keeps its
name where the target is a directory: an existing local one, a bucket, a URL that ends in a slash.
"""

import json
import os
import stat as stat_modes
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import trio

from vfs.cli.location import Location, check_not_ours, check_ours, is_own, locate, walk
from vfs.cli.progress import Meter, open_meter
from vfs.cli.target import check_place
from vfs.cli.text import show_bytes
from vfs.cli.transfer import SINGLE_BYTES, copy_object, download_file, each, upload_file
from vfs.cli.verb import Verb, as_json, later, option_strings
from vfs.config import Config, check_url, is_url, load_options, local_path
from vfs.errors import (
    ConfigError,
    InvalidNameError,
    NotFoundError,
    UnsupportedError,
)
from vfs.names import check_new, decode, encode, is_name
from vfs.store.base import ObjectInfo, Store
from vfs.store.open import open_reached
from vfs.values import Key

VERSION = 1

End = Path | Location
"""One side of a copy."""


@dataclass(frozen=True, slots=True)
class Job:
    """One file to copy."""

    source: Path | ObjectInfo
    target: Path | Key
    size: int


@click.command("cp", cls=Verb)
@click.option("-r", "--recursive", is_flag=True, help="Copy everything below SRC.")
@as_json()
@option_strings()
@later("--resume")
@later("--checksum", value="SHA256")
@later("--sidecar")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
def cp_command(
    source: str, target: str, recursive: bool, json_output: bool, options: Sequence[str]
) -> None:
    """Copy SRC to DST; each is a local path or a URL.

    A local file is replaced when all its bytes are there; devices and pipes get them as they come.
    """
    ends = parse_end(source), parse_end(target)
    check_target(ends[1], target, recursive=recursive)
    config = load_options(options, os.environ)
    with open_meter(f"{source} -> {target}") as meter:
        files, size = trio.run(_copy, *ends, config, recursive, meter)
    if json_output:
        click.echo(json.dumps({"version": VERSION, "files": files, "bytes": size}))
    elif sys.stderr.isatty():
        click.echo(f"{files} files, {show_bytes(size)}", err=True)


def parse_end(text: str) -> End:
    """Return a local path, also for a file URL, or a place in a store."""
    if not text:
        raise ConfigError("one of the two places is empty; name a local path or a URL")
    if not is_url(text):
        return Path(text)
    check_url(text)
    if text.lower().startswith("file://"):
        return local_path(text)
    return locate(text)


def check_target(target: End, text: str, *, recursive: bool) -> None:
    """Refuse where nothing may be written, before anything is read.

    Errors: NotPermittedError for names of ours; NotFoundError for a local directory that is not
    there.
    """
    if is_url(text):
        check_ours(text)
    if isinstance(target, Path):
        check_place(target, directory=text.endswith("/") and not recursive)


async def _copy(
    source: End, target: End, config: Config, recursive: bool, meter: Meter
) -> tuple[int, int]:
    """Copy and return the number of files and of their bytes."""
    if isinstance(source, Path) and isinstance(target, Path):
        raise ConfigError(f"{source} and {target} are both local; use cp")
    async with AsyncExitStack() as stack:
        stores: dict[str, Store] = {}
        for end in (source, target):
            if isinstance(end, Location) and end.root not in stores:
                opened = open_reached(end.root, config.store)
                stores[end.root] = await stack.enter_async_context(opened)
        if isinstance(source, Path):
            jobs = plan_upload(source, target, recursive=recursive)
        else:
            jobs = await plan_from_store(stores[source.root], source, target, recursive=recursive)
        await _carry_out(jobs, source, target, stores, config, meter)
    return len(jobs), sum(job.size for job in jobs)


async def _carry_out(
    jobs: Sequence[Job],
    source: End,
    target: End,
    stores: dict[str, Store],
    config: Config,
    meter: Meter,
) -> None:
    total = sum(job.size for job in jobs)
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        meter.update(done, total)

    from_store = stores[source.root] if isinstance(source, Location) else None
    to_store = stores[target.root] if isinstance(target, Location) else None

    async def carry(job: Job) -> None:
        match job.source, job.target:
            case Path() as path, str() as key if to_store:
                part_bytes = config.tree.part_size
                await upload_file(to_store, path, Key(key), advance, part_bytes=part_bytes)
            case ObjectInfo() as info, Path() as path if from_store:
                path.parent.mkdir(parents=True, exist_ok=True)
                await download_file(from_store, info, path, advance)
            case ObjectInfo() as info, str() as key if from_store and to_store:
                same = from_store is to_store
                await copy_object(from_store, info, to_store, Key(key), advance, same=same)
            case _:
                raise AssertionError(job)

    # Small files beside each other; a large one has enough parts of its own to be quick.
    await each([job for job in jobs if job.size <= SINGLE_BYTES], carry)
    for job in jobs:
        if job.size > SINGLE_BYTES:
            await carry(job)


def plan_upload(source: Path, target: End, *, recursive: bool) -> list[Job]:
    """Return the files of a local path and the keys they become.

    Errors: ConfigError without `recursive`; InvalidNameError, NotPermittedError for a name
    that no object may have; OSError.
    """
    assert isinstance(target, Location)  # noqa: S101 - two local ends were refused before
    found = source.stat()
    if not stat_modes.S_ISDIR(found.st_mode):
        inside = target.directory or not target.key
        place = target.below(_key_of(Path(source.name))) if inside else target
        _check_regular(source, found.st_mode)
        return [Job(source, place.key, found.st_size)]
    if not recursive:
        raise ConfigError(f"{source} is a directory; -r copies everything below it")
    jobs: list[Job] = []
    for directory, _, names in os.walk(source, onerror=_raise):
        for name in sorted(names):
            path = Path(directory, name)
            found = path.stat()
            _check_regular(path, found.st_mode)
            key = target.below(_key_of(path.relative_to(source))).key
            jobs.append(Job(path, key, found.st_size))
    return jobs


def _raise(error: OSError) -> None:
    raise error


def _check_regular(path: Path, mode: int) -> None:
    if not stat_modes.S_ISREG(mode):
        raise UnsupportedError(f"{path} is no regular file; only those can be copied")


def _key_of(relative: Path) -> str:
    components = [decode(os.fsencode(part)) for part in relative.parts]
    for component in components:
        check_new(component)
    return "/".join(components)


async def plan_from_store(
    store: Store, source: Location, target: End, *, recursive: bool
) -> list[Job]:
    """Return the objects of a place and where they go.

    Errors: NotFoundError; ConfigError without `recursive`; those of the store.
    """
    single = await _find_single(store, source)
    if single is not None:
        return [Job(single, _place(target, single), single.size)]
    below = [
        entry
        async for entry in walk(store, source.prefix)
        if isinstance(entry, ObjectInfo) and not is_own(entry.key, source.prefix)
    ]
    if not below:
        raise NotFoundError(f"{source.url_of(source.key)}: nothing is there")
    if not recursive:
        raise ConfigError(
            f"{source.url_of(source.key)} is a directory; -r copies everything below it"
        )
    jobs: list[Job] = []
    for info in below:
        relative = info.key[len(source.prefix) :]
        if not relative or relative.endswith("/"):  # a marker: directories come with their files
            continue
        parts = relative.split("/")
        # A key may hold anything, also "..": nothing may be written outside of the target.
        if not all(is_name(part) for part in parts):
            click.echo(f"vfs: {source.url_of(info.key)} is left out: not a file name", err=True)
            continue
        if isinstance(target, Path):
            place: Path | Key = target.joinpath(*(os.fsdecode(encode(part)) for part in parts))
        else:
            place = target.below(relative).key
        jobs.append(Job(info, place, info.size))
    return jobs


async def _find_single(store: Store, source: Location) -> ObjectInfo | None:
    if not source.key or source.directory:
        return None
    try:
        return await store.head(source.key)
    except NotFoundError:
        return None  # a directory, then


def _place(target: End, info: ObjectInfo) -> Path | Key:
    name = info.key.rpartition("/")[2]
    if isinstance(target, Path):
        if not target.is_dir():
            return target
        if not is_name(name):
            raise InvalidNameError(f"{info.key!r} ends in no file name; name the file in {target}")
        return target / os.fsdecode(encode(name))
    if not target.directory and target.key:
        return target.key
    check_not_ours(name, target.url_of(target.key))
    return target.below(name).key
