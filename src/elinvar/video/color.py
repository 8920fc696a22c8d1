"""Colours of planar frames: transforms between spaces, ACES output, Y'CbCr codes, differences.

::

    display = color.transform(frame, "acescg", "aces1.3-sdr", mode="fast")
    y, uv = color.to_yuv(display, "nv12")
"""

# ruff: noqa: A002  (format and range are what the field calls them)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.video import ocio, ops, shade
from elinvar.video._check import choice, planar
from elinvar.video.decode import from_planes
from elinvar.video.shadecode import Op
from elinvar.video.spaces import SPACES, matrix, space
from elinvar.video.yuv import FORMATS, coding

__all__ = ["affine", "decode_ops", "delta_e", "encode_ops", "from_yuv", "output_space", "spaces", "to_yuv", "transform"]

FITS = {"aces-fit": "rec709", "aces-fit-srgb": "srgb"}
"""Output by Hill's fit of ACES 1.0: a formula, several times cheaper than a table, within dE2000 0.6 on average."""


def spaces() -> list[str]:
    """Return every name `transform` knows: spaces, cameras, views."""
    return [*SPACES, *ocio.CAMERAS, *FITS, *ocio.VIEWS]


def output_space(name: str) -> str:
    """Return the space of `SPACES` that pixels are in after a transform to `name`."""
    if name in FITS:
        return FITS[name]
    return ocio.VIEWS[name].space if name in ocio.VIEWS else space(name).name


def matrix_op(m: ArrayLike, offset: ArrayLike = (0.0, 0.0, 0.0)) -> Op:
    """Return an affine map as a point-wise op."""
    rows, shift = np.asarray(m, np.float64), np.asarray(offset, np.float64)
    values = {f"m{i}{j}": float(rows[i, j]) for i in range(3) for j in range(3)}
    return Op(ops.matrix3, values | {f"o{i}": float(shift[i]) for i in range(3)})


_DECODE: dict[str, tuple[Any, dict[str, float]]] = {
    "srgb": (ops.srgb_decode, {}),
    "bt1886": (ops.gamma_decode, {"gamma": 2.4}),
    "pq": (ops.pq_decode, {"nits": 100.0}),
    "hlg": (ops.hlg_decode, {}),
    "acescct": (ops.acescct_decode, {}),
}
_ENCODE: dict[str, tuple[Any, dict[str, float]]] = {
    "srgb": (ops.srgb_encode, {}),
    "bt1886": (ops.gamma_encode, {"gamma": 2.4}),
    "pq": (ops.pq_encode, {"nits": 100.0}),
    "hlg": (ops.hlg_encode, {}),
    "acescct": (ops.acescct_encode, {}),
}


def decode_ops(name: str, primaries: str = "ap1") -> list[Op]:
    """Return the point-wise ops from a space to linear light in some primaries."""
    source = space(name)
    result = [Op(*_DECODE[source.transfer])] if source.transfer != "linear" else []
    if source.primaries != primaries:
        result.append(matrix_op(matrix(source.primaries, primaries)))
    return result


def camera_ops(name: str) -> list[Op] | None:
    """Return the point-wise ops from a camera's space to ACEScg; None where only OpenColorIO's processor knows it."""
    found = ocio.camera_curve(name)
    return None if found is None else [Op(ops.log_decode, found[0]), matrix_op(found[1])]


def encode_ops(name: str) -> tuple[list[Op], list[torch.Tensor]]:
    """Return the point-wise ops from ACEScg to a space, a fit, or a view by its table; and the tables they read."""
    if name in FITS:
        transfer = SPACES[FITS[name]].transfer
        return [Op(ops.aces_fit, {}), Op(*_ENCODE[transfer])], []
    if name in ocio.VIEWS:
        table = ocio.bake(name)
        values = {"low": 0.0, "high": 1.0, "amount": 1.0, "size": table.shape[0]}
        return [Op(ops.acescct_encode, {}), Op(ops.table_lookup, values, ("table",))], [table]
    target = space(name)
    result = [] if target.primaries == "ap1" else [matrix_op(matrix("ap1", target.primaries))]
    if target.transfer != "linear":
        result.append(Op(*_ENCODE[target.transfer]))
    return result, []


def transform(frame: torch.Tensor, src: str, dst: str, mode: str = "exact") -> torch.Tensor:
    """Transform colours.

    Parameters
    ----------
    frame : Tensor[3 or 4, H, W]
        float32 or float16. A fourth channel is carried along as it is.
    src
        A space of ``color.spaces()``: where the pixels are, e.g. "srgb", "rec709", "s-log3", "acescg".
    dst
        A space, or an output transform such as "aces1.3-sdr", "aces2-pq1000", "aces-fit".
    mode
        "exact" runs OpenColorIO's processor for output transforms; "fast" a 97³ table over ACEScct with tetrahedral
        interpolation (mean dE2000 below 0.1). Transforms between spaces are formulas in both.

    Returns
    -------
    Tensor[3 or 4, H, W] float32

    Raises
    ------
    InputError
        An unknown name or a frame of another shape.
    """
    frame = planar("color.transform", frame)
    choice("color.transform", "mode", mode, ("exact", "fast"))
    choice("color.transform", "src", src, [*SPACES, *ocio.CAMERAS])
    choice("color.transform", "dst", dst, spaces()[: len(SPACES)] + list(FITS) + list(ocio.VIEWS))
    before: list[Op] = []
    pixels = frame
    direct = src in SPACES and dst in SPACES
    if src in ocio.CAMERAS:
        pixels = ocio.apply_processor(ocio.camera_processor(src), frame)
    elif direct and space(src).primaries == space(dst).primaries:
        before = decode_ops(src, space(dst).primaries)
    else:
        before = decode_ops(src)
    if dst in ocio.VIEWS and (mode == "exact" or pixels.device.type == "cpu"):
        result = shade.apply(pixels, before) if before else pixels
        processor = ocio.view_processor(dst) if mode == "exact" else ocio.table_processor(dst)
        result = ocio.apply_processor(processor, result)
    else:
        after, tables = encode_ops(dst)
        if direct and space(src).primaries == space(dst).primaries:
            after = [Op(*_ENCODE[space(dst).transfer])] if space(dst).transfer != "linear" else []
        result = shade.apply(pixels, [*before, *after], [t.to(pixels.device) for t in tables])
    return result if frame.shape[0] == 3 else torch.cat([result, frame[3:].float()])


