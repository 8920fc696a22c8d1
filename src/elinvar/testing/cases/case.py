"""What a case is, and how one is run and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from elinvar.errors import KernelRejected

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

__all__ = ["MetalCase", "differences", "verify"]

Dims = int | Sequence[int]
HEADER = "#include <metal_stdlib>\nusing namespace metal;\n"


@dataclass(frozen=True)
class MetalCase:
    """One Metal kernel, its arguments, and what it must write.

    Attributes
    ----------
    name
        Also the test's id.
    source, kernel, defines
        What is compiled (after ``#include <metal_stdlib>``) and which kernel of it is called.
    arguments
        Makes the arguments: CPU tensors, numbers, bytes.
    expect
        From the arguments, ``{argument index: tensor}`` of what must be in them afterwards.
    threads, group_size
        The launch.
    tolerance
        Largest elementwise relative error; 0 asks for equality.
    """

    name: str
    source: str
    kernel: str
    arguments: Callable[[], list[Any]]
    expect: Callable[[list[Any]], Mapping[int, torch.Tensor]]
    threads: Dims
    group_size: Dims | None = None
    tolerance: float = 0.0
    defines: Mapping[str, int | float | str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The whole source."""
        return HEADER + self.source


def verify(case: MetalCase, device: Device | str = "auto", **options: Any) -> float:
    """Run a case and compare.

    Parameters
    ----------
    case
        One of `CASES`.
    device
        Where to run it.
    options
        For `elinvar.metal.compile`, e.g. ``schedule="random"`` on the emulator.

    Returns
    -------
    float
        The largest elementwise relative error, 0 for equality.

    Raises
    ------
    KernelRejected
        The kernel wrote something else; the message shows the first difference.
    """
    from elinvar import metal
    from elinvar.runtime.device import device as resolve

    place = resolve(device)
    library = metal.compile(case.text, place, defines=dict(case.defines) or None, **options)
    given = case.arguments()
    expected = case.expect(given)
    copies: dict[int, Any] = {}  # a tensor that is passed twice stays one tensor
    for item in given:
        if isinstance(item, torch.Tensor) and id(item) not in copies:
            copies[id(item)] = item.to(place.torch, copy=True)
    placed = [copies.get(id(item), item) for item in given]
    getattr(library, case.kernel)(*placed, threads=case.threads, group_size=case.group_size)
    place.synchronize()
    return differences(case, placed, expected)


def differences(case: MetalCase, given: Sequence[Any], expected: Mapping[int, torch.Tensor]) -> float:
    """Return the largest relative error of what lies in the arguments, or raise `KernelRejected`."""
    return max(_difference(case, index, given[index].cpu(), want) for index, want in expected.items())


def _wide(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    narrow = tensor.dtype in (torch.float16, torch.bfloat16)
    return (tensor.float() if narrow else tensor).numpy()


def _difference(case: MetalCase, index: int, got: torch.Tensor, want: torch.Tensor) -> float:
    ours, theirs = _wide(got).reshape(-1), _wide(want.to(got.dtype)).reshape(-1)
    exact = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    if exact.all():
        return 0.0
    with np.errstate(all="ignore"):
        wide = theirs.astype(np.float64)
        relative = np.abs(ours.astype(np.float64) - wide) / np.maximum(np.abs(wide), 1e-30)
    relative = np.where(exact, 0.0, np.where(np.isnan(relative), np.inf, relative))
    worst, wrong = float(relative.max()), relative > case.tolerance
    if worst > case.tolerance:
        where = int(np.flatnonzero(wrong)[0])
        got, wanted = ours[where].item(), theirs[where].item()
        raise KernelRejected(
            f"case {case.name!r}: argument {index} is {got!r} at element {where}, not {wanted!r} "
            f"(relative error {worst:.3g} > {case.tolerance:g}; {int(wrong.sum())} elements differ)"
        )
    return worst
