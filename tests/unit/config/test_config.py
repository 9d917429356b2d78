"""Where options come from, and which there are."""

import re

import pytest

from vfs.config import (
    CONTRACT_OPTIONS,
    SECTIONS,
    check_url,
    config_files,
    file_specs,
    load_config,
    load_options,
    read_config_file,
)
from vfs.errors import ConfigError, NotFoundError, NotInThisVersionError

BUILT = {name for model in SECTIONS.values() for name in model.model_fields}
LATER = sorted(set(CONTRACT_OPTIONS) - BUILT)

CONTRACT = """
ro allow_other uid gid umask default_permissions cache_dir cache_size memory block_size read_ahead
max_connections max_background part_size fsync stage_dir stage_size stage_wait stop_wait metadata_ttl
negative_ttl statfs_size attributes layout endpoint region addressing profile project requester_pays
credentials_file token_file header_file client_cert client_key tls_verify ca_bundle timeout bandwidth
max_retries retry_delay storage_class sse sse_kms_key sse_c_key_file verify_reads verify_uploads
max_file_size allowed_extensions xattr writeback index cdn_url cdn_signing cdn_key_file cdn_timeout mirror
mirror_read mirror_write read_stale coordinator metrics_listen log_level log_format
"""


def load(url="mem://x", options=(), environ=None, file=None, **kwargs):
    return load_config(url, options, environ or {}, file, **kwargs)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_contract_is_known_by_heart():
    assert list(CONTRACT_OPTIONS) == CONTRACT.split()


def test_every_option_that_is_built_is_in_the_contract_and_in_one_section():
    names = [name for model in SECTIONS.values() for name in model.model_fields]
    assert len(names) == len(set(names))
    assert set(names) <= set(CONTRACT_OPTIONS)


def test_every_option_says_what_it_is_for():
    for model in SECTIONS.values():
        for name, field in model.model_fields.items():
            assert field.description, name
            assert field.description.endswith("."), name


@pytest.mark.parametrize("name", sorted(BUILT))
def test_every_option_has_an_example_that_is_right(name):
    model = next(model for model in SECTIONS.values() if name in model.model_fields)
    example = (model.model_fields[name].examples or ["AES256"])[0]
    extra = {"sse_kms_key": ["sse=aws:kms"]}.get(name, [])
    value = example if name != "default_permissions" else "yes"
    assert load(options=[f"{name}={value}", *extra]).sources[name] == "option -o"


@pytest.mark.parametrize("name", LATER)
def test_an_option_that_is_not_built_is_refused_wherever_it_stands(name, tmp_path):
    message = rf"option {name} \(.*\): not in this version"
    file = write(tmp_path / "f.toml", f'{name} = "1"\n')
    with pytest.raises(NotInThisVersionError, match=message):
        load(options=[f"{name}=1"])
    with pytest.raises(NotInThisVersionError, match=message):
        load(environ={f"VFS_{name.upper()}": "1"})
    with pytest.raises(NotInThisVersionError, match=message):
        load(file=file)


@pytest.mark.parametrize("option", ["layout=chunked", "attributes=metadata"])
def test_a_value_that_is_not_built_is_refused(option):
    with pytest.raises(NotInThisVersionError, match="not in this version"):
        load(options=[option])


def test_an_unknown_option_is_refused_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"unknown option memry \(option -o\); did you mean memory\?"
    ):
        load(options=["memry=1G"])


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path):
    file = write(tmp_path / "f.toml", 'uid = 1\ngid = 1\numask = "0001"\n')
    spec = load(options=["uid=3"], environ={"VFS_UID": "2", "VFS_GID": "2"}, file=file)
    assert (spec.config.tree.uid, spec.config.tree.gid, spec.config.tree.umask) == (3, 2, 1)
    assert spec.config.tree.metadata_ttl == 5
    names = ("uid", "gid", "umask", "metadata_ttl")
    assert [spec.sources[name] for name in names] == [
        "option -o",
        "environment VFS_GID",
        f"{file}: umask",
        "default",
    ]


def test_the_last_of_a_repeated_option_counts():
    assert load(options=["uid=1,uid=2", "uid=3"]).config.tree.uid == 3


