"""A whole tree without a kernel: tree + file + stage + cache on a store of the test's choice."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from vfs.config import load_config
from vfs.daemon.assembly import Mount, open_tree
from vfs.metrics import Metrics
from vfs.stage.budget import StageBudget
from vfs.stage.directory import Stage, stage_name
from vfs.store.base import Store


@asynccontextmanager
async def tree_on(
    store: Store, stage_dir: Path, *options: str, stage_bytes: int = 1 << 30
) -> AsyncGenerator[Mount, None]:
    """Build what a mount of `store` would be, with its stage below `stage_dir`."""
    spec = load_config("mem://tree", ["memory=64M", *options], environ={})
    config = spec.config
    budget = StageBudget(stage_bytes, config.stage.stage_wait)
    stage = Stage(stage_dir / stage_name(store.url), store.url, budget)
    stage.open()
    try:
        async with open_tree(store, stage, config, Metrics()) as mount:
            yield mount
    finally:
        stage.close()
