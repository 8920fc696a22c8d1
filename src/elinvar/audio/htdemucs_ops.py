"""The operations HTDemucs is made of, each in the form that is fastest where its tensors are.

On the CPU, inference goes to oneDNN's convolutions directly: torch sends small batches, 1x1 kernels and single threads
to MKL instead, which on AMD processors uses half the machine (measured in benchmarks/audio_htdemucs.py). Products with
a weight matrix, and attention's two, are 1x1 convolutions of channels-last memory, which costs no copy. Training, other
devices and builds without oneDNN take torch's usual functions; the results agree to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from elinvar.audio.kernels.analysis.reference import analysis
from elinvar.audio.kernels.resynthesis.reference import resynthesis
from elinvar.runtime.kernels import Kernel, kernel

__all__ = [
    "add_gated",
    "analyse",
    "as_compute",
    "attend",
    "convolve",
    "glu",
    "norm_gelu",
    "norm_jointly",
    "project",
    "resynthesise",
]

_Pair = tuple[int, int]
_SCORES = 3_600_000  # bytes of one block of attention scores: the caches hold it


def as_compute(parameter: Tensor, like: Tensor) -> Tensor:
    """Return a parameter in the number format of the activations; nothing is kept of the copy, if there is one."""
    return parameter if parameter.dtype == like.dtype else parameter.to(like.dtype)


@functools.cache
def _onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def _direct(x: Tensor) -> bool:
    """Whether oneDNN may be called directly: inference on the CPU in a format it knows."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and _onednn(x.dtype)
    )


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    transposed: bool = False,
    gelu: bool = False,
) -> Tensor:
    """Convolve ``[batch, frequency, time, in]`` over frequency and time into ``[batch, frequency, time, out]``.

    ``weight`` is ``[out, in, kf, kt]`` or ``[out, in, kt]`` (``[in, out, ...]`` when transposed); `gelu` is applied to
    the result.
    """
    w, b = as_compute(weight, x), as_compute(bias, x)
    if w.dim() == 3:
        w = w.unsqueeze(2)
    nchw = x.permute(0, 3, 1, 2)
    how = (stride, padding, dilation, transposed, gelu)
    half = x.dtype == torch.bfloat16 and x.device.type == "cpu" and not torch.is_grad_enabled()
    if half and not _faithful(w, *how):
        y = _convolution(nchw.float(), w.float(), b.float(), *how).to(x.dtype)
    else:
        y = _convolution(nchw, w, b, *how)
    return y.permute(0, 2, 3, 1).contiguous()


def _convolution(
    x: Tensor, w: Tensor, b: Tensor | None, stride: _Pair, padding: _Pair, dilation: _Pair, transposed: bool, gelu: bool
) -> Tensor:
    if _direct(x) and not transposed:
        if gelu and _has_pointwise():
            run = torch.ops.mkldnn._convolution_pointwise  # noqa: SLF001
            return cast("Tensor", run(x, w, b, padding, stride, dilation, 1, "gelu", [], "none"))
        y = torch.mkldnn_convolution(x, w, b, padding, stride, dilation, 1)
    elif transposed:
        if x.device.type == "cuda" and x.dtype == torch.float32:
            # Channels-last, cuDNN has no float32 algorithm without TF32 but one that is 80 times slower.
            x, w = x.contiguous(), w.contiguous()
        y = functional.conv_transpose2d(x, w, b, stride, padding)
    else:
        y = functional.conv2d(x, w, b, stride, padding, dilation)
    return functional.gelu(y) if gelu else y


@functools.cache
def _has_pointwise() -> bool:
    """Whether this build of torch lets oneDNN apply an activation before it stores a convolution's result."""
    return hasattr(torch.ops.mkldnn, "_convolution_pointwise")


_known: dict[tuple[object, ...], bool] = {}


