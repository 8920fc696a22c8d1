"""Layers of one launch on NVIDIA GPUs: the engine's own small product, or cuBLASLt's.

Of cuBLASLt, 16-bit layers take the algorithm that is right and was fastest here (`candidates`). Where none is, or none
was asked for, torch's call of it serves, with its relu where that keeps NaN; 16-bit operands whose rows lie askew are
left to a float32 product and one more pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from elinvar.tensor import candidates
from elinvar.tensor.again import Layer, empty, known, remember
from elinvar.tensor.cublaslt import Follows
from elinvar.tensor.gemm import aligned, keeps_nan, wide_product, zeros
from elinvar.tensor.modes import autocasting as _autocasting
from elinvar.tensor.workspace import HALVES

__all__ = ["cuda_epilogue", "short_cuda"]

_grad_enabled = torch.is_grad_enabled
_addmm_relu = torch._addmm_activation  # noqa: SLF001


@cache
def _quick() -> Callable[..., torch.Tensor | None]:
    """The launch of the engine's own small product on NVIDIA GPUs."""
    from elinvar.tensor.kernels.small_linear.metal import quick

    return quick


def _chosen(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, *, relu: bool) -> Layer | None:
    """What computes a layer with the chosen algorithm of cuBLASLt, None where torch's call does."""
    if not candidates.fits(x, w, bias) or (run := candidates.choose(x, w, "relu" if relu else "bias")) is None:
        return None
    launch, size, rows, dtype = run, (len(x), len(w)), (len(w), 1), x.dtype

    def serve(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor | None:
        left, right, shift = x.data_ptr(), w.data_ptr(), bias.data_ptr()
        if (left | right | shift) & 15:
            return None
        y = x.new_empty(size) if empty is None else empty(size, rows, dtype)
        # The result is on the current device; the launch is refused where that is not the operands'.
        return y if launch(left, right, shift, y.data_ptr()) else None

    return serve


def _askew(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> bool:
    """Whether another of the library's kernels would serve than did operands of the same kind."""
    return bool((x.data_ptr() | w.data_ptr() | bias.data_ptr()) & 15)


def _relu_layer(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor | None:
    return None if _askew(x, w, bias) else _addmm_relu(bias, x, w.t())


def _relu_after(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor | None:
    return None if x.dtype in HALVES and _askew(x, w, bias) else torch.addmm(bias, x, w.t()).relu_()


def _layer(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor | None:
    return None if x.dtype in HALVES and _askew(x, w, bias) else torch.addmm(bias, x, w.t())


@cache
def _wide_layer(relu: bool) -> Layer:
    """A float32 product and one more pass, which rounds once: right wherever operands lie."""
    from elinvar.tensor.dense import EPILOGUES

    after = EPILOGUES["relu" if relu else None]

    def serve(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        done: torch.Tensor = after(wide_product(x, w), bias, out=x.new_empty((len(x), len(w))))
        return done

    return serve


def short_cuda(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, activation: str | None) -> torch.Tensor | None:
    """A layer that is one launch: the engine's own where it is small, else cuBLASLt's. None for the long way."""
    try:
        relu = activation == "relu"
        if not relu and activation is not None:
            return None
        for again in known[relu].get(x.shape, ()):
            if (done := again(x, w, bias)) is not None:
                return done
        if x.ndim != 2 or _grad_enabled() or _autocasting() or len(bias) != len(w) or bias.ndim != 1 or not x.shape[1]:
            return None
        if x.dtype in HALVES and (done := _quick()(x, w, bias, relu=relu)) is not None:
            from elinvar.tensor.kernels.small_linear.metal import serving

            remember(x, w, bias, serving(x, w, bias, relu=relu), relu=relu)
            return done
        if (chosen := _chosen(x, w, bias, relu=relu)) is not None and (done := chosen(x, w, bias)) is not None:
            remember(x, w, bias, chosen, relu=relu)
            return done
        if x.is_cuda and x.dtype in HALVES and not aligned(x, w, bias):
            if any(t.dtype is not x.dtype or t.device != x.device for t in (w, bias)):
                return None
            found = _wide_layer(relu)(x, w, bias)
            remember(x, w, bias, _wide_layer(relu), relu=relu)
            return found
        kept = keeps_nan(x, w, bias) if relu else None
        serve: Layer = (_relu_layer if kept else _relu_after) if relu else _layer
        done = serve(x, w, bias)
        # What is served while a graph is recorded was not chosen: the next call looks again.
        if kept is not None or not (relu or (x.is_cuda and torch.cuda.is_current_stream_capturing())):
            remember(x, w, bias, serve, relu=relu)
        return done
    except (RuntimeError, TypeError, AttributeError, ValueError):
        return None


def cuda_epilogue(
    x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None, activation: str | None, out: torch.Tensor | None
) -> torch.Tensor | None:
    """The product with bias and relu in one launch: the engine's own, or cuBLASLt's where that answers NaN with NaN.

    Its GELU is not used: at sizes that are no multiple of eight its error is 125 times what this engine promises.
    """
    if out is None and activation in (None, "relu") and x.dtype in HALVES:
        done = _quick()(x, w, bias, relu=activation == "relu")
        if done is not None:
            return done
    if activation not in (None, "relu") or not x.shape[1]:
        return None
    follows: Follows = "relu" if activation else "nothing" if bias is None else "bias"
    shift = zeros(w.shape[0], x.dtype, x.device) if bias is None and activation else bias
    given = (x, w, *(t for t in (shift, out) if t is not None))
    if candidates.fits(*given) and (run := candidates.choose(x, w, follows)) is not None:
        y = x.new_empty((len(x), len(w))) if out is None else out
        if run(x.data_ptr(), w.data_ptr(), 0 if shift is None else shift.data_ptr(), y.data_ptr()):
            return y
    if shift is None or not activation or (x.dtype in HALVES and not aligned(*given)) or not keeps_nan(*given):
        return None
    if out is None:
        return _addmm_relu(shift, x, w.t())
    return torch.ops.aten._addmm_activation.out(shift, x, w.t(), out=out)  # type: ignore[no-any-return]  # noqa: SLF001
