"""Waiting until a daemon has stored what was written, with progress."""

import sys
from pathlib import Path

from vfs.cli.client import Fields, Patience, ask, number
from vfs.cli.progress import open_meter
from vfs.cli.text import show_bytes
from vfs.runtime import EXIT_DIRTY, ExitError

STOP_WAIT_S = 300.0
"""Default of the option `stop_wait`; the daemon's own value comes with its first progress line."""


def drain(
    control: Path, verb: str, arguments: Fields, *, label: str, total_s: float | None
) -> Fields:
    """Have a daemon store everything and return its answer.

    Without `total_s` it waits for ever on a terminal, where somebody watches, and elsewhere until
    nothing has moved for `stop_wait`.
    Errors: ExitError (8) when patience has run out; those of `ask`.
    """
    watched = sys.stderr.isatty()
    patience = Patience(total_s=total_s, stall_s=None if watched else STOP_WAIT_S)
    largest = left = files = 0
    with open_meter(label) as meter:

        def show(fields: Fields) -> None:
            nonlocal largest, left, files
            left, files = number(fields, "dirty_bytes"), number(fields, "dirty_files")
            largest = max(largest, left)
            if not watched and (stall_s := fields.get("stop_wait_s")) is not None:
                patience.allow(float(str(stall_s)))
            # Under a limit of bandwidth a part may take longer to pass than anybody would wait.
            patience.moved((left, files, fields.get("passed_bytes")))
            meter.update(largest - left, largest)

        try:
            return ask(
                control, verb, {**arguments, "timeout_s": total_s}, patience=patience, progress=show
            )
        except TimeoutError:
            what = f"{show_bytes(left)} in {files} files" if files else "something"
            raise ExitError(
                f"{label}: {what} not stored in time; the upload goes on, vfs status shows it",
                EXIT_DIRTY,
            ) from None
