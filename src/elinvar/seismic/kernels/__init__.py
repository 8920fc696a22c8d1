"""Kernels of the seismic engine; importing a subpackage registers it with :mod:`elinvar.runtime.kernels`."""

from __future__ import annotations

from elinvar.seismic.kernels import demigrate, migrate

__all__ = ["demigrate", "migrate"]
