"""Softmax cross-entropy that stores one number per row instead of a matrix of log-probabilities."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.metal.fuse import Fused
from elinvar.runtime.memory import Pool
from elinvar.tensor.modes import transforming
from elinvar.tensor.workspace import Scratch, check_pool, check_same

__all__ = ["softmax_cross_entropy"]

_REDUCTIONS = ("mean", "sum", "none")


@cache
def log_sum() -> Fused:
    def log_sum(x: Any) -> Any:
        top = x.amax(-1, keepdim=True)
        return top + torch.log(torch.exp(x - top).sum(-1, keepdim=True))

    return Fused(log_sum)


@cache
def _slope() -> Fused:
    def slope(x: Any, total: Any, weight: Any) -> Any:
        return torch.exp(x - total) * weight

    return Fused(slope, like=0)


def softmax_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    pool: Pool | None = None,
) -> torch.Tensor:
    """Return ``-log softmax(logits)[target]``, reduced over the rows.

    Parameters
    ----------
    logits : Tensor[..., classes]
        float16, bfloat16, float32 or float64.
    target : Tensor[...] int64
        The right class of every row, or `ignore_index`.
    reduction
        "mean" over the rows that count, "sum", or "none" for one loss per row.
    ignore_index
        Rows with this target have loss and gradient 0.
    pool
        Where temporaries take their memory.

    Returns
    -------
    Tensor
        float32 (float64 for float64 logits). Between forward and backward pass the logits and one number per row are
        kept; `torch.nn.functional.cross_entropy` keeps a second matrix.

    Raises
    ------
    InputError
        Shapes or dtypes do not fit, or a target is no class (checked on the CPU only: elsewhere it costs a wait).
    """
    check_same("softmax_cross_entropy", logits=logits)
    if reduction not in _REDUCTIONS:
        raise InputError(f"softmax_cross_entropy: reduction={reduction!r}; choose one of {', '.join(_REDUCTIONS)}")
    if not isinstance(target, torch.Tensor):
        raise InputError(f"softmax_cross_entropy: target is a {type(target).__name__}; give a tensor of int64 classes")
    if target.dtype != torch.int64 or target.shape != logits.shape[:-1] or logits.dim() < 1:
        raise InputError(
            f"softmax_cross_entropy: target is {target.dtype} of shape {tuple(target.shape)}, logits have shape "
            f"{tuple(logits.shape)}; give int64 classes of shape {tuple(logits.shape[:-1])}{_moved(logits, target)}"
        )
    if target.device != logits.device:
        raise InputError(f"softmax_cross_entropy: logits are on {logits.device}, target on {target.device}")
    classes = logits.shape[-1]
    if pool is not None:
        check_pool(pool, logits.device, "softmax_cross_entropy")
    if target.is_cpu and target.numel() and not (torch.compiler.is_compiling() or transforming()):
        low, high = (int(v) for v in torch.aminmax(torch.where(target == ignore_index, 0, target)))
        if low < 0 or high >= classes:
            raise InputError(
                f"softmax_cross_entropy: targets run from {low} to {high}; there are classes 0 to {classes - 1}"
            )
    rows, wanted = logits.reshape(-1, classes), target.reshape(-1)
    losses = _losses(rows, wanted, ignore_index, pool)
    if reduction == "none":
        return losses.view(target.shape)
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / (wanted != ignore_index).sum()


def _moved(logits: torch.Tensor, target: torch.Tensor) -> str:
    """What to do with torch's order of dimensions, where that is what was given."""
    fits = logits.dim() > 2 and target.shape == (logits.shape[0], *logits.shape[2:])
    return ", and logits.movedim(1, -1): classes come last here" if fits else ""


def _losses(rows: torch.Tensor, target: torch.Tensor, ignore: int, pool: Pool | None) -> torch.Tensor:
    counted = target != ignore
    index = torch.where(counted, target, 0).unsqueeze(1)
    if torch.compiler.is_compiling() or transforming() or not rows.numel():
        wide = rows if rows.dtype == torch.float64 else rows.float()
        chosen = wide.gather(1, index)
        return torch.where(counted, (torch.logsumexp(wide, 1, keepdim=True) - chosen).squeeze(1), 0.0)
    found: torch.Tensor = _Losses.apply(rows, index, counted, pool)  # type: ignore[no-untyped-call]
    return found


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, index: torch.Tensor, counted: torch.Tensor, pool: Pool | None
    ) -> torch.Tensor:
        wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
        total = torch.empty(rows.shape[0], 1, dtype=wide, device=rows.device)
        log_sum()(rows.detach(), out=total)
        ctx.save_for_backward(rows, index, counted, total)
        ctx.pool = pool
        return torch.where(counted, (total - rows.detach().gather(1, index).to(wide)).squeeze(1), 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        rows, index, counted, total = ctx.saved_tensors
        weight = torch.where(counted, grads[0], 0.0).unsqueeze(1)
        if torch.is_grad_enabled():  # a gradient of the gradient was asked for
            wide = rows.to(total.dtype)
            hot = torch.zeros_like(wide).scatter(1, index, 1.0)
            return ((torch.softmax(wide, 1) - hot) * weight).to(rows.dtype), None, None, None
        if rows.dtype == total.dtype:
            slope = _slope()(rows.detach(), total, weight)
            return slope.scatter_add_(1, index, -weight), None, None, None
        with Scratch(ctx.pool) as scratch:  # 16-bit logits: subtract before rounding
            slope = scratch.empty(rows.shape, total.dtype, rows.device)
            _slope()(rows.detach(), total, weight, out=slope)
            found = slope.scatter_add_(1, index, -weight).to(rows.dtype)
            del slope
        return found, None, None, None