def test_dash_and_underscore_are_equal(tmp_path):
    file = write(tmp_path / "f.toml", 'metadata-ttl = "1m"\n')
    spec = load(options=["stage-wait=9"], file=file)
    assert (spec.config.stage.stage_wait, spec.config.tree.metadata_ttl) == (9, 60)


def test_an_empty_or_foreign_variable_is_let_be():
    assert load(environ={"VFS_UID": "", "VFS_REQUIRE": "fuse", "PATH": "x"}).config == load().config


# As in the documentation of Kubernetes, for a service "vfs" and a service "vfs-ui".
KUBERNETES = """
    SERVICE_HOST=10.0.0.11 SERVICE_PORT=6379 SERVICE_PORT_HTTP=6379 PORT=tcp://10.0.0.11:6379
    PORT_6379_TCP=tcp://10.0.0.11:6379 PORT_6379_TCP_PROTO=tcp PORT_6379_TCP_PORT=6379
    PORT_6379_TCP_ADDR=10.0.0.11
""".split()  # noqa: SIM905 - as in the documentation


def test_what_kubernetes_says_of_services_is_let_be():
    said = [f"VFS_{part}{line}" for line in KUBERNETES for part in ("", "UI_")]
    environ = dict(line.split("=", 1) for line in said)
    assert load(environ=environ).config == load().config


@pytest.mark.parametrize("name", ["NOSUCH", "REQUIRED", "PORT", "METRICS_PORT", "UI_PORT_80", "X"])
def test_any_other_variable_of_ours_must_be_an_option(name):
    with pytest.raises(
        ConfigError, match=rf"unknown option {name.lower()} .*VFS_{name}\)"
    ) as caught:
        load(environ={f"VFS_{name}": "80"})
    assert "unset it" in caught.value.message or "did you mean" in caught.value.message


def test_a_misspelt_variable_is_refused():
    with pytest.raises(ConfigError, match=r"unknown option memmory \(environment VFS_MEMMORY\)"):
        load(environ={"VFS_MEMMORY": "1G"})


@pytest.mark.parametrize(
    "name", ["password", "secret_key", "secret_access_key", "access_key", "token"]
)
def test_no_option_takes_a_secret_and_the_refusal_does_not_repeat_it(name):
    with pytest.raises(ConfigError, match="no option takes a secret") as caught:
        load(options=[f"{name}=hunter2"])
    assert "hunter2" not in caught.value.message


def test_allow_other_implies_default_permissions():
    spec = load(options=["allow_other"])
    assert spec.config.mount.default_permissions
    assert spec.sources["default_permissions"] == "implied"
    assert not load().config.mount.default_permissions
    with pytest.raises(ConfigError, match="implies"):
        load(options=["allow_other,default_permissions=no"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("memory=1M", "must be at least 64M"),
        ("block_size=100K", "power of two"),
        ("block_size=1K", "must be at least 4K"),
        ("stage_size=1M", "must be at least 256M"),
        ("part_size=1M", "must be at least 5M"),
        ("timeout=0", "must be more than 0"),
        ("max_connections=0", "must be at least 1"),
        ("umask=7777", "must be at most 0777"),
        ("log_level=loud", "must be 'debug', 'info'"),
        ("sse_kms_key=k", "needs sse=aws:kms"),
        ("endpoint=example.com", "does not have the right form"),
    ],
)
def test_a_value_out_of_reason_is_refused_in_the_user_s_own_units(option, message):
    with pytest.raises(ConfigError, match=message):
        load(options=[option])


def test_an_endpoint_with_a_secret_is_refused_without_repeating_it():
    with pytest.raises(ConfigError) as caught:
        load(options=["endpoint=https://key:hunter2@example.com"])
    assert "hunter2" not in caught.value.message


