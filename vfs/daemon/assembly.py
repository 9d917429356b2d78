"""The composition root: every part of a mount below its front ends, put together once.

Order of birth: store, stage (locked), cache, committer, tree, what an earlier owner left
unfinished. Leaving the block is the reverse.
"""

import logging
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from vfs.cache.config import CacheConfig, default_cache_size
from vfs.cache.disk.tier import DiskTier, open_tier
from vfs.cache.fill import Fetcher, open_fetcher
from vfs.cache.ram import RamCache
from vfs.clock import wall_ns
from vfs.config import Config, MountSpec
from vfs.daemon.known import recall, remember
from vfs.errors import BusyError
from vfs.file.committer import Committer, open_committer
from vfs.fuse.session import device_of
from vfs.layout.digests import Digests
from vfs.layout.plain import PlainLayout
from vfs.metrics import Metrics
from vfs.runtime import is_alive, list_records, runtime_directory
from vfs.stage.budget import StageBudget
from vfs.stage.config import RESERVED_BYTES
from vfs.stage.directory import Stage, default_limit, stage_name
from vfs.stage.records import Value
from vfs.store.base import Features, Store
from vfs.store.open import START_S, open_store, silent
from vfs.store.wrap.bandwidth import Bandwidth
from vfs.tasks import open_tasks
from vfs.tree.attributes import Defaults, effective
from vfs.tree.conflict import Conflicts
from vfs.tree.context import Context
from vfs.tree.filesystem import FileSystem, make_filesystem
from vfs.tree.journal import Journal
from vfs.tree.listing import Listings
from vfs.tree.node import Inodes
from vfs.tree.pages import Pages
from vfs.tree.recovery import carry_out, recover
from vfs.tree.replay import take_up
from vfs.tree.resumption import Resumption
from vfs.tree.sidecars import Sidecars
from vfs.tree.uploads import JournalledUploads, open_uploads
from vfs.values import MIB

log = logging.getLogger(__name__)

TAKE_OVER_PAUSE_S = 0.5
LOCAL_SCHEMES = ("file://", "mem://")

CACHE_SHARE = 1, 2
"""Of `memory`: the rest is for parts in flight, requests and tables."""


@dataclass(frozen=True, slots=True)
class Mount:
    """The parts of a mount that its front end and its report need."""

    fs: FileSystem
    store: Store
    metrics: Metrics
    cache: RamCache
    disk: DiskTier | None  # None: nothing is kept on disk
    conflicts: Conflicts
    uploads: JournalledUploads
    digests: Digests | None = None  # None on a read-only mount
    limits: Bandwidth = field(default_factory=Bandwidth)


@asynccontextmanager
async def open_mount(spec: MountSpec) -> AsyncGenerator[Mount, None]:
    """Reach the store, take the stage over and build a mount's parts on both."""
    config = spec.config
    async with AsyncExitStack() as stack:
        metrics = Metrics()
        limits = Bandwidth(config.store.bandwidth)
        store = await stack.enter_async_context(
            open_store(spec.url, config.store, metrics=metrics, limits=limits)
        )
        kept = config.stage.stage_dir / stage_name(spec.url)
        known = None if config.tree.ro else recall(kept)
        features = await _reach(store, spec.url, known, write=not config.tree.ro)
        stage = await _open_stage(spec, stack)
        if not config.tree.ro and features != known:
            remember(kept, features)
        disk = await _open_disk(spec, stack)
        mount = await stack.enter_async_context(open_tree(store, stage, config, metrics, disk))
        # A part that waits for its turn moves, as far as anybody waits for it to be stored.
        limits.up.on_pass = mount.fs.context.committer.progress
        yield replace(mount, limits=limits)


