"""A migration on Dask workers, and on several devices of one process: the same image, the same bits from run to run."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from elinvar.errors import Cancelled, InputError
from elinvar.runtime.cluster import cluster
from elinvar.runtime.device import Runtime, device
from elinvar.seismic import (
    Aperture,
    Checkpoint,
    Grid,
    Survey,
    Velocity,
    migrate,
    open_segy,
    plan,
    scan,
    shards,
    synthetic,
)
from elinvar.seismic.job import passes, shares

V = Velocity.constant(2500)
GRID = Grid((75.0, 60.0), 0, 4, 3, 25, 25, 120, 0.004, 0.2)
EDGES = [0, 200, 250]

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """On disk: what workers read by its path."""
    made = synthetic.diffractors(
        [(120, 100, 500), (60, 90, 700)], extent=175, offsets=(150, 220, 300), azimuths=(0, 75), nt=400, noise=0.05
    )
    path = tmp_path_factory.mktemp("survey") / "a.sgy"
    made.write_segy(path)
    return open_segy(path, bin_size=(25.0, 25.0))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("elinvar.seismic.job.block_size", lambda *_: 16)


def migrated(survey, device):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elinvar.seismic.job.block_size", lambda *_: 16)
        return migrate(survey, V, GRID, device=device, gathers=EDGES)


@pytest.fixture(scope="module")
def whole(survey):
    return migrated(survey, "auto")


@pytest.fixture(scope="module")
def on_cpu(survey, whole):
    return whole if device("auto").kind == "cpu" else migrated(survey, "cpu")


def local(**options):
    """Start workers that share whatever devices there are: one image, whatever the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("elinvar.runtime.cluster._gpus", lambda: 0)
        return cluster("local", **options)


@pytest.fixture(scope="module")
def inside():
    with local() as executor:
        yield executor


def same(one, other):
    pairs = [(one.values, other.values), (one.counts, other.counts), (one.panels.values, other.panels.values)]
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


def test_the_same_image_and_the_same_bits(survey, whole, inside, relative):
    calls = []
    given = {"gathers": EDGES, "cluster": inside, "shards": 6}
    image = migrate(survey, V, GRID, **given, progress=lambda done, total: calls.append((done, total)))
    assert relative(image.values, whole.values) < 1e-6
    assert relative(image.panels.values, whole.panels.values) < 1e-6
    assert np.array_equal(image.counts, whole.counts)
    assert image.panels.traces == whole.panels.traces
    assert calls == [(64 * i, survey.n_traces) for i in range(1, 7)]
    assert image.timing.kernel > 0
    alone = migrate(survey, V, GRID, cluster=inside, shards=1)  # the same blocks one after the other: the same bits
    assert alone.values.tobytes() == migrate(survey, V, GRID).values.tobytes()
    assert same(migrate(survey, V, GRID, **given), image)


def test_illumination_and_a_scan(survey, inside, relative):
    given = {"normalize": "illumination", "gathers": EDGES}
    image = migrate(survey, V, GRID, **given, cluster=inside, shards=6)
    known = migrate(survey, V, GRID, **given)
    assert relative(image.values, known.values) < 1e-5
    assert relative(image.panels.values, known.panels.values) < 1e-5
    assert np.array_equal(image.panels.fold, known.panels.fold)
    for how in ({"gathers": EDGES}, {"normalize": "illumination"}):
        found = scan(survey, V, GRID, (95, 105, 5), **how, cluster=inside, shards=3)
        alone = scan(survey, V, GRID, (95, 105, 5), **how)
        assert relative(found.values, alone.values) < 1e-5
        assert np.array_equal(found.counts, alone.counts)
        assert found.panels is None or relative(found.panels, alone.panels) < 1e-5


