"""Nurseries whose failures look like those of plain code.

Tasks that run side by side for one purpose fail with the first expected error, as a loop would, so
that callers can react to a `VfsError` without knowing how many tasks were behind it.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import trio

from vfs.errors import VfsError


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(cast("BaseExceptionGroup[BaseException]", error))
        else:
            yield error


@asynccontextmanager
async def open_tasks() -> AsyncGenerator[trio.Nursery, None]:
    """Open a nursery; leaving it raises one plain error.

    Errors: the one that a task raised, or the first `VfsError` of several; a group when several
    unexpected ones came together.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        expected = [error for error in leaves if isinstance(error, VfsError)]
        others = [error for error in leaves if not isinstance(error, VfsError | trio.Cancelled)]
        if others and (len(others) > 1 or expected):
            raise
        for error in (*others, *expected):
            raise error from None
        raise


async def either(one: trio.Event, other: trio.Event) -> None:
    """Return when one of two events has happened."""

    async def wait(event: trio.Event) -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with open_tasks() as nursery:
        nursery.start_soon(wait, one)
        nursery.start_soon(wait, other)
