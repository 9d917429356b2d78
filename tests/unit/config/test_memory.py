"""How much memory there is to share: RAM, and the limits of every control group above us."""

import os

import pytest

from vfs.cache.config import CacheConfig, default_memory, memory_limit

RAM = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20


@pytest.fixture
def machine(tmp_path):
    def build(cgroup, **limits):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
        for path, limit in limits.items():
            file = tmp_path / "sys/fs/cgroup" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{limit}\n")
        return tmp_path

    return build


def test_without_control_groups_it_is_the_ram(tmp_path):
    assert memory_limit(tmp_path) == RAM


def test_a_limit_of_version_2_counts(machine):
    root = machine("0::/a/b\n", **{"a/b/memory.max": 512 * MIB, "a/memory.max": "max"})
    assert memory_limit(root) == 512 * MIB
    assert default_memory(root) == 64 * MIB


def test_the_limit_of_a_group_above_counts(machine):
    root = machine("0::/a/b\n", **{"a/b/memory.max": "max", "a/memory.max": 256 * MIB})
    assert memory_limit(root) == 256 * MIB


def test_a_limit_of_version_1_counts(machine):
    root = machine(
        "5:cpu,cpuacct:/x\n4:memory:/a\n",
        **{
            "memory/a/memory.limit_in_bytes": 9223372036854771712,
            "memory/memory.limit_in_bytes": 128 * MIB,
        },
    )
    assert memory_limit(root) == 128 * MIB


def test_inside_a_container_the_base_counts_when_the_path_is_the_host_s(machine):
    root = machine("0::/system.slice/docker-1.scope\n", **{"memory.max": 100 * MIB})
    assert memory_limit(root) == 100 * MIB


def test_a_path_that_leads_out_of_the_tree_ends_at_its_base(machine):
    root = machine("0::/../../x\n", **{"memory.max": 100 * MIB})
    assert memory_limit(root) <= RAM


def test_the_default_is_never_more_than_1_gib():
    assert 0 < CacheConfig().memory <= 1 << 30
