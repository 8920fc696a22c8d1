"""Launches of ``small_linear.metal``: any size for verification, the sizes it is good for without the checks."""

from __future__ import annotations

import struct
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch

from elinvar import metal
from elinvar.errors import InputError
from elinvar.metal.quick import Repeat
from elinvar.tensor.again import Layer, empty

__all__ = ["MOST_DEPTH", "chosen", "linear", "quick", "serving", "tile"]

_HERE = Path(__file__).parent
_TYPES = {torch.float16: "half", torch.bfloat16: "bfloat"}
_KEPT = 512
MOST_DEPTH = 1024  # four fetches
Tile = tuple[int, int, int, int]


def tile(m: int, n: int, k: int, units: int) -> Tile | None:
    """Return rows, columns, depth and threads of a group that serve a size, None where the library's loops win.

    Of the shapes measured on an H200, whichever was fastest: groups of 128 threads that fetch 256 terms at once, two to
    a multiprocessor or, of the larger, eight to five. More groups, or more fetches one after the other, take as long as
    the library takes.
    """
    depth, most = (128 if k <= 128 else 256), 2 * units
    small, wide = -(-m // 16) * -(-n // 16), -(-m // 32) * -(-n // 16)
    if small <= most and small * max(k, 256) <= 1024 * units:
        return 16, 16, depth, 128
    return (32, 16, 256, 128) if 5 * wide <= 8 * units and k <= 2 * 256 and m > 16 else None


@lru_cache(maxsize=32)
def _library(device: str, dtype: torch.dtype, size: Tile) -> Any:
    rows, columns, depth, group = size
    defines: dict[str, int | float | str] = {
        "T": _TYPES[dtype],
        "ROWS": rows,
        "COLUMNS": columns,
        "DEPTH": depth,
        "GROUP": group,
    }
    return metal.compile(_HERE / "small_linear.metal", device, defines=defines)


def _grid(m: int, n: int, size: Tile) -> tuple[int, int]:
    rows, columns, _, group = size
    return -(-n // columns) * group, -(-m // rows)


def linear(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, *, relu: bool = False, device: Any
) -> torch.Tensor:
    """Compute a product of any size; arguments and result as ``small_linear.run``."""
    alike = x.ndim == w.ndim == 2 and x.shape[1] == w.shape[1] and (bias is None or bias.shape == w.shape[:1])
    if not alike or x.shape[1] % 8 or (x.data_ptr() | w.data_ptr()) % 16:
        raise InputError(
            f"tensor.small_linear: x is {tuple(x.shape)}, w {tuple(w.shape)}; (m, k) and (n, k) with k a multiple of 8 "
            "and addresses of 16 are needed; tensor.linear takes any"
        )
    size = tile(len(x), len(w), x.shape[1], 1) or (16, 16, 256, 128)
    return _launched(x, w, bias, relu, str(device), size)


def _launched(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, relu: bool, device: str, size: Tile
) -> torch.Tensor:
    (m, k), n = x.shape, w.shape[0]
    y = torch.empty(m, n, dtype=x.dtype, device=x.device)
    _library(device, x.dtype, size).small_linear(
        x, w, x if bias is None else bias, y, struct.pack("<5I", m, n, k, bias is not None, relu),
        threads=_grid(m, n, size), group_size=(size[3], 1),
    )  # fmt: skip
    return y


@cache
def _units(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def chosen(m: int, n: int, k: int, dtype: torch.dtype, index: int) -> Tile | None:
    """Return the tile with which this kernel serves a size on a CUDA device, None where the library does."""
    if dtype not in _TYPES or not 0 < k <= MOST_DEPTH or k % 8 or not m or not n or index < 0:
        return None
    from elinvar.runtime.kernels import kernel
    from elinvar.tensor.kernels.small_linear import NAME

    size = tile(m, n, k, _units(index))
    return size if size is not None and kernel(NAME, f"cuda:{index}").backend == "metal" else None


_ready: dict[Any, Repeat | None] = {}
_modes = torch._C._len_torch_dispatch_stack  # noqa: SLF001  (what watches or replaces operations sees torch's own)


def quick(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, *, relu: bool) -> torch.Tensor | None:
    """Launch without checks for a CUDA device, or None where another way is faster or something does not fit.

    Parameters
    ----------
    x, w, bias
        As for ``small_linear.run``; nothing is assumed about them.
    """
    dtype, index = x.dtype, x.get_device()
    key = (x.shape, w.shape, None if bias is None else bias.shape, dtype, index, relu)
    repeat = _ready.get(key)
    if repeat is None and (key in _ready or (repeat := _learn(key)) is None):
        return None
    if w.dtype is not dtype or w.get_device() != index or not (x.is_contiguous() and w.is_contiguous()):
        return None
    left, right = x.data_ptr(), w.data_ptr()
    if (left | right) & 15:
        return None
    shift = left
    if bias is not None:
        if bias.dtype is not dtype or bias.get_device() != index or not bias.is_contiguous():
            return None
        shift = bias.data_ptr()
    if _modes() or x.is_neg() or w.is_neg() or (bias is not None and bias.is_neg()):
        return None
    y = x.new_empty((len(x), len(w)))
    return y if repeat((left, right, shift, y.data_ptr()), False) else None


def serving(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, *, relu: bool) -> Layer:
    """Return what `quick` does for operands like these, which it has served, without looking at them."""
    repeat = _ready[x.shape, w.shape, bias.shape, x.dtype, x.get_device(), relu]
    assert repeat is not None
    m, n, dtype = len(x), len(w), x.dtype
    size, rows = (m, n), (n, 1)

    def serve(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor | None:
        left, right = x.data_ptr(), w.data_ptr()
        if (left | right) & 15:
            return None
        y = x.new_empty(size) if empty is None else empty(size, rows, dtype)
        # The result is on the current device; the launch is refused where that is not the operands'.
        return y if repeat((left, right, bias.data_ptr(), y.data_ptr()), False) else None

    return serve


@cache
def _trusted(index: int, dtype: torch.dtype, size: Tile) -> bool:
    """Whether a tile shape gives the reference's result on this device, asked once, around the tile's edges."""
    from elinvar.tensor.kernels.small_linear.reference import linear as reference

    rows, columns, depth, _ = size
    make = torch.Generator().manual_seed(1)
    m, n, k = 2 * rows + 1, 2 * columns + 2, depth + 8  # a second fetch, of which most is beyond the end
    sizes: list[tuple[int, ...]] = [(m, k), (n, k), (n,)]
    numbers = [torch.randn(s, generator=make, dtype=torch.float32, device="cpu") for s in sizes]
    x, w, b = (t.to(dtype).to(f"cuda:{index}") for t in numbers)
    got = _launched(x, w, b, True, f"cuda:{index}", size).double()
    exact = reference(x.double(), w.double(), b.double(), relu=True)
    bound = 4.0 * k**0.5 * 2.0**-24 * (x.double().abs() @ w.double().abs().t() + b.double().abs())
    return bool(((got - exact).abs() <= bound + torch.finfo(dtype).eps * exact.abs()).all())


def _learn(key: tuple[Any, ...]) -> Repeat | None:
    """Prepare the launch of one size, once."""
    (*left, k), (n, *right), shift, dtype, index, relu = key
    if index < 0 or torch.cuda.is_current_stream_capturing():  # compiling and checking would spoil a graph
        return None
    found: Repeat | None = None
    fits = len(left) == 1 and right == [k] and shift in (None, (n,))
    size = chosen(left[0], n, k, dtype, index) if fits else None
    if size is not None and _trusted(index, dtype, size):
        one = _library(f"cuda:{index}", dtype, size).small_linear
        if one.quick is not None:
            last = struct.pack("<5I", left[0], n, k, shift is not None, relu)
            found = one.quick.repeat(4, last, _grid(left[0], n, size), (size[3], 1))
    if len(_ready) >= _KEPT:  # sizes that never come back must not pile up
        _ready.clear()
    _ready[key] = found
    return found
