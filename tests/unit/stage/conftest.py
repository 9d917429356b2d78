import pytest

from vfs.stage.budget import StageBudget
from vfs.stage.disk import Disk
from vfs.stage.file import StagedFile
from vfs.values import MIB


@pytest.fixture
def budget():
    return StageBudget(64 * MIB, wait_s=60)


@pytest.fixture
async def make_staged(tmp_path, budget):
    """Make staged files over a base of a size; all of them are closed at the end."""
    made = []

    def make(base_size=0, disk=None):
        path = tmp_path / f"staged-{len(made)}"
        staged = StagedFile(path, budget, base_size, disk or Disk())
        staged.create()
        made.append(staged)
        return staged

    yield make
    for staged in made:
        staged.close()
    assert budget.used_bytes == 0, "closed files give back all that they were charged for"
