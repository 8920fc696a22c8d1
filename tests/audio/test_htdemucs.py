from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional

from elinvar.audio.htdemucs import HTDemucs, HTDemucsConfig
from elinvar.audio.htdemucs_transformer import positions_1d, positions_2d
from elinvar.errors import InputError

Make = Callable[..., HTDemucs]
LENGTH = 1200


@pytest.fixture(scope="module")
def tiny(tiny_htdemucs: HTDemucs) -> HTDemucs:
    assert tiny_htdemucs.length == LENGTH
    return tiny_htdemucs


def relative(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got - want).double().norm() / want.double().norm())


@pytest.fixture(scope="module")
def mix() -> torch.Tensor:
    return 0.3 * torch.randn(2, 2, LENGTH, generator=torch.Generator().manual_seed(0))


def test_fast_operations_agree_with_plain_torch(tiny: HTDemucs, mix: torch.Tensor) -> None:
    with torch.enable_grad():  # plain torch functions
        plain = tiny(mix)
    with torch.no_grad():
        fast = tiny(mix)
    assert plain.shape == fast.shape == (2, 2, 2, LENGTH)
    assert relative(fast, plain) < 2e-6


def test_trains(make_htdemucs: Make, mix: torch.Tensor) -> None:
    model = make_htdemucs()
    model.requires_grad_(True)
    model(mix[:1]).square().sum().backward()
    lost = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # One hidden channel normalised over itself: its bias cannot matter.
    assert [n for n in lost if not n.endswith(".0.bias")] == []


def test_matches_float64(tiny: HTDemucs, mix: torch.Tensor) -> None:
    """A float64 forward of the same parameters with torch's own modules where they exist."""
    conv = tiny.tencoder[0].conv
    x = mix[:1]
    z = (x - x.mean((1, 2), keepdim=True)) / (1e-5 + x.std((1, 2), keepdim=True))
    want = functional.gelu(functional.conv1d(z.double(), conv.weight.double(), conv.bias.double(), 4, 2))
    layer = tiny.tencoder[0].dconv.layers[0].double()
    y = layer[:6](want)
    want = want + layer[6].scale[:, None] * y
    layer.float()
    got = tiny.tencoder[0].dconv.layers
    assert len(got) == 2
    from elinvar.audio.htdemucs_ops import add_gated, convolve, norm_gelu, project

    with torch.no_grad():
        a = functional.gelu(convolve(z.transpose(1, 2)[:, None], conv.weight, conv.bias, stride=(1, 4), padding=(0, 2)))
        b = convolve(a, layer[0].weight, layer[0].bias, padding=(0, 1))
        b = norm_gelu(b, layer[1].weight, layer[1].bias, layer[1].eps)
        b = project(b, layer[3].weight, layer[3].bias)
        a = add_gated(a, b, layer[4].weight, layer[4].bias, layer[4].eps, layer[6].scale)
    assert relative(a[:, 0].transpose(1, 2), want) < 1e-6


