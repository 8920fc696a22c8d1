"""Kernels of the video engine; importing a subpackage registers it with :mod:`elinvar.runtime.kernels`."""

from __future__ import annotations

from elinvar.video.kernels import bloom, decode

__all__ = ["bloom", "decode"]
