"""Kernels of the vision engine; importing a subpackage registers it with :mod:`elinvar.runtime.kernels`."""

from __future__ import annotations

from elinvar.vision.kernels import addnorm, describe, enlarge, gelu, join, nearest, turn

__all__ = ["addnorm", "describe", "enlarge", "gelu", "join", "nearest", "turn"]
