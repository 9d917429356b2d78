"""One configuration of all components: from flags, the environment, files and defaults.

Each component declares its own options (`Section`); here they are put together, by the same names
everywhere. For every option the strongest place that mentions it wins: `-o`, then `VFS_NAME`, then
the file, then the default. Nothing is ever accepted and ignored: a name of the contract that is not
built yet, an unknown one and a value that makes no sense are all refused, with the place.

A file holds options for all its mounts at the top, and one table per mount:

    memory = "2G"
    [mount.images]
    url = "s3://bucket/images"
    allow_other = true

or is the file of one mount: options and `url` at the top, the name being that of the file.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self, cast
from urllib.parse import quote, unquote_to_bytes, urlsplit

from pydantic import Field, model_validator

from vfs.cache.config import CacheConfig
from vfs.errors import ConfigError, NotFoundError, NotInThisVersionError
from vfs.log import LogConfig, redact
from vfs.options import (
    Count,
    Duration,
    Flag,
    Given,
    Section,
    build_section,
    is_list,
    kind_of,
    nearest,
    normal_name,
    parse_flag,
    split_options,
)
from vfs.stage.config import StageConfig
from vfs.store.config import StoreConfig
from vfs.tree.config import TreeConfig

SYSTEM_DIRECTORY = Path("/etc/vfs")

CONTRACT_OPTIONS = tuple(
    """
    ro allow_other uid gid umask default_permissions cache_dir cache_size memory block_size
    read_ahead max_connections max_background part_size fsync stage_dir stage_size stage_wait
    stop_wait metadata_ttl negative_ttl statfs_size attributes layout endpoint region addressing
    profile project requester_pays credentials_file token_file header_file client_cert client_key
    tls_verify ca_bundle timeout bandwidth max_retries retry_delay storage_class sse sse_kms_key
    sse_c_key_file verify_reads verify_uploads max_file_size allowed_extensions xattr writeback
    index cdn_url cdn_signing cdn_key_file cdn_timeout mirror mirror_read mirror_write read_stale
    coordinator metrics_listen log_level log_format
    """.split()  # noqa: SIM905 - a table of words reads better
)
"""Every option that users may count on, built or not."""

SCHEMES = ("file", "s3", "s3+http", "s3+https", "mem")
LATER_SCHEMES = ("gs", "az", "http", "https")

FOREIGN_VARIABLES = re.compile(
    r"VFS_(?:(?:REQUIRE|SERVERS|RGW_PORT)=.*"
    r"|(?:[A-Z0-9_]+_)?(?:SERVICE_(?:HOST|PORT(?:_.*)?)=.*|PORT(?:_[0-9]+_.*)?=(?:tcp|udp|sctp).*"
    r"|PORT_[0-9]+_[A-Z]+_(?:PORT|ADDR)=.*))",
    re.DOTALL,
)
"""No options: three of our own tests, and what Kubernetes sets in containers beside a service named
vfs or vfs-something (Kubernetes documentation, "Service", "Environment variables")."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_SECRET_NAME = re.compile(r"passw|secret|access_key|token$|credential$|credentials$|api_key")
_REMEDY = (
    "give credentials through the environment, profile= or credentials_file=, never as a value"
)


class MountConfig(Section):
    """What the kernel is told when mounting. Here, since `fuse` stands above this module."""

    allow_other: Flag = Field(
        default=False,
        description=(
            "Let other users in; implies `default_permissions`. Who is not root needs"
            " `user_allow_other` in /etc/fuse.conf."
        ),
    )
    default_permissions: Flag = Field(
        default=False, description="Let the kernel check modes and owners."
    )
    max_background: Count = Field(
        128,
        ge=1,
        le=65_535,
        description="Requests that the kernel keeps in flight in the background.",
        examples=["128"],
    )

    @model_validator(mode="before")
    @classmethod
    def _imply_permissions(cls, given: dict[str, object]) -> dict[str, object]:
        # A copy of what the caller gave; a value that is no switch is left for its own complaint.
        try:
            open_to_others = parse_flag(given.get("allow_other", False))
        except ValueError:
            return given
        return {"default_permissions": True, **given} if open_to_others else given

    @model_validator(mode="after")
    def _check_permissions(self) -> Self:
        if self.allow_other and not self.default_permissions:
            # Without the kernel's check every user could read and write every file.
            raise ValueError("option allow_other implies default_permissions; leave the latter out")
        return self


class DaemonConfig(Section):
    """How the daemon behaves as a process."""

    stop_wait: Duration = Field(
        300.0,
        gt=0,
        description=(
            "How long unmounting waits while nothing moves, where no terminal is attached; what is"
            " left then stays in `stage_dir`, and the next mount of the URL takes it up."
        ),
        examples=["5m"],
    )


