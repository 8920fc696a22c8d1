"""What v3 leaves out, and that it leaves out nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import elinvar
from elinvar.runtime.parallel import set_threads
from elinvar.seismic.kernels.migrate import Bank, RadiusAperture, v3, v3_metal, v3_order
from elinvar.seismic.kernels.migrate.tables import prepare

SMALL = RadiusAperture(tan_dip=0.4, maximum=300.0, taper=0.2)


def scattered(n: int, extent: float = 4000.0, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 2, generator=torch.Generator().manual_seed(seed)) * extent - extent / 2


def emulated(*args: Any, **options: Any) -> None:
    v3_metal.migrate(*args, **options, device=elinvar.device("cpu"))


class TestOrder:
    def test_is_a_permutation_that_brings_neighbours_together(self) -> None:
        places = scattered(1000)
        order = v3_order.morton(places)
        assert torch.equal(order.sort().values, torch.arange(1000))
        before, after = (v3_order.batches(x, 32).radius.mean() for x in (places, places[order]))
        assert after < 0.3 * before

    def test_keeps_what_is_ordered(self) -> None:
        places = scattered(1000)
        order, bounded = v3_order.arranged(places, 32)
        assert order is not None
        assert torch.equal(order, v3_order.neighbourly(places, 32))
        assert torch.equal(bounded.radius, v3_order.batches(places[order], 32).radius)
        assert v3_order.neighbourly(places[order], 32) is None

    def test_of_one_place_and_of_equal_places(self) -> None:
        assert v3_order.morton(torch.zeros(1, 2)).tolist() == [0]
        assert v3_order.morton(torch.full((5, 2), 3.0)).tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("n", [1, 31, 33, 100])
    def test_circles_hold_their_places_and_gaps_are_no_larger_than_distances(self, n: int) -> None:
        places, others = scattered(n), scattered(70, seed=1)
        one, two = v3_order.batches(places, 32), v3_order.batches(others, 8)
        gaps = v3_order.gaps(one, two)
        apart = (places[:, None] - others[None]).square().sum(-1).sqrt()
        for i in range(gaps.shape[0]):
            for j in range(gaps.shape[1]):
                assert gaps[i, j] <= apart[32 * i : 32 * i + 32, 8 * j : 8 * j + 8].min()


def test_the_list_of_work_leaves_out_tiles_and_batches_out_of_reach() -> None:
    middle, pillars = scattered(640), scattered(64, seed=2)
    middle = middle[v3_order.morton(middle)]
    work = v3._plan(middle, pillars, torch.full((1,), 300.0).numpy(), 64)
    pairs = int(work.starts[-1])
    assert 0 < pairs < 0.8 * 10 * 8
    loads = [int(work.starts[t + 1] - work.starts[t]) for t in work.tiles]
    assert loads == sorted(loads, reverse=True)
    near = {(t, b) for t in range(8) for b in work.near[work.starts[t] : work.starts[t + 1]].tolist()}
    order = torch.from_numpy(work.order)
    for t in range(8):
        apart = (pillars[order[8 * t : 8 * t + 8]][:, None] - middle[None]).square().sum(-1).sqrt().amin(0)
        assert all((t, int(k) // 64) in near for k in torch.nonzero(apart <= 300.0))
    none = v3._plan(middle + 1e5, pillars, torch.full((1,), 300.0).numpy(), 64)
    assert len(none.tiles) == 0


def test_limits_are_the_radius_or_the_end_of_the_record() -> None:
    axes: dict[str, Any] = {"dt": 0.004, "start": 0.0, "dt_out": 0.004, "t0_out": 0.0}
    job: dict[str, Any] = {**axes, "amplitude": "true", "area": 1.0, "block": 64, "nodes": (2, 19, 44, 61)}
    vrms = torch.full((1, 256), 2000.0)
    free = v3_metal._limits(prepare(vrms, aperture=None, **job), 201, 64)
    # The record ends at 0.8 s: zero offset at t0 = 0 comes from V t / 2 = 800 m, after t0 = 0.768 s from 224 m.
    torch.testing.assert_close(free[0, :4], torch.tensor([800.0, 757.9, 614.7, 224.0]), atol=2.0, rtol=0.0)
    bounded = v3_metal._limits(prepare(vrms, aperture=SMALL, **job), 201, 64)
    torch.testing.assert_close(bounded[0, :4], torch.tensor([100.8, 203.2, 300.0, 224.0]), atol=2.0, rtol=0.0)
    late = v3_metal._limits(prepare(vrms, aperture=None, **job), 101, 64)
    assert (late[0, 2:] < -1e29).all()


def test_work_begins_where_most_is_to_do_and_stays_with_neighbours() -> None:
    axes: dict[str, Any] = {"dt": 0.004, "start": 0.0, "dt_out": 0.004, "t0_out": 0.0}
    job: dict[str, Any] = {**axes, "amplitude": "true", "area": 1.0, "block": 64, "nodes": (2, 19, 44, 61)}
    tables = prepare(torch.full((1, 256), 2000.0), aperture=SMALL, **job)
    blocks = v3_metal._Reach(201, 64)(tables)[2]
    assert blocks.tolist() == [2, 3, 1, 0]
    assert v3_metal._items(3, blocks[:2]).tolist() == [2, 4, 6, 3, 5, 7]


def test_tiles_are_kept_while_their_pillars_stay_as_they_are() -> None:
    pillars = scattered(100, 500.0, seed=1)
    tiles = v3_order.tiles_of(pillars, 4)
    assert torch.equal(tiles.order.long(), v3_order.morton(pillars))
    assert v3_order.tiles_of(pillars[:], 4) is tiles
    assert v3_order.tiles_of(pillars, 8) is not tiles
    pillars[0] += 900.0
    moved = v3_order.tiles_of(pillars, 4)
    assert moved is not tiles
    assert torch.equal(moved.order.long(), v3_order.morton(pillars))
    with torch.inference_mode():
        assert torch.equal(v3_order.tiles_of(pillars.clone(), 4).order, moved.order)
    del pillars
    assert not [tiles for _, tiles, owner in v3_order._tiles.values() if owner() is None]


def test_reads_copies_and_between_samples_as_v2_does(survey: Any, agrees: Any) -> None:
    tensors, options = survey(traces=300, pillars=24, spread=1500.0, nt=150, ns=160, aperture=SMALL)
    bank = Bank(4, 25.0, 30.0)
    tensors[2] = torch.randn(300, 4 * 160, generator=torch.Generator().manual_seed(4))
    tensors[5] = scattered(24, 2000.0, seed=3)
    agrees(v3.migrate, (tensors, {**options, "bank": bank, "interpolation": "cubic"}))


@pytest.mark.parametrize(
    "version", [pytest.param(v3.migrate, id="cpu"), pytest.param(emulated, id="metal", marks=pytest.mark.gxx)]
)
class TestFarApart:
    """Most traces are out of reach of most pillars."""

    CASES = ({}, {"physics": "curved", "medium": (1800.0, 0.6)}, {"physics": "vti", "eta": 0.2})

    @pytest.mark.parametrize("rays", CASES, ids=["straight", "curved", "vti"])
    @pytest.mark.parametrize("rows", [1, 24])
    def test_agrees_with_float64(self, version: Any, rays: dict[str, Any], rows: int, survey: Any, agrees: Any) -> None:
        tensors, options = survey(
            traces=300, pillars=24, spread=1500.0, offset=150.0, nt=150, ns=160, aperture=SMALL, rows=rows
        )
        tensors[5] = scattered(24, 2000.0, seed=3)
        rays = dict(rays)
        if "eta" in rays:
            rays["eta"] = torch.full((1, 150), rays["eta"])
        agrees(version, (tensors, {**options, **rays}))

    def test_agrees_where_records_end_first(self, version: Any, survey: Any, agrees: Any) -> None:
        tensors, options = survey(traces=300, pillars=12, spread=1500.0, ns=100, nt=150, aperture=None)
        tensors[5] = scattered(12, 2000.0, seed=3)
        agrees(version, (tensors, options))

    def test_nobody_is_near(self, version: Any, survey: Any) -> None:
        tensors, options = survey(traces=40, nt=60, aperture=SMALL)
        tensors[5] = tensors[5] + 1e5
        image, fold = tensors[0].clone(), tensors[1].clone()
        version(image, fold, *tensors[2:], **options)
        assert not image.any()
        assert not fold.any()


def test_ten_repeats_on_any_number_of_threads_are_the_same_bits(survey: Any) -> None:
    tensors, options = survey(traces=200, pillars=40, nt=100)
    images = []
    for threads in (1, 2, 3, 4, 5) * 2:
        before = set_threads(threads)
        try:
            image = torch.zeros_like(tensors[0])
            v3.migrate(image, None, *tensors[2:], **options)
        finally:
            set_threads(before)
        images.append(image)
    assert all(torch.equal(images[0], other) for other in images[1:])
