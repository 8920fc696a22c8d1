"""Argument checks shared by the video modules: one sentence, the offending value, what is accepted."""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Iterable
from fractions import Fraction
from types import ModuleType
from typing import cast

import torch

from elinvar.errors import InputError, MissingDependency

__all__ = ["choice", "frame_rate", "number", "optional_library", "planar", "whole"]


def number(operation: str, name: str, value: object, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite float in [low, high], or raise :class:`InputError`."""
    try:
        result = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result) or not low <= result <= high:
        raise InputError(f"{operation}: {name} is {value!r}; give a finite number in [{low:g}, {high:g}].")
    return result


def whole(operation: str, name: str, value: object, low: int = 1, high: int = 1 << 31) -> int:
    """Return `value` as an int in [low, high], or raise :class:`InputError`."""
    try:
        result = low - 1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        result = low - 1
    if not low <= result <= high:
        raise InputError(f"{operation}: {name} is {value!r}; give a whole number from {low} to {high}.")
    return result


def choice(operation: str, name: str, value: str, accepted: Iterable[str]) -> str:
    """Return `value` when it is one of `accepted`, or raise :class:`InputError` listing them."""
    known = list(accepted)
    if value not in known:
        raise InputError(f"{operation}: {name} is {value!r}; choose one of {', '.join(known)}.")
    return value


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
    """Import an optional library, or say which extra brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependency(
            f"{operation} needs {name.partition('.')[0]}, which is not installed; run: pip install 'elinvar[video]'"
        ) from error