SECTIONS: Mapping[str, type[Section]] = MappingProxyType(
    {
        "store": StoreConfig,
        "cache": CacheConfig,
        "stage": StageConfig,
        "tree": TreeConfig,
        "mount": MountConfig,
        "log": LogConfig,
        "daemon": DaemonConfig,
    }
)
_SECTION_OF = {name: section for section, model in SECTIONS.items() for name in model.model_fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The options of every component."""

    store: StoreConfig
    cache: CacheConfig
    stage: StageConfig
    tree: TreeConfig
    mount: MountConfig
    log: LogConfig
    daemon: DaemonConfig

    def section(self, name: str) -> Section:
        """Return one section by its name."""
        return cast("Section", getattr(self, name))


@dataclass(frozen=True, slots=True)
class MountSpec:
    """What to mount, how, and where each option was said."""

    url: str
    config: Config
    sources: Mapping[str, str]  # option -> "option -o", "environment VFS_...", a file, "default"
    kernel_options: tuple[str, ...] = ()  # of mount(8): nodev, nosuid, noexec and their opposites


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What one file says."""

    path: Path
    shared: Mapping[str, Given]  # for every mount
    mounts: Mapping[str, Mapping[str, Given]]  # by name; includes `url`


def load_config(
    url_or_name: str,
    options: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
    *,
    system: Path = SYSTEM_DIRECTORY,
) -> MountSpec:
    """Return what a URL or a configured name means here and now.

    Errors: ConfigError, NotInThisVersionError; NotFoundError for a name that no file has.
    """
    environ = os.environ if environ is None else environ
    if is_url(url_or_name):
        given = dict(read_config_file(file).shared) if file else {}
        url = url_or_name
        check_url(url)
    else:
        given = _find_mount(url_or_name, environ, file, system)
        url = _take_url(url_or_name, given)
    return _spec(url, given | read_environment(environ) | read_flags(options))


def load_options(options: Sequence[str], environ: Mapping[str, str] | None = None) -> Config:
    """Return the configuration of a command that mounts nothing: flags and environment alone."""
    environ = os.environ if environ is None else environ
    return _spec("mem://", read_environment(environ) | read_flags(options)).config


def file_specs(file: ConfigFile, environ: Mapping[str, str]) -> dict[str, MountSpec]:
    """Return what every mount of a file means here and now."""
    specs: dict[str, MountSpec] = {}
    for name, own in file.mounts.items():
        given = {**file.shared, **own}
        url = _take_url(name, given)
        specs[name] = _spec(url, given | read_environment(environ))
    return specs


def _spec(url: str, given: Mapping[str, Given]) -> MountSpec:
    made: dict[str, Section] = {}
    sources: dict[str, str] = {}
    for section, model in SECTIONS.items():
        own = {name: entry for name, entry in given.items() if name in model.model_fields}
        made[section] = build_section(model, own)
        for name in model.model_fields:
            implied = "implied" if name in made[section].model_fields_set else "default"
            sources[name] = own[name].source if name in own else implied
    return MountSpec(url, Config(**made), MappingProxyType(sources))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - one loop for seven types


def read_flags(options: Sequence[str]) -> dict[str, Given]:
    """Read `-o` strings; for a repeated option the last one counts, lists collect all."""
    pairs = [pair for text in options for pair in split_options(text)]
    return _collect(pairs, lambda _: "option -o")


def read_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """Read every `VFS_NAME` variable; an empty one is as good as none.

    Those of `FOREIGN_VARIABLES` are not ours; any other must be an option.
    """
    pairs = [
        (name.removeprefix("VFS_").lower(), value)
        for name, value in sorted(environ.items())
        if value and name.startswith("VFS_") and not FOREIGN_VARIABLES.match(f"{name}={value}")
    ]
    return _collect(pairs, lambda name: f"environment VFS_{name.upper()}")


def _collect(
    pairs: Iterable[tuple[str, str | None]], source: Callable[[str], str]
) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for name, value in pairs:
        model = check_name(name, source(name))
        entry: object = True if value is None else value
        if is_list(model, name):
            earlier = cast("list[object]", found[name].value) if name in found else []
            entry = [*earlier, entry]
        found[name] = Given(entry, source(name))
    return found


def check_name(name: str, source: str) -> type[Section]:
    """Return the section of an option.

    Errors: NotInThisVersionError for one of the contract, ConfigError for an unknown one.
    """
    if name in _SECTION_OF:
        return SECTIONS[_SECTION_OF[name]]
    if name in CONTRACT_OPTIONS:
        raise NotInThisVersionError(f"option {name} ({source}): not in this version")
    if _SECRET_NAME.search(name):
        raise ConfigError(f"option {name} ({source}): no option takes a secret; {_REMEDY}")
    hint = nearest(name, CONTRACT_OPTIONS)
    if not hint and source.startswith("environment"):
        hint = "; unset it: what begins with VFS_ is an option"
    raise ConfigError(f"unknown option {name} ({source}){hint}")


def is_url(text: str) -> bool:
    """Tell a URL from a configured name."""
    return "://" in text


def _directory_hint(text: str) -> str:
    path = text.removeprefix("file:")
    shown = "/path/to/directory"
    if path.startswith(("/", ".")):
        shown = redact(quote(os.fsencode(os.path.abspath(path))))  # noqa: PTH100 - without ".."
    return f"a local directory is written file://{shown}"


def local_path(url: str) -> Path:
    """Return the path that a file URL names."""
    return Path(os.fsdecode(b"/" + unquote_to_bytes(url.partition("://")[2].partition("/")[2])))


def check_url(url: str) -> None:
    """Refuse a URL that cannot be mounted, before anything is asked of the network.

    Errors: ConfigError, NotInThisVersionError.
    """
    scheme, _, rest = url.partition("://")
    shown = redact(url)
    if not url:
        raise ConfigError("the URL is empty")
    if not is_url(url):
        raise ConfigError(f"{shown}: not a URL; {_directory_hint(url)}")
    if scheme.lower() in LATER_SCHEMES:
        raise NotInThisVersionError(f"{shown}: stores of kind {scheme}:// are not in this version")
    if scheme.lower() not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(f"{shown}: unknown kind of store {scheme}://; known are {known}")
    try:
        parts = urlsplit(url)
        _ = parts.port  # looked at only when asked for
    except ValueError as error:
        raise ConfigError(f"{shown}: not a URL: {error}") from None
    if "@" in parts.netloc:
        raise ConfigError(f"{shown}: a URL must not hold a user name or a secret; {_REMEDY}")
    if scheme.lower() == "file" and not rest.startswith("/"):
        raise ConfigError(f"{shown}: write an absolute path with three slashes: file:///{rest}")
    if scheme.lower() == "file" and b"\0" in unquote_to_bytes(rest):
        raise ConfigError(f"{shown}: no path has a NUL byte (%00)")


def read_config_file(path: Path) -> ConfigFile:
    """Read one file and check the names in it; values are checked where they are used.

    Errors: ConfigError, with line and column for what is not TOML; NotFoundError.
    """
    try:
        with path.open("rb") as stream:
            document: dict[str, object] = tomllib.load(stream)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    tables = document.pop("mount", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: mount: must be tables; write [mount.NAME]")
    mounts = {
        name: _read_table(path, f"mount.{name}", table)
        for name, table in cast("dict[str, object]", tables).items()
    }
    shared = _read_table(path, "", document)
    if "url" in shared:
        if mounts:
            raise ConfigError(f"{path}: url: belongs into one of the [mount.NAME] tables")
        return ConfigFile(path, {}, {path.stem: shared})
    return ConfigFile(path, shared, mounts)


def _read_table(path: Path, prefix: str, table: object) -> dict[str, Given]:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {prefix}: must be a table; write [{prefix}]")
    found: dict[str, Given] = {}
    for key, value in cast("dict[str, object]", table).items():
        source = f"{path}: {prefix}.{key}" if prefix else f"{path}: {key}"
        name = normal_name(key)
        if name == "url":
            if not isinstance(value, str):
                raise ConfigError(f"{source}: must be text, for example url = 's3://bucket'")
        elif kind_of(check_name(name, source), name) == "octal" and not isinstance(value, str):
            # TOML has turned 22 and 0o22 into numbers that cannot be told apart.
            raise ConfigError(f'{source}: must be text, for example {name} = "0022"')
        found[name] = Given(value, source)
    return found


def config_files(environ: Mapping[str, str], system: Path = SYSTEM_DIRECTORY) -> list[Path]:
    """Return the files of this host and user that exist, strongest first."""
    found: list[Path] = []
    for directory in _directories(environ, system):
        main = directory / "vfs.toml"
        others = sorted(path for path in directory.glob("*.toml") if path != main)
        found += [path for path in (main, *others) if path.is_file()]
    return found


def _directories(environ: Mapping[str, str], system: Path) -> tuple[Path, Path]:
    base = environ.get("XDG_CONFIG_HOME", "")
    return system, Path(base if base.startswith("/") else Path.home() / ".config") / "vfs"


def _find_mount(
    name: str, environ: Mapping[str, str], file: Path | None, system: Path
) -> dict[str, Given]:
    if not name:
        raise ConfigError("neither a URL nor a name is given: it is empty")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{redact(name)}: neither a URL nor a name; {_directory_hint(name)}")
    candidates = (
        [file]
        if file
        else [
            directory / base
            for directory in _directories(environ, system)
            for base in ("vfs.toml", f"{name}.toml")
        ]
    )
    for path in candidates:
        if file is None and not path.exists():
            continue
        found = read_config_file(path)
        if name in found.mounts:
            return {**found.shared, **found.mounts[name]}
    places = ", ".join(str(path) for path in candidates)
    raise NotFoundError(f"no mount is named {name}: looked for [mount.{name}] in {places}")


def _take_url(name: str, given: dict[str, Given]) -> str:
    if "url" not in given:
        raise ConfigError(f"mount.{name}: url is missing; for example url = 's3://bucket/prefix'")
    found = given.pop("url")
    url = str(found.value)
    try:
        check_url(url)
    except ConfigError as error:
        raise type(error)(f"{found.source}: {error.message}") from None
    return url
