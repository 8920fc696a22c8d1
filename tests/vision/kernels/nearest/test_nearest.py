from __future__ import annotations

import pytest
import torch

from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.vision.kernels import nearest
from elinvar.vision.kernels.nearest import reference


@pytest.mark.parametrize("seed", range(5))
def test_the_cpu_kernel_equals_its_reference(seed):
    assert kernels.check(nearest.NAME, "v1", "cpu", backend="cpu", seed=seed).ok


@pytest.mark.gxx
@pytest.mark.parametrize("seed", range(5))
def test_the_metal_kernel_equals_its_reference(seed):
    assert kernels.check(nearest.NAME, "v1", "cpu", backend="metal", seed=seed).ok


@pytest.mark.gxx
def test_slices_of_the_keys_are_joined_in_order():
    from elinvar.vision.kernels.nearest.metal import nearest as launch

    queries = torch.nn.functional.normalize(torch.randn(3, 24), dim=1)
    keys = torch.nn.functional.normalize(torch.randn(1100, 24), dim=1)
    keys[1050] = keys[20] = queries[0]  # equal keys in two slices: the first wins
    index, _ = launch(queries, keys, device="cpu")
    assert index.tolist() == reference.nearest(queries, keys)[0].tolist()
    assert index[0] == 20


def test_negative_products_and_padding():
    # All products are negative: neither the padding's zeros nor index 0 may win.
    queries = torch.ones(5, 3)
    keys = -torch.arange(1.0, 8.0)[:, None].flip(0) * torch.ones(3)
    index, score = nearest.run(queries, keys)
    assert index.tolist() == [6] * 5
    assert score.tolist() == [-3.0] * 5


def test_nothing_and_nonsense():
    index, score = nearest.run(torch.zeros(0, 4), torch.ones(2, 4))
    assert index.shape == score.shape == (0,)
    for queries, keys in (
        (torch.ones(2, 3), torch.ones(2, 4)),
        (torch.ones(2, 3), torch.ones(0, 3)),
        (torch.ones(3), torch.ones(2, 3)),
        (torch.ones(2, 3).double(), torch.ones(2, 3)),
    ):
        with pytest.raises(InputError, match=r"vision\.nearest"):
            nearest.run(queries, keys)


@pytest.mark.gxx
@pytest.mark.parametrize("seed", range(5))
def test_estimates_and_exact_products_find_what_products_alone_find(seed):
    from elinvar.vision.kernels.nearest import filtered, metal

    (queries, keys), _ = nearest.example(seed)
    got = filtered.through_estimates(queries, keys, device="cpu")
    want = metal.nearest(queries, keys, device="cpu")
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.gxx
@pytest.mark.parametrize("case", ["crowded", "huge and tiny", "enormous", "minute", "all equal", "zero", "negative"])
def test_estimates_never_decide(case):
    from elinvar.vision.kernels.nearest import filtered, metal

    make = torch.Generator().manual_seed(4)
    queries, keys = torch.randn(40, 24, generator=make), torch.randn(400, 24, generator=make)
    if case == "crowded":  # products differ in the seventh digit: every block may hold the winner
        keys = keys[:1] + 1e-6 * keys
    elif case == "huge and tiny":
        queries, keys = 1e12 * queries, 1e-9 * keys * torch.logspace(-3, 0, 400)[:, None]
    elif case == "enormous":  # lengths overflow, products do not
        queries, keys = 1e25 * queries, 1e-10 * keys
    elif case == "minute":
        queries, keys = 1e-28 * queries, 1e-3 * keys
    elif case == "all equal":
        keys = keys[:1].expand(400, -1).contiguous()
    elif case == "zero":
        queries = torch.zeros_like(queries)
    else:
        queries, keys = queries.abs(), -keys.abs()
    got = filtered.through_estimates(queries, keys, device="cpu")
    want = metal.nearest(queries, keys, device="cpu")
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.gxx
def test_estimates_in_several_pieces(monkeypatch):
    from elinvar.vision.kernels.nearest import filtered, metal

    monkeypatch.setattr(filtered, "_ESTIMATES", 1)  # one group of queries at a time
    queries, keys = torch.randn(300, 5), torch.randn(130, 5)
    got = filtered.through_estimates(queries, keys, device="cpu")
    assert torch.equal(got[0], metal.nearest(queries, keys, device="cpu")[0])


@pytest.mark.gxx
def test_estimates_of_many_spans(monkeypatch):
    from elinvar.vision.kernels.nearest import estimate, filtered, metal

    filtered._library.cache_clear()
    monkeypatch.setattr(estimate, "BLOCK", 4)
    monkeypatch.setattr(filtered, "BLOCK", 4)
    keys = torch.randn(4 * 32 * 34 + 5, 4)  # more spans than a SIMD group has lanes
    queries = torch.cat([torch.randn(5, 4), keys[-1:] * 9, keys[:1] * 9])
    keys[4100:4300] = keys[7]  # equal ones in several blocks and spans
    queries[0] = keys[7] * 100
    got = filtered.through_estimates(queries, keys, device="cpu")
    want = metal.nearest(queries, keys, device="cpu")
    filtered._library.cache_clear()
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.gxx
def test_without_matrix_units_the_first_version_runs():
    from elinvar.vision.kernels.nearest import estimate, filtered, metal

    assert estimate.estimator(torch.device("cpu"), 32) is None
    queries, keys = torch.randn(20, 24), torch.randn(70, 24)
    assert torch.equal(filtered.nearest(queries, keys, device="cpu")[0], metal.nearest(queries, keys, device="cpu")[0])
