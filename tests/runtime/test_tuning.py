from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from elinvar.errors import InputError
from elinvar.runtime.device import DeviceProfile
from elinvar.runtime.tuning import DEFAULT_CROSSOVERS, save_tuned, tuned, tuning_file

CPU = DeviceProfile.fake()
GPU = DeviceProfile.fake(kind="cuda", name="H200")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ELINVAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_untuned_machine_has_documented_defaults():
    assert tuned(CPU).crossovers == {}
    assert tuned(GPU).crossovers == DEFAULT_CROSSOVERS["cuda"]
    assert tuned(GPU).measured == frozenset()
    assert (tuned(CPU).kernels, tuned(CPU).rates, tuned(CPU).copy_gbps) == ({}, {}, None)


def test_values_come_back_and_defaults_remain():
    save_tuned(GPU, "crossover.matmul", 1000)
    save_tuned(GPU, "crossover.mine", math.inf)
    save_tuned(GPU, "kernel.seismic.migrate", "v2")
    save_tuned(GPU, "rate.seismic.migrate", 1.1e12)
    save_tuned(GPU, "option.seismic.group_size", {"x": [1, 2]})
    save_tuned(GPU, "copy_gbps", 4300.0)
    save_tuned(GPU, "link_gbps", 25.0)
    file = save_tuned(GPU, "matmul_gflops", {"bf16": 7.9e5})
    known = tuned(GPU)
    assert known.crossovers == {**DEFAULT_CROSSOVERS["cuda"], "matmul": 1000, "mine": math.inf}
    assert known.kernels == {"seismic.migrate": "v2"}
    assert known.rates == {"seismic.migrate": 1.1e12}
    assert known.options == {"seismic.group_size": {"x": [1, 2]}}
    assert (known.copy_gbps, known.link_gbps, known.matmul_gflops) == (4300.0, 25.0, {"bf16": 7.9e5})
    assert "crossover.matmul" in known.measured
    assert "crossover.fft" not in known.measured
    assert file == tuning_file(GPU)
    assert sorted(p.suffix for p in file.parent.iterdir()) == [".json", ".lock"]
    assert tuned(CPU).kernels == {}


def test_the_file_belongs_to_what_the_device_is_not_to_what_was_measured():
    assert tuning_file(replace(CPU, copy_gbps=90.0, memory_bytes=1 << 30)) == tuning_file(CPU)
    for change in ({"name": "other"}, {"compute_units": 8}, {"isa": ("avx2",)}, {"kind": "mps"}):
        assert tuning_file(replace(CPU, **change)) != tuning_file(CPU)


def test_the_profiles_own_measurements_show_until_tuned():
    profile = replace(CPU, copy_gbps=90.0, matmul_gflops={"fp32": 250.0})
    assert (tuned(profile).copy_gbps, tuned(profile).matmul_gflops) == (90.0, {"fp32": 250.0})
    save_tuned(profile, "copy_gbps", 91.0)
    assert tuned(profile).copy_gbps == 91.0


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 1}', '{"format": 9, "values": {"copy_gbps": 3}}', "\xff"])
def test_a_damaged_file_is_an_untuned_machine_and_can_be_written_again(text, caplog):
    file = tuning_file(CPU)
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="latin-1")
    assert tuned(CPU).measured == frozenset()
    assert ("damaged" in caplog.text) is ('"format": 9' not in text)
    save_tuned(CPU, "copy_gbps", 5.0)
    assert tuned(CPU).copy_gbps == 5.0


def test_values_of_the_wrong_kind_in_the_file_are_ignored():
    save_tuned(CPU, "copy_gbps", 5.0)
    file = tuning_file(CPU)
    data = json.loads(file.read_text())
    data["values"].update({"kernel.k": 3, "rate.r": -1, "unknown": 1, "crossover.x": "big", "rate.ok": 2})
    file.write_text(json.dumps(data))
    assert tuned(CPU).measured == {"copy_gbps", "rate.ok"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("speed", 3), ("kernel", "v2"), ("kernel.", "v2"), ("copy_gbps.x", 3), (7, 3),
        ("kernel.k", 2), ("crossover.op", 0), ("crossover.op", math.nan), ("rate.r", True), ("copy_gbps", "fast"),
        ("matmul_gflops", 3), ("matmul_gflops", {"bf16": -1}), ("option.o", {1, 2}),
    ],
)  # fmt: skip
def test_wrong_keys_and_values_are_named_and_write_nothing(key, value, cache):
    with pytest.raises(InputError, match="save_tuned got"):
        save_tuned(CPU, key, value)
    assert not tuning_file(CPU).exists()


def test_threads_do_not_lose_each_others_keys():
    threads = [threading.Thread(target=save_tuned, args=(CPU, f"option.o{i}", i)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert tuned(CPU).options == {f"o{i}": i for i in range(12)}


def test_processes_do_not_lose_each_others_keys():
    code = (
        "import sys; from elinvar.runtime.device import DeviceProfile; from elinvar.runtime.tuning import save_tuned\n"
        "for i in range(8): save_tuned(DeviceProfile.fake(), f'option.{sys.argv[1]}{i}', i)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, name], env=os.environ) for name in "ab"]
    assert [run.wait(120) for run in runs] == [0, 0]
    assert len(tuned(CPU).options) == 16


def test_a_home_that_cannot_be_written_still_works_for_this_process(monkeypatch, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("ELINVAR_CACHE", str(blocker / "inside"))
    save_tuned(CPU, "copy_gbps", 7.0)
    assert tuned(CPU).copy_gbps == 7.0
    assert not tuning_file(CPU).is_relative_to(tmp_path)
    tuning_file(CPU).unlink()


def test_the_kernel_registry_reads_the_tuned_version():
    from elinvar.runtime import kernels

    here = kernels._tuned_version("a.b", type("D", (), {"profile": CPU})())
    assert here is None
    save_tuned(CPU, "kernel.a.b", "v2")
    assert kernels._tuned_version("a.b", type("D", (), {"profile": CPU})()) == "v2"
