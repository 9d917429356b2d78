"""Real mounts of real stores; every test here needs /dev/fuse."""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import mount as mounts
from tests.support.image import build_image
from tests.support.mount import Bucket, Directory, Mount, Store, mounted
from tests.support.rgw import rgw
from tests.support.servers import unavailable

STORES = [pytest.param("local"), pytest.param("rgw", marks=pytest.mark.rgw)]
TREE_BYTES = 160 << 20
SMALL_TREE_BYTES = 40 << 20
LONG_TREE_BYTES = 1 << 30


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.fuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call) -> Generator[None, pytest.TestReport]:
    report = yield
    if report.failed and report.when == "call":
        for mount in mounts.LIVE:
            report.sections.append((f"log of {mount.url}", mount.log()))
    return report


@pytest.fixture(scope="session", autouse=True)
def _fuse(tmp_path_factory) -> None:
    if not Path("/dev/fuse").exists():
        unavailable("fuse", "there is no /dev/fuse")
    mounts.set_base(tmp_path_factory.mktemp("mounts"))


@pytest.fixture(params=STORES)
def store(request, tmp_path_factory) -> Iterator[Store]:
    """Yield an empty store of each kind."""
    if request.param == "rgw":
        with rgw().bucket() as name:
            yield Bucket(rgw(), name)
        return
    path = tmp_path_factory.mktemp("store")
    yield Directory(path)
    shutil.rmtree(path)


@pytest.fixture
def mount(store) -> Iterator[Mount]:
    """Yield a mount of an empty store."""
    with mounted(store) as mount:
        yield mount


@pytest.fixture
def local_mount(tmp_path_factory) -> Iterator[Mount]:
    """Yield a mount of an empty local store, for what does not depend on the store."""
    path = tmp_path_factory.mktemp("store")
    with mounted(Directory(path)) as mount:
        yield mount
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def image(tmp_path_factory) -> Iterator[Path]:
    """Yield a raw system image of a size for every day."""
    base = tmp_path_factory.mktemp("image")
    yield build_image(base, TREE_BYTES)
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def small_image(tmp_path_factory) -> Iterator[Path]:
    """Yield a raw system image for what size has no part in."""
    base = tmp_path_factory.mktemp("small-image")
    yield build_image(base, SMALL_TREE_BYTES)
    shutil.rmtree(base)


@pytest.fixture(scope="session")
def large_image(tmp_path_factory) -> Iterator[Path]:
    """Yield a raw system image of at least 1 GiB of files."""
    base = tmp_path_factory.mktemp("large-image")
    yield build_image(base, LONG_TREE_BYTES)
    shutil.rmtree(base)
