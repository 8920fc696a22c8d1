"""GroupNorm with a chosen way to sum."""

from __future__ import annotations

import functools
from typing import cast

import torch
from torch import Tensor, nn

from elinvar.audio.kernels.group_norm import ALGORITHMS, NAME
from elinvar.errors import InputError
from elinvar.runtime.kernels import Kernel, kernel

__all__ = ["GroupNorm"]


@functools.cache
def _norm() -> Kernel:
    return kernel(NAME, "cpu")


class GroupNorm(nn.GroupNorm):
    """``torch.nn.GroupNorm`` with ``algorithm=``: how sums over a group are formed on the CPU.

    Parameters
    ----------
    num_groups, num_channels, eps, affine
        As in torch.
    algorithm
        ``"standard"``, ``"kahan"`` (exact to the last bits at any offset), ``"welford"`` (one pass, and less exact than
        either at large offsets, which other guides have the wrong way round) or ``"float64"`` (as exact as kahan and on
        CPUs the fastest of the four). Under autograd and on GPUs torch's own norm runs, whatever the algorithm.
    """

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, algorithm: str = "kahan"
    ) -> None:
        super().__init__(num_groups, num_channels, eps, affine)
        self._algorithm = "kahan"
        self.algorithm = algorithm

    @property
    def algorithm(self) -> str:
        """How sums are formed; settable."""
        return self._algorithm

    @algorithm.setter
    def algorithm(self, name: str) -> None:
        if name not in ALGORITHMS:
            raise InputError(f"GroupNorm: algorithm={name!r} is unknown; choose one of {', '.join(ALGORITHMS)}.")
        self._algorithm = name

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Normalise ``[batch, channels, ...]``, into `out` if given (it may be `x` itself)."""
        if x.dim() < 2 or x.shape[1] != self.num_channels:
            raise InputError(f"GroupNorm: x has shape {tuple(x.shape)}; give [batch, {self.num_channels}, ...].")
        live = torch.is_grad_enabled() and (x.requires_grad or (self.weight is not None and self.weight.requires_grad))
        if x.device.type != "cpu" or x.dtype != torch.float32 or live or x.numel() == 0:
            y = super().forward(x)
            return y if out is None else out.copy_(y)
        weight, bias = (self.weight.detach(), self.bias.detach()) if self.affine else (None, None)
        options = {"eps": self.eps, "algorithm": self._algorithm}
        if out is None:
            return cast("Tensor", _norm()(x.detach(), self.num_groups, weight, bias, **options))
        from elinvar.audio.kernels.group_norm.cpu import group_norm

        return group_norm(x.detach(), self.num_groups, weight, bias, eps=self.eps, algorithm=self._algorithm, out=out)
