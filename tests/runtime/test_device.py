"""Devices are found honestly, named in errors, and never initialise a GPU nobody asked for."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from elinvar.errors import DeviceLost, DeviceUnavailable, InputError
from elinvar.runtime import _hardware
from elinvar.runtime.device import Device, DeviceProfile, Runtime, default_runtime, device, devices
from elinvar.runtime.tuning import save_tuned, tuning_file


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to be a machine with two H200."""
    properties = types.SimpleNamespace(
        name="NVIDIA H200", major=9, minor=0, total_memory=100 << 30, multi_processor_count=132, L2_cache_size=60 << 20
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)


@pytest.fixture
def cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_auto_is_the_cpu_when_nothing_better_is_there(cpu_only: None) -> None:
    assert str(device()) == "cpu"
    assert [str(d) for d in devices()] == ["cpu"]


def test_auto_prefers_cuda_then_mps_then_cpu(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert [str(d) for d in devices()] == ["cuda:0", "cuda:1", "mps", "cpu"]
    assert str(Runtime().device("auto")) == "cuda:0"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(Runtime().device("auto")) == "mps"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("cpu", "cpu"),
        ("cuda", "cuda:0"),
        ("cuda:1", "cuda:1"),
        (torch.device("cuda", 1), "cuda:1"),
        (torch.device("cuda"), "cuda:0"),
        (torch.device("cpu"), "cpu"),
    ],
)
def test_specs(two_gpus: None, spec: str | torch.device, name: str) -> None:
    found = Runtime().device(spec)
    assert str(found) == name
    assert str(found.torch) == name
    assert found.index == found.torch.index if found.kind == "cuda" else found.torch.index is None


def test_torch_name_has_an_index_on_cuda_only(two_gpus: None) -> None:
    assert Runtime().device("cuda").torch == torch.device("cuda", 0)
    assert Runtime().device("cpu").torch == torch.device("cpu")


def test_absent_device_names_those_present(cpu_only: None) -> None:
    with pytest.raises(DeviceUnavailable, match=r"cuda:3 is not on this machine; present here: cpu\."):
        device("cuda:3")


def test_absent_index_names_those_present(two_gpus: None) -> None:
    with pytest.raises(DeviceUnavailable, match=r"cuda:2 .* present here: cuda:0, cuda:1, cpu\."):
        Runtime().device("cuda:2")


@pytest.mark.parametrize("spec", ["gpu", "CUDA", "cuda:", "cuda:-1", "cuda:1x", "", " cpu", "meta"])
def test_unknown_word_is_refused_and_names_those_present(cpu_only: None, spec: str) -> None:
    with pytest.raises(InputError, match=r'pass "auto" or one that is present here: cpu\.'):
        device(spec)


@pytest.mark.parametrize("spec", [None, 0, 1.5, ["cpu"]])
def test_other_types_are_refused(spec: object) -> None:
    with pytest.raises(InputError, match=r'pass "auto", "cpu", "cuda"'):
        device(spec)  # type: ignore[arg-type]


def test_same_spec_same_object_and_a_device_passes_through() -> None:
    assert device("cpu") is device("cpu")
    assert device(device("cpu")) is device("cpu")
    assert default_runtime().device("cpu") is device("cpu")
    assert device(torch.device("cpu")) is device("cpu")


def test_runtimes_share_nothing() -> None:
    one, two = Runtime().device("cpu"), Runtime().device("cpu")
    assert one != two
    assert one != device("cpu")
    assert len({one, two, device("cpu")}) == 3
    assert one.pool is not two.pool
    assert one.pool is one.pool
    assert device(one) is one
    assert one.runtime.device(two) is one


def test_equality_is_by_runtime_kind_and_index(two_gpus: None) -> None:
    runtime = Runtime()
    assert runtime.device("cuda:0") == runtime.device("cuda")
    assert runtime.device("cuda:0") != runtime.device("cuda:1")
    assert runtime.device("cpu") != "cpu"
    assert Device(runtime, "cpu", 0) == runtime.device("cpu")
    assert hash(Device(runtime, "cpu", 0)) == hash(runtime.device("cpu"))


def test_default_device_travels_to_a_worker_and_an_isolated_one_does_not() -> None:
    assert pickle.loads(pickle.dumps(device("cpu"))) is device("cpu")
    with pytest.raises(InputError, match="isolated Runtime"):
        pickle.dumps(Runtime().device("cpu"))