def test_layer_matches_torch(tiny: HTDemucs) -> None:
    """A self-attention layer equals torch.nn.MultiheadAttention plus the norms, spelled out."""
    layer = tiny.crosstransformer.layers[0]
    reference = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    reference.load_state_dict(layer.self_attn.state_dict())
    x = torch.randn(2, 45, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        h = layer.norm1(x)
        y = x + layer.gamma_1.scale * reference(h, h, h, need_weights=False)[0]
        y = y + layer.gamma_2.scale * layer.linear2(functional.gelu(layer.linear1(layer.norm2(y))))
        want = layer.norm_out(y.transpose(1, 2)).transpose(1, 2)
        assert relative(layer(x), want) < 1e-6


def test_cross_layers_see_the_old_other_stream(tiny: HTDemucs) -> None:
    middle = tiny.crosstransformer
    x = torch.randn(1, 4, 5, 32, generator=torch.Generator().manual_seed(2))
    xt = torch.randn(1, 1, 17, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        a = middle.norm_in(x.transpose(1, 2).reshape(1, 20, 32)) + positions_2d(5, 4, 32, 1e4)
        b = middle.norm_in_t(xt[:, 0]) + positions_1d(17, 32, 1e4)
        a, b = middle.layers[0](a), middle.layers_t[0](b)
        a, b = middle.layers[1](a, b), middle.layers_t[1](b, a)
        a, b = middle.layers[2](a), middle.layers_t[2](b)
        got, got_t = middle(x, xt)
    assert relative(got.transpose(1, 2).reshape(1, 20, 32), a) < 1e-6
    assert relative(got_t[:, 0], b) < 1e-6


def test_positions() -> None:
    one = positions_1d(50, 8, 1e4)
    assert one[7, 1] == pytest.approx(np.cos(7 / 1e4 ** (1 / 3)), abs=1e-6)
    assert one[7, 4 + 1] == pytest.approx(np.sin(7 / 1e4 ** (1 / 3)), abs=1e-6)
    two = positions_2d(3, 5, 8, 1e4)
    assert two.shape == (15, 8)
    assert two[1 * 5 + 4, 2] == pytest.approx(np.sin(1 / 1e4 ** (2 / 4)), abs=1e-6)
    assert two[1 * 5 + 4, 4] == pytest.approx(np.sin(4), abs=1e-6)
    assert two[1 * 5 + 4, 5] == pytest.approx(np.cos(4), abs=1e-6)


def test_short_input_is_padded_and_zero_stays_zero(tiny: HTDemucs, mix: torch.Tensor) -> None:
    with torch.no_grad():
        short = tiny(mix[:1, :, :700])
        padded = tiny(functional.pad(mix[:1, :, :700], (0, LENGTH - 700)))
        assert torch.equal(short, padded[..., :700])
        assert tiny(torch.zeros(1, 2, 1)).shape == (1, 2, 2, 1)
        assert bool((tiny(torch.zeros(1, 2, 500)) == 0).all())


def test_batch_members_do_not_see_each_other(tiny: HTDemucs, mix: torch.Tensor) -> None:
    with torch.no_grad():
        assert relative(tiny(mix)[1:], tiny(mix[1:])) < 1e-6


def test_preview_is_the_time_branch(tiny: HTDemucs, mix: torch.Tensor) -> None:
    with torch.no_grad():
        rough = tiny(mix[:1], "preview")
        assert rough.shape == (1, 2, 2, LENGTH)
        assert 0.01 < relative(rough, tiny(mix[:1])) < 10


@pytest.mark.parametrize("storage", [torch.float16, torch.bfloat16])
def test_half_storage(make_htdemucs: Make, mix: torch.Tensor, storage: torch.dtype) -> None:
    model = make_htdemucs()
    before = model.memory_bytes
    with torch.no_grad():
        want = model(mix[:1])
        model.to_precision(storage=storage)
        got = model(mix[:1])
    assert got.dtype == torch.float32
    assert model.memory_bytes == before / 2
    assert relative(got, want) < (3e-3 if storage == torch.float16 else 3e-2)


def test_bfloat16_compute(make_htdemucs: Make, mix: torch.Tensor) -> None:
    model = make_htdemucs()
    with torch.no_grad():
        want = model(mix[:1])
        got = model.to_precision(compute=torch.bfloat16)(mix[:1])
    assert got.dtype == torch.float32
    assert relative(got, want) < 3e-2


@pytest.mark.parametrize(
    ("shape", "mode", "says"),
    [
        ((1, 2, LENGTH + 1), "full", "separate"),
        ((1, 1, 100), "full", "shape"),
        ((2, 100), "full", "shape"),
        ((1, 2, 0), "full", "shape"),
        ((1, 2, 100), "fast", "preview"),
    ],
)
def test_bad_input(tiny: HTDemucs, shape: tuple[int, ...], mode: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tiny(torch.zeros(shape), mode)


def test_bad_sizes(make_htdemucs: Make) -> None:
    with pytest.raises(InputError, match="htdemucs_6s"):
        HTDemucs("htdemucs_9s")
    with pytest.raises(InputError, match="divide"):
        HTDemucsConfig(n_fft=128, depth=4)
    with pytest.raises(InputError, match="heads"):
        HTDemucsConfig(bottom_channels=100)
    with pytest.raises(InputError, match="storage"):
        make_htdemucs().to_precision(storage=torch.int8)


# -- the published sizes ----------------------------------------------------------------------------------------------


def loaded(name: str, reference_data: Callable[[str], Path]) -> tuple[HTDemucs, ModuleType, np.ndarray]:
    spec = importlib.util.spec_from_file_location("seeded", reference_data("audio/seeded.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    spec.loader.exec_module(module)
    sys.dont_write_bytecode = before
    shapes = json.loads(reference_data(f"audio/keys_{name}.json").read_text())
    model = HTDemucs(name)
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == shapes
    model.load_state_dict(module.seeded_state(shapes))
    return model, module, np.load(reference_data(f"audio/{name}_parity.npz"))["segment"]


@pytest.mark.parametrize("name", ["htdemucs", "htdemucs_6s"])
def test_reference_vectors(name: str, reference_data: Callable[[str], Path]) -> None:
    model, module, want = loaded(name, reference_data)
    with torch.no_grad():
        got = model(module.make_mix(7.8, seed=11)[None])[..., ::97]
    assert relative(got, torch.from_numpy(want)) < 2e-5
