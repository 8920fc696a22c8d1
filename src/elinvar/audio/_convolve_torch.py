"""Convolution through torch's transforms: for tensors on a GPU and for gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from elinvar.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["convolve_tensor", "wants_torch"]


def wants_torch(*values: Any) -> bool:
    """Whether any is a tensor that lies on a GPU or requires gradients."""
    return any(
        not isinstance(v, np.ndarray) and hasattr(v, "requires_grad") and (v.requires_grad or v.device.type != "cpu")
        for v in values
    )


def convolve_tensor(x: Any, ir: Any, mode: str) -> torch.Tensor:
    """Convolve [..., time] by overlap-add of blocks of the response's length; differentiable in both."""
    import torch

    device = x.device if isinstance(x, torch.Tensor) else ir.device
    signal, taps = (torch.as_tensor(v, dtype=torch.float32, device=device) for v in (x, ir))
    n, k = signal.shape[-1], taps.shape[-1]
    total = n + k - 1 if mode == "full" else n
    if taps.ndim >= 2 and taps.shape[0] > 1 and (signal.ndim < 2 or signal.shape[-2] != taps.shape[-2]):
        raise InputError(
            f"convolve: the signal has shape {tuple(signal.shape)} and ir {tuple(taps.shape)}; give as many channels."
        )
    size = min(2 ** (n + k - 1).bit_length(), max(4096, 2 * 2 ** k.bit_length()))
    step = size - k + 1
    blocks = -(-n // step)
    framed = torch.nn.functional.pad(signal, (0, blocks * step - n)).reshape(*signal.shape[:-1], blocks, step)
    spectrum = torch.fft.rfft(framed, size)
    response = torch.fft.rfft(taps, size).unsqueeze(-2)
    if taps.ndim == 3:
        product = torch.einsum("...ibf,oibf->...obf", spectrum, response.expand(-1, -1, blocks, -1))
    else:
        product = spectrum * (response if taps.ndim < 2 or taps.shape[0] > 1 else response[0])
    y = torch.fft.irfft(product, size)
    whole = y.new_zeros(*y.shape[:-2], blocks * step + size)
    for b in range(blocks):
        whole = _added(whole, y[..., b, :], b * step)
    cut: torch.Tensor = whole[..., :total]
    return cut


def _added(whole: torch.Tensor, part: torch.Tensor, begin: int) -> torch.Tensor:
    import torch

    if part.requires_grad:
        return whole + torch.nn.functional.pad(part, (begin, whole.shape[-1] - begin - part.shape[-1]))
    whole[..., begin : begin + part.shape[-1]] += part
    return whole