def affine(
    frames: torch.Tensor, m: ArrayLike, offset: ArrayLike | None = None, *, backend: str | None = None
) -> torch.Tensor:
    """Multiply the colours of a frame or a batch by a 3 x 3 matrix and add an offset.

    Parameters
    ----------
    frames : Tensor[3, H, W] or [N, 3, H, W]
        float32 or float16.
    m, offset
        The matrix, rows first, and three numbers.
    backend
        None runs the kernel; "scalar" a plain loop in Python, for tests.

    Raises
    ------
    InputError
        Shapes other than these.
    """
    rows = np.asarray(m, np.float64)
    shift = np.zeros(3) if offset is None else np.asarray(offset, np.float64)
    if rows.shape != (3, 3) or shift.shape != (3,) or not (np.isfinite(rows).all() and np.isfinite(shift).all()):
        raise InputError(f"color.affine: matrix {rows.shape} and offset {shift.shape}; give finite (3, 3) and (3,).")
    if not isinstance(frames, torch.Tensor) or frames.dim() not in (3, 4) or frames.shape[-3] != 3:
        raise InputError("color.affine: give a tensor [3, H, W] or [N, 3, H, W].")
    if backend == "scalar":
        return _affine_scalar(frames, rows, shift)
    op = matrix_op(rows, shift)
    if frames.dim() == 3:
        return shade.apply(frames, [op])
    n, _, height, width = frames.shape
    tall = frames.transpose(0, 1).reshape(3, n * height, width)  # a batch is one tall frame
    return shade.apply(tall, [op]).reshape(3, n, height, width).transpose(0, 1)


def _affine_scalar(frames: torch.Tensor, rows: NDArray[np.float64], shift: NDArray[np.float64]) -> torch.Tensor:
    flat = frames.double().movedim(-3, -1).reshape(-1, 3).tolist()
    out = [[sum(rows[i][j] * pixel[j] for j in range(3)) + shift[i] for i in range(3)] for pixel in flat]
    shape = (*frames.shape[:-3], *frames.shape[-2:], 3)
    return torch.tensor(out).reshape(shape).movedim(-1, -3).float()


def to_yuv(
    frame: torch.Tensor,
    format: str = "nv12",
    matrix: str = "bt709",
    range: str = "limited",
    siting: str | None = None,
    dither: bool = False,
    *,
    seed: int = 0,
    out: Sequence[torch.Tensor] | None = None,
    backend: str | None = None,
) -> tuple[torch.Tensor, ...]:
    """Turn R'G'B' into Y'CbCr codes.

    Parameters
    ----------
    frame : Tensor[3 or 4, H, W]
        Display-referred R'G'B', black 0 and white 1; float32 or float16. NaN becomes code 0.
    format
        "nv12", "p010", "yuv420p", "yuv420p10", "yuv422p10", "yuv444p", ... (`elinvar.video.yuv.FORMATS`).
    matrix
        "bt709", "bt601" or "bt2020".
    range
        "limited" (video) or "full".
    siting
        "left", "center" or "topleft"; None: top left for bt2020 4:2:0, else left, as decoders assume.
    dither
        Spread rounding errors as noise; `seed` should change from frame to frame.
    out
        Planes to write into.

    Returns
    -------
    tuple of Tensor
        uint8 or uint16 planes: Y [H, W] and CbCr [h, w, 2], or Y, Cb, Cr. 4:2:0 of an odd side has its chroma side
        rounded up.
    """
    frame = planar("color.to_yuv", frame)
    how = coding(format, matrix, range, siting, dither)
    return shade.encode(frame, (), (), how, out, seed=seed, backend=backend)


def from_yuv(
    planes: Sequence[torch.Tensor],
    format: str = "nv12",
    matrix: str = "bt709",
    range: str = "limited",
    siting: str | None = None,
) -> torch.Tensor:
    """Turn Y'CbCr codes into R'G'B', chroma interpolated linearly from where it sits; [3, H, W] float32."""
    how = coding(format, matrix, range, siting)
    if len(planes) != (2 if FORMATS[format].interleaved else 3):
        raise InputError(f"color.from_yuv: {len(planes)} planes were given for {format}.")
    return from_planes(planes, how)


# -- differences -----------------------------------------------------------------------------------------------------


def delta_e(a: torch.Tensor, b: torch.Tensor, space_name: str = "srgb") -> torch.Tensor:
    """Return CIEDE2000 of two frames [3, H, W] in a display space, float64 [H, W] (Sharma, Wu and Dalal, 2005)."""
    from elinvar.video.difference import ciede2000, to_lab

    return ciede2000(to_lab(a, space_name), to_lab(b, space_name))
