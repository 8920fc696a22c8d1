from __future__ import annotations

import pytest
import torch

from elinvar.errors import InputError
from elinvar.runtime import kernels
from elinvar.vision.kernels import nearest
from elinvar.vision.kernels.nearest import estimate, filtered, metal, reference


@pytest.mark.parametrize("seed", range(5))
def test_the_cpu_kernel_equals_its_reference(seed):
    assert kernels.check(nearest.NAME, "v1", "cpu", backend="cpu", seed=seed).ok


@pytest.mark.gxx
@pytest.mark.parametrize("seed", range(5))
def test_the_metal_kernel_equals_its_reference(seed):
    assert kernels.check(nearest.NAME, "v1", "cpu", backend="metal", seed=seed).ok


@pytest.mark.gxx
def test_slices_of_the_keys_are_joined_in_order():
    queries = torch.nn.functional.normalize(torch.randn(3, 24), dim=1)
    keys = torch.nn.functional.normalize(torch.randn(1100, 24), dim=1)
    keys[1050] = keys[20] = queries[0]  # equal keys in two slices: the first wins
    index, _ = metal.nearest(queries, keys, device="cpu")
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
    (queries, keys), _ = nearest.example(seed)
    agree(queries, keys, estimate.with_torch)
    if seed in (0, 4):  # the emulator's matrices take their time
        agree(queries, keys, estimate.estimate)


@pytest.mark.gxx
@pytest.mark.parametrize("case", ["crowded", "huge and tiny", "enormous", "minute", "all equal", "zero", "negative"])
def test_estimates_never_decide(case):
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
    agree(queries, keys, estimate.with_torch)


@pytest.mark.gxx
@pytest.mark.parametrize("case", ["random", "crowded", "equal", "enormous", "minute"])
def test_the_way_back_goes_on_from_earlier_queries(monkeypatch, case):
    monkeypatch.setattr(filtered, "_ESTIMATES", 1)  # one group of queries at a time
    make = torch.Generator().manual_seed(5)
    queries, keys = torch.randn(1300, 5, generator=make), torch.randn(130, 5, generator=make)
    if case == "crowded":
        queries = queries[:1] + 1e-6 * queries
    elif case == "equal":
        queries[700:] = queries[:600]  # in another piece: the first wins
    elif case == "enormous":
        queries, keys = 1e25 * queries, 1e-10 * keys
    elif case == "minute":
        queries, keys = 1e-28 * queries, 1e-3 * keys
    agree(queries, keys, estimate.with_torch)


@pytest.mark.gxx
def test_estimates_of_many_spans(monkeypatch):
    filtered._library.cache_clear()
    monkeypatch.setattr(estimate, "BLOCK", 4)
    monkeypatch.setattr(filtered, "BLOCK", 4)
    keys = torch.randn(4 * 32 * 34 + 5, 4)  # more spans than a SIMD group has lanes
    queries = torch.cat([torch.randn(5, 4), keys[-1:] * 9, keys[:1] * 9])
    keys[4100:4300] = keys[7]  # equal ones in several blocks and spans
    queries[0] = keys[7] * 100
    agree(queries, keys, estimate.with_torch)
    filtered._library.cache_clear()


def agree(queries, keys, make):
    """Both directions through estimates find what version v1 finds, bit for bit."""
    there, score, back = filtered.both(queries, keys, device="cpu", make=make)
    for got, want in zip(
        ((there, score), filtered.nearest(queries, keys, device="cpu", make=make), (back,)),
        (metal.nearest(queries, keys, device="cpu"),) * 2 + (metal.nearest(keys, queries, device="cpu")[:1],),
        strict=True,
    ):
        assert all(torch.equal(one, other) for one, other in zip(got, want, strict=True))


@pytest.mark.gxx
@pytest.mark.parametrize("channels", [8, 24, 32, 64, 128])
def test_the_matrices_estimate_what_products_in_torch_say(channels):
    how = estimate.shape(channels)
    make = torch.Generator().manual_seed(channels)
    queries, keys = (
        torch.nn.functional.normalize(torch.randn(n, how.width, generator=make), dim=1).half()
        for n in (how.rows, estimate.BLOCK)
    )
    rooms = []
    for way in (estimate.estimate, estimate.with_torch):
        there, back = (
            tuple(torch.zeros(rows, n, dtype=torch.float16) for rows in (blocks, 1))
            for blocks, n in ((1, how.rows), (how.rows // how.together, estimate.BLOCK))
        )
        way(queries, keys, there, back, how, device="cpu")
        rooms.append((*there, *back))
    for got, want in zip(*rooms, strict=True):
        torch.testing.assert_close(got.float(), want.float(), rtol=2**-10, atol=2**-20)


@pytest.mark.gxx
def test_spans_of_blocks_of_queries():
    make = torch.Generator().manual_seed(0)
    how = estimate.shape(8)
    library = estimate._library("cpu", how, True)
    blocks = torch.randn(37, 256, generator=make).half()
    spans = torch.zeros(2, 256, dtype=torch.float16)
    library.spans(blocks, spans, 37, threads=(128, 2), group_size=(128, 1))
    assert torch.equal(spans, torch.stack([blocks[:32].amax(0), blocks[32:].amax(0)]))


@pytest.mark.gxx
def test_what_estimates_cannot_serve_goes_the_first_versions_way():
    queries, keys = torch.randn(20, 130), torch.randn(70, 130)
    assert not filtered.fits(20, 70, 130)
    assert torch.equal(filtered.nearest(queries, keys, device="cpu")[0], metal.nearest(queries, keys, device="cpu")[0])


def test_estimates_are_for_large_problems_on_cuda():
    assert filtered.pays(torch.device("cuda"), 1 << 13, 1 << 13, 24)
    assert not filtered.pays(torch.device("cuda"), 1 << 12, 1 << 13, 24)
    assert not filtered.pays(torch.device("mps"), 1 << 13, 1 << 13, 24)
    assert nearest.both(torch.ones(3, 4), torch.ones(2, 4)) is None
