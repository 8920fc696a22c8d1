"""From codes to R'G'B': every implementation against float64, for every way codes lie in memory."""

from __future__ import annotations

import pytest
import torch

from elinvar.video.decode import from_planes
from elinvar.video.kernels import decode
from elinvar.video.kernels.decode import cpu, metal, reference
from elinvar.video.yuv import FORMATS, SITINGS, coding


def exact(planes: list[torch.Tensor], how: object, shape: torch.Size) -> torch.Tensor:
    out = torch.zeros(shape, dtype=torch.float64)
    reference.decode(planes, out, how)
    return out


@pytest.mark.parametrize("seed", range(6))
def test_numba_agrees_with_float64(seed: int) -> None:
    (planes, out, how), _ = decode.example(seed)
    cpu.decode(planes, out, how)
    assert (out - exact(planes, how, out.shape)).abs().max() < 2e-6


@pytest.mark.gxx
@pytest.mark.parametrize("seed", range(6))
def test_metal_agrees_with_float64(seed: int) -> None:
    (planes, out, how), _ = decode.example(seed)
    metal.decode(planes, out, how, device="cpu")
    assert (out - exact(planes, how, out.shape)).abs().max() < 2e-6


@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("name", FORMATS)
def test_flat_colours_are_flat(name: str, siting: str) -> None:
    """The reference is tied to the standard: white, black, and a red by its coefficients, exact up to rounding."""
    how = coding(name, "bt709", "limited", siting)
    unit, shift = 1 << (how.format.bits - 8), how.format.shift
    shapes = how.format.shapes(6, 4)

    def flat(y: float, cb: float, cr: float) -> torch.Tensor:
        values = [round(v * unit) << shift for v in (y, cb, cr)]
        planes = [torch.full(shapes[0], values[0], dtype=how.format.dtype)]
        if how.format.interleaved:
            planes.append(torch.tensor(values[1:], dtype=how.format.dtype).expand(shapes[1]).contiguous())
        else:
            planes += [torch.full(s, v, dtype=how.format.dtype) for s, v in zip(shapes[1:], values[1:], strict=True)]
        return from_planes(planes, how)

    assert torch.allclose(flat(235, 128, 128), torch.ones(3, 4, 6), atol=1e-6)
    assert torch.allclose(flat(16, 128, 128), torch.zeros(3, 4, 6), atol=1e-6)
    red = flat(16 + 219 * 0.2126, 128 - 224 * 0.2126 / 1.8556, 240)
    assert torch.allclose(red[:, 1, 1], torch.tensor([1.0, 0.0, 0.0]), atol=0.6 / 219 / unit * 2)
