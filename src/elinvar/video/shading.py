"""The words point-wise passes are written in, as torch functions: their meaning and their float64 oracle.

A point-wise pass is one Python function of a pixel, made of assignments, arithmetic, comparisons and the functions
below. Called with tensors it runs as plain torch. :mod:`elinvar.video.shadecode` reads the same text and writes it as
part of one numba or Metal kernel, whose functions of the same names are in ``kernels/shade``.

Noise is integer arithmetic (Jarzynski and Olano, 2020, "pcg"), so it is the same on every device to the last bit and
depends on nothing but seed and position.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = [
    "WORDS", "clamp", "exp2", "floor", "fma", "hash_normal", "hash_uniform", "log2", "maximum", "minimum", "mix",
    "powr", "root", "smoothstep", "sqrt", "tetrahedral", "value_noise", "where",
]  # fmt: skip

Value = Any  # a tensor or a number

_MASK = 0xFFFFFFFF
_LEAST = 1.17549435e-38


def _tensor(x: Value) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.tensor(float(x), dtype=torch.float64)


def exp2(x: Value) -> Value:
    """2 to the power x, x clamped to [-126, 127]."""
    return torch.exp2(clamp(x, -126.0, 127.0))


def log2(x: Value) -> Value:
    """Base-2 logarithm; everything below the smallest normal float32 counts as that."""
    return torch.log2(maximum(x, _LEAST))


def powr(x: Value, y: Value) -> Value:
    """X to the power y for x >= 0; 0 for x below the smallest normal float32."""
    return where(_tensor(x) < _LEAST, 0.0, exp2(y * log2(x)))


def root(x: Value, y: Value) -> Value:
    """X to the power y for x >= 0 and 0 < y <= 1, as display curves have.

    On a GPU the relative error is 2^-22 (1 + abs(log2 x)) at most, and it is cheaper than `powr`; the same elsewhere.
    """
    return powr(x, y)


def sqrt(x: Value) -> Value:
    """Square root of max(x, 0)."""
    return torch.sqrt(maximum(x, 0.0))


def floor(x: Value) -> Value:
    """Largest integer not above x."""
    return torch.floor(_tensor(x))


def minimum(a: Value, b: Value) -> Value:
    """The smaller one; `b` when `a` is NaN."""
    return where(_tensor(a) < b, a, b)


def maximum(a: Value, b: Value) -> Value:
    """The larger one; `b` when `a` is NaN."""
    return where(_tensor(a) > b, a, b)


def clamp(x: Value, low: Value, high: Value) -> Value:
    """Limit x to [low, high]; a NaN becomes `low`."""
    return minimum(maximum(x, low), high)


def where(condition: Value, a: Value, b: Value) -> Value:
    """`a` where the condition holds, else `b`."""
    a, b = _tensor(a), _tensor(b)
    if a.dtype != b.dtype:  # a bare number takes the other's type
        a, b = (a.to(b.dtype), b) if a.dim() == 0 else (a, b.to(a.dtype))
    return torch.where(condition, a, b)


def mix(a: Value, b: Value, t: Value) -> Value:
    """A + (b - a) t."""
    return a + (b - a) * t


def smoothstep(low: Value, high: Value, x: Value) -> Value:
    """Hermite step from 0 at `low` to 1 at `high` (3t² - 2t³)."""
    t = clamp((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def fma(a: Value, b: Value, c: Value) -> Value:
    """A b + c, rounded once (float32 tensors are computed in float64)."""
    wide = _tensor(a).double() * b + _tensor(c).double()
    return wide.to(_tensor(a).dtype)


def _pcg(v: torch.Tensor) -> torch.Tensor:
    state = (v * 747796405 + 2891336453) & _MASK
    word = (((state >> ((state >> 28) + 4)) ^ state) * 277803737) & _MASK
    return ((word >> 22) ^ word) & _MASK


def _hash(ix: Value, iy: Value, seed: Value) -> torch.Tensor:
    x, y, s = (_tensor(v).long() & _MASK for v in (ix, iy, seed))
    return _pcg((x + _pcg((y + _pcg(s)) & _MASK)) & _MASK)


def hash_uniform(ix: Value, iy: Value, seed: Value) -> Value:
    """Uniform in [0, 1): a 24-bit fraction of a hash of two integers and a seed."""
    return (_hash(ix, iy, seed) >> 8).float() * (1.0 / 16777216.0)


def hash_normal(ix: Value, iy: Value, seed: Value) -> Value:
    """Zero mean, unit variance, nearly normal within ±3.5: the sum of a hash's four bytes."""
    h = _hash(ix, iy, seed)
    total = (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24)
    return (total - 510).float() * 0.006765902  # 1 / sqrt(4 (256² - 1) / 12)


def value_noise(x: Value, y: Value, seed: Value) -> Value:
    """Smooth noise in [0, 1): hashed values on the integer lattice, joined by smoothstep (Perlin, 1985)."""
    x0, y0 = torch.floor(_tensor(x)), torch.floor(_tensor(y))
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3.0 - 2.0 * fx), fy * fy * (3.0 - 2.0 * fy)
    top = mix(hash_uniform(x0, y0, seed), hash_uniform(x0 + 1, y0, seed), fx)
    bottom = mix(hash_uniform(x0, y0 + 1, seed), hash_uniform(x0 + 1, y0 + 1, seed), fx)
    return mix(top, bottom, fy)


def tetrahedral(table: torch.Tensor, size: int, r: Value, g: Value, b: Value) -> tuple[Value, Value, Value]:
    """Look a colour up in a 3-D table by tetrahedral interpolation (Sakamoto and Itooka, 1981).

    Parameters
    ----------
    table
        Colours [size, size, size, 4] by red, green, blue; the fourth value is padding.
    size
        Entries along each axis.
    r, g, b
        Colour in [0, 1]; clamped to it.
    """
    flat = table.reshape(-1, 4)[:, :3].to(r.dtype)
    scaled = [clamp(c, 0.0, 1.0) * (size - 1) for c in (r, g, b)]
    cell = [c.floor().long().clamp(max=size - 2) for c in scaled]
    fraction = torch.stack([c - i for c, i in zip(scaled, cell, strict=True)])
    order = torch.argsort(-fraction, dim=0, stable=True)
    ranked = torch.gather(fraction, 0, order)
    steps = torch.tensor([size * size, size, 1], device=r.device)
    at = (cell[0] * size + cell[1]) * size + cell[2]
    total = (1.0 - ranked[0]).unsqueeze(-1) * flat[at]
    for k in range(3):
        at = at + steps[order[k]]
        weight = ranked[k] - ranked[k + 1] if k < 2 else ranked[2]
        total = total + weight.unsqueeze(-1) * flat[at]
    return total[..., 0], total[..., 1], total[..., 2]


WORDS = frozenset(__all__) - {"WORDS"}
"""Functions a point-wise pass may call."""
