"""Where one operation should run: stay with its data, or move to an accelerator because it is large enough.

``choose("matmul", (512, 512, 512), "cpu")`` returns a device name, ``explain`` the reason in a sentence. The sizes
that decide are measured by ``elinvar tune`` (``crossover.OP``); until then documented defaults apply
(`elinvar.runtime.tuning.DEFAULT_CROSSOVERS`). An operation's size is the product of `shape`: (m, k, n) of a matrix
product, all elements of an FFT or a sort, multiply-adds of a convolution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from elinvar.errors import InputError

from .tuning import Tuned
from .tuning import tuned as stored

if TYPE_CHECKING:
    from .device import Device, DeviceProfile

__all__ = ["choose", "crossover", "explain"]

MARGIN = 1.15  # a device must be this much faster to be worth the move: near the crossover nothing flips back and forth


def choose(
    op: str,
    shape: Sequence[int],
    resident_on: str | Device | Any,
    *,
    devices: Sequence[Any] | None = None,
    tuned: Callable[[DeviceProfile], Tuned] = stored,
) -> str:
    """Return the name of the device to run `op` on, e.g. ``"cpu"`` or ``"cuda:0"``.

    Parameters
    ----------
    op
        "matmul", "conv", "attention", "fft", "sort", "elementwise", "reduction" or what ``elinvar tune`` measured.
    shape
        Its product is the operation's size; see the module's text.
    resident_on
        Where the data are: a device, a torch device or a name.
    devices
        What is there; default ``elinvar.devices()``.
    tuned
        Where crossovers come from.

    Raises
    ------
    InputError
        If `shape` has a negative or fractional entry, or `resident_on` is no device name.
    """
    return _decide(op, shape, resident_on, devices, tuned)[0]


def explain(
    op: str,
    shape: Sequence[int],
    resident_on: str | Device | Any,
    *,
    devices: Sequence[Any] | None = None,
    tuned: Callable[[DeviceProfile], Tuned] = stored,
) -> str:
    """Return why ``choose`` decides as it does, in one sentence; parameters as there."""
    return _decide(op, shape, resident_on, devices, tuned)[1]


def _decide(
    op: str,
    shape: Sequence[int],
    resident_on: object,
    devices: Sequence[Any] | None,
    tuned: Callable[[DeviceProfile], Tuned],
) -> tuple[str, str]:
    here = _name(resident_on)
    size = _size(op, shape)
    what = f"{op} of {'×'.join(map(str, shape)) or 'one element'}"
    stays = f"{what} stays on {here}: "
    if not here.startswith("cpu"):
        return here, stays + "its data are there, and bringing them back costs more than it can save."
    if devices is None:
        from .device import devices as present

        devices = present()
    best = next((device for device in devices if not str(device).startswith("cpu")), None)
    if best is None:
        return here, stays + "there is no accelerator."
    there = str(best)
    known = tuned(best.profile)
    limit = known.crossovers.get(op)
    if limit is None:
        return here, stays + f"no crossover to {there} is known for it; `elinvar tune` measures those it knows."
    source = "measured here" if f"crossover.{op}" in known.measured else "default; `elinvar tune` measures it"
    if math.isinf(limit):
        return here, stays + f"copying host data to {there} and back takes longer than the operation ({source})."
    if size < limit:
        return here, stays + f"{size:.3g} is below the {limit:.3g} from which moving to {there} pays ({source})."
    return there, f"{what} moves to {there}: {size:.3g} reaches the {limit:.3g} from which that pays ({source})."


def _name(resident_on: object) -> str:
    name = str(resident_on)
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or not (index.isdecimal() or ":" not in name):
        raise InputError(f"placement got resident_on={resident_on!r}; it takes a device, or its name like 'cuda:0'.")
    return "cuda:0" if name == "cuda" else name


def _size(op: str, shape: Sequence[int]) -> int:
    try:
        whole = [n.__index__() for n in shape]
    except (TypeError, AttributeError):
        whole = [-1]
    if any(n < 0 for n in whole):
        raise InputError(f"placement got the shape {shape!r} for {op}; it takes whole numbers from 0.")
    return math.prod(whole)


def crossover(sizes: Sequence[float], here_seconds: Sequence[float], there_seconds: Sequence[float]) -> float:
    """Return the smallest size from which `there` (copies included) stays 1.15 times faster; ``inf`` when it never is.

    For ``save_tuned(profile, "crossover.OP", ...)``. Sizes rise; one slow outlier above the crossover moves it up, so
    that a decision to move is never wrong by much.

    Raises
    ------
    InputError
        If the three do not have one length, the sizes do not rise, or a time is not positive.
    """
    rows = list(zip(sizes, here_seconds, there_seconds, strict=False))
    if not (len(rows) == len(sizes) == len(here_seconds) == len(there_seconds)) or not rows:
        raise InputError(
            f"crossover got {len(sizes)} sizes, {len(here_seconds)} and {len(there_seconds)} times; it takes as many "
            "of each, at least one."
        )
    if any(not b > a for a, b in itertools.pairwise(sizes)) or any(not t > 0 for row in rows for t in row):
        raise InputError("crossover got sizes that do not rise or a time that is not above 0; measure again.")
    found = math.inf
    for size, here, there in reversed(rows):
        if here < MARGIN * there:
            break
        found = float(size)
    return found
