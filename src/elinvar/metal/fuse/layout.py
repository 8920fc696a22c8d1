"""How the arguments of one call lie in memory: broadcast, collapsed to rows and columns, in elements."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["STORAGE", "Layout", "arrange", "overwritten", "reach"]

_increment = torch._C._increment_version  # noqa: SLF001  (half the public function's time)
STORAGE = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.bool: "bool",
}


def overwritten(out: torch.Tensor) -> None:
    """Tell autograd that memory is written by a kernel it does not see.

    A graph that saved the memory then refuses to run backward, as after every in-place operation of torch, where it
    would return wrong gradients.
    """
    _increment((out,))


def reach(x: torch.Tensor) -> int:
    """Elements from a tensor's first to behind its last in memory; 0 for an empty one."""
    if x.is_contiguous():
        return x.numel()
    return 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0


@dataclass(frozen=True)
class Layout:
    """Rows by columns of one call.

    Attributes
    ----------
    shape : tuple of int
        The broadcast shape of the inputs, reduction axis moved to the end if there is one.
    sizes : tuple of int
        Sizes of the collapsed outer dimensions; their product is the number of rows.
    columns : int
        Length of the innermost loop.
    strides : tuple of tuple of int
        For each array (inputs, then outputs), element strides along ``sizes``.
    steps : tuple of int
        For each array, the element stride along the columns.
    """

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    columns: int
    strides: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        product = 1
        for size in self.sizes:
            product *= size
        return product


def arrange(arrays: list[torch.Tensor], shape: tuple[int, ...], *, keep_last: bool) -> Layout:
    """Collapse the dimensions of ``shape`` over which every array moves by a constant step.

    Parameters
    ----------
    arrays
        Inputs and outputs, each expandable to ``shape``.
    shape
        Common shape.
    keep_last : bool
        Leave the last dimension alone, because reductions run along it.
    """
    views = [a.expand(shape) if tuple(a.shape) != shape else a for a in arrays]
    # Dimensions as (size, strides of every array), outermost first; length-1 dimensions carry no information.
    inner = [(shape[-1], [v.stride(-1) for v in views])] if keep_last and shape else []
    outer = shape[:-1] if inner else shape
    dims = [(n, [v.stride(d) for v in views]) for d, n in enumerate(outer) if n != 1]
    merged: list[tuple[int, list[int]]] = []
    for size, strides in dims:
        if merged and all(a == b * size for a, b in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = (merged[-1][0] * size, strides)
        else:
            merged.append((size, strides))
    if not inner:
        inner = [merged.pop()] if merged else [(1, [0] * len(views))]
    columns, steps = inner[0]
    return Layout(
        shape,
        tuple(n for n, _ in merged),
        columns,
        tuple(tuple(strides[k] for _, strides in merged) for k in range(len(views))),
        tuple(0 if columns == 1 else s for s in steps),
    )
