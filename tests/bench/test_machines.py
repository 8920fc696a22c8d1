from __future__ import annotations

import json

import pytest

from elinvar.bench import LoadProbe, machine
from elinvar.bench.machines import fingerprint


def test_probe_subtracts_our_own_work_and_our_childrens() -> None:
    busy, own, now = iter([100.0, 103.0]), iter([(10.0, 5), (12.5, 9)]), iter([0.0, 2.0])
    probe = LoadProbe(busy=lambda: next(busy), own=lambda: next(own), now=lambda: next(now), cores=2)
    load = probe.read()
    assert load.foreign_cpu == pytest.approx(0.5)
    assert load.switches == 4
    assert load.wall_seconds == 2.0
    assert load.foreign_share == pytest.approx(0.125)


def test_probe_never_reports_negative_time_and_knows_when_it_knows_nothing() -> None:
    own = iter([(0.0, 0), (1.0, 0)])
    assert LoadProbe(busy=lambda: 5.0, own=lambda: next(own), now=lambda: 0.0).read().foreign_cpu == 0.0
    load = LoadProbe(busy=lambda: None, own=lambda: (0.0, 0), now=lambda: 0.0).read()
    assert load.foreign_cpu is None
    assert load.foreign_share == 0.0


def test_real_sensors_see_a_child_as_ours() -> None:
    import subprocess
    import sys

    probe = LoadProbe()
    subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    load = probe.read()
    assert load.wall_seconds > 0
    assert load.foreign_cpu is None or load.foreign_cpu >= 0


def test_machine_is_json_and_names_no_host() -> None:
    import getpass
    import platform

    facts = machine()
    text = json.dumps(facts)
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert len(facts["id"]) == 12
    assert facts["cpu"] in facts["name"]
    if len(platform.node()) > 4:
        assert platform.node() not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text


def test_fingerprint_follows_hardware_not_software() -> None:
    facts = machine()
    assert fingerprint({**facts, "torch": "9.9", "load_average": 7}) == facts["id"]
    assert fingerprint({**facts, "cpu": "other"}) != facts["id"]
    assert fingerprint({**facts, "accelerators": ["H200"]}) != facts["id"]
