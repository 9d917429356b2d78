"""`vfs status`: what is mounted, and how it does.

The daemons answer for themselves. One that cannot answer is shown too, with what its record says:
`dead` when its process is gone, `degraded` when it runs and keeps silent.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click

from vfs.cli.client import Fields, all_mounts, ask, number
from vfs.cli.mounts import resolve
from vfs.cli.text import show_bytes
from vfs.cli.verb import Verb, as_json, local, seconds
from vfs.errors import MetadataError, VfsError
from vfs.runtime import EXIT_DIRTY, EXIT_FAILED, EXIT_NOT_FOUND, Record, is_alive

VERSION = 1

HEALTHY = ("starting", "ready", "draining")


@click.command("status", cls=Verb)
@as_json()
@click.option("--check", is_flag=True, help="Fail when a mount is not well; for monitoring.")
@click.option(
    "--max-age",
    "max_age_s",
    type=seconds,
    metavar="S",
    help="With --check: fail when something has waited longer to be stored.",
)
@click.argument("mountpoint", type=local, required=False)
def status_command(
    mountpoint: Path | None, json_output: bool, check: bool, max_age_s: float | None
) -> int:
    """Show all mounts of vfs, or the one at MOUNTPOINT."""
    if max_age_s is not None and not check:
        raise click.UsageError("--max-age belongs to --check.")
    mounts = collect(mountpoint)
    if json_output:
        click.echo(json.dumps({"version": VERSION, "mounts": mounts}, indent=2))
    else:
        click.echo(table(mounts), nl=False)
    if not check:
        return 0
    if mountpoint is not None and not mounts:
        click.echo(f"vfs: {mountpoint} is not mounted", err=True)
        return EXIT_NOT_FOUND
    verdicts = [verdict for mount in mounts if (verdict := judge(mount, max_age_s))]
    for _, reason in verdicts:
        click.echo(f"vfs: {reason}", err=True)
    return min((code for code, _ in verdicts), default=0)


def collect(mountpoint: Path | None) -> list[Fields]:
    """Return the state of every mount, or of the one that is asked for."""
    wanted = None if mountpoint is None else str(resolve(mountpoint))
    return [
        _state(record, control)
        for record, control in all_mounts()
        if wanted in {None, record.mountpoint}
    ]


def _state(record: Record, control: Path) -> Fields:
    if not is_alive(record.pid):
        return blank(
            record, "dead", "the daemon is gone; vfs umount cleans up, then mount it again"
        )
    try:
        answer = ask(control, "status")
    except (VfsError, TimeoutError) as error:
        reason = error.message if isinstance(error, VfsError) else "the daemon does not answer"
        return blank(record, "degraded", reason)
    told = answer.get("mount")
    if not isinstance(told, dict):
        raise MetadataError(f"the daemon of {record.mountpoint} does not describe its mount")
    # Whatever an older daemon does not know yet is there all the same.
    return {**blank(record, "ready", None), **cast("Fields", told)}


def blank(record: Record, state: str, error: str | None) -> dict[str, object]:
    """Return every field of a mount of which only its record is known."""
    return {
        "mountpoint": record.mountpoint,
        "url": record.url,
        "pid": record.pid,
        "state": state,
        "since": record.started,
        "dirty_bytes": 0,
        "dirty_files": 0,
        "oldest_dirty_age_s": None,
        "uploads_in_progress": 0,
        "upload_queue_bytes": 0,
        "failed_uploads": 0,
        "conflicts": 0,
        "stage_bytes": 0,
        "stage_limit": 0,
        "memory_bytes": 0,
        "memory_limit": 0,
        "fsync": "remote",
        "ro": False,
        "layout": "plain",
        "cache": {
            "ram_bytes": 0,
            "ram_limit": 0,
            "disk_bytes": 0,
            "disk_limit": 0,
            "hits": 0,
            "misses": 0,
        },
        "requests": 0,
        "errors": 0,
        "last_error": error,
        "stores": [
            {
                "url": record.url,
                "up": None,
                "latency_s": None,
                "last_error": None,
                "bytes_in": 0,
                "bytes_out": 0,
            }
        ],
        "restart_needed": False,
        "daemon_version": "",
    }


def judge(mount: Fields, max_age_s: float | None) -> tuple[int, str] | None:
    """Return exit code and reason when a mount is not well."""
    where, state = mount["mountpoint"], mount["state"]
    if state not in HEALTHY:
        why = f": {mount['last_error']}" if mount.get("last_error") else ""
        return EXIT_FAILED, f"{where} is {state}{why}"
    for name in ("failed_uploads", "conflicts"):
        if count := number(mount, name):
            return EXIT_FAILED, f"{where} has {count} {name.replace('_', ' ')}"
    age_s = mount.get("oldest_dirty_age_s")
    if max_age_s is not None and isinstance(age_s, int | float) and age_s > max_age_s:
        return EXIT_DIRTY, f"{where} has waited {age_s:.0f} s to store what was written"
    return None


def table(mounts: Sequence[Fields]) -> str:
    """Return the mounts for people, one line each and one more for what went wrong."""
    if not mounts:
        return "nothing is mounted\n"
    head = ("MOUNTPOINT", "STATE", "NOT STORED", "STAGE", "MEMORY", "URL")
    rows = [head, *(_row(mount) for mount in mounts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines: list[str] = []
    for row, mount in zip(rows, (None, *mounts), strict=True):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
        if mount is not None and mount.get("last_error"):
            lines.append(f"  last error: {mount['last_error']}")
    return "\n".join([*lines, ""])


def _row(mount: Fields) -> tuple[str, ...]:
    files = number(mount, "dirty_files")
    dirty = f"{show_bytes(number(mount, 'dirty_bytes'))} in {files}" if files else "-"
    return (
        str(mount["mountpoint"]),
        str(mount["state"]),
        dirty,
        show_bytes(number(mount, "stage_bytes")),
        show_bytes(number(mount, "memory_bytes")),
        str(mount["url"]),
    )
