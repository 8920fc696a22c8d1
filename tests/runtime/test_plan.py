from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elinvar.errors import BudgetExceeded, InputError
from elinvar.runtime import plan as module
from elinvar.runtime.device import DeviceProfile, device
from elinvar.runtime.plan import Job, Plan, Precision, Tuned, plan, preset

GOLDEN = Path(__file__).parent / "golden"
MIB, GIB = 1 << 20, 1 << 30

PROFILES = {
    "laptop": DeviceProfile.fake(name="laptop", compute_units=8, recommended_budget_bytes=8 * GIB),
    "small": DeviceProfile.fake(name="small", compute_units=2, recommended_budget_bytes=GIB),
    "tiny": DeviceProfile.fake(name="tiny", compute_units=1, recommended_budget_bytes=8 * MIB),
    "h200": DeviceProfile.fake(
        kind="cuda", name="H200", compute_units=132, recommended_budget_bytes=112 * GIB,
        fast=frozenset({"fp32", "bf16", "fp16"}), isa=("sm_90",),
    ),
    "m4": DeviceProfile.fake(
        kind="mps", name="M4", compute_units=10, recommended_budget_bytes=10 * GIB, fast=frozenset({"fp32", "fp16"})
    ),
}  # fmt: skip


def test_presets_are_what_they_were():
    found = {name: asdict(preset(profile)) for name, profile in PROFILES.items()}
    assert found == json.loads((GOLDEN / "presets.json").read_text())


def test_the_printed_plan_is_what_it_was():
    job = Job(
        "seismic.migrate", 3.2e12, "contributions", rows=40000, row_bytes=12000, block_bytes=80 * MIB, blocks=340,
        fixed_bytes=4 * MIB, bytes_in=30 * GIB, bytes_out=480_000_000, row_multiple=64,
        kernels={"seismic.migrate": "v2"},
    )  # fmt: skip
    known = Tuned(rates={"seismic.migrate": 1.1e12}, link_gbps=10.0)
    texts = [
        str(plan(PROFILES["h200"], job, known=known)),
        str(plan(PROFILES["h200"], job, known=known, budget_bytes=400 * MIB)),
        str(plan(PROFILES["laptop"], job, known=Tuned())),
    ]
    assert "\n\n".join(texts) + "\n" == (GOLDEN / "plans.txt").read_text()


jobs = st.builds(
    Job,
    name=st.just("j"),
    work=st.floats(0, 1e15),
    rows=st.integers(1, 5000),
    row_bytes=st.integers(0, 5000),
    block_bytes=st.integers(0, 100_000),
    blocks=st.integers(0, 50),
    fixed_bytes=st.integers(0, 100_000),
    row_multiple=st.sampled_from([1, 7, 64]),
    pooled=st.booleans(),
)


