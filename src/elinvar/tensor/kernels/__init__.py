"""Kernels of the tensor engine: fused functions whose numba and Metal text is generated, registered by name.

They are what `elinvar.tensor`'s operations run. There is no hand-written text among them because none has beaten the
generated one by the 1.5 times a kernel has to earn (``benchmarks/tensor_fuse.py``).
"""

from __future__ import annotations

from elinvar.tensor.kernels.catalogue import NAMES, register_all

__all__ = ["NAMES"]

register_all()
