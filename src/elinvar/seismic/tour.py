"""The seismic part of ``elinvar tour``: a survey with a known answer, from SEG-Y to an image, beside a plain loop."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.report import bars, image_figure
from elinvar.runtime.kernels import kernel as choose_kernel

from ._check import optional_library
from .filters import phase_filter
from .grid import Grid
from .image import Image
from .migration import KERNEL, migrate
from .plain import compiled_loop, numpy_loop
from .survey import Survey, open_segy
from .synthetic import SyntheticSurvey, dataset

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from elinvar.report import Page
    from elinvar.runtime.device import Device

__all__ = ["Context", "Focus", "Rate", "focus", "plain_rates", "tour"]

_PATIENCE = 40.0  # seconds for the small survey's migration
_SMALL_OVER_TINY = 59.0  # its contributions over those of the tiny one


@dataclass(frozen=True)
class Focus:
    """Where an image peaks, and how far that is from the truth: metres, milliseconds."""

    place: tuple[float, float]
    time: float
    index: tuple[int, int, int]
    error_m: float
    error_ms: float


@dataclass(frozen=True)
class Rate:
    """Contributions per second of one way to migrate, and on how much work that was measured."""

    name: str
    contributions: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Contributions per second."""
        return self.contributions / self.seconds


class Context(Protocol):
    """What the tour's runner gives an engine; see ``elinvar.cli.tour``."""

    device: Device
    out: Path
    quick: bool
    engine: str
    seconds: dict[str, float]

    def progress(self, label: str, *, total: int | None = None, unit: str = "items") -> Any:
        """Return a context manager yielding ``report(done, total)``."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Trace, time and announce one stage."""

    def jit(self, what: str) -> AbstractContextManager[None]:
        """Time compilation on a line of its own."""


def focus(image: Image, truth: tuple[float, float, float]) -> Focus:
    """Find the peak of an image to a fraction of a sample, by parabolas along its three axes.

    Parameters
    ----------
    image
        A migrated diffractor.
    truth
        Its map coordinates in metres and two-way time in seconds.
    """
    values = image.values.astype(np.float64)
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(values)), values.shape))
    fine = [float(i) for i in at]
    for axis, i in enumerate(at):
        if 0 < i < values.shape[axis] - 1:
            line = np.moveaxis(values, axis, 0)[i - 1 : i + 2]
            others = tuple(n for a, n in enumerate(at) if a != axis)
            low, mid, high = (float(v[others]) for v in line)
            fine[axis] += 0.5 * (low - high) / (low - 2.0 * mid + high)
    x, y = (float(c) for c in image.grid.position(fine[0], fine[1]))
    when = image.grid.t0 + fine[2] * image.grid.dt
    error = float(np.hypot(x - truth[0], y - truth[1]))
    return Focus((x, y), when, (at[0], at[1], at[2]), error, 1e3 * (when - truth[2]))


