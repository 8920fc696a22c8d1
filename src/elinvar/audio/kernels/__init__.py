"""Kernels of the audio engine; importing a subpackage registers it with :mod:`elinvar.runtime.kernels`."""

from __future__ import annotations

from elinvar.audio.kernels import analysis, exponentials, gate, group_norm, recurrent, resynthesis

__all__ = ["analysis", "exponentials", "gate", "group_norm", "recurrent", "resynthesis"]
