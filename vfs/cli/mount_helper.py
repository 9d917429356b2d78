"""`mount.vfs`, which mount(8), fstab and systemd call: `mount -t vfs URL DIR`.

Same work as `vfs mount`, other manners: the switches of mount(8) ("External helpers"), the options
that fstab carries for others, and only three exit codes.
"""

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import click

from vfs.cli.main import run
from vfs.cli.mount import mount
from vfs.cli.mounts import resolve
from vfs.cli.preflight import check_mount
from vfs.cli.verb import local
from vfs.config import CONTRACT_OPTIONS, load_config
from vfs.errors import ConfigError, UnsupportedError
from vfs.options import split_options
from vfs.runtime import EXIT_DENIED, EXIT_DONE, EXIT_USAGE

EX_USAGE = 1
EX_FAIL = 32
"""mount(8), "Exit status": 1 incorrect invocation or permissions, 32 mount failure."""

IGNORED = frozenset(
    {
        *("defaults", "auto", "noauto", "user", "nouser", "users", "nofail", "_netdev"),
        *("sync", "async", "dirsync", "comment"),
        *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime"),
        *("strictatime", "nostrictatime", "lazytime", "nolazytime"),
    }
)
"""For mount(8), systemd or other file systems; here they mean nothing."""

KERNEL = frozenset({"dev", "nodev", "suid", "nosuid", "exec", "noexec"})

_CLONE_NEWNS = 0x0002_0000  # <linux/sched.h>


@dataclass(frozen=True, slots=True)
class FstabOptions:
    """What an fstab line asks for, sorted by who it is for."""

    options: tuple[str, ...]  # ours, as for `vfs mount -o`
    kernel: tuple[str, ...]


def sort_options(strings: Sequence[str], *, tolerant: bool) -> FstabOptions:
    """Sort the options of an fstab line; `tolerant` drops those that nobody knows.

    Errors: ConfigError for `remount`.
    """
    ours: list[str] = []
    kernel: list[str] = []
    for name, value in (pair for text in strings for pair in split_options(text)):
        if name in IGNORED or name.lower().startswith("x_"):  # split_options wrote - as _
            continue
        if name == "remount":
            raise ConfigError(
                "option remount: a mount of vfs cannot be changed; unmount it, then mount it anew"
            )
        if name in KERNEL:
            kernel.append(name)
        elif name == "rw":
            ours.append("ro=no")
        elif name in CONTRACT_OPTIONS or not tolerant:
            escaped = "" if value is None else "=" + value.replace("\\", "\\\\").replace(",", "\\,")
            ours.append(name + escaped)
    return FstabOptions(tuple(ours), tuple(kernel))


@click.command("mount.vfs", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-s", "tolerant", is_flag=True, help="Tolerate unknown options.")
@click.option("-f", "fake", is_flag=True, help="Check everything, mount nothing.")
@click.option("-n", "_no_mtab", is_flag=True, help="Accepted; there is no mtab to write.")
@click.option("-v", "verbose", is_flag=True, help="Say what is done.")
@click.option("-N", "namespace", metavar="NS", help="Mount in this mount namespace (path or pid).")
@click.option("-t", "_type", metavar="TYPE", help="Accepted; always fuse.vfs.")
@click.option("-o", "options", multiple=True, metavar="OPTS", help="Options.")
@click.argument("spec", metavar="SPEC")
@click.argument("directory", metavar="DIR", type=local)
def helper_command(  # noqa: PLR0913 - mount(8) has that many switches
    *,
    spec: str,
    directory: Path,
    options: Sequence[str],
    tolerant: bool,
    fake: bool,
    verbose: bool,
    namespace: str | None,
    _no_mtab: bool,
    _type: str | None,
) -> int:
    """Mount the store SPEC (a URL, or a name of the configuration) on DIR."""
    if namespace is not None:
        enter_namespace(namespace)
    sorted_options = sort_options(options, tolerant=tolerant)
    found = load_config(spec, sorted_options.options, os.environ)
    found = replace(found, kernel_options=sorted_options.kernel)
    if fake:
        check_mount(found, resolve(directory))
    else:
        mount(found, directory, foreground=False)
    if verbose:
        click.echo(f"mount.vfs: {found.url} {'could be' if fake else 'is'} mounted on {directory}")
    return EXIT_DONE


def enter_namespace(namespace: str) -> None:
    """Go on in another mount namespace.

    Errors: ConfigError, UnsupportedError.
    """
    # The other namespace may have no Python at all: what is needed there must be here before.
    import_module("vfs.daemon")
    path = f"/proc/{namespace}/ns/mnt" if namespace.isdecimal() else namespace
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"mount namespace {namespace}: {error.strerror}") from None
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(handle, _CLONE_NEWNS) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise UnsupportedError(f"mount namespace {namespace} cannot be entered: {reason}")
    finally:
        os.close(handle)


def helper_exit(code: int) -> int:
    """Return what mount(8) understands for one of our exit codes."""
    if code == EXIT_DONE:
        return EXIT_DONE
    return EX_USAGE if code in {EXIT_USAGE, EXIT_DENIED} else EX_FAIL


def main() -> None:
    """Run the helper with the process's arguments."""
    sys.exit(helper_exit(run(sys.argv[1:], command=helper_command, name="mount.vfs")))