def plain_rates(survey: Survey, grid: Grid, v: float, traces: int, pillars: int) -> tuple[list[Rate], float]:
    """Time the plain loops on some traces and pillars; return their rates and the seconds numba took to compile."""
    index = np.linspace(0, survey.n_traces - 1, traces).astype(np.int64)
    block = survey.block(index)
    samples = phase_filter(torch.from_numpy(block.traces), survey.dt).numpy()
    source, receiver = (grid.local(end).astype(np.float32) for end in (block.source, block.receiver))
    places = grid.local_pillars[np.linspace(0, grid.size - 1, pillars).astype(int)].astype(np.float32)
    times = grid.t.astype(np.float32)
    step, speed = np.float32(survey.dt), np.float32(v)
    loop = compiled_loop()
    begin = time.perf_counter()
    loop(samples[:1], step, source[:1], receiver[:1], places[:1], times, speed)
    compiling = time.perf_counter() - begin
    rates = []
    for name, run, n in (("plain numba loop, one thread", loop, pillars), ("numpy", numpy_loop, max(1, pillars // 8))):
        begin = time.perf_counter()
        _, work = run(samples, step, source, receiver, places[:n], times, speed)
        rates.append(Rate(name, work, time.perf_counter() - begin))
    return rates, compiling


def tour(page: Page, context: Context) -> None:
    """Add the seismic section to the tour's page."""
    for library in ("segyio", "xarray"):
        optional_library(library, "the seismic tour")
    with context.jit("the migration kernel"):
        choose_kernel(KERNEL, context.device)
    truth = dataset("tiny")
    with context.stage("try the tiny survey"):
        trial = migrate(truth, truth.velocity, truth.grid, device=context.device)
    # A machine without a fast kernel shows the same on less instead of keeping people waiting.
    name = "tiny" if context.quick or trial.timing.kernel > _PATIENCE / _SMALL_OVER_TINY else "small"
    if name == "small":
        truth = dataset(name)
    with tempfile.TemporaryDirectory(dir=context.out, prefix=".survey-") as folder:
        path = Path(folder) / f"{name}.sgy"
        with context.stage("write SEG-Y"):
            truth.write_segy(path)
        size = path.stat().st_size
        with context.stage("read headers"):
            survey = open_segy(path)
            grid = Grid.from_survey(survey)
        offsets = np.unique(np.round(truth.offset))
        edges = np.concatenate([[offsets[0] - 100.0], offsets + 100.0])
        with context.stage("migrate"), context.progress("migrating", total=survey.n_traces, unit="traces") as report:
            image = migrate(survey, truth.velocity, grid, gathers=edges, device=context.device, progress=report)
        with context.stage("plain loops"):
            rates, compiling = plain_rates(survey, grid, truth.truth["velocity"], 256, 8 if context.quick else 64)
        context.seconds[f"{context.engine}: compiling the plain numba loop"] = compiling
        found = focus(image, truth.truth["points"][0])
        _write(page, truth, survey, image, found, rates, size)


def _write(
    page: Page, truth: SyntheticSurvey, survey: Survey, image: Image, found: Focus, rates: list[Rate], size: int
) -> None:
    job, timing = image.job, image.timing
    mine = Rate(f"elinvar {job.version} on {image.job.plan.device}", image.contributions, timing.kernel)
    plain = rates[0]
    page.section(
        "Seismic: a survey becomes an image",
        "A point 800 m below the middle of the map scatters every wave into a hyperbola. Migration adds each sample "
        "back to where it may have come from; only the point itself adds up.",
    )
    page.facts(
        [
            (f"{found.error_m:.2f} m", "focus error on the map"),
            (f"{found.error_ms:+.3f} ms", "focus error in time"),
            (f"{mine.per_second / 1e9:.2f} G/s", "contributions per second"),
            (f"{mine.per_second / plain.per_second:.0f}x", "the plain numba loop (one thread)"),
        ]
    )
    with page.row():
        _recorded(page, truth)
        _section(page, image, found, "inline")
    with page.row():
        _section(page, image, found, "crossline")
        _slice(page, image, found)
    with page.row():
        _fold(page, image, found)
        _gather(page, image, found)
    ways = [mine, *rates]
    page.figure(
        bars(
            [w.name for w in ways],
            [w.per_second / 1e6 for w in ways],
            unit="M contributions/s",
            log=True,
            highlight=mine.name,
        ),
        caption=f"A contribution is one trace sample added to one image sample: {image.contributions:.3g} in this "
        f"image (the sum of its fold). The plain loops ran on {plain.contributions:.2g} and "
        f"{rates[1].contributions:.2g} of them; all are per second of wall clock, without compilation.",
    )
    page.table(
        [
            {
                "what": "survey",
                "value": f"{survey.n_traces:,} traces x {survey.n_samples} samples, {size / 1e6:.1f} MB of SEG-Y",
            },
            {"what": "image", "value": f"{image.grid.nx} x {image.grid.ny} bins x {image.grid.nt} times"},
            {"what": "kernel", "value": f"{KERNEL} {job.version} on {job.plan.device}: {job.why}"},
            {"what": "seconds", "value": _seconds(timing.to_dict())},
            {"what": "planned contributions", "value": f"{job.contributions:.3g} (found {image.contributions:.3g})"},
        ],
        caption="What ran. The stages overlap: their seconds may add up to more than the total.",
    )


def _seconds(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in parts.items())


def _clip(values: NDArray[Any]) -> tuple[float, float]:
    """Limits around zero that leave out the strongest half per cent: amplitudes, not one spike, set the scale."""
    top = float(np.percentile(np.abs(values), 99.5)) or 1.0
    return -top, top


def _recorded(page: Page, truth: SyntheticSurvey) -> None:
    """Show the survey's nearest offset along a line through the middle: what goes in."""
    near = truth.offset < truth.offset.min() + 1.0
    middle = np.abs(truth.midpoint[:, 0] - truth.grid.centre[0]) < 1.0
    north = near & middle & (np.abs(truth.azimuth) < 1.0)
    index = np.flatnonzero(north)
    line = truth.read(index).T
    y = truth.midpoint[index, 1] / 1e3
    figure = image_figure(
        line,
        x=(float(y[0]), float(y[-1])),
        y=(0.0, 1e3 * (truth.n_samples - 1) * truth.dt),
        xlabel="northing (km)",
        ylabel="recorded time (ms)",
        colours="gray",
        limits=_clip(line),
    )
    page.figure(figure, f"Recorded: offset {truth.offset[index[0]]:.0f} m, with 5 % noise. One point, one hyperbola.")


def _section(page: Page, image: Image, found: Focus, along: str) -> None:
    """Show a vertical section of the image through its peak."""
    grid, (i, j, _) = image.grid, found.index
    cut = image.values[i].T if along == "inline" else image.values[:, j].T
    step = grid.dy if along == "inline" else grid.dx
    number = grid.inlines[i] if along == "inline" else grid.crosslines[j]
    other = "crossline" if along == "inline" else "inline"
    figure = image_figure(
        cut,
        x=(0.0, (cut.shape[1] - 1) * step / 1e3),
        y=(1e3 * grid.t[0], 1e3 * grid.t[-1]),
        xlabel=f"distance along {other} axis (km)",
        ylabel="two-way time (ms)",
        colours="seismic",
        limits=_clip(cut),
    )
    page.figure(figure, f"Migrated: {along} {number}. The hyperbola is a point again.")


def _slice(page: Page, image: Image, found: Focus) -> None:
    """Show a map of the image at the time of its peak."""
    grid, k = image.grid, found.index[2]
    cut = image.values[:, :, k]
    figure = image_figure(
        cut,
        x=(0.0, (grid.ny - 1) * grid.dy / 1e3),
        y=(0.0, (grid.nx - 1) * grid.dx / 1e3),
        xlabel="crossline axis (km)",
        ylabel="inline axis (km)",
        colours="seismic",
        limits=_clip(cut),
    )
    page.figure(figure, f"Time slice at {1e3 * grid.t[k]:.0f} ms.")


def _fold(page: Page, image: Image, found: Focus) -> None:
    """Show how many traces contributed to each sample of the inline through the peak."""
    grid, (i, _, _) = image.grid, found.index
    cut = image.counts[i].T
    figure = image_figure(
        cut,
        x=(0.0, (grid.ny - 1) * grid.dy / 1e3),
        y=(1e3 * grid.t[0], 1e3 * grid.t[-1]),
        xlabel="distance along crossline axis (km)",
        ylabel="two-way time (ms)",
        colours="viridis",
        limits=(0.0, float(cut.max())),
    )
    page.figure(
        figure,
        f"Fold of inline {grid.inlines[i]}: 0 (dark) to {int(cut.max()):,} traces (bright) per sample. The aperture "
        "opens with depth; at the end, travel times leave the record.",
    )


def _gather(page: Page, image: Image, found: Focus) -> None:
    """Show the common-offset gather of the bin at the peak: with the right velocity it is flat."""
    common = image.panels
    assert common is not None
    grid, (i, j, k) = image.grid, found.index
    half = round(0.12 / grid.dt)
    window = slice(max(0, k - half), min(grid.nt, k + half + 1))
    panel = common.values[i, j, :, window].T
    figure = image_figure(
        panel,
        x=(float(common.centres[0]), float(common.centres[-1])),
        y=(1e3 * grid.t[window][0], 1e3 * grid.t[window][-1]),
        xlabel="offset (m)",
        ylabel="two-way time (ms)",
        colours="gray",
        limits=_clip(panel),
    )
    page.figure(
        figure,
        f"Offset gather of inline {grid.inlines[i]}, crossline {grid.crosslines[j]}. Flat: the velocity is right.",
    )