def _faithful(w: Tensor, stride: _Pair, padding: _Pair, dilation: _Pair, transposed: bool, gelu: bool) -> bool:
    """Whether the library's bfloat16 convolution of such weights gives what its own float32 one gives.

    oneDNN on processors with AMX does not for 8 or 12 input channels and 8, 12 or 16 taps: 70 % error, silently (seen
    with torch 2.11 on Sapphire Rapids; the published networks have no such shape). Asked once per shape and process,
    with 37 results along the longer side of the kernel.
    """
    key = (*w.shape, *stride, *padding, *dilation, transposed, gelu)
    if key not in _known:
        w = w[:, :32] if transposed else w[:32]  # of the results' channels a few do
        tall, wide = w.shape[2:]
        rows, columns = (37, 1) if tall > wide else (1, 37)
        size = [d * (k - 1) + 1 + s * (n - 1) for k, s, d, n in
                zip((tall, wide), stride, dilation, (rows, columns), strict=True)]  # fmt: skip
        channels = w.shape[0] if transposed else w.shape[1]
        x = torch.randn(
            1, *size, channels, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
        )
        x = x.to(w.dtype).permute(0, 3, 1, 2)
        b = w.new_zeros(w.shape[1] if transposed else w.shape[0])
        got = _convolution(x, w, b, stride, padding, dilation, transposed, gelu).float()
        want = _convolution(x.float(), w.float(), b.float(), stride, padding, dilation, transposed, gelu)
        _known[key] = float((got - want).norm()) <= 0.02 * float(want.norm())
    return _known[key]