def test_pool_gets_the_recommended_budget() -> None:
    target = Runtime().device("cpu")
    assert target.pool.budget_bytes == target.profile.recommended_budget_bytes
    assert target.pool.device is target


def test_synchronize_reports_a_fault_as_a_lost_device(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)
    runtime.device("cpu").synchronize()
    runtime.device("cuda:1").synchronize()
    assert asked == [1]

    def fault(index: int) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", fault)
    with pytest.raises(DeviceLost, match=r"cuda:0 faulted .*illegal memory access.*restart the process"):
        runtime.device("cuda:0").synchronize()


def test_importing_and_listing_initialises_no_gpu() -> None:
    code = (
        "import elinvar, torch; elinvar.devices(); elinvar.device('cpu').profile; elinvar.device('cpu').pool; "
        "assert not torch.cuda.is_initialized(); assert not torch.cuda._is_in_bad_fork()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


# -- profiles --------------------------------------------------------------------------------------------------------


def test_cpu_profile_is_of_this_machine() -> None:
    profile = device("cpu").profile
    assert profile.kind == "cpu"
    assert 1 <= profile.compute_units <= (os.cpu_count() or 1)
    assert 0 < profile.recommended_budget_bytes < profile.memory_bytes
    assert profile.copy_gbps is None or profile.copy_gbps > 0
    assert "fp32" in profile.fast
    assert device("cpu").name == profile.name
    assert profile is device("cpu").profile


def test_cuda_profile(two_gpus: None) -> None:
    profile = Runtime().device("cuda:1").profile
    assert (profile.name, profile.compute_units, profile.isa) == ("NVIDIA H200", 132, ("sm_90",))
    assert profile.fast == {"fp32", "fp16", "bf16"}
    assert profile.recommended_budget_bytes == 80 << 30
    assert profile.cache_bytes == 60 << 20


@pytest.mark.parametrize(
    ("isa", "fast"),
    [
        ((), {"fp32"}),
        (("avx2", "f16c", "avx512_f", "avx512_vnni"), {"fp32"}),
        (("avx512_bf16",), {"fp32", "bf16"}),
        (("amx_bf16", "amx_tile"), {"fp32", "bf16"}),
        (("avx512_bf16", "avx512_fp16"), {"fp32", "bf16", "fp16"}),
        (("amx_fp16",), {"fp32", "fp16"}),
        (("neon", "fp16_arith"), {"fp32"}),
        (("neon", "bf16", "fp16_arith"), {"fp32", "bf16"}),
        (("bf16",), {"fp32"}),
    ],
)
def test_fast_is_not_merely_present_on_cpu(isa: tuple[str, ...], fast: set[str]) -> None:
    assert _hardware.fast_on_cpu(isa) == fast


@pytest.mark.parametrize(
    ("capability", "fast"),
    [
        ((6, 1), {"fp32"}),
        ((7, 0), {"fp32", "fp16"}),
        ((7, 5), {"fp32", "fp16"}),
        ((8, 0), {"fp32", "fp16", "bf16"}),
        ((9, 0), {"fp32", "fp16", "bf16"}),
    ],
)
def test_fast_on_cuda(capability: tuple[int, int], fast: set[str]) -> None:
    assert _hardware.fast_on_cuda(capability) == fast


def _file(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="ascii")


def test_flags_come_from_torch_and_else_from_the_kernel(tmp_path: Path) -> None:
    assert _hardware.isa_flags({"avx2": True, "sve": False, "l2_cache_size": 1, "architecture": "x"}) == ("avx2",)
    _file(
        tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: Some CPU \nflags\t\t: fma avx512f avx512_bf16 f16c\n"
    )
    assert _hardware.isa_flags({}, tmp_path) == ("avx512_bf16", "avx512_f", "f16c", "fma3")
    assert _hardware.cpu_name(tmp_path) == "Some CPU"
    assert _hardware.isa_flags({}, tmp_path / "nowhere") == ()


def test_cache_is_the_largest_one(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "32K", "1024K", "32768K")):
        _file(tmp_path, f"sys/devices/system/cpu/cpu0/cache/index{index}/size", size + "\n")
    assert _hardware.cache_size({"l2_cache_size": 1 << 20}, tmp_path) == 32 << 20
    assert _hardware.cache_size({"l2_cache_size": 1 << 20}, tmp_path / "nowhere") == 1 << 20