@settings(deadline=None, max_examples=150)
@given(job=jobs, budget=st.integers(1, 8 << 20), in_flight=st.none() | st.integers(1, 8))
def test_a_plan_fits_covers_every_row_and_wastes_no_tile(job, budget, in_flight):
    def memory(rows, flight):
        return job.fixed_bytes + job.resident_bytes(rows) + min(flight, max(1, job.blocks)) * job.block_bytes

    wanted = in_flight or 2
    profile = PROFILES["small"]
    least = min(job.rows, job.row_multiple)
    if memory(least, in_flight or 1) > budget:
        with pytest.raises(BudgetExceeded, match="j needs at least"):
            plan(profile, job, budget_bytes=budget, in_flight=in_flight, known=Tuned())
        return
    p = plan(profile, job, budget_bytes=budget, in_flight=in_flight, known=Tuned())
    assert p.memory_bytes == memory(p.tile_rows, p.in_flight) <= budget
    assert p.tiles == -(-job.rows // p.tile_rows)
    assert p.in_flight <= wanted
    if in_flight is not None:
        assert p.in_flight == in_flight
    elif p.in_flight < wanted:
        assert memory(least, p.in_flight + 1) > budget
    if p.tiles > 1:
        assert p.tile_rows % job.row_multiple == 0
        fewer = -(-job.rows // (p.tiles - 1))  # rows per tile with one tile less
        fewer = -(-fewer // job.row_multiple) * job.row_multiple
        assert memory(fewer, p.in_flight) > budget


def test_pooled_rows_count_as_the_pool_hands_them_out():
    from elinvar.runtime.memory import Pool

    job = Job("j", 1, rows=3000, row_bytes=1000)
    pool = Pool("cpu")
    with pool.acquire((3000 * 1000 // 4,)):
        assert job.resident_bytes(3000) == pool.stats().bytes_live == 4 * MIB
    assert Job("j", 1, rows=3000, row_bytes=1000, pooled=False).resident_bytes(3000) == 3_000_000
    assert [Job("j", 1, row_bytes=1).resident_bytes(n) for n in (0, 1, 2, 3, 4096, 4097)] == [0, 1, 2, 4, 4096, 8192]


def test_a_job_may_have_nothing_to_stream():
    assert plan(PROFILES["laptop"], Job("j", 0, blocks=0, block_bytes=10), known=Tuned()).memory_bytes == 10


@pytest.mark.parametrize(
    ("kind", "job", "known", "seconds", "note"),
    [
        ("cpu", {}, Tuned(), None, "No rate of j"),
        ("cpu", {"rate": 10.0}, Tuned(rates={"j": 99.0}), 10.0, ""),
        ("cpu", {}, Tuned(rates={"j": 50.0}), 2.0, ""),
        ("cuda", {}, Tuned(rates={"j": 50.0}), 2.0, "Copies to the device are not measured"),
        ("cuda", {"bytes_in": 10**9}, Tuned(rates={"j": 50.0}, link_gbps=1.0), 2.0, ""),
        ("cuda", {"bytes_in": 4 * 10**9, "bytes_out": 10**9}, Tuned(rates={"j": 50.0}, link_gbps=1.0), 5.0, "longer"),
    ],
)
def test_time_is_the_slower_of_computing_and_copying(kind, job, known, seconds, note):
    p = plan(DeviceProfile.fake(kind=kind), Job("j", 100, **job), known=known)
    assert p.seconds == seconds
    assert note in " ".join(p.notes)
    assert bool(p.notes) is bool(note)


def test_tiles_stream_their_input_again():
    job = Job("j", 1, rows=4, row_bytes=1024, bytes_in=10**9, rate=1e9, pooled=False)
    p = plan(PROFILES["h200"], job, budget_bytes=1024, known=Tuned(link_gbps=1.0))
    assert (p.tiles, p.seconds) == (4, 4.0)


def test_less_is_overlapped_before_nothing_fits():
    job = Job("j", 1, rows=1, row_bytes=100, block_bytes=1000, blocks=9, pooled=False)
    p = plan(PROFILES["laptop"], job, budget_bytes=2500, known=Tuned())
    assert p.in_flight == 2
    assert "2 instead of 3" in " ".join(p.notes)
    with pytest.raises(BudgetExceeded, match=r"1\.074 KiB.*1 of 1 rows, 1 items.*500 B"):
        plan(PROFILES["laptop"], job, budget_bytes=500, known=Tuned())
    with pytest.raises(BudgetExceeded, match="3 items"):
        plan(PROFILES["laptop"], job, budget_bytes=2500, in_flight=3, known=Tuned())


def test_precision_follows_the_job_and_the_device():
    job = Job("j", 1, precisions=("fp16", "bf16", "fp32"))
    assert plan(PROFILES["h200"], job, known=Tuned()).precision.storage == "fp16"
    assert plan(PROFILES["laptop"], job, known=Tuned()).precision.storage == "fp32"
    assert plan(PROFILES["laptop"], job, precision="bf16", known=Tuned()).precision == Precision("bf16", "fp32")


def test_kernels_are_the_jobs_then_the_tuned():
    known = Tuned(kernels={"j": "v2", "other": "v9"})
    assert plan(PROFILES["laptop"], Job("j", 1), known=known).kernels == {"j": "v2"}
    assert plan(PROFILES["laptop"], Job("j", 1, kernels={"j": "v1", "k": "v3"}), known=known).kernels == {
        "j": "v1",
        "k": "v3",
    }


def test_a_device_names_itself_and_the_store_is_read(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "tuned", lambda profile: asked.append(profile) or Tuned(rates={"j": 1.0}))
    p = plan(device("cpu"), Job("j", 3))
    assert p.device == f"cpu ({device('cpu').name})"
    assert p.seconds == 3.0
    assert asked == [device("cpu").profile]


def test_json_round_trip_also_from_numpy_integers():
    job = Job("j", np.float64(5.0), rows=np.int64(5), row_bytes=np.int32(8), kernels={"j": "v1"})
    p = plan(PROFILES["h200"], job, known=Tuned(rates={"j": 2.0}))
    assert Plan.from_json(p.to_json()) == p
    for text in ("", "{}", "[]", '{"precision": {}, "notes": [], "more": 1}'):
        with pytest.raises(InputError, match="no plan"):
            Plan.from_json(text)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Job("j", -1), "work=-1"),
        (lambda: Job("j", float("nan")), "work=nan"),
        (lambda: Job("j", 1, rows=0), "rows=0"),
        (lambda: Job("j", 1, block_bytes=-5), "block_bytes=-5"),
        (lambda: Job("j", 1, row_bytes=2.5), r"row_bytes=2\.5"),
        (lambda: Job("j", 1, row_multiple=True), "row_multiple=True"),
        (lambda: Job("j", 1, rate=0), "rate=0"),
        (lambda: plan(PROFILES["h200"], Job("j", 1), in_flight=0, known=Tuned()), "in_flight=0"),
        (lambda: plan(PROFILES["h200"], Job("j", 1), budget_bytes=-1, known=Tuned()), "budget_bytes=-1"),
        (lambda: plan(PROFILES["h200"], Job("j", 1), precision="f8", known=Tuned()), "'f8'"),
    ],
)
def test_wrong_arguments_are_named(call, named):
    with pytest.raises(InputError, match=named):
        call()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12 ms"),
        (0.9999, "1000 ms"),
        (1.5, "1.5 s"),
        (119.0, "119 s"),
        (125.0, "2 min"),
        (9000.0, "2 h 30 min"),
    ],
)
def test_times_read_well(seconds, text):
    assert module._seconds(seconds) == text
