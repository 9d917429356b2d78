"""Running commands that may hang, with what they leave behind in view."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 1800.0

CHILD = (sys.executable, "-m", "bench.child")
VFS = (sys.executable, "-m", "vfs")  # of this tree, whatever is installed


class BenchError(Exception):
    """A measurement that cannot be made or must not count; one line."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what children see: ours, without settings of mounts or stores, this tree first."""
    foreign = ("VFS_", "AWS_", "RCLONE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8", **(extra or {})}


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, timeout: float = TIMEOUT_S
) -> str:
    """Run a command to its end; return what it printed."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=env or environment(),
            cwd="/",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{' '.join(words[:6])}: no end within {timeout:g} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:] or ["nothing said"]
        raise BenchError(f"{' '.join(words[:6])}: exit {done.returncode}: {said[0]}")
    return done.stdout


def timed(*command: str | Path) -> float:
    """Run a command to its end; return the seconds."""
    before = time.perf_counter()
    run(*command)
    return time.perf_counter() - before


def tell(message: str) -> None:
    """Report progress."""
    print(message, file=sys.stderr, flush=True)
