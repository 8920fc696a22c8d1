from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elinvar.errors import InputError
from elinvar.runtime import sensors
from elinvar.runtime.sensors import Pressure, Sensor, default_sensors

N, W, C = Pressure.NOMINAL, Pressure.WARNING, Pressure.CRITICAL


def put(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def by_name(root):
    return {sensor.name: sensor for sensor in default_sensors(root)}


@pytest.fixture(autouse=True)
def only_files(monkeypatch):
    monkeypatch.setattr(sensors.sys, "platform", "linux")
    monkeypatch.setattr(sensors, "_cuda", lambda torch: [])


@pytest.mark.parametrize(
    ("value", "held", "level"),
    [
        (0.0, N, N), (0.79, N, N), (0.8, N, W), (0.9, N, C), (5.0, W, C),
        (0.79, W, W), (0.76, W, W), (0.74, W, N), (0.86, C, C), (0.84, C, W), (0.76, C, W), (0.74, C, N),
    ],
)  # fmt: skip
def test_levels_rise_at_the_threshold_and_fall_past_the_margin(value, held, level):
    sensor = Sensor("memory", "m", lambda: value, 0.8, 0.9, 0.05)
    assert sensor.level(value, held) is level


@given(value=st.floats(-1, 2), held=st.sampled_from(Pressure))
def test_a_level_is_never_below_what_the_thresholds_say(value, held):
    sensor = Sensor("memory", "m", lambda: value, 0.8, 0.9, 0.05)
    bare = C if value >= 0.9 else W if value >= 0.8 else N
    assert bare <= sensor.level(value, held) <= max(bare, held)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("heat", "x", None, 1, 2), "kind='heat'"),
        (("memory", "x", None, 3, 2), "warning=3"),
        (("memory", "x", None, 1, 2, -1), "margin=-1"),
        (("memory", "x", None, math.nan, 2), "warning=nan"),
    ],
)
def test_wrong_sensors_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        Sensor(*arguments)


def test_an_empty_machine_has_no_sensors(tmp_path):
    assert default_sensors(tmp_path) == []


def test_meminfo(tmp_path):
    put(tmp_path, "proc/meminfo", "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n")
    sensor = by_name(tmp_path)["memory in use"]
    assert sensor.read() == 0.75
    put(tmp_path, "proc/meminfo", "MemTotal: 1000 kB\n")
    assert sensor.read() is None


@pytest.mark.parametrize("version", [1, 2])
def test_container_memory_leaves_out_the_file_cache(tmp_path, version):
    if version == 2:
        put(tmp_path, "proc/self/cgroup", "0::/job\n")
        put(tmp_path, "sys/fs/cgroup/job/memory.max", "1000\n")
        put(tmp_path, "sys/fs/cgroup/job/memory.current", "900\n")
        put(tmp_path, "sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 300\nactive_file 7\n")
    else:
        put(tmp_path, "proc/self/cgroup", "4:memory:/job\n")
        put(tmp_path, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1000\n")
        put(tmp_path, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "900\n")
        put(tmp_path, "sys/fs/cgroup/memory/job/memory.stat", "cache 500\ntotal_inactive_file 300\n")
    sensor = by_name(tmp_path)["container memory in use"]
    assert sensor.read() == 0.6


def test_stall_information_prefers_the_containers(tmp_path):
    text = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    put(tmp_path, "proc/pressure/memory", text.format("12.50"))
    assert by_name(tmp_path)["time lost waiting for memory"].read() == 12.5
    put(tmp_path, "proc/self/cgroup", "0::/job\n")
    put(tmp_path, "sys/fs/cgroup/job/memory.max", "1000\n")
    put(tmp_path, "sys/fs/cgroup/job/memory.pressure", text.format("3.00"))
    assert [s.read() for s in default_sensors(tmp_path) if s.name.startswith("time lost")] == [3.0]


def test_thermal_zones_use_their_own_trip_points(tmp_path):
    zone = "sys/class/thermal/thermal_zone0/"
    put(tmp_path, zone + "type", "x86_pkg_temp\n")
    put(tmp_path, zone + "temp", "61500\n")
    put(tmp_path, zone + "trip_point_0_type", "passive\n")
    put(tmp_path, zone + "trip_point_0_temp", "70000\n")
    put(tmp_path, zone + "trip_point_1_type", "critical\n")
    put(tmp_path, zone + "trip_point_1_temp", "90000\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "20000\n")
    package, plain = default_sensors(tmp_path)
    assert (package.kind, package.name, package.unit) == ("thermal", "x86_pkg_temp", "°C")
    assert (package.read(), package.warning, package.critical) == (61.5, 70.0, 85.0)
    assert (plain.name, plain.warning, plain.critical) == ("thermal_zone1", 85.0, 95.0)


def test_a_battery_counts_only_while_it_discharges(tmp_path):
    put(tmp_path, "sys/class/power_supply/BAT0/capacity", "15\n")
    put(tmp_path, "sys/class/power_supply/BAT0/status", "Discharging\n")
    put(tmp_path, "sys/class/power_supply/AC/online", "0\n")
    (sensor,) = default_sensors(tmp_path)
    assert (sensor.kind, sensor.read(), sensor.level(sensor.read(), N)) == ("power", 85.0, W)
    put(tmp_path, "sys/class/power_supply/BAT0/status", "Charging\n")
    assert sensor.read() == 0.0


def test_cuda_counts_memory_torch_could_not_give_back(monkeypatch):
    monkeypatch.undo()
    cuda = SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 1,
        mem_get_info=lambda i: (100, 1000),
        memory_reserved=lambda i: 600,
        memory_allocated=lambda i: 400,
        temperature=lambda i: 84,
    )
    memory, heat = sensors._cuda(SimpleNamespace(cuda=cuda))
    assert memory.read() == pytest.approx(0.7)
    assert heat.level(heat.read(), N) is W

    def no_nvml(i):
        raise ModuleNotFoundError("pynvml")

    cuda.temperature = no_nvml
    assert [s.kind for s in sensors._cuda(SimpleNamespace(cuda=cuda))] == ["memory"]
    cuda.is_initialized = lambda: False
    assert sensors._cuda(SimpleNamespace(cuda=cuda)) == []
    assert sensors._cuda(None) == []


def test_apple_levels():
    state = {"pressure": 1, "thermal": 0, "low": False}
    info = SimpleNamespace(thermalState=lambda: state["thermal"], isLowPowerModeEnabled=lambda: state["low"])
    found = sensors._apple(lambda name: state["pressure"], info)
    assert [s.kind for s in found] == ["memory", "thermal", "power"]

    def levels():
        return [s.level(s.read(), N) for s in found]

    assert levels() == [N, N, N]
    state.update(pressure=2, thermal=2, low=True)
    assert levels() == [W, W, W]
    state.update(pressure=4, thermal=3)
    assert levels() == [C, C, W]


def test_this_machine_can_be_read(monkeypatch):
    monkeypatch.undo()
    for sensor in default_sensors():
        value = sensor.read()
        assert value is None or math.isfinite(value)
