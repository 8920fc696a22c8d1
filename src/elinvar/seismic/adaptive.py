"""A preview: every fourth line first, then only the pillars where something is.

A coarse pass migrates every `coarse`-th inline and crossline. Pillars of it whose largest amplitude reaches `threshold`
times the largest of all are kept, the set is grown by `dilate` coarse pillars to every side, and the fine pass migrates
the grid's pillars between kept ones, and no others. The rest is interpolated linearly from the coarse pass.

What is migrated is what :func:`~elinvar.seismic.migrate` gives there, to the rounding of float32. What is interpolated
is a picture, not data: fold 0 marks it. Events that are weaker than the threshold, or fall between the coarse lines,
are missing, and so is noise: where noise is above the threshold everywhere, everything is migrated and nothing saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from elinvar.errors import InputError

from ._check import count, number, optional_library
from .image import Image, Timing
from .job import Job
from .migration import migrate, plan
from .targets import pillars, thinned

if TYPE_CHECKING:
    from .grid import Grid
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["Cost", "Preview", "preview", "preview_cost"]

Flags = NDArray[np.bool_]
_REFUSED = ("gathers", "checkpoint")


@dataclass(frozen=True, eq=False)
class Preview:
    """A quick look at an image.

    Attributes
    ----------
    stage
        ``"coarse"``: all but the coarse lines is interpolated. ``"fine"``: the pillars where something is are migrated.
    image
        On the whole grid; fold 0 where it is interpolated. Its attribute ``preview`` says what it is.
    computed
        Pillars that were migrated, (nx, ny).
    wanted
        Pillars that hold something, (nx, ny): what the fine pass migrates.
    remaining_seconds
        How long the fine pass will take, judged by the coarse one; 0 after it.
    """

    stage: Literal["coarse", "fine"]
    image: Image
    computed: Flags
    wanted: Flags
    remaining_seconds: float

    @property
    def fraction(self) -> float:
        """Part of the pillars that was migrated."""
        return float(self.computed.mean())

    def correlation(self, full: Image) -> float:
        """Return the correlation coefficient of the amplitudes with those of the whole image."""
        if full.values.shape != self.image.values.shape:
            raise InputError(
                f"Preview.correlation: the images have shapes {self.image.values.shape} and {full.values.shape}."
            )
        a, b = (image.values.astype(np.float64).ravel() for image in (self.image, full))
        norm = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / norm if norm else 1.0

    def __str__(self) -> str:
        left = f", about {self.remaining_seconds:.1f} s to go" if self.stage == "coarse" else ""
        return (
            f"preview, {self.stage} pass: {100 * self.fraction:.1f} % of {self.computed.size:,} pillars migrated, the "
            f"rest interpolated; {100 * self.wanted.mean():.1f} % hold something{left}"
        )


@dataclass(frozen=True)
class Cost:
    """What a preview costs before it starts: its coarse pass, and the whole image it is an alternative to."""

    coarse: Job
    full: Job

    def __str__(self) -> str:
        share = self.coarse.contributions / max(self.full.contributions, 1.0)
        seconds = self.full.plan.seconds
        whole = f", about {seconds:.3g} s" if seconds is not None else ""
        first = f", about {seconds * share:.3g} s" if seconds is not None else ""
        return (
            f"preview: the coarse pass has {self.coarse.pillars:,} pillars and {self.coarse.contributions:.3g} "
            f"contributions{first}; the whole image {self.full.pillars:,} and {self.full.contributions:.3g}{whole}. "
            "The fine pass lies between, and is known after the coarse one."
        )


def preview_cost(survey: Survey, velocity: Velocity, grid: Grid, *, coarse: int = 4, **options: Any) -> Cost:
    """Say what a preview and the whole image would cost, without reading a sample.

    Parameters
    ----------
    survey, velocity, grid, **options
        As for :func:`~elinvar.seismic.plan`.
    coarse
        See :func:`preview`.
    """
    thin, _, _ = thinned(grid, count("preview", "coarse", coarse, minimum=2))
    return Cost(plan(survey, velocity, thin, **options), plan(survey, velocity, grid, **options))


@overload
def preview(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    *,
    coarse: int = ...,
    threshold: float = ...,
    dilate: int = ...,
    progressive: Literal[False] = ...,
    **options: Any,
) -> Preview: ...
@overload
def preview(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    *,
    coarse: int = ...,
    threshold: float = ...,
    dilate: int = ...,
    progressive: Literal[True],
    **options: Any,
) -> Iterator[Preview]: ...
def preview(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    *,
    coarse: int = 4,
    threshold: float = 0.001,
    dilate: int = 2,
    progressive: bool = False,
    **options: Any,
) -> Preview | Iterator[Preview]:
    """Look at an image before it is made (see the module for what is computed and what is not).

    Parameters
    ----------
    survey, velocity, grid, **options
        As for :func:`~elinvar.seismic.migrate`; gathers and checkpoints belong to a real image and are refused.
    coarse
        Every so many inlines and crosslines in the first pass.
    threshold
        Part of the coarse pass's largest amplitude above which a pillar holds something, in [0, 1]. The default keeps
        60 dB, noise included; 0.01 saves more and keeps 40 dB; 0 migrates everything.
    dilate
        Coarse pillars by which the kept set grows to every side.
    progressive
        Return an iterator that yields the coarse preview as soon as it is there, then the fine one; stop asking to stop
        computing.

    Returns
    -------
    Preview, or an iterator over the coarse and the fine one.
    """
    step = count("preview", "coarse", coarse, minimum=2)
    level = number("preview", "threshold", threshold, low=0.0, high=1.0)
    grown = count("preview", "dilate", dilate, minimum=0)
    for name in _REFUSED:
        if options.get(name) is not None:
            raise InputError(f"preview: {name} belongs to a real image; leave it out, or call migrate().")
    options = {k: v for k, v in options.items() if k not in _REFUSED}
    stages = _stages(survey, velocity, grid, step, level, grown, options)
    if progressive:
        return stages
    *_, last = stages
    return last


def _stages(
    survey: Survey, velocity: Velocity, grid: Grid, step: int, threshold: float, grown: int, options: dict[str, Any]
) -> Iterator[Preview]:
    thin, rows, columns = thinned(grid, step)
    first = migrate(survey, velocity, thin, **options)
    wanted = _wanted(first.values, rows, columns, threshold, grown)
    computed = np.zeros((grid.nx, grid.ny), bool)
    computed[np.ix_(rows, columns)] = True
    values = _interpolate(first.values, rows, columns, grid.shape)
    counts = np.zeros(grid.shape, np.int32)
    counts[np.ix_(rows, columns)] = first.counts
    rest = wanted & ~computed
    label = f"one line in {step}, threshold {threshold:g}, grown by {grown}; where the fold is 0 it is interpolated"
    spent = first.timing.total * rest.sum() / max(thin.size, 1)
    coarse = Image(grid, values, counts, None, first.timing, first.job, {**first.attributes, "preview": label})
    yield Preview("coarse", coarse, computed, wanted, float(spent))
    timing, job = first.timing, first.job
    values, counts, computed = values.copy(), counts.copy(), computed | rest
    if rest.any():
        second = migrate(survey, velocity, pillars(grid, rest), **options)
        values[rest], counts[rest] = second.values[:, 0], second.counts[:, 0]
        timing, job = _add(first.timing, second.timing), second.job
    fine = Image(grid, values, counts, None, timing, job, {**first.attributes, "preview": label})
    yield Preview("fine", fine, computed, wanted, 0.0)


def _wanted(
    coarse: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64], threshold: float, grown: int
) -> Flags:
    """Return the pillars of the whole grid that lie between coarse pillars which hold something."""
    loudest = np.abs(coarse).max(axis=2)
    kept = (loudest >= threshold * loudest.max()) & ((loudest > 0) | (threshold == 0))
    if grown and kept.any():
        around = np.ones((3, 3), bool)
        kept = optional_library("scipy.ndimage", "preview").binary_dilation(kept, around, iterations=grown)
    result = kept
    for axis, index in enumerate((rows, columns)):
        fine = np.arange(index[-1] + 1)
        above = np.searchsorted(index, fine)  # the coarse line at or after each fine one
        below = np.searchsorted(index, fine, side="right") - 1
        result = np.take(result, below, axis=axis) | np.take(result, above, axis=axis)
    return np.asarray(result, bool)


def _interpolate(
    coarse: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Fill the grid linearly between coarse lines, which keep their values to the bit."""
    result = coarse
    for axis, index in enumerate((rows, columns)):
        fine = np.arange(index[-1] + 1)
        low = np.clip(np.searchsorted(index, fine, side="right") - 1, 0, max(len(index) - 2, 0))
        high = np.minimum(low + 1, len(index) - 1)
        width = np.maximum(index[high] - index[low], 1)
        part = ((fine - index[low]) / width).astype(np.float32)
        part = part[:, None, None] if axis == 0 else part[None, :, None]
        first, second = (np.take(result, side, axis=axis) for side in (low, high))
        result = np.where(part == 1, second, np.where(part == 0, first, (1 - part) * first + part * second))
    assert result.shape == shape
    return np.ascontiguousarray(result, np.float32)


def _add(first: Timing, second: Timing) -> Timing:
    mine, yours = first.to_dict(), second.to_dict()
    return replace(first, **{name: mine[name] + yours[name] for name in mine})