def test_shards_are_spread_over_the_survey(survey):
    steps = passes(survey, GRID, V, Aperture(), None, GRID.size)
    items = list(shares(survey, steps, 16, 5))
    assert [len(item.index) for item in items] == [80, 80, 80, 80, 64]
    assert np.array_equal(np.sort(np.concatenate([item.index for item in items])), np.arange(survey.n_traces))
    assert items[1].index[[0, 15, 16]].tolist() == [16, 31, 96]
    assert [item.number for item in items] == list(range(5))
    late = Survey(survey.traces, survey.source, survey.receiver, survey.dt, delay=np.arange(384) // 300 * 0.1)
    mixed = list(shares(late, passes(late, GRID, V, Aperture(), None, GRID.size), 16, 4))
    assert [len(set(late.delay[item.index])) for item in mixed] == [1] * 4
    assert len(list(shares(survey, steps, 16, 1000))) == 24


def test_how_many_shards_are_worth_it(survey):
    job = plan(survey, V, GRID, device="cpu")
    gpus, cpus = (shards.Workers(4, "", "v2", backend) for backend in ("metal", "cpu"))
    large = replace(job, pillars=161 * 161, times=2001, contributions=1.96e13)
    assert shards.shard_count(large, gpus) == 4 * 2
    assert shards.shard_count(large, cpus) == 4 * 32
    assert shards.shard_count(replace(large, contributions=1e15), gpus) == 4 * 32
    assert shards.shard_count(replace(large, contributions=1e14), gpus, images=2) == 4 * 4
    assert shards.shard_count(replace(job, contributions=0.0), gpus) == 4 * 2


def test_without_a_number_of_shards_it_is_kept(survey, inside, tmp_path):
    kept = Checkpoint(tmp_path / "kept", blocks=1)
    image = migrate(survey, V, GRID, cluster=inside)
    assert 1 <= image.job.shards != 7
    with pytest.raises(Cancelled):
        migrate(survey, V, GRID, cluster=inside, checkpoint=kept, progress=lambda *_: kept.pause())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "shard_count", lambda *_: 7)  # as if there were other workers now
        again = migrate(survey, V, GRID, cluster=inside, checkpoint=tmp_path / "kept")
    assert again.job.shards == image.job.shards
    assert again.values.tobytes() == image.values.tobytes()
    with pytest.raises(InputError, match="shards"):
        migrate(survey, V, GRID, cluster=inside, shards=0)


def test_pausing_and_going_on(survey, inside, tmp_path):
    image = migrate(survey, V, GRID, gathers=EDGES, cluster=inside, shards=6)
    kept = Checkpoint(tmp_path / "kept", blocks=1)
    calls = []

    def progress(done, total):
        calls.append(done)
        if len(calls) == 4:
            kept.pause()

    given = {"gathers": EDGES, "cluster": inside}
    with pytest.raises(Cancelled, match="paused at 67 %"):
        migrate(survey, V, GRID, **given, shards=6, checkpoint=kept, progress=progress)
    with pytest.raises(InputError, match=r"limits\.shards \(from 6 to 7\)"):
        migrate(survey, V, GRID, **given, shards=7, checkpoint=tmp_path / "kept")
    with pytest.raises(InputError, match=r"devices \(from cluster of .* to "):
        migrate(survey, V, GRID, gathers=EDGES, device="cpu", checkpoint=tmp_path / "kept")
    again = migrate(survey, V, GRID, **given, shards=6, checkpoint=tmp_path / "kept", progress=progress)
    assert calls[4] == calls[3]
    assert len(calls) == 4 + 1 + 2
    assert same(again, image)


def test_surveys_in_memory_travel_with_their_shards(survey, inside):
    held = Survey.from_arrays(
        survey.read(), survey.source, survey.receiver, survey.dt, bin_size=(25.0, 25.0)
    ).select(np.random.default_rng(1).permutation(survey.n_traces))  # fmt: skip
    index = np.array([3, 20, 300])
    part = pickle.loads(pickle.dumps(shards._portable(held, index)))
    assert len(pickle.dumps(part)) < 12_000  # the whole survey has 600 000
    assert np.array_equal(part.read(), held.read(index))
    assert np.array_equal(part.source, held.source[index])


