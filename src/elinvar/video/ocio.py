"""OpenColorIO: ACES output transforms, camera spaces and LUT files, exact or baked into a table.

Nothing of ACES' rendering transforms, camera logs or LUT file formats is written by hand here; OpenColorIO 2.4 or newer
has them built in. Its processors work on the CPU.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.errors import InputError
from elinvar.runtime.parallel import parallel_for
from elinvar.video._check import choice, optional_library

__all__ = [
    "CAMERAS",
    "VIEWS",
    "View",
    "apply_processor",
    "bake",
    "camera_curve",
    "camera_processor",
    "lut_processor",
    "lut_stamp",
    "lut_table",
    "table_processor",
    "view_processor",
]

_ROWS = 32
_SHAPER = (0.0, 1.0)  # ACEScct codes: linear 0 to 222
_GRID = 97  # entries along an axis: with 65 single colours are off by a dE2000 of 0.95, with 97 by 0.66


@dataclass(frozen=True)
class View:
    """An output transform: ACES' rendering, the display's encoding, and the space its pixels are in."""

    name: str
    rendering: str
    display: str
    space: str
    peak: float = 100.0
    """Brightest luminance in cd/m²."""


def _views() -> dict[str, View]:
    old, new = "ACES-OUTPUT - ACES2065-1_to_CIE-XYZ-D65 - ", "DISPLAY - CIE-XYZ-D65_to_"
    hdr1, hdr2 = old + "HDR-VIDEO-1000nit-15nit-REC2020lim_1.1", old + "HDR-1000nit-REC2020_2.0"
    rows = (
        View("aces1.3-sdr", old + "SDR-VIDEO_1.0", new + "REC.1886-REC.709", "rec709"),
        View("aces1.3-srgb", old + "SDR-VIDEO_1.0", new + "sRGB", "srgb"),
        View("aces1.3-p3", old + "SDR-VIDEO-P3lim_1.1", new + "DisplayP3", "p3-d65"),
        View("aces1.3-pq1000", hdr1, new + "REC.2100-PQ", "rec2100-pq", 1000.0),
        View("aces1.3-hlg1000", hdr1, new + "REC.2100-HLG-1000nit", "rec2100-hlg", 1000.0),
        View("aces2-sdr", old + "SDR-100nit-REC709_2.0", new + "REC.1886-REC.709", "rec709"),
        View("aces2-srgb", old + "SDR-100nit-REC709_2.0", new + "sRGB", "srgb"),
        View("aces2-p3", old + "SDR-100nit-P3-D65_2.0", new + "DisplayP3", "p3-d65"),
        View("aces2-pq1000", hdr2, new + "REC.2100-PQ", "rec2100-pq", 1000.0),
        View("aces2-hlg1000", hdr2, new + "REC.2100-HLG-1000nit", "rec2100-hlg", 1000.0),
    )
    return {view.name: view for view in rows}


VIEWS = _views()
"""Output transforms by name; the input is ACEScg."""
CAMERAS = {
    "apple-log": "APPLE_LOG_to_ACES2065-1",
    "logc3": "ARRI_ALEXA-LOGC-EI800-AWG_to_ACES2065-1",
    "logc4": "ARRI_LOGC4_to_ACES2065-1",
    "canon-log2": "CANON_CLOG2-CGAMUT_to_ACES2065-1",
    "canon-log3": "CANON_CLOG3-CGAMUT_to_ACES2065-1",
    "v-log": "PANASONIC_VLOG-VGAMUT_to_ACES2065-1",
    "log3g10": "RED_LOG3G10-RWG_to_ACES2065-1",
    "s-log3": "SONY_SLOG3-SGAMUT3_to_ACES2065-1",
    "s-log3-cine": "SONY_SLOG3-SGAMUT3.CINE_to_ACES2065-1",
}
"""Camera spaces by name, as OpenColorIO knows them."""


def _library() -> Any:
    return optional_library("PyOpenColorIO", "video.color")


def _cpu(*transforms: Any) -> Any:
    ocio = _library()
    group = ocio.GroupTransform(list(transforms))
    processor = ocio.Config.CreateRaw().getProcessor(group)
    # Lossless keeps OpenColorIO's own approximations of pow out of the exact mode.
    return processor.getOptimizedCPUProcessor(ocio.OptimizationFlags.OPTIMIZATION_LOSSLESS)


def _builtin(style: str, *, inverse: bool = False) -> Any:
    ocio = _library()
    direction = (
        ocio.TransformDirection.TRANSFORM_DIR_INVERSE if inverse else ocio.TransformDirection.TRANSFORM_DIR_FORWARD
    )
    return ocio.BuiltinTransform(style=style, direction=direction)


@functools.lru_cache(maxsize=32)
def view_processor(name: str) -> Any:
    """Return OpenColorIO's CPU processor from ACEScg to a view of `VIEWS`."""
    view = VIEWS[choice("color.transform", "view", name, VIEWS)]
    return _cpu(_builtin("ACEScg_to_ACES2065-1"), _builtin(view.rendering), _builtin(view.display))


