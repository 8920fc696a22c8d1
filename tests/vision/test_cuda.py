"""What only an NVIDIA GPU can show: recordings, the matrix units, several streams. Skipped elsewhere."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from elinvar.runtime.transfers import transfers
from elinvar.vision import Engine, match, plain
from elinvar.vision.catalogue import variant
from elinvar.vision.kernels.nearest import filtered, metal
from elinvar.vision.layers import Conv, Paths
from elinvar.vision.runner import _convolutions

from .conftest import MICRO, MICRO_DINO, relative

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.fixture(scope="module", params=[MICRO, MICRO_DINO, variant("free")], ids=lambda k: k.name)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def pictures(kind):
    make = np.random.default_rng(0)
    p = kind.patch
    return [make.integers(0, 256, (3 * p, 4 * p, 3), np.uint8) for _ in range(5)]


@pytest.fixture(scope="module")
def gpu(kind, weights):
    return Engine(kind, 4 * kind.patch, "fp32", "cuda", cache_bytes=0).load(weights(kind))


@pytest.fixture(scope="module")
def truth(kind, weights, pictures):
    given = [torch.from_numpy(x) for x in pictures]
    return [plain.infer(weights(kind), kind, given[k], given[k + 1]) for k in range(4)]


def test_every_output_equals_the_plain_rendition(gpu, pictures, truth):
    assert gpu.paths.fused
    for together in (True, False):
        result = gpu.infer(*pictures[:2])
        for name, output in (result.compute() if together else result).outputs().items():
            assert relative(output, truth[0][name]) < 3e-5, (name, together)
    assert set(result.timing.heads) == {"dense_1_ms", "dense_2_ms", "local_1_ms", "local_2_ms"}


def test_a_copy_into_ones_own_memory(gpu, pictures):
    points = gpu.infer(*pictures[:2]).pts3d_2
    whole = np.zeros((*points.shape[:2], 4), np.float32)
    for out in (whole[..., :3], whole[::-1, ::-1, 1:]):
        with transfers.count() as counter:
            assert points.copy_to(out) is out
        assert counter.counts.d2h_bytes == points.nbytes
        assert np.array_equal(out, points.numpy())


def test_small_formats_stay_near(kind, weights, pictures, truth):
    for precision, bar in (("fp16", 0.01), ("bf16", 0.06)):
        engine = Engine(kind, 4 * kind.patch, precision, "cuda").load(weights(kind))
        for name, output in engine.infer(*pictures[:2]).compute().outputs().items():
            assert relative(output, truth[0][name]) < bar, (precision, name)


def test_batches_chains_and_other_shapes_equal_the_plain_rendition(gpu, kind, weights, pictures, truth):
    chains = (gpu.infer_pairs(pictures), gpu.infer_batch_pipelined(pictures, compute=True))
    for results in chains:
        for result, want in zip(results, truth, strict=True):
            assert relative(result.pts3d_2, want["pts3d_2"]) < 3e-5
            assert relative(result.desc_1, want["desc_1"]) < 3e-5
    portrait = np.ascontiguousarray(pictures[1].transpose(1, 0, 2))
    want = plain.infer(weights(kind), kind, torch.from_numpy(pictures[0]), torch.from_numpy(portrait))
    assert relative(gpu.infer(pictures[0], portrait).pts3d_2, want["pts3d_2"]) < 3e-5


def test_threads_and_streams_do_not_disturb_each_other(gpu, pictures, truth):
    wrong = []

    def work(k):
        with torch.cuda.stream(torch.cuda.Stream()):
            for turn in range(6):
                result = gpu.infer(pictures[k], pictures[k + 1])
                if turn % 2:
                    result.compute()
                if (
                    relative(result.conf_2, truth[k]["conf_2"]) > 3e-5
                    or relative(result.desc_2, truth[k]["desc_2"]) > 3e-5
                ):
                    wrong.append((k, turn))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("channels", [3, 24, 40, 128])
def test_the_matrix_units_find_what_products_find(channels, monkeypatch):
    make = torch.Generator("cuda").manual_seed(0)
    queries, keys = (
        torch.nn.functional.normalize(torch.randn(n, channels, generator=make, device="cuda"), dim=1)
        for n in (9001, 12007)
    )
    keys[5000:6000] = keys[:1000]  # equal keys: the first wins
    queries[:1000] = keys[:1000]
    assert filtered.pays(queries.device, len(queries), len(keys), channels)
    want, want_back = metal.nearest(queries, keys, device="cuda"), metal.nearest(keys, queries, device="cuda")[0]
    for step in (1 << 26, 1 << 20):  # at once, and in many pieces
        monkeypatch.setattr(filtered, "_ESTIMATES", step)
        got = filtered.nearest(queries, keys, device="cuda")
        *both, back = filtered.both(queries, keys, device="cuda")
        for index, score in (got, both):
            assert torch.equal(index, want[0])
            assert torch.equal(score, want[1])
        assert torch.equal(back, want_back)


def test_matches_are_those_of_the_cpu():
    make = torch.Generator().manual_seed(0)
    one = torch.nn.functional.normalize(torch.randn(96, 96, 24, generator=make), dim=2)
    two = torch.nn.functional.normalize(one.roll(3, 1) + 0.05 * torch.randn(one.shape, generator=make), dim=2)
    for step in (None, 8):
        here, there = match(one, two, subsample=step), match(one.cuda(), two.cuda(), subsample=step)
        assert set(zip(here.idx_1.tolist(), here.idx_2.tolist(), strict=True)) == set(
            zip(there.idx_1.tolist(), there.idx_2.tolist(), strict=True)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fused_convolution_ignores_what_lay_in_its_memory(dtype):
    make = torch.Generator("cuda").manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=make, device="cuda") for shape in ((2, 64, 24, 32), (64, 64, 3, 3), (64,))
    )
    weight /= 24
    conv = Conv(weight.to(dtype), bias.to(dtype), Paths(channels_last=True, fused=True))
    given = x.to(dtype).contiguous(memory_format=torch.channels_last)
    want = torch.relu(torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1))
    with torch.no_grad(), _convolutions(given.device, dtype):
        for _ in range(3):
            spoilt = [torch.full_like(given, float("nan")) for _ in range(8)]
            del spoilt
            assert relative(conv(given, relu=True).double().cpu(), want.cpu()) < 0.02
