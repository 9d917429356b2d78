"""When somebody else has written a file first: keep every byte that was written here.

The name belongs to the winner. What the loser holds becomes `NAME.conflict-HOST-TIME` beside it:
staged bytes as they are, untouched ranges from the base version, by its version id or from the
cache, never from the winner. Where the base is gone the staged bytes stay in the stage directory.
"""

import logging
import socket
from datetime import UTC, datetime
from pathlib import Path

import trio

from vfs import names
from vfs.errors import ConflictError, StaleError, VfsError
from vfs.file.content import Content
from vfs.tree.context import Context
from vfs.tree.listing import directory_of
from vfs.tree.node import Move, Node

log = logging.getLogger(__name__)


class Conflicts:
    """Keeps what losers wrote."""

    def __init__(self, context: Context, nursery: trio.Nursery) -> None:
        self._context = context
        self._nursery = nursery
        self.count = 0
        self.active = 0  # copies under way
        self.partial: list[Path] = []  # staged files whose base is gone

    def lose(self, content: Content, error: VfsError) -> None:
        """Take the name away from a losing content, between two awaits; keep its bytes soon."""
        self.count += 1
        content.lost = error
        node = content.owner
        if not isinstance(node, Node) or node.parent is None:
            return
        content.rescuing = True
        parent, name = node.parent, node.name
        node.detach()
        directory = directory_of(parent)
        directory.changes.pop(name, None)
        self._context.listings.doubt(parent)
        self.active += 1
        self._nursery.start_soon(self._keep, content, node)

    async def _keep(self, content: Content, node: Node) -> None:
        try:
            await self._persist(content, node)
            await self._copy(content, node)
        except Exception:
            log.exception("conflict copy of %r: unexpected error", node.key)
            self._keep_partial(content, node)
        finally:
            self.active -= 1
            content.rescuing = False
            if content.handles == 0:
                content.release_stage()
            if node.move is not None:
                await self._stay(node.move, node)

    @staticmethod
    async def _persist(content: Content, node: Node) -> None:
        """Let a restart find what is not stored yet under a name of its own."""
        try:
            await content.persist()
        except VfsError as error:
            log.warning("%r is not safe in the stage: %s", node.key, error.message)

    async def _stay(self, move: Move, node: Node) -> None:
        """Let a file whose rename was lost stand under its old name again."""
        node.move = None
        directory = directory_of(move.parent)
        directory.leaving.pop(move.name, None)
        directory.changes.pop(move.name, None)
        self._context.listings.doubt(move.parent)
        move.over.set()
        await self._context.journal.done(move.number)

    async def _copy(self, content: Content, node: Node) -> None:
        """Store the loser's bytes under a name of their own."""
        parent = node.parent
        if parent is None:
            return
        now = datetime.fromtimestamp(self._context.wall_ns() / 1e9, UTC)
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        host = socket.gethostname().replace("/", "_")[:64]
        name = f"{node.name}.conflict-{host}-{stamp}"
        for attempt in range(100):
            candidate = name if attempt == 0 else f"{name}-{attempt}"
            try:
                await content.commit_copy(names.child(parent.key, candidate))
            except StaleError:
                self._keep_partial(content, node)
                return
            except ConflictError:
                continue  # that name is taken
            except VfsError as error:
                log.warning("conflict copy %r failed: %s", candidate, error.message)
                self._keep_partial(content, node)
                return
            log.warning(
                "%r was written by somebody else first: what was written here is %r",
                node.key,
                candidate,
            )
            self._context.listings.doubt(parent)
            await content.journal.forget()
            return

    def _keep_partial(self, content: Content, node: Node) -> None:
        if content.staged is None:
            return
        content.staged.preserved = True
        self.partial.append(content.staged.path)
        log.error(
            "%r was written by somebody else first and its old version is gone: what was written "
            "here stays in %s",
            node.key,
            content.staged.path,
        )
