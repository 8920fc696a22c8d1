"""Separable filters of planes on the CPU, every inner loop along x so that it fills vector registers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.runtime.parallel import parallel_for

__all__ = ["bilinear_map", "box", "gaussian", "gaussian_weights", "halve", "resample", "resample_weights", "separable"]

_jit = cast(
    "Callable[[Callable[..., None]], Callable[..., None]]",
    numba.njit(nogil=True, error_model="numpy", fastmath={"contract"}, cache=True),
)
_CHUNK = 16


@functools.lru_cache(maxsize=64)
def gaussian_weights(sigma: float, truncate: float = 4.0) -> tuple[float, ...]:
    """Return one side of a normalised Gaussian, centre first, cut at ``truncate`` sigma like scipy's."""
    radius = int(truncate * sigma + 0.5)
    values = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
    total = values[0] + 2 * sum(values[1:])
    return tuple(v / total for v in values)


@_jit
def _separable_rows(first: int, last: int, source: Any, wx: Any, wy: Any, out: Any) -> None:
    """Symmetric filters down, then across; edges repeat."""
    channels, height, width = source.shape
    rx, ry = len(wx) - 1, len(wy) - 1
    line = np.empty(width + 2 * rx, np.float32)
    for y in range(first, last):
        for c in range(channels):
            middle = line[rx : rx + width]
            row = source[c, y]
            w = wy[0]
            for x in range(width):
                middle[x] = w * row[x]
            for k in range(1, ry + 1):
                up, down, w = source[c, max(y - k, 0)], source[c, min(y + k, height - 1)], wy[k]
                for x in range(width):
                    middle[x] += w * (up[x] + down[x])
            for x in range(rx):
                line[x] = line[rx]
                line[rx + width + x] = line[rx + width - 1]
            target = out[c, y]
            w = wx[0]
            for x in range(width):
                target[x] = w * middle[x]
            for k in range(1, rx + 1):
                left, right, w = line[rx - k : rx - k + width], line[rx + k : rx + k + width], wx[k]
                for x in range(width):
                    target[x] += w * (left[x] + right[x])


def separable(frame: torch.Tensor, wx: tuple[float, ...], wy: tuple[float, ...], out: torch.Tensor) -> torch.Tensor:
    """Filter [C, H, W] with symmetric weights given from the centre; `out` must be other memory. Edges repeat."""
    if frame.device.type != "cpu":
        return out.copy_(_separable_torch(frame, wx, wy))
    source, target = frame.contiguous().numpy(), out.numpy()
    x, y = np.array(wx, np.float32), np.array(wy, np.float32)
    parallel_for(frame.shape[1], lambda a, b: _separable_rows(a, b, source, x, y, target), chunk=_CHUNK)
    return out


def _separable_torch(frame: torch.Tensor, wx: tuple[float, ...], wy: tuple[float, ...]) -> torch.Tensor:
    x = frame[:, None]
    for weights, dim in ((wy, 2), (wx, 3)):
        full = torch.tensor([*weights[:0:-1], *weights], dtype=x.dtype, device=x.device)
        r = len(weights) - 1
        pad = (0, 0, r, r) if dim == 2 else (r, r, 0, 0)
        shape = (1, 1, -1, 1) if dim == 2 else (1, 1, 1, -1)
        x = torch.nn.functional.conv2d(torch.nn.functional.pad(x, pad, mode="replicate"), full.reshape(shape))
    return x[:, 0]


