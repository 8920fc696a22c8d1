"""Kernels of the tensor engine, registered by name.

The element-wise ones are fused functions whose numba and Metal text is generated: no hand-written text has beaten it by
the 1.5 times a kernel has to earn (``benchmarks/tensor_fuse.py``). ``tensor.small_gemm`` is written by hand for CPUs,
``tensor.small_linear`` for the matrix units of GPUs.
"""

from __future__ import annotations

from elinvar.tensor.kernels import small_gemm, small_linear
from elinvar.tensor.kernels.catalogue import NAMES, register_all

__all__ = ["NAMES", "small_gemm", "small_linear"]

register_all()
