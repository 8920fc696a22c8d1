from __future__ import annotations

import pytest

from elinvar.runtime._cgroup import cpu_quota, memory_groups, read_number


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_nothing_there_means_no_limit(tmp_path):
    assert cpu_quota(tmp_path) is None
    assert memory_groups(tmp_path) == []


def test_version_2_takes_the_tightest_of_all_parents(tmp_path):
    put(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    put(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    put(tmp_path, "sys/fs/cgroup/a/cpu.max", "150000 100000\n")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "400000 100000\n")
    put(tmp_path, "sys/fs/cgroup/a/b/memory.max", "max\n")
    put(tmp_path, "sys/fs/cgroup/a/memory.max", "1073741824\n")
    assert cpu_quota(tmp_path) == 1.5
    assert memory_groups(tmp_path) == [(1 << 30, tmp_path / "sys/fs/cgroup/a")]


def test_version_1_and_the_hybrid_layout(tmp_path):
    put(tmp_path, "proc/self/cgroup", "4:memory:/x\n2:cpu,cpuacct:/x\n0::/\n")
    put(tmp_path, "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "50000\n")
    put(tmp_path, "sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    put(tmp_path, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "4096\n")
    assert cpu_quota(tmp_path) == 0.5
    assert memory_groups(tmp_path) == [(4096, tmp_path / "sys/fs/cgroup/memory/x")]


def test_a_container_that_sees_the_hosts_path_reads_the_mount(tmp_path):
    put(tmp_path, "proc/self/cgroup", "0::/docker/123\n")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "200000 100000\n")
    assert cpu_quota(tmp_path) == 2.0


@pytest.mark.parametrize("text", ["", "max", "100000", "x y", "100000 0"])
def test_malformed_quota_is_no_limit(tmp_path, text):
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    put(tmp_path, "sys/fs/cgroup/cpu.max", text)
    assert cpu_quota(tmp_path) is None


def test_read_number(tmp_path):
    put(tmp_path, "n", "42\n")
    assert read_number(tmp_path / "n") == 42
    assert read_number(tmp_path / "missing") is None


def test_this_machine_can_be_read():
    quota = cpu_quota()
    assert quota is None or quota > 0
    assert all(limit > 0 for limit, _ in memory_groups())