def test_files_travel_by_their_whole_path(survey, monkeypatch):
    monkeypatch.chdir(survey.traces.path.parent)
    near = open_segy("a.sgy").select(np.arange(100)).select(np.arange(0, 100, 7))
    part = shards._portable(near, np.array([1, 4]))
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(part))
    assert np.array_equal(again.read(), survey.read([7, 28]))
    assert len(pickle.dumps(part)) < 4000


def test_workers_must_be_alike(monkeypatch, inside):
    answers = {"a": ("EPYC avx2", "v2", "cpu"), "b": ("EPYC avx512f", "v2", "cpu")}
    monkeypatch.setattr(inside.client, "run", lambda *_: answers)
    with pytest.raises(InputError, match="the workers differ"):
        shards.workers_of(inside, "auto", None)
    monkeypatch.setattr(inside.client, "run", lambda *_: {})
    with pytest.raises(InputError, match="no workers"):
        shards.workers_of(inside, "auto", None)


def test_devices_and_a_cluster_do_not_go_together(survey):
    with pytest.raises(InputError, match="leave one out"):
        migrate(survey, V, GRID, cluster="local", devices=["cpu"])
    with pytest.raises(InputError, match="it takes 'local'"):
        migrate(survey, V, GRID, cluster="nearby")


def test_errors_on_a_worker_keep_their_sentence(survey, inside):
    data = survey.read()
    data[11, 30] = np.nan
    broken = Survey.from_arrays(data, survey.source, survey.receiver, survey.dt)
    with pytest.raises(InputError, match="samples that are not finite"):
        migrate(broken, V, GRID, cluster=inside, shards=6)


def test_a_worker_that_dies_costs_nothing_but_time(survey, whole, inside, relative):
    given = {"gathers": EDGES, "shards": 12}
    first = migrate(survey, V, GRID, **given, cluster=inside)  # whose worker is this process
    with local(workers=2) as executor:
        pids = list(executor.client.run(os.getpid).values())
        killed = []

        def progress(done, total):
            if not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        again = migrate(survey, V, GRID, **given, cluster=executor, progress=progress)
        assert killed
        assert same(again, first)
    assert relative(first.values, whole.values) < 1e-6
    until = time.monotonic() + 10
    while threading.active_count() > 30 and time.monotonic() < until:
        time.sleep(0.1)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_devices_side_by_side(survey, on_cpu, relative, devices):
    def several():
        return [Runtime().device("cpu") for _ in range(devices)]

    image = migrate(survey, V, GRID, gathers=EDGES, devices=several())
    assert image.job.lanes == devices
    assert relative(image.values, on_cpu.values) < 1e-6
    assert relative(image.panels.values, on_cpu.panels.values) < 1e-6
    assert np.array_equal(image.counts, on_cpu.counts)
    assert same(migrate(survey, V, GRID, gathers=EDGES, devices=several()), image)
    if devices == 1:
        assert same(image, on_cpu)


def test_an_error_on_one_device_ends_all_of_them(survey):
    data = survey.read()
    data[200, 30] = np.inf
    broken = Survey.from_arrays(data, survey.source, survey.receiver, survey.dt)
    devices = [Runtime().device("cpu") for _ in range(3)]
    before = threading.active_count()
    with pytest.raises(InputError, match="trace 200 of survey"):
        migrate(broken, V, GRID, devices=devices)
    assert all(device.pool.stats().bytes_live == 0 for device in devices)
    assert threading.active_count() <= before + 1


@pytest.mark.parametrize("devices", [[], ["cpu", "cpu"], "some"])
def test_devices_that_are_none(survey, devices):
    with pytest.raises(InputError, match="devices"):
        migrate(survey, V, GRID, devices=devices)
    assert migrate(survey, V, GRID, devices="all").job.lanes >= 1