def gaussian(
    frame: torch.Tensor, sigma_x: float, sigma_y: float | None = None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Blur [C, H, W] with a Gaussian cut at 4 sigma, in float32; edges repeat. Sigma 0 copies."""
    sigma_y = sigma_x if sigma_y is None else sigma_y
    if out is None:
        out = torch.empty_like(frame, memory_format=torch.contiguous_format)
    wx, wy = (gaussian_weights(s) if s > 0 else (1.0,) for s in (sigma_x, sigma_y))
    return separable(frame, wx, wy, out)


def box(frame: torch.Tensor, radius_x: int, radius_y: int, out: torch.Tensor) -> torch.Tensor:
    """Average over (2 radius + 1) pixels each way."""
    wx, wy = ((1.0 / (2 * r + 1),) * (r + 1) for r in (radius_x, radius_y))
    return separable(frame, wx, wy, out)


def halve(frame: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Average 2 x 2 pixels; an odd side's last row or column repeats."""
    if frame.device.type != "cpu":
        padded = torch.nn.functional.pad(frame, (0, frame.shape[2] % 2, 0, frame.shape[1] % 2), mode="replicate")
        return out.copy_(torch.nn.functional.avg_pool2d(padded, 2))
    source, target = frame.contiguous().numpy(), out.numpy()
    parallel_for(target.shape[1], lambda a, b: _halve_rows(a, b, source, target), chunk=_CHUNK)
    return out


@_jit
def _halve_rows(first: int, last: int, source: Any, out: Any) -> None:
    channels, height, width = source.shape
    quarter = np.float32(0.25)
    for y in range(first, last):
        for c in range(channels):
            a, b, to = source[c, 2 * y], source[c, min(2 * y + 1, height - 1)], out[c, y]
            for x in range(width >> 1):
                to[x] = quarter * ((a[2 * x] + a[2 * x + 1]) + (b[2 * x] + b[2 * x + 1]))
            if width & 1:
                to[width >> 1] = np.float32(0.5) * (a[width - 1] + b[width - 1])


# -- resampling ------------------------------------------------------------------------------------------------------


def _kernel(name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    a = np.abs(x)
    if name == "bilinear":
        return np.maximum(0.0, 1.0 - a)
    if name == "bicubic":  # Catmull and Rom (1974), a = -1/2
        return np.where(a < 1, (1.5 * a - 2.5) * a * a + 1, np.where(a < 2, ((-0.5 * a + 2.5) * a - 4) * a + 2, 0.0))
    return np.where(a < 3, np.sinc(x) * np.sinc(x / 3), 0.0)  # lanczos


_REACH = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


@functools.lru_cache(maxsize=64)
def resample_weights(
    name: str, n_in: int, n_out: int, low: float, high: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the first input and the weights of every output sample of [low, high) of the input, widened when
    shrinking.

    Indices are clamped, so that edges repeat; the weights of a sample add up to 1.
    """
    scale = (high - low) / n_out
    wide = max(scale, 1.0)
    reach = _REACH[name] * wide
    centre = low + (np.arange(n_out) + 0.5) * scale - 0.5
    taps = 2 * math.ceil(reach) + 1
    first = np.floor(centre).astype(np.int64) - math.ceil(reach)
    places = first[:, None] + np.arange(taps + 1)
    weights = _kernel(name, (places - centre[:, None]) / wide)
    weights /= weights.sum(1, keepdims=True)
    return np.clip(places, 0, n_in - 1).astype(np.int32), weights.astype(np.float32)


def resample(
    frame: torch.Tensor, size: tuple[int, int], window: tuple[float, float, float, float], name: str, out: torch.Tensor
) -> torch.Tensor:
    """Resample a window (left, top, right, bottom; pixels) of [C, H, W] to (width, height)."""
    (width, height), (left, top, right, bottom) = size, window
    px, wx = resample_weights(name, frame.shape[2], width, left, right)
    py, wy = resample_weights(name, frame.shape[1], height, top, bottom)
    if frame.device.type != "cpu":
        return out.copy_(_resample_torch(frame, px, wx, py, wy))
    source, target = frame.contiguous().numpy(), out.numpy()
    tx, tw = np.ascontiguousarray(px.T), np.ascontiguousarray(wx.T)
    parallel_for(height, lambda a, b: _resample_rows(a, b, source, tx, tw, py, wy, target), chunk=_CHUNK)
    return out


def _resample_torch(frame: torch.Tensor, px: Any, wx: Any, py: Any, wy: Any) -> torch.Tensor:
    for dim, places, weights in ((1, py, wy), (2, px, wx)):
        total: Any = 0.0
        for k in range(places.shape[1]):
            w = torch.from_numpy(np.ascontiguousarray(weights[:, k])).to(frame)
            index = torch.from_numpy(places[:, k].astype(np.int64)).to(frame.device)
            total = total + frame.index_select(dim, index) * (w[:, None] if dim == 1 else w)
        frame = total
    return frame


@_jit
def _resample_rows(first: int, last: int, source: Any, px: Any, wx: Any, py: Any, wy: Any, out: Any) -> None:
    channels, _, columns = source.shape
    line = np.empty(columns, np.float32)
    width = out.shape[2]
    for y in range(first, last):
        for c in range(channels):
            line[:] = 0
            for k in range(py.shape[1]):
                w, row = wy[y, k], source[c, py[y, k]]
                if w != np.float32(0):
                    for x in range(columns):
                        line[x] += w * row[x]
            to = out[c, y]
            to[:] = 0
            for k in range(px.shape[0]):
                index, weight = px[k], wx[k]
                for x in range(width):
                    to[x] += weight[x] * line[index[x]]


# -- maps ------------------------------------------------------------------------------------------------------------


def bilinear_map(frame: torch.Tensor, channel: int, x: torch.Tensor, y: torch.Tensor, out: torch.Tensor) -> None:
    """Read one channel at pixel coordinates [H, W] (centres at whole numbers), bilinearly; black outside."""
    _, height, width = frame.shape
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)[None]
    plane = frame[channel : channel + 1][None]
    out.copy_(torch.nn.functional.grid_sample(plane, grid, "bilinear", "zeros", align_corners=False)[0, 0])