def _rows_times(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Return ``x @ weight.T + bias`` of ``[n, k]`` and ``[m, k]`` as a 1x1 convolution."""
    n, k = x.shape
    rows, columns = x.view(1, n, 1, k).permute(0, 3, 1, 2), weight.view(-1, k, 1, 1)
    y = _convolution(rows, columns, bias, (1, 1), (0, 0), (1, 1), False, gelu)
    return y.permute(0, 2, 3, 1).reshape(n, -1)


def project(x: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    """Apply a linear layer, or a convolution of size 1, to the last axis; and `gelu` to the result."""
    w, b = as_compute(weight, x), as_compute(bias, x)
    w = w.reshape(w.shape[0], -1)
    if _direct(x):
        return _rows_times(x.reshape(-1, x.shape[-1]), w, b, gelu=gelu).reshape(*x.shape[:-1], -1)
    y = functional.linear(x, w, b)
    return functional.gelu(y) if gelu else y


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Return softmax(q k' / sqrt(d)) v of ``[batch, tokens, channels]``, head by head."""
    batch, n, channels = q.shape
    if not _direct(q):
        q, k, v = (x.reshape(batch, x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, channels)
    d = channels // heads
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    blocks = -(-n * k.shape[1] * q.element_size() // _SCORES)
    step = -(-n // (16 * blocks)) * 16
    for b in range(batch):
        for h in range(0, channels, d):
            keys, values = k[b, :, h : h + d].contiguous(), v[b, :, h : h + d].t().contiguous()
            for first in range(0, n, step):
                scores = _rows_times(q[b, first : first + step, h : h + d].contiguous(), keys)
                weights, reciprocals = _exponentials()(scores, d**-0.5)
                torch.mul(
                    _rows_times(weights, values), reciprocals[:, None], out=out[b, first : first + step, h : h + d]
                )
    return out


@functools.cache
def _exponentials() -> Kernel:
    return kernel("audio.exponentials", "cpu")


@functools.cache
def _spectral(name: str) -> Kernel:
    return kernel(name, "cpu")


def analyse(x: Tensor, n: int) -> Tensor:
    """Return the spectra of ``x``: see `elinvar.audio.kernels.analysis`."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return analysis(x, n)
    return cast("Tensor", _spectral("audio.analysis")(x, n))


def resynthesise(y: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Return the sound of ``gain * y + shift``: see `elinvar.audio.kernels.resynthesis`."""
    if torch.is_grad_enabled() or y.device.type != "cpu":
        return resynthesis(y, gain, shift)
    return cast("Tensor", _spectral("audio.resynthesis")(y, gain, shift))


@functools.cache
def _gate(kind: str) -> Kernel:
    return kernel("audio.gate", kind)


@functools.cache
def _gelu(kind: str) -> Kernel:
    return kernel("audio.norm_gelu", kind)


def _gate_for(y: Tensor) -> Kernel | None:
    if torch.is_grad_enabled() or y.device.type != "cpu":
        return None
    return _gate("cpu")


def glu(y: Tensor) -> Tensor:
    """Return ``a * sigmoid(g)`` of the two halves of the last axis."""
    run = _gate_for(y)
    return functional.glu(y, dim=-1) if run is None else cast("Tensor", run(y))


def add_gated(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float, scale: Tensor) -> Tensor:
    """Return ``x + scale * glu(norm(y))``, the norm over time and channels; ``x`` is overwritten without autograd."""
    run = _gate_for(y)
    if run is not None:
        return cast("Tensor", run(y, x, weight=weight, bias=bias, scale=scale, eps=eps))
    gain, shift = _normalising(y, weight, bias, eps)
    halves = (t.chunk(2, dim=-1) for t in (y, gain, shift))
    return _pointwise(_add_gated, x, *(half for pair in halves for half in pair), scale.float())


def norm_gelu(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return ``gelu(norm(x))`` with the error function, not its tanh approximation; overwrites x without autograd."""
    if not torch.is_grad_enabled() and x.device.type == "cpu":
        return cast("Tensor", _gelu("cpu")(x, weight, bias, eps))
    return _pointwise(_affine_gelu, x, *_normalising(x, weight, bias, eps))


def norm_jointly(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise over the last two axes together, then apply gains and offsets to the last: GroupNorm of one group."""
    return _pointwise(_affine, x, *_normalising(x, weight, bias, eps))


def _normalising(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return float32 gain and shift ``[..., 1, channels]`` that normalise ``x[..., time, channels]``.

    torch's layer_norm gives each row to one block of a GPU: few rows of millions of values leave it idle (two thirds
    of the network's time on an H200). Reductions to one value use all of it. For 16-bit values one pass takes the sum
    and the sum of squares in float32: what cancels there is far below what storing them in 16 bits has rounded off.
    """
    axes = (-2, -1)
    if x.dtype.itemsize > 2 or torch.is_grad_enabled():
        variance, mean = torch.var_mean(x.float(), dim=axes, correction=0, keepdim=True)
    else:
        n = x.shape[-2] * x.shape[-1]
        mean = x.sum(axes, keepdim=True, dtype=torch.float32) / n
        norm = torch.linalg.vector_norm(x, dim=axes, keepdim=True, dtype=torch.float32)
        variance = (norm.square() / n - mean.square()).clamp_(min=0.0)
    gain = torch.rsqrt(variance + eps) * weight.float()
    return gain, torch.addcmul(bias.float(), mean, gain, value=-1.0)


def _affine(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return x * gain + shift


def _affine_gelu(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return functional.gelu(x * gain + shift)


def _add_gated(
    x: Tensor, a: Tensor, g: Tensor, gain_a: Tensor, gain_g: Tensor, shift_a: Tensor, shift_g: Tensor, scale: Tensor
) -> Tensor:
    return x + scale * ((a * gain_a + shift_a) * torch.sigmoid(g * gain_g + shift_g))


@functools.cache
def _one_kernel(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    from elinvar.metal.fuse import fuse

    return fuse(function, like=0)


def _pointwise(function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """Apply element-wise arithmetic in float32 and return x's dtype: one kernel in inference, torch's own otherwise."""
    if torch.is_grad_enabled():
        return function(x.float(), *others).to(x.dtype)
    return _one_kernel(function)(x, *others)
