"""The main job, shown on a local store: a disk image goes in, every byte comes back.

Makes an ext4 image of real files, mounts a directory, converts the image to qcow2 into the mount,
checks it, converts it back and compares; then compares SHA-256 of what the store holds with what
the mount shows, before and after a fresh mount. Leaves nothing behind, also when it fails.

    make demo
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
TREE_BYTES = 200 * MIB
IMAGE_BYTES = 320 * MIB  # the files, and what ext4 needs to keep them
NEEDED_BYTES = 2 << 30  # tree, image, the store's copy, the stage's, and the one converted back
SOURCES = ("/usr/lib", "/usr/share")
COMMAND_TIMEOUT_S = 120  # a mount that answers takes a few seconds for any step

MARK = "DEMO_DIRECTORY"

VFS = str(Path(sys.executable).with_name("vfs"))


class DemoError(Exception):
    """A step that did not do what it should; one line."""


def run(*command: str | Path) -> str:
    """Run a command to its end and return what it printed."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["nothing was printed"]
        raise DemoError(f"{' '.join(words[:3])} ... failed ({done.returncode}): {said[-1]}")
    return done.stdout


def mounted(mountpoint: Path) -> bool:
    """Tell whether anything is mounted there, without touching a mount that may be dead."""
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return any(line.split()[4] == str(mountpoint) for line in lines)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def marked_processes(mark: str) -> list[int]:
    """Return what this run has started and still lives, daemons too, by a mark they inherit."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if f"{MARK}={mark}".encode() in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return found


def files(*roots: str) -> Iterator[Path]:
    """Yield ordinary files of a few MiB at most, the same ones in the same order each time."""
    for root in roots:
        for directory, subdirectories, names in os.walk(root):
            subdirectories.sort()
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 16 * MIB:
                    yield path


def copy_tree(target: Path, limit_bytes: int) -> tuple[int, int]:
    """Copy real files until there are `limit_bytes`; return how many files and bytes."""
    count = total = 0
    for path in files(*SOURCES):
        size = path.stat().st_size
        if total + size > limit_bytes:
            break
        copy = target / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):
            shutil.copyfile(path, copy)
            count, total = count + 1, total + size
    return count, total


class Demo:
    """The steps, in order, on paths below one temporary directory."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.tree = base / "tree"
        self.image = base / "disk.img"
        self.store = base / "store"
        self.mountpoint = base / "mnt"
        self.back = base / "back.img"
        for directory in (self.tree, self.store, self.mountpoint):
            directory.mkdir()

    def steps(self) -> list[tuple[str, Callable[[], str]]]:
        """Return what to do: a name, and what does it and says what came of it."""
        return [
            ("make an ext4 image of real files", self.make_image),
            ("vfs mount", self.mount),
            ("qemu-img convert raw -> qcow2", self.convert),
            ("qemu-img check", self.check),
            ("convert back and compare", self.convert_back),
            ("SHA-256, store and mount", self.same_digests),
            ("vfs status", self.status),
            ("vfs umount", self.unmount),
            ("mount again, SHA-256", self.same_after_remount),
            ("vfs umount", self.unmount),
        ]

    def make_image(self) -> str:
        """Make the image that is to survive the journey."""
        count, size = copy_tree(self.tree, TREE_BYTES)
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", self.tree, self.image)
        return f"{count} files, {size // MIB} MiB"

    def mount(self) -> str:
        """Mount the store's directory."""
        url = f"file://{self.store}"
        run(VFS, "mount", "-o", f"stage_dir={self.base / 'stage'}", url, self.mountpoint)
        if not mounted(self.mountpoint):
            raise DemoError("vfs mount said that it worked, but nothing is mounted")
        return f"{url} on {self.mountpoint}"

    @property
    def disk(self) -> Path:
        """The qcow2 file in the mount."""
        return self.mountpoint / "disk.qcow2"

    def convert(self) -> str:
        """Write the image through the mount, as a new qcow2 file."""
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.image, self.disk)
        return f"{self.disk.stat().st_size / MIB:.0f} MiB written through the mount"

    def check(self) -> str:
        """Let qemu-img look for errors in the structure of the qcow2 file."""
        return run("qemu-img", "check", "-q", self.disk).strip() or "no errors"

    def convert_back(self) -> str:
        """Read everything back and compare it with the first image."""
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.disk, self.back)
        before, after = sha256(self.image), sha256(self.back)
        if before != after:
            raise DemoError(f"the image came back different: {before} -> {after}")
        return f"{IMAGE_BYTES // MIB} MiB, all equal"

    def same_digests(self) -> str:
        """Compare what the store holds with what the mount shows."""
        stored, shown = sha256(self.store / self.disk.name), sha256(self.disk)
        if stored != shown:
            raise DemoError(f"the store holds {stored}, the mount shows {shown}")
        return stored

    def status(self) -> str:
        """Ask the daemon; with all files closed nothing may be waiting."""
        [mount] = json.loads(run(VFS, "status", "--json", self.mountpoint))["mounts"]
        if mount["dirty_bytes"]:
            raise DemoError(f"{mount['dirty_bytes']} bytes are not stored although all is closed")
        return f"{mount['state']}, {mount['dirty_bytes']} bytes not stored"

    def unmount(self) -> str:
        """Unmount; success means that everything is stored."""
        run(VFS, "umount", self.mountpoint)
        if mounted(self.mountpoint):
            raise DemoError("vfs umount said that it worked, but it is still mounted")
        return "everything stored"

    def same_after_remount(self) -> str:
        """Read through a mount that has nothing cached."""
        self.mount()
        return self.same_digests()

    def clean_up(self) -> None:
        """Unmount whatever still is mounted, end a daemon that does not end, remove the files."""
        if mounted(self.mountpoint):
            with contextlib.suppress(DemoError, subprocess.TimeoutExpired):
                run(VFS, "umount", "--timeout", "30", self.mountpoint)
        if mounted(self.mountpoint):
            unmounter = ("umount", "-l") if os.geteuid() == 0 else ("fusermount3", "-u", "-z")
            with contextlib.suppress(DemoError):
                run(*unmounter, self.mountpoint)
        self._end_daemon()
        if mounted(self.mountpoint):
            print(f"still mounted, so left as it is: {self.mountpoint}", file=sys.stderr)
        else:
            shutil.rmtree(self.base, ignore_errors=True)

    def _end_daemon(self) -> None:
        deadline = time.monotonic() + 10
        while pids := marked_processes(str(self.base)):
            if time.monotonic() > deadline:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)  # noqa: TID251 - a script without a loop

    def log_tail(self) -> str:
        """Return the last lines of the daemon's own log, where it keeps one in a file."""
        logs = [path.read_text(errors="replace") for path in self.base.glob("stage/**/vfs.log")]
        return "\n".join(line for text in logs for line in text.splitlines()[-20:])