@functools.lru_cache(maxsize=32)
def camera_processor(name: str) -> Any:
    """Return the processor from a camera's space of `CAMERAS` to ACEScg."""
    style = CAMERAS[choice("color.transform", "camera space", name, CAMERAS)]
    return _cpu(_builtin(style), _builtin("ACEScg_to_ACES2065-1", inverse=True))


@functools.lru_cache(maxsize=32)
def camera_curve(name: str) -> tuple[dict[str, float], NDArray[np.float64]] | None:
    """Return a camera's space as values of `ops.log_decode` and a matrix to ACEScg, as OpenColorIO has them.

    None for spaces whose curve OpenColorIO keeps as a table.
    """
    ocio = _library()
    group = ocio.GroupTransform([_builtin(CAMERAS[name]), _builtin("ACEScg_to_ACES2065-1", inverse=True)])
    processor = ocio.Config.CreateRaw().getProcessor(group).getOptimizedProcessor(ocio.OPTIMIZATION_LOSSLESS)
    parts = list(processor.createGroupTransform())
    if [type(p) for p in parts] != [ocio.LogCameraTransform, ocio.MatrixTransform]:
        return None
    log, to_acescg = parts
    backwards = log.getDirection() == ocio.TRANSFORM_DIR_INVERSE
    if not backwards or to_acescg.getDirection() != ocio.TRANSFORM_DIR_FORWARD or any(to_acescg.getOffset()):
        return None
    base = math.log2(log.getBase())
    out_slope, out_offset, in_slope, in_offset, knee, line = (
        float(values[0])
        for values in (
            log.getLogSideSlopeValue(), log.getLogSideOffsetValue(), log.getLinSideSlopeValue(),
            log.getLinSideOffsetValue(), log.getLinSideBreakValue(), log.getLinearSlopeValue(),
        )
    )  # fmt: skip
    inner = in_slope * knee + in_offset
    if math.isnan(line):  # the line goes on as the curve ends
        line = out_slope * in_slope / (inner * math.log(log.getBase()))
    cut = out_slope * math.log2(inner) / base + out_offset
    values = {
        "cut": cut, "rate": base / out_slope, "shift": -out_offset * base / out_slope, "gain": 1 / in_slope,
        "offset": -in_offset / in_slope, "slope": 1 / line, "middle": knee - cut / line,
    }  # fmt: skip
    return values, np.array(to_acescg.getMatrix(), np.float64).reshape(4, 4)[:3, :3]


def lut_processor(path: str) -> Any:
    """Return the processor of a LUT file: .cube, .clf, .ctf, .3dl, .spi1d, .spi3d, .csp and what else OpenColorIO
    reads.

    Raises
    ------
    InputError
        The file is missing or is no LUT.
    """
    return _file_processor(path, lut_stamp(path))


def lut_stamp(path: str) -> tuple[int, int]:
    """Return what changes when a LUT file is written anew: when, and its length."""
    place = Path(path)
    if not place.is_file():
        raise InputError(f"LUT {path}: there is no such file; give the path of a .cube, .clf, .3dl or .spi1d file.")
    known = place.stat()
    return known.st_mtime_ns, known.st_size


_read: dict[str, tuple[int, int]] = {}


