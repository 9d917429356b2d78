"""Ceph's object gateway, started once and left running: its data is kept between runs.

scripts/servers/rgw-install.sh     once, as root
scripts/servers/rgw-stop.sh        when it is not wanted any more
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.support.hygiene import MARK
from tests.support.s3_access import S3Access
from tests.support.servers import unavailable

_START = Path(__file__).parents[2] / "scripts" / "servers" / "rgw-start.sh"


@functools.cache
def _start() -> dict[str, str] | str:
    """Return the settings that the script prints, or why it does not run."""
    if shutil.which("radosgw") is None:
        return "radosgw is not installed (scripts/servers/rgw-install.sh)"
    # It outlives the session that starts it, so it must not carry the session's mark.
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    done = subprocess.run(
        [_START], capture_output=True, text=True, timeout=180, env=environment, check=False
    )
    if done.returncode != 0:
        return " ".join(done.stderr.split())[-300:]
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def rgw(*, tls: bool = False, other: bool = False, second: bool = False) -> S3Access:
    """Return access to the gateway; skip where it cannot run.

    As its first user, with the `second` of that user's keys, or as its `other` user.
    """
    found = _start()
    if isinstance(found, str):
        unavailable("rgw", found)
    who = "RGW_OTHER_" if other else "RGW_SECOND_" if second else "RGW_"
    return S3Access(
        found["RGW_TLS_ENDPOINT" if tls else "RGW_ENDPOINT"],
        found[f"{who}ACCESS_KEY"],
        found[f"{who}SECRET_KEY"],
        Path(found["RGW_CA"]) if tls else None,
    )
