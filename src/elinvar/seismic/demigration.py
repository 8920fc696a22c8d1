"""Demigration: from an image to the traces whose migration it could be a part of. The adjoint of `migration`.

What happens to the traces on their way into the kernel (filters, copies for an anti-alias bank) is transposed by
differentiating it: it is linear, so its vector-Jacobian product is its adjoint. The kernel's own transpose is
``seismic.demigrate``. Everything else, from local coordinates to tables and tiles, is the code that migrates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as resolve_device
from elinvar.runtime.kernels import Kernel
from elinvar.runtime.transfers import to_host

from . import kernels as _registered  # importing registers the kernels
from .choosing import choose
from .finishing import divide, divisor, scale_line
from .image import Image
from .job import Item, Job, Pass, blocks, describe
from .lane import DeviceLane, Lane, State, _Block
from .options import KERNEL as MIGRATE
from .options import Options, check_options, resolve
from .traces import ArrayTraces

if TYPE_CHECKING:
    from .aperture import Aperture
    from .binning import Binning
    from .grid import Grid
    from .mute import Mute
    from .run import Progress
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["KERNEL", "Demigration", "demigrate"]

KERNEL = _registered.demigrate.NAME


def demigrate(
    image: Image | ArrayLike,
    survey: Survey,
    velocity: Velocity,
    grid: Grid | None = None,
    *,
    physics: str = "straight",
    eta: ArrayLike | None = None,
    aperture: Aperture | None = None,
    antialias: Literal["bank", "triangle"] | None = None,
    amplitude: str = "true",
    phase_filter: bool = True,
    interpolation: str = "linear",
    gathers: ArrayLike | Binning | None = None,
    kernel: str | None = None,
    device: Any = "auto",
    progress: Progress | None = None,
    area: float | None = None,
    oversample: int = 1,
    spacing: tuple[float, float] | None = None,
    in_flight: int | None = None,
    memory: int | None = None,
    normalize: Literal["fold", "illumination"] | None = None,
    mute: Mute | None = None,
    dimension: Literal["3d", "2.5d", "2d"] = "3d",
    datum: ArrayLike | str | None = None,
    replacement: float | None = None,
) -> Survey:
    """Spread an image over the traces of a survey: the exact adjoint of :func:`~elinvar.seismic.migrate`.

    With the same options, ``(migrate(d) * m).sum() == (d * demigrate(m)).sum()`` for all traces d and images m, up to
    rounding: on a CPU both ends round alike, and the two agree to about 1e-6. So the pair serves least-squares
    migration; :class:`~elinvar.seismic.LinearOperator` wraps it for SciPy and PyLops.

    It is not a simulation: the weight and the phase filter are those of the migration, transposed, not those of a wave.

    Parameters
    ----------
    image
        Amplitudes (nx, ny, nt): an array, or the :class:`~elinvar.seismic.Image` a migration returned. With `gathers`,
        (nx, ny, bins, nt), or an image that has gathers: each trace then comes from the panel of its own bin, and a
        trace of no bin is zero.
    survey
        Geometry, sampling and recording delays of the traces to make; its samples are not read.
    velocity, physics, eta, aperture, antialias, amplitude, phase_filter, interpolation, area, oversample, spacing
        As for the migration this is the adjoint of.
    grid
        Where the image is; may be left out when `image` is an :class:`~elinvar.seismic.Image`.
    gathers
        The bins of the migration, when it is its gathers that are to be demigrated and not the stack.
    kernel
        Version of the kernel ``seismic.demigrate``; by default the best for the device.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"`` ...
    progress
        Called with (traces done, traces in all) after every block.
    in_flight, memory
        As for the migration.
    normalize
        The adjoint of a normalised migration divides first, by the fold or illumination of the survey's live traces:
        that costs a migration. Traces that are silent, but live, count here.
    mute, dimension, datum, replacement
        As for the migration.

    Returns
    -------
    Survey
        The given one over other samples, held in memory: float32 (n, ns). Traces that are not live, or that no part of
        the grid sees, are zero.

    Raises
    ------
    InputError
        Options or shapes that do not fit, an image that is not finite, a grid out of the survey's reach.
    NotImplementedError
        An option that is not built yet, by name.
    """
    check_options(physics, eta, antialias, amplitude, interpolation, oversample, normalize, mute, dimension)
    if grid is None:
        if not isinstance(image, Image):
            raise InputError("demigrate: an array does not say where its samples are; give the grid.")
        grid = image.grid
    ways: dict[str, Any] = {"interpolation": interpolation, "oversample": oversample}
    ways |= {"antialias": antialias, "spacing": spacing, "normalize": normalize, "mute": mute}
    ways |= {"dimension": dimension, "datum": datum, "replacement": replacement}
    options = resolve(survey, velocity, grid, aperture, amplitude, phase_filter, gathers, area, physics, eta, **ways)
    chosen = choose(KERNEL, resolve_device(device), kernel, options.needs())
    work = Demigration(options, chosen, in_flight=in_flight, memory=memory)
    traces = work.run(_values(image, options), progress)
    made = survey.with_traces(ArrayTraces(traces))
    made.name = f"{survey.name}, demigrated"
    return made


def _values(image: Image | ArrayLike, options: Options) -> NDArray[np.float32]:
    """Return the samples to demigrate as (pillars, nt), or (pillars, bins, nt), float32 and finite."""
    bins = options.bins
    if isinstance(image, Image):
        if bins is not None and image.panels is None:
            raise InputError("demigrate: gathers are asked for and the image has none; migrate with gathers.")
        image = image.values if bins is None or image.panels is None else image.panels.values
    array = np.asarray(image)
    nx, ny, nt = options.grid.shape
    shape = (nx, ny, nt) if bins is None else (nx, ny, len(bins), nt)
    if array.shape != shape or array.dtype.kind not in "fiu":
        raise InputError(f"demigrate: image is {array.dtype} of shape {array.shape}; give real numbers {shape}.")
    if not np.isfinite(array).all():
        raise InputError("demigrate: image has samples that are not finite; replace them, with 0 where it has no fold.")
    return np.ascontiguousarray(array, np.float32).reshape(nx * ny, *shape[2:])


class Demigration:
    """A demigration that is planned once and may run for many images."""

    def __init__(
        self, options: Options, kernel: Kernel, *, in_flight: int | None = None, memory: int | None = None
    ) -> None:
        limits: dict[str, Any] = {"in_flight": in_flight, "budget_bytes": memory}
        self.divisor = None
        if options.normalize is not None:
            self.divisor = divisor(options, choose(MIGRATE, kernel.device, None, options.needs()), **limits)
        blank = options.survey.with_traces(_Blank(options.survey.traces.shape))
        self.options = replace(options, survey=blank)
        self.kernel = kernel
        self.job, steps = describe(self.options, kernel, **limits)
        # With gathers it is their panels that are transposed, and a trace of no bin is in none of them.
        self.steps = [step for step in steps if options.bins is None or step.bin is not None]

    def run(self, image: NDArray[np.float32], progress: Progress | None = None) -> NDArray[np.float32]:
        """Return traces (n, ns) for an image (pillars, nt) or gathers (pillars, bins, nt)."""
        traces = np.zeros(self.options.survey.traces.shape, np.float32)
        if self.divisor is not None or self.options.line:
            image = image.copy()
            if self.divisor is not None:
                divide(image, *self.divisor)
            scale_line(self.options, image)
        if self.steps:
            lane = _Adjoint(self.options, self.kernel, self.job, self.steps, image, traces)
            lane.run(_Board(self.options.survey, self.steps, progress), State())
        return traces


@dataclass(frozen=True)
class _Blank:
    """Samples of no survey: not zero, so that no trace passes for a dead one."""

    shape: tuple[int, int]

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.ones((len(index), self.shape[1]), np.float32)


class _Board:
    """What a lane reports to that works alone and keeps nothing on disk."""

    def __init__(self, survey: Survey, steps: Sequence[Pass], progress: Progress | None) -> None:
        self.survey, self.steps, self.progress = survey, steps, progress
        self.done, self.total = 0, sum(len(step.index) for step in steps)

    def items(self, lane: Lane, start: State) -> Iterator[Item]:
        return blocks(self.survey, self.steps, lane.job.block, start.step)

    def counted(self, lane: Lane, traces: int) -> None:
        del lane
        self.done += traces
        if self.progress is not None:
            self.progress(self.done, self.total)

    def arrive(self, lane: Lane) -> None:
        """Nothing to collect: the traces are where they belong."""


@dataclass(frozen=True, kw_only=True)
class _Outgoing(_Block):
    """Traces on their way out of the kernel: ``traces`` is what the migration would have made of `samples`."""

    index: NDArray[np.int64]
    samples: torch.Tensor


@dataclass(frozen=True)
class _Turned:
    """A demigration kernel that is called as a migration kernel is: the image is read, the traces are added to."""

    kernel: Kernel

    @property
    def device(self) -> Device:
        return self.kernel.device

    def __call__(self, image: Any, fold: Any, traces: Any, *rest: Any, **options: Any) -> None:
        del fold
        self.kernel(traces, image, *rest, **options)


class _Adjoint(DeviceLane):
    """A lane whose image stands still and whose traces are filled."""

    def __init__(
        self,
        options: Options,
        kernel: Kernel,
        job: Job,
        steps: Sequence[Pass],
        image: NDArray[np.float32],
        out: NDArray[np.float32],
    ) -> None:
        super().__init__(options, _Turned(kernel), job, steps)  # type: ignore[arg-type]
        self.given, self.out = image, out

    def _load(self, item: Item) -> _Block:
        """Take the geometry, and samples at zero through which to differentiate."""
        block = super()._load(item)
        samples = torch.zeros_like(block.traces, requires_grad=True)
        known = {f.name: getattr(block, f.name) for f in fields(block)}
        return _Outgoing(**{**known, "traces": samples}, index=item.index, samples=samples)

    def _prepare(self, block: _Block) -> _Block:
        """Do to these samples what a migration does, and remember how."""
        with torch.enable_grad():
            return super()._prepare(block)

    def _enter(self, step: Pass, start: State) -> None:
        part = self.given[step.pillars] if step.bin is None else self.given[step.pillars, step.bin]
        super()._enter(step, replace(start, image=np.ascontiguousarray(part)))

    def _add(self, result: _Block) -> None:
        """Fill the traces of one block and transpose what prepares them."""
        assert isinstance(result, _Outgoing)
        made = torch.zeros_like(result.traces, requires_grad=False)
        super()._add(replace(result, traces=made))
        if result.traces is not result.samples:
            (made,) = torch.autograd.grad(result.traces, result.samples, made)
        self.out[result.index] += to_host(made).numpy()