def test_a_container_quota_bounds_processors(tmp_path: Path) -> None:
    _file(tmp_path, "proc/self/cgroup", "0::/\n")
    _file(tmp_path, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert _hardware.usable_cpus(tmp_path) == 1
    _file(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert _hardware.usable_cpus(tmp_path) == _hardware.usable_cpus(tmp_path / "nowhere")


def test_a_container_limit_bounds_memory(tmp_path: Path) -> None:
    _file(tmp_path, "proc/self/cgroup", "0::/\n")
    _file(tmp_path, "sys/fs/cgroup/memory.max", "1000000\n")
    assert _hardware.usable_memory(tmp_path) == 1_000_000
    assert _hardware.cpu_facts(tmp_path)["recommended_budget_bytes"] == 500_000
    _file(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert _hardware.usable_memory(tmp_path) == _hardware.usable_memory(tmp_path / "nowhere") > 1_000_000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity mask")
def test_affinity_bounds_processors() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from elinvar.runtime._hardware import usable_cpus; assert usable_cpus() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_profile_survives_json() -> None:
    profile = DeviceProfile.fake(fast=frozenset({"fp32", "bf16"}), isa=("avx2", "fma3"), name="Ünïcode")
    assert DeviceProfile.from_json(profile.to_json()) == profile
    tuned = profile.with_measurements(copy_gbps=90.5, matmul_gflops={"fp32": 250.0})
    assert DeviceProfile.from_json(tuned.to_json()) == tuned
    assert hash(DeviceProfile.from_json(tuned.to_json())) == hash(tuned)
    assert tuned != profile


def test_a_tuned_machine_knows_its_rates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path))
    before = Runtime().device("cpu").profile
    assert (before.copy_gbps, before.matmul_gflops) == (None, None)
    save_tuned(before, "copy_gbps", 87.5)
    save_tuned(before, "matmul_gflops", {"fp32": 240.0, "bf16": 950.0})
    after = Runtime().device("cpu").profile
    assert (after.copy_gbps, after.matmul_gflops) == (87.5, {"fp32": 240.0, "bf16": 950.0})
    assert after.fast == before.fast
    tuning_file(before).write_text(tuning_file(before).read_text().replace("87.5", "1e999"))
    assert Runtime().device("cpu").profile.copy_gbps is None


def test_measurements_fill_in_and_keep_the_rest() -> None:
    base = DeviceProfile.fake()
    tuned = base.with_measurements(copy_gbps=90)
    assert (tuned.copy_gbps, tuned.matmul_gflops) == (90.0, None)
    again = tuned.with_measurements(matmul_gflops={"bf16": 900.0})
    assert (again.copy_gbps, again.matmul_gflops) == (90.0, {"bf16": 900.0})
    assert base.copy_gbps is None


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf")])
def test_measurements_must_be_rates(rate: float) -> None:
    with pytest.raises(InputError, match="copy_gbps"):
        DeviceProfile.fake().with_measurements(copy_gbps=rate)
    with pytest.raises(InputError, match="bf16"):
        DeviceProfile.fake().with_measurements(matmul_gflops={"bf16": rate})


@pytest.mark.parametrize(
    "text",
    ["", "[1]", "3", "{}", '{"kind": "cpu"}', DeviceProfile.fake().to_json().replace('"isa"', '"extra"')],
)
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="from_json"):
        DeviceProfile.from_json(text)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kind": "tpu"}, "tpu"),
        ({"compute_units": 0}, "compute_units"),
        ({"memory_bytes": -1}, "memory_bytes"),
        ({"memory_bytes": 1.5}, "memory_bytes"),
        ({"recommended_budget_bytes": True}, "recommended_budget_bytes"),
        ({"fast": frozenset({"fp8"})}, "fp8"),
        ({"cores": 3}, "cores"),
    ],
)
def test_profiles_are_checked(changes: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        DeviceProfile.fake(**changes)


def test_profiles_are_frozen() -> None:
    with pytest.raises(AttributeError):
        DeviceProfile.fake().name = "other"  # type: ignore[misc]