@asynccontextmanager
async def open_tree(
    store: Store, stage: Stage, config: Config, metrics: Metrics, disk: DiskTier | None = None
) -> AsyncGenerator[Mount, None]:
    """Build a tree on a probed store and an open stage; finish what a crash left undone."""
    async with AsyncExitStack() as stack:
        records = stage.names.open()
        digests = None if config.tree.ro else Digests(store)
        tree = config.tree
        kept = disk.metadata if disk is not None else None
        sidecars = Sidecars(
            store, enabled=tree.attributes == "sidecar", read_only=tree.ro, kept=kept
        )
        journal = Journal(stage, sidecars)
        uploads = await stack.enter_async_context(open_uploads(store, journal))
        layout = PlainLayout(
            store,
            part_bytes=tree.part_size,
            uploads=uploads,
            digests=digests,
            verify_uploads=tree.verify_uploads,
        )
        share, whole = CACHE_SHARE
        cache = RamCache(config.cache.memory * share // whole, config.cache.block_size)
        fetcher = await stack.enter_async_context(open_fetcher(cache, layout.read_into, disk))
        if config.cache.read_ahead is not None:
            fetcher.most_ahead_bytes = config.cache.read_ahead
        local = config.stage.fsync == "local"
        committer = await stack.enter_async_context(
            open_committer(layout, config.stage.stage_wait, local=local)
        )
        stage.budget.on_pressure = lambda: _relieve(stage, committer)
        committer.on_progress = stage.budget.progress
        pages = Pages(layout, kept, ttl_s=tree.metadata_ttl, wall_ns=wall_ns)
        context = _make_context(pages, journal, stage, config, fetcher, committer)
        unfinished = journal.replay(records)
        fs = make_filesystem(context)
        root = context.inodes.root
        own = await context.sidecars.refresh(root.key, 0)
        root.attributes = effective(own.get(""), None, context.defaults)
        nursery = await stack.enter_async_context(open_tasks())
        conflicts = Conflicts(context, nursery)
        committer.on_conflict = conflicts.lose
        if not tree.ro:
            resumption = await _resume(fs, uploads, unfinished)
            nursery.start_soon(resumption.run, partial(carry_out, fs))
        yield Mount(fs, store, metrics, cache, disk, conflicts, uploads, digests)
        nursery.cancel_scope.cancel()
    context.listings.seal()


async def _resume(
    fs: FileSystem, uploads: JournalledUploads, unfinished: list[dict[str, Value]]
) -> Resumption:
    """Go on where an earlier mount was interrupted; return what is to go on in the background."""
    stage = fs.context.stage
    leftovers = await stage.take_up()
    decisions, contents = await take_up(fs, leftovers, uploads.replay(unfinished))
    await uploads.keep_only(stage.uploads)
    resumption = Resumption(fs)
    await recover(fs, resumption.take(decisions, contents))
    for content in contents:
        fs.context.committer.start(content)
    return resumption


def _relieve(stage: Stage, committer: Committer) -> None:
    """Make room in the stage: forget what the store has, store what it has not."""
    stage.drop_clean()
    committer.relieve()


def _make_context(
    pages: Pages,
    journal: Journal,
    stage: Stage,
    config: Config,
    fetcher: Fetcher,
    committer: Committer,
) -> Context:
    tree = config.tree
    journal.on_directory_moved = pages.void
    journal.sidecars.on_changed = pages.touch
    defaults = Defaults(tree.uid, tree.gid, tree.umask, wall_ns())
    inodes = Inodes(defaults.directory())
    return Context(
        layout=pages.layout,
        inodes=inodes,
        listings=Listings(
            pages,
            inodes,
            journal.sidecars,
            defaults,
            ttl_s=tree.metadata_ttl,
            negative_ttl_s=tree.negative_ttl,
        ),
        sidecars=journal.sidecars,
        journal=journal,
        stage=stage,
        committer=committer,
        fetcher=fetcher,
        defaults=defaults,
        wall_ns=wall_ns,
        read_only=tree.ro,
        keep_xattrs=tree.xattr,
        statfs_bytes=tree.statfs_size,
    )


async def _reach(store: Store, url: str, known: Features | None, *, write: bool) -> Features:
    with trio.move_on_after(START_S):
        return await store.probe(write=write, known=known)
    raise silent(url)


async def _open_stage(spec: MountSpec, stack: AsyncExitStack) -> Stage:
    config = spec.config
    if config.tree.ro:
        # Nothing is ever staged, and several read-only mounts of one URL may stand side by side.
        parent = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vfs-ro-")))
        limit = MIB
    else:
        parent = config.stage.stage_dir
        limit = config.stage.stage_size or default_limit(parent)
    reserved = 0 if config.tree.ro else RESERVED_BYTES
    budget = StageBudget(limit, config.stage.stage_wait, reserved_bytes=reserved)
    stage = Stage(parent / stage_name(spec.url), spec.url, budget)
    await _take_over(stage)
    stack.callback(stage.close)
    return stage


async def _open_disk(spec: MountSpec, stack: AsyncExitStack) -> DiskTier | None:
    config = spec.config.cache
    limit = _disk_limit(spec.url, config)
    if limit < config.block_size:
        return None
    path = config.cache_dir / stage_name(spec.url)
    tier = DiskTier(path, spec.url, limit, config.block_size)
    return await stack.enter_async_context(open_tier(tier))


def _disk_limit(url: str, config: CacheConfig) -> int:
    if config.cache_size is not None:
        return config.cache_size
    # What lies on a local disk already is not copied to one, unless somebody asks for it.
    return 0 if url.lower().startswith(LOCAL_SCHEMES) else default_cache_size(config.cache_dir)


async def _take_over(stage: Stage) -> None:
    """Open the stage; wait for an owner that is only storing what it had when it was unmounted."""
    told = False
    while True:
        try:
            await trio.to_thread.run_sync(stage.open)
        except BusyError:
            if not is_draining(stage.path):
                raise
            if not told:
                log.warning("waiting for an earlier mount of this URL that is still uploading")
                told = True
            await trio.sleep(TAKE_OVER_PAUSE_S)
        else:
            return


def is_draining(stage: Path) -> bool:
    """Tell whether the stage's owner is a daemon whose mount is gone already."""
    for record in list_records(runtime_directory()):
        if record.stage == str(stage) and is_alive(record.pid):
            return device_of(Path(record.mountpoint)) is None
    return False
