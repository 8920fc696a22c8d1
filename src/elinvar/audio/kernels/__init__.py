"""Kernels of the audio engine; importing a subpackage registers it with :mod:`elinvar.runtime.kernels`."""

from __future__ import annotations

from elinvar.audio.kernels import gate, group_norm, recurrent

__all__ = ["gate", "group_norm", "recurrent"]
