"""OpenEXR files: linear light in, half-float light out, with the chromaticities that say which light."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from elinvar.errors import InputError
from elinvar.video._check import optional_library
from elinvar.video.spaces import PRIMARIES, SPACES

__all__ = ["read_exr", "write_exr"]


def _space_of(header: dict[str, Any]) -> str:
    given = header.get("chromaticities")
    if given is None:
        return "linear-rec709"  # what the OpenEXR specification says about files without the attribute
    values = np.asarray(given, np.float64).reshape(-1)
    for name, where in SPACES.items():
        if where.transfer == "linear" and np.allclose(np.array(PRIMARIES[where.primaries]).ravel(), values, atol=2e-3):
            return name
    raise InputError(
        f"EXR: chromaticities {values.round(4).tolist()} belong to no space known here; convert the file to ACEScg."
    )


def read_exr(path: Path) -> tuple[torch.Tensor, str]:
    """Read the first part's R, G, B (or Y) over black.

    Returns
    -------
    (Tensor[3, H, W] float32, str)
        Pixels of the display window, black where the file has none, NaN as 0, infinities as ±65504; and their linear
        space.

    Raises
    ------
    InputError
        No EXR file, no colour channels, or chromaticities of no known space.
    """
    openexr = optional_library("OpenEXR", "video.Images")
    try:
        with openexr.File(str(path)) as file:
            part = file.parts[0]
            channels = {name: channel.pixels for name, channel in part.channels.items()}
            header = dict(part.header)
    except Exception as error:
        raise InputError(f"EXR {path}: it cannot be read ({error}); is it complete?") from error
    if "RGB" in channels or "RGBA" in channels:
        pixels = channels["RGB" if "RGB" in channels else "RGBA"]
    elif "Y" in channels and "RY" not in channels:
        pixels = np.repeat(channels["Y"][..., None], 3, 2)
    elif {"R", "G", "B"} <= channels.keys():
        pixels = np.stack([channels[c] for c in "RGB"], -1)
    else:
        raise InputError(f"EXR {path}: its channels are {', '.join(sorted(channels))}; R, G, B or Y are needed.")
    pixels = _displayed(pixels, header)
    # Alpha is premultiplied in EXR: over black the colours stay as they are.
    planes = torch.from_numpy(np.ascontiguousarray(pixels[..., :3].astype(np.float32))).movedim(-1, 0)
    return torch.nan_to_num(planes, nan=0.0, posinf=65504.0, neginf=-65504.0).contiguous(), _space_of(header)


def _displayed(pixels: Any, header: dict[str, Any]) -> Any:
    """Return what of the data window lies in the display window, black around it: renders are cropped, or overscan."""
    (left, top), _ = (np.asarray(corner, int) for corner in header["dataWindow"])
    low, high = (np.asarray(corner, int) for corner in header["displayWindow"])
    width, height = high - low + 1
    if (left, top) == tuple(low) and pixels.shape[:2] == (height, width):
        return pixels
    whole = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    x, y = left - low[0], top - low[1]
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + pixels.shape[1], width), min(y + pixels.shape[0], height)
    if x0 < x1 and y0 < y1:
        whole[y0:y1, x0:x1] = pixels[y0 - y : y1 - y, x0 - x : x1 - x]
    return whole


def write_exr(path: Path, frame: torch.Tensor, space: str, *, half: bool = True) -> None:
    """Write [3, H, W] linear light as RGB, ZIP compressed, with chromaticities."""
    openexr = optional_library("OpenEXR", "video.export")
    where = SPACES[space]
    if where.transfer != "linear":
        raise InputError(
            f"EXR {path}: {space} is not linear light; deliver in acescg, linear-rec709 or another linear space."
        )
    values = frame[:3].movedim(0, -1).contiguous().numpy()
    pixels = values.astype(np.float16 if half else np.float32)
    flat = [c for pair in PRIMARIES[where.primaries] for c in pair]
    header = {
        "compression": openexr.ZIP_COMPRESSION,
        "type": openexr.scanlineimage,
        "chromaticities": tuple(flat),
    }
    with openexr.File(header, {"RGB": pixels}) as file:
        file.write(str(path))
