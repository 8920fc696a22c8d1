"""Convolutions whose outputs can be reused instead of allocated."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from elinvar.errors import InputError
from elinvar.runtime.device import device
from elinvar.runtime.memory import Lease, Pool

__all__ = ["Conv1d", "Conv2d", "ConvTranspose1d", "Outputs"]


class Outputs:
    """A few leased tensors, one per shape, the least recently used given back for a new one.

    Attributes
    ----------
    limit
        Shapes kept at most.
    """

    def __init__(self, limit: int, pool: Pool | None = None) -> None:
        if limit < 1:
            raise InputError(f"reuse_outputs: shapes={limit}; give at least 1.")
        self.limit = limit
        self._pool = pool
        self._leases: OrderedDict[tuple[Any, ...], Lease] = OrderedDict()

    def get(self, shape: torch.Size, like: Tensor, purpose: str = "") -> Tensor:
        """Return the tensor of this shape; its content is what was last written to it."""
        key = (purpose, *shape, like.dtype, like.device)
        lease = self._leases.get(key)
        if lease is None:
            while len(self._leases) >= self.limit * (2 if purpose else 1):
                self._leases.popitem(last=False)[1].release()
            pool = self._pool or device(like.device).pool
            lease = self._leases[key] = pool.acquire(tuple(shape), like.dtype, clear=True)
        self._leases.move_to_end(key)
        return lease.tensor

    def clear(self) -> None:
        """Give everything back to the pool."""
        for lease in self._leases.values():
            lease.release()
        self._leases.clear()

    @property
    def bytes(self) -> int:
        """Bytes held now."""
        return sum(lease.tensor.nbytes for lease in self._leases.values())

    def __len__(self) -> int:
        return len(self._leases)


class _Reusing(nn.Module):
    """What the three layers share."""

    _outputs: Outputs | None = None

    def reuse_outputs(self, shapes: int = 4, pool: Pool | None = None) -> Any:
        """Write results into buffers kept per shape, at most `shapes` of them; returns the layer.

        A result is then valid until the next call with input of the same shape. Needs inference without gradients.
        0 goes back to fresh results.
        """
        if self._outputs is not None:
            self._outputs.clear()
        self._outputs = Outputs(shapes, pool) if shapes else None
        return self

    @property
    def reused_bytes(self) -> int:
        """Bytes of the buffers kept now."""
        return self._outputs.bytes if self._outputs is not None else 0

    def _finish(self, y: Tensor, out: Tensor | None) -> Tensor:
        if out is not None:
            return out.copy_(y)
        if self._outputs is None or y.requires_grad or y.numel() == 0:
            return y
        return self._outputs.get(y.shape, y).copy_(y)


class Conv1d(_Reusing, nn.Conv1d):
    """``torch.nn.Conv1d`` with `reuse_outputs`.

    With reuse, float32 on the CPU and a stride of 1, the taps are matrix products added straight into the kept buffer:
    after the first call of a shape nothing is allocated. Other cases compute as torch does and copy.
    """

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Convolve ``[batch, in_channels, time]``, into `out` if given."""
        if (self._outputs is None and out is None) or not self._direct(x):
            return self._finish(super().forward(x), out)
        pad, step = int(self.padding[0]), self.dilation[0]
        taps = self.kernel_size[0]
        length = x.shape[2] + 2 * pad - step * (taps - 1)
        shape = torch.Size((x.shape[0], self.out_channels, length))
        if length < 1:
            return self._finish(super().forward(x), out)
        if pad and self._outputs is not None:
            wide = self._outputs.get(torch.Size((*x.shape[:2], x.shape[2] + 2 * pad)), x, "padded")
            wide[..., pad : pad + x.shape[2]] = x  # its ends were cleared when it was leased
        else:
            wide = nn.functional.pad(x, (pad, pad)) if pad else x
        y = out if out is not None or self._outputs is None else self._outputs.get(shape, x)
        assert y is not None
        weight = self.weight.detach()
        for row in range(x.shape[0]):
            for tap in range(taps):
                part = wide[row, :, tap * step : tap * step + length]
                y[row].addmm_(weight[:, :, tap], part, beta=0 if tap == 0 else 1)
            if self.bias is not None:
                y[row] += self.bias.detach()[:, None]
        return y

    def _direct(self, x: Tensor) -> bool:
        plain = self.stride == (1,) and self.groups == 1 and self.padding_mode == "zeros"
        grad = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        fits = x.dim() == 3 and x.shape[1] == self.in_channels and x.numel() > 0
        return plain and fits and not grad and not isinstance(self.padding, str) and x.dtype == self.weight.dtype


class ConvTranspose1d(_Reusing, nn.ConvTranspose1d):
    """``torch.nn.ConvTranspose1d`` with `reuse_outputs`; the result is copied into the kept buffer."""

    def forward(self, x: Tensor, output_size: list[int] | None = None, out: Tensor | None = None) -> Tensor:
        """Convolve ``[batch, in_channels, time]`` transposed, into `out` if given."""
        return self._finish(super().forward(x, output_size), out)


class Conv2d(_Reusing, nn.Conv2d):
    """``torch.nn.Conv2d`` with `reuse_outputs`; the result is copied into the kept buffer."""

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Convolve ``[batch, in_channels, height, width]``, into `out` if given."""
        return self._finish(super().forward(x), out)