@functools.lru_cache(maxsize=32)
def _file_processor(path: str, stamp: tuple[int, int]) -> Any:
    ocio = _library()
    if _read.setdefault(path, stamp) != stamp:
        ocio.ClearAllCaches()  # OpenColorIO remembers files by their name
        _read[path] = stamp
    transform = ocio.FileTransform(src=str(Path(path).resolve()), interpolation=ocio.INTERP_BEST)  # tetrahedral in 3D
    try:
        return ocio.Config.CreateRaw().getProcessor(transform).getDefaultCPUProcessor()
    except ocio.Exception as error:
        raise InputError(f"LUT {path}: OpenColorIO cannot read it ({error}); export it again as .cube.") from error


def apply_processor(processor: Any, frame: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Run a processor over a planar frame on the CPU.

    Parameters
    ----------
    processor
        One of the above.
    frame : Tensor[3, H, W]
        Anywhere; the result comes back to the same device.
    out : Tensor[3, H, W] float32, optional
        Receives the result, on the frame's device.
    """
    ocio = _library()
    _, height, width = frame.shape
    source = frame[:3].detach().to("cpu", torch.float32).contiguous()
    target = torch.empty((3, height, width)) if out is None or out.device.type != "cpu" else out
    read, written = source.numpy(), target.numpy()

    def rows(first: int, last: int) -> None:
        parts = ([plane[first:last].reshape(-1) for plane in planes] for planes in (read, written))
        processor.apply(*(ocio.PlanarImageDesc(*part, width, last - first) for part in parts))

    parallel_for(height, rows, chunk=_ROWS)
    if out is not None and target is not out:
        return out.copy_(target)
    return target.to(frame.device)


@functools.lru_cache(maxsize=16)
def bake(name: str, size: int = _GRID) -> torch.Tensor:
    """Return a view as a table over ACEScct codes in [0, 1], [size, size, size, 4] by red, green, blue.

    The fourth value is padding, so that an entry is one aligned load.
    """
    return _grid(view_processor(name), size, shaper=True)


def lut_table(path: str) -> torch.Tensor | None:
    """Return a LUT file as a table over [0, 1] with its own nodes, when it is one 3-D table and nothing else."""
    return _file_table(path, lut_stamp(path))


@functools.lru_cache(maxsize=16)
def _file_table(path: str, stamp: tuple[int, int]) -> torch.Tensor | None:
    ocio, processor = _library(), _file_processor(path, stamp)
    whole = ocio.Config.CreateRaw().getProcessor(
        ocio.FileTransform(src=str(Path(path).resolve()), interpolation=ocio.INTERP_BEST)
    )
    parts = list(whole.getOptimizedProcessor(ocio.OPTIMIZATION_LOSSLESS).createGroupTransform())
    if len(parts) != 1 or not isinstance(parts[0], ocio.Lut3DTransform):
        return None
    table = parts[0]
    straight = table.getDirection() == ocio.TRANSFORM_DIR_FORWARD
    if not straight or table.getInterpolation() not in (ocio.INTERP_BEST, ocio.INTERP_TETRAHEDRAL):
        return None
    return _grid(processor, table.getGridSize(), shaper=False)


@functools.lru_cache(maxsize=16)
def table_processor(name: str, size: int = _GRID) -> Any:
    """Return a processor that does what `bake`'s table does: OpenColorIO's vectorised tetrahedral lookup on the CPU."""
    ocio = _library()
    table = ocio.Lut3DTransform(gridSize=size)
    table.setData(bake(name, size)[..., :3].contiguous().numpy().reshape(-1))
    table.setInterpolation(ocio.INTERP_TETRAHEDRAL)
    group = ocio.GroupTransform([_builtin("CURVE - ACEScct-LOG_to_LINEAR", inverse=True), table])
    return ocio.Config.CreateRaw().getProcessor(group).getDefaultCPUProcessor()


def _grid(processor: Any, size: int, *, shaper: bool) -> torch.Tensor:
    from elinvar.video.ops import acescct_decode

    axis = torch.linspace(*_SHAPER, size, dtype=torch.float64)
    cube = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    if shaper:
        cube = torch.stack(acescct_decode(*cube))
    flat = cube.reshape(3, size, size * size).float()
    values = apply_processor(processor, flat).reshape(3, size, size, size)
    table = torch.zeros(size, size, size, 4)
    table[..., :3] = values.permute(1, 2, 3, 0)
    if not np.isfinite(table.numpy()).all():
        raise InputError("color.bake: the transform gives values that are not finite; use the exact mode.")
    return table
