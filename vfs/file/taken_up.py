"""A file that an earlier daemon has left in the stage, on its way to be an open file again.

Where the journal tells what was written since the last commit began, and that commit has landed,
only the rest is dirty; else the next commit settles what became of it.
"""

from vfs.file.content import Content
from vfs.layout.base import Begun
from vfs.stage.file import StagedFile
from vfs.stage.journal import StagedState


class TakenUp:
    """One content that goes on where it was left."""

    def __init__(self, content: Content, staged: StagedFile, state: StagedState) -> None:
        self._content = content
        self._staged = staged
        self._since = state.since  # what was changed since its last commit began
        content.adopt(staged, base=state.base, replaces=state.replaces)
        commit_id = state.commit_id or (state.upload.commit_id if state.upload else None)
        if commit_id is not None:
            begun = Begun(commit_id, state.upload, state.sent, state.parts)
            content.next.go_on(begun)
        content.changed()

    async def settle(self) -> None:
        """Find out whether the last commit of the earlier daemon has landed, before any change.

        Errors: any store error; then the next commit finds out.
        """
        content, staged, since = self._content, self._staged, self._since
        version = await content.next.landed() if since is not None else None
        if since is None or version is None:
            return
        # No await from here on: base, stage and tree change together.
        staged.rebase(since)
        draft = content.next.made()
        content.base = content.replaces = version
        if not staged.dirty and staged.size == version.size:
            content.stored = content.changes
        content.owner.committed(version)
        await content.tell_stored(staged, version)
        if draft is not None:
            await draft.abandon()