def test_a_name_is_found_in_the_system_s_file_then_in_its_own_then_in_the_user_s(tmp_path):
    system, user = tmp_path / "etc", tmp_path / "home"
    environ = {"XDG_CONFIG_HOME": str(user)}

    def url():
        return load("images", environ=environ, system=system).url

    with pytest.raises(
        NotFoundError, match=r"no mount is named images: looked for \[mount.images\]"
    ):
        url()
    write(user / "vfs/images.toml", 'url = "mem://d"\n')
    assert url() == "mem://d"
    write(user / "vfs/vfs.toml", '[mount.images]\nurl = "mem://c"\n')
    assert url() == "mem://c"
    write(system / "images.toml", 'url = "mem://b"\n')
    assert url() == "mem://b"
    write(system / "vfs.toml", '[mount.images]\nurl = "mem://a"\n')
    assert url() == "mem://a"
    assert config_files(environ, system) == [
        system / "vfs.toml",
        system / "images.toml",
        user / "vfs/vfs.toml",
        user / "vfs/images.toml",
    ]


def test_options_at_the_top_of_a_file_hold_for_all_its_mounts(tmp_path):
    file = write(
        tmp_path / "f.toml",
        'uid = 1\ngid = 1\n[mount.a]\nurl = "mem://a"\nuid = 2\n[mount.b]\nurl = "mem://b"\n',
    )
    specs = file_specs(read_config_file(file), {})
    assert {
        name: (spec.url, spec.config.tree.uid, spec.config.tree.gid) for name, spec in specs.items()
    } == {
        "a": ("mem://a", 2, 1),
        "b": ("mem://b", 1, 1),
    }
    assert specs["a"].sources["uid"] == f"{file}: mount.a.uid"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uid = \n", r"f\.toml: not TOML: .*line 1, column 7"),
        ("uid = 1\nuid = 2\n", r"f\.toml: not TOML: .*line 2"),
        ("[mount.a]\n", "mount.a: url is missing"),
        ("[mount.a]\nurl = 1\n", r"mount\.a\.url: must be text"),
        ("mount = 1\n", r"write \[mount\.NAME\]"),
        ("mount.a = 1\n", r"mount\.a: must be a table"),
        ("[mount.a]\nurl = 'mem://x'\nfoo = 1\n", r"unknown option foo \(.*mount\.a\.foo\)"),
        ("[other]\n", r"unknown option other"),
        ("url = 'mem://x'\n[mount.a]\nurl = 'mem://y'\n", "belongs into one of"),
        ("[mount.a]\nurl = 'mem://x'\nuid = 'x'\n", r"option uid \(.*mount\.a\.uid\): 'x' is not"),
        (
            "[mount.a]\nurl = 'mem://x'\numask = 22\n",
            r'mount\.a\.umask: must be text, for example umask = "0022"',
        ),
        ("[mount.a]\nurl = 'ftp://x'\n", "unknown kind of store ftp://"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_place(tmp_path, text, message):
    file = write(tmp_path / "f.toml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        file_specs(read_config_file(file), {})
    assert str(file) in caught.value.message or caught.value.message.startswith("mount.a: url")


def test_a_file_that_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFoundError, match="no such configuration file"):
        load(file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    "url", ["file:///d", "s3://b/p", "s3+http://127.0.0.1:1/b", "s3+https://h/b", "mem://x"]
)
def test_the_urls_of_this_version_pass(url):
    check_url(url)


@pytest.mark.parametrize("url", ["gs://b", "az://a/c", "http://h/x", "https://h/x"])
def test_the_urls_of_later_versions_are_refused_as_such(url):
    with pytest.raises(NotInThisVersionError, match="not in this version"):
        check_url(url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://h/x", "unknown kind of store"),
        ("file://dir", "file:///dir"),
        ("s3+http://key:hunter2@h/b", "must not hold"),
        ("s3+http://[::1/b", "not a URL"),
        ("file:///x%00", "no path has a NUL byte"),
    ],
)
def test_a_url_that_cannot_work_is_refused_and_its_secret_is_not_shown(url, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        check_url(url)
    assert "hunter2" not in caught.value.message


def test_a_path_is_not_taken_for_a_name():
    with pytest.raises(ConfigError, match=r"written file:///srv/images$"):
        load("/srv/x/../images")
    with pytest.raises(ConfigError, match=r"written file:///srv/images$"):
        load("file:/srv/images")
    with pytest.raises(ConfigError, match=r"written file:///path/to/directory$"):
        load("no name")


def test_commands_that_mount_nothing_have_options_too():
    assert load_options(["region=x"], {"VFS_TIMEOUT": "7"}).store.timeout == 7
