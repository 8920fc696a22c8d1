"""Argument checks shared by the video modules: one sentence, the offending value, what is accepted."""

from __future__ import annotations

from fractions import Fraction
from types import ModuleType
from typing import cast

import torch

from elinvar.errors import InputError
from elinvar.runtime.checks import choice, count, number
from elinvar.runtime.checks import optional_library as _optional_library

__all__ = ["choice", "count", "frame_rate", "number", "optional_library", "planar"]


def frame_rate(operation: str, value: object) -> Fraction:
    """Return a rate as an exact fraction; floats such as 23.976 become the broadcast rate they abbreviate."""
    try:
        if isinstance(value, str) and "/" not in value:
            value = float(value)
        rate = Fraction(cast("float", value))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise InputError(
            f"{operation}: frame rate {value!r} is not a number; give 25 or Fraction(24000, 1001)."
        ) from None
    if isinstance(value, float):
        for base in (24, 30, 48, 60, 120):
            if abs(value - base / 1.001) < 6e-3:
                return Fraction(base * 1000, 1001)
        rate = rate.limit_denominator(1001)
    if not 0 < rate <= 1000:
        raise InputError(f"{operation}: frame rate {value!r} is out of range; give frames per second in (0, 1000].")
    return rate


def planar(operation: str, frame: object, channels: tuple[int, ...] = (3, 4)) -> torch.Tensor:
    """Return `frame` when it is a planar float tensor [C, H, W], or raise :class:`InputError`."""
    if not isinstance(frame, torch.Tensor) or frame.dim() != 3 or frame.shape[0] not in channels:
        got = f"shape {tuple(frame.shape)}" if isinstance(frame, torch.Tensor) else type(frame).__name__
        accepted = " or ".join(map(str, channels))
        raise InputError(f"{operation}: the frame is {got}; give a tensor [C, H, W] with {accepted} channels.")
    if frame.dtype not in (torch.float32, torch.float16, torch.float64) or 0 in frame.shape:
        raise InputError(
            f"{operation}: the frame is {frame.dtype} of shape {tuple(frame.shape)}; give float32 or float16 pixels."
        )
    return frame


def optional_library(name: str, operation: str) -> ModuleType:
    """Import a library of the video extra, or say how to get it."""
    return _optional_library(name, operation, "video")