def show(demo: Demo) -> None:
    """Carry out every step and print it as a row of the table."""
    print(f"\n{'step':<34} {'seconds':>7}  result", flush=True)
    for name, action in demo.steps():
        print(f"{name:<34} ", end="", flush=True)
        started = time.monotonic()
        try:
            result = action()
        except (DemoError, OSError, subprocess.TimeoutExpired) as error:
            print(f"{time.monotonic() - started:>7.1f}  FAILED", flush=True)
            raise DemoError(f"{name}: {error}") from error
        print(f"{time.monotonic() - started:>7.1f}  {result}", flush=True)


def end(signal_number: int, _frame: object) -> None:
    """Turn a signal into an exception, so that everything is cleaned up."""
    sys.exit(128 + signal_number)


def main() -> int:
    """Run the demo; 0 when every step did what it should."""
    if not Path("/dev/fuse").exists():
        print("demo: there is no /dev/fuse on this machine, so nothing can be mounted")
        return 1
    place = "/var/tmp"  # on disk, where /tmp is often memory
    if shutil.disk_usage(place).free < NEEDED_BYTES:
        print(f"demo: needs {NEEDED_BYTES >> 30} GiB free in {place}")
        return 1
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGHUP, end)
    demo = Demo(Path(tempfile.mkdtemp(prefix="vfs-demo-", dir=place)))
    os.environ[MARK] = str(demo.base)
    try:
        show(demo)
    except DemoError as error:
        print(f"\ndemo: {error}\n{demo.log_tail()}".rstrip())
        return 1
    finally:
        demo.clean_up()
    print("\nIt all worked: every byte that went in came back, also after a fresh mount.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
