"""Prestack Kirchhoff time migration of a survey into a grid."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from elinvar.errors import InputError
from elinvar.runtime.device import device as resolve_device
from elinvar.runtime.kernels import kernel as choose_kernel
from elinvar.runtime.pipeline import Pipeline, Stage
from elinvar.runtime.trace import trace
from elinvar.runtime.transfers import to_device, to_host

from . import kernels as _registered  # importing registers the kernels
from ._check import choice, number
from .aperture import Aperture
from .binning import Assignment, Binning, binning
from .filters import phase_filter as apply_phase_filter
from .image import Gathers, Image, Timing
from .job import Job, Pass, blocks, describe
from .traveltime import PHYSICS

if TYPE_CHECKING:
    from elinvar.runtime.device import Device

    from .grid import Grid
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["KERNEL", "migrate", "plan"]

KERNEL = _registered.migrate.NAME
_PILLARS_AT_ONCE = 4096  # for velocities in float64 on their way to float32


def migrate(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
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
    checkpoint: Any = None,
    cluster: Any = None,
    progress: Callable[[int, int | None], object] | None = None,
    area: float | None = None,
) -> Image:
    """Migrate a survey: every sample of the image is the sum of the traces along its diffraction surface.

    Parameters
    ----------
    survey
        Traces and their geometry; streamed block by block, so it may be larger than memory.
    velocity
        RMS velocities, constant, V(t) or V(x, y, t).
    grid
        Where to make the image.
    physics
        ``"straight"``: the double square root with the RMS velocity at the image point. ``"curved"`` and ``"vti"`` have
        a reference (:func:`~elinvar.seismic.travel_time`) but no kernel yet and are refused.
    eta
        Anellipticity, for ``"vti"`` only.
    aperture
        Which midpoints contribute; by default ``Aperture()``, dips up to 45 degrees.
    antialias, checkpoint, cluster
        Not built yet: anything but None is refused.
    amplitude
        ``"true"``: weight ``2 t0 / (pi V^2 T^2) * area``; with the phase filter on and spreading-corrected traces, a
        reflector of reflectivity R in one common-offset volume is imaged with amplitude R at any offset and azimuth
        (stationary phase; Schneider 1978, Bleistein 1987). The stack adds the volumes: divide by their number for their
        mean. ``"none"``: no weight.
    phase_filter
        Apply ``-d/dt`` first, and undo the mean loss of the linear interpolation that follows (see
        :func:`~elinvar.seismic.filters.phase_filter`). Turn it off only for traces that are filtered already.
    interpolation
        ``"linear"``. ``"cubic"`` and ``"sinc8"`` are not built yet and refused.
    gathers
        What gathers to make: offset bin edges in metres (``edge <= offset < next``, the last bin closed), or an
        :class:`~elinvar.seismic.OffsetBins`, :class:`~elinvar.seismic.AzimuthSectors` or
        :class:`~elinvar.seismic.OffsetVectorTiles`. The stack is their sum plus the traces in no bin. Every trace is
        still read and migrated once.
    kernel
        Version of the kernel ``seismic.migrate``; by default the best for the device.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"`` ...
    progress
        Called with (traces done, traces in all) after every block.
    area
        Midpoint cell in m^2 that a trace of one common-offset volume stands for. By default the survey's ``bin_size``
        when it is known, else the grid's ``dx * dy``.

    Returns
    -------
    Image
        ``.image``, ``.fold``, ``.gathers`` (xarray), ``.timing``, ``.contributions``, ``.to_zarr(path)``.

    Raises
    ------
    InputError
        Options that do not fit, samples that are not finite, a grid out of the survey's reach.
    NotImplementedError
        An option that is not built yet, by name: it is never replaced by another one silently.
    """
    _check_options(physics, eta, antialias, amplitude, interpolation, checkpoint, cluster)
    options = _resolve(survey, velocity, grid, aperture, amplitude, phase_filter, gathers, area)
    return _Run(options, resolve_device(device), kernel).execute(progress)


def plan(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    *,
    aperture: Aperture | None = None,
    gathers: ArrayLike | Binning | None = None,
    kernel: str | None = None,
    device: Any = "auto",
) -> Job:
    """Return what :func:`migrate` would do with these arguments, in numbers, without reading a sample."""
    options = _resolve(survey, velocity, grid, aperture, "true", True, gathers, None)
    return _Run(options, resolve_device(device), kernel).job


def _resolve(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    aperture: Aperture | None,
    amplitude: str,
    phase_filter: bool,
    gathers: ArrayLike | Binning | None,
    area: float | None,
) -> _Options:
    """Fill in defaults and check what can be checked without reading."""
    if survey.n_samples < 2:
        raise InputError("migrate: the traces have 1 sample; interpolation needs at least 2.")
    if area is None:
        cell = (grid.dx, grid.dy) if survey.bin_size is None else survey.bin_size
        area = cell[0] * cell[1]
    return _Options(
        survey,
        velocity,
        grid,
        Aperture() if aperture is None else aperture,
        amplitude,
        bool(phase_filter),
        None if gathers is None else binning(gathers).assign(survey),
        number("migrate", "area", area, low=0.0, open_low=True),
    )


def _check_options(
    physics: str,
    eta: ArrayLike | None,
    antialias: str | None,
    amplitude: str,
    interpolation: str,
    checkpoint: Any,
    cluster: Any,
) -> None:
    choice("migrate", "physics", physics, PHYSICS)
    if physics != "straight":
        raise NotImplementedError(
            f"migrate: physics={physics!r} has no kernel yet (travel_time() computes it); physics='straight' runs."
        )
    if eta is not None:
        raise InputError("migrate: eta belongs to physics='vti'; leave it out.")
    if antialias is not None:
        choice("migrate", "antialias", antialias, ("bank", "triangle"))
        raise NotImplementedError(f"migrate: antialias={antialias!r} is not built yet; leave it out.")
    choice("migrate", "amplitude", amplitude, _registered.migrate.AMPLITUDES)
    choice("migrate", "interpolation", interpolation, ("linear", "cubic", "sinc8"))
    if interpolation != "linear":
        raise NotImplementedError(f"migrate: interpolation={interpolation!r} is not built yet; 'linear' is.")
    for name, value in (("checkpoint", checkpoint), ("cluster", cluster)):
        if value is not None:
            raise NotImplementedError(f"migrate: {name}={value!r} is not built yet; leave it out.")


@dataclass(frozen=True)
class _Block:
    """A trace block on its way to the kernel; the tensors move from host to device."""

    step: Pass
    count: int  # traces it stands for, silent ones included
    start: float
    traces: torch.Tensor
    source: torch.Tensor
    receiver: torch.Tensor


@dataclass(frozen=True)
class _Options:
    """What a user chose, resolved."""

    survey: Survey
    velocity: Velocity
    grid: Grid
    aperture: Aperture
    amplitude: str
    phase_filter: bool
    bins: Assignment | None
    area: float

    def attributes(self) -> dict[str, Any]:
        """Return what the image should remember, as plain values."""
        reach = self.aperture
        return {
            "survey": self.survey.name,
            "velocity": str(self.velocity),
            "physics": "straight",
            "amplitude": self.amplitude,
            "phase_filter": str(self.phase_filter),
            "area_m2": self.area,
            "aperture": f"dip {reach.dip}, radius {reach.radius}, taper {reach.taper}, minimum {reach.minimum}",
            "azimuth": self.grid.azimuth,
        }


class _Run:
    """One migration on one device: the resident part of the image, what has been collected, and the clocks."""

    def __init__(self, options: _Options, device: Device, version: str | None) -> None:
        self.options = options
        self.device = device
        begin = time.perf_counter()
        self.kernel = choose_kernel(KERNEL, device, version)
        self.compile_seconds = time.perf_counter() - begin
        self.job, self.steps = describe(
            options.survey, options.grid, options.velocity, options.aperture, options.bins, self.kernel
        )
        # One clock per thread that writes it.
        self.seconds = dict.fromkeys(("load", "filter", "transfer", "kernel", "store"), 0.0)

    def execute(self, progress: Callable[[int, int | None], object] | None) -> Image:
        """Stream every block through load, prepare and kernel; collect what each pass leaves."""
        begin = time.perf_counter()
        grid = self.options.grid
        bins = self.options.bins
        volumes = _Volumes(grid.size, 0 if bins is None else len(bins), grid.nt)
        done, total = 0, sum(len(step.index) for step in self.steps)
        stages = [
            Stage(self._load, name="seismic.load"),
            Stage(self._prepare, name="seismic.prepare", device=self.device),
        ]
        pool = self.device.pool
        with (
            pool.acquire((self.job.plan.tile_rows, grid.nt), torch.float32) as image,
            pool.acquire((self.job.plan.tile_rows, grid.nt), torch.int32) as fold,
            Pipeline(stages, in_flight=self.job.plan.in_flight) as pipeline,
        ):
            resident = _Resident(image.tensor, fold.tensor)
            for block in pipeline.run(blocks(self.options.survey, self.steps, self.job.block)):
                if resident.step is not block.step:
                    self._collect(resident, volumes)
                    self._enter(resident, block.step)
                self._accumulate(resident, block)
                done += block.count
                if progress is not None:
                    progress(done, total)
            self._collect(resident, volumes)
        clock = self.seconds
        timing = Timing(
            compile=self.compile_seconds,
            prepare=clock["load"] + clock["filter"],
            transfer=clock["transfer"],
            kernel=clock["kernel"],
            store=clock["store"],
            total=time.perf_counter() - begin,
        )
        members = [] if bins is None else [self._traces_in(number) for number in range(len(bins))]
        return volumes.image(grid, bins, members, timing, self.job, self.options.attributes())

    def _traces_in(self, number: int) -> int:
        """Count the traces of a gather bin; tiles may share some."""
        parts = [step.index for step in self.steps if step.bin == number]
        return len(np.unique(np.concatenate(parts))) if parts else 0

    def _load(self, item: tuple[Pass, NDArray[np.int64]]) -> _Block:
        """Read samples, drop silent traces, refuse broken ones, and move coordinates to the local frame."""
        step, index = item
        begin = time.perf_counter()
        block = self.options.survey.block(index)
        if not np.isfinite(block.traces).all():
            bad = int(index[np.flatnonzero(~np.isfinite(block.traces).all(axis=1))[0]])
            raise InputError(
                f"migrate: trace {bad} of {self.options.survey.name} has samples that are not finite; repair the file, "
                "or leave the trace out with survey.select()."
            )
        sounding = block.traces.any(axis=1)
        local = [self.options.grid.local(end[sounding]).astype(np.float32) for end in (block.source, block.receiver)]
        samples = block.traces if sounding.all() else block.traces[sounding]
        source, receiver = (torch.from_numpy(end) for end in local)
        self.seconds["load"] += time.perf_counter() - begin
        return _Block(step, len(index), float(block.delay[0]), torch.from_numpy(samples), source, receiver)

    def _prepare(self, block: _Block) -> _Block:
        """Copy to the device and filter there."""
        begin = time.perf_counter()
        traces, source, receiver = (to_device(x, self.device) for x in (block.traces, block.source, block.receiver))
        self._wait()
        copied = time.perf_counter()
        if self.options.phase_filter and len(traces):
            traces = apply_phase_filter(traces, self.options.survey.dt, interpolation="linear")
            self._wait()
        self.seconds["transfer"] += copied - begin
        self.seconds["filter"] += time.perf_counter() - copied
        return replace(block, traces=traces, source=source, receiver=receiver)

    def _enter(self, resident: _Resident, step: Pass) -> None:
        """Make a pass's part of the image resident; pillars and velocities go up once per tile."""
        if resident.step is None or resident.step.pillars != step.pillars:
            grid, velocity = self.options.grid, self.options.velocity
            pillars = grid.local_pillars[step.pillars].astype(np.float32)
            resident.pillars = to_device(torch.from_numpy(pillars), self.device)
            rows = step.pillars if velocity.varies_laterally else slice(0, 1)
            places = grid.pillars[rows]
            vrms = np.concatenate(
                [
                    velocity.on_pillars(grid.t, places[first : first + _PILLARS_AT_ONCE]).astype(np.float32)
                    for first in range(0, len(places), _PILLARS_AT_ONCE)
                ]
            )
            resident.vrms = to_device(torch.from_numpy(vrms), self.device)
        resident.step = step
        resident.image.zero_()
        resident.fold.zero_()

    def _accumulate(self, resident: _Resident, block: _Block) -> None:
        """Add one block to the resident image."""
        assert resident.step is not None
        if not len(block.traces):
            return
        n = resident.step.pillars.stop - resident.step.pillars.start
        begin = time.perf_counter()
        with trace("seismic.kernel", traces=len(block.traces), pillars=n):
            self.kernel(
                resident.image[:n],
                resident.fold[:n],
                block.traces,
                block.source,
                block.receiver,
                resident.pillars,
                resident.vrms,
                dt=self.options.survey.dt,
                start=block.start,
                dt_out=self.options.grid.dt,
                t0_out=self.options.grid.t0,
                amplitude=self.options.amplitude,
                aperture=self.options.aperture.for_kernel(),
                area=self.options.area,
            )
            self._wait()
        self.seconds["kernel"] += time.perf_counter() - begin

    def _collect(self, resident: _Resident, volumes: _Volumes) -> None:
        """Add the resident part to the volumes on the host."""
        if resident.step is None:
            return
        begin = time.perf_counter()
        with trace("seismic.store"):
            n = resident.step.pillars.stop - resident.step.pillars.start
            volumes.add(resident.step, to_host(resident.image[:n]).numpy(), to_host(resident.fold[:n]).numpy())
        self.seconds["store"] += time.perf_counter() - begin

    def _wait(self) -> None:
        """Wait for this thread's work on the device, so that the clocks mean something."""
        if self.device.kind == "cuda":
            torch.cuda.current_stream(self.device.torch).synchronize()
        elif self.device.kind == "mps":
            self.device.synchronize()


class _Resident:
    """The part of the image that is on the device, for one pass."""

    pillars: torch.Tensor
    vrms: torch.Tensor

    def __init__(self, image: torch.Tensor, fold: torch.Tensor) -> None:
        self.image = image
        self.fold = fold
        self.step: Pass | None = None


class _Volumes:
    """Host arrays that passes are added to, in pass order: the same bits whatever the timing."""

    def __init__(self, pillars: int, bins: int, nt: int) -> None:
        self.stack = np.zeros((pillars, nt), np.float32)
        self.fold = np.zeros((pillars, nt), np.int32)
        self.panels = np.zeros((pillars, bins, nt), np.float32)
        self.panel_fold = np.zeros((pillars, bins, nt), np.int32)

    def add(self, step: Pass, image: NDArray[np.float32], fold: NDArray[np.int32]) -> None:
        """Add one pass to the stack and, when it belongs to a bin, to its gather."""
        self.stack[step.pillars] += image
        self.fold[step.pillars] += fold
        if step.bin is not None:
            self.panels[step.pillars, step.bin] = image
            self.panel_fold[step.pillars, step.bin] = fold

    def image(
        self,
        grid: Grid,
        bins: Assignment | None,
        members: list[int],
        timing: Timing,
        job: Job,
        attributes: dict[str, Any],
    ) -> Image:
        """Label the volumes."""
        panels = None
        if bins is not None:
            shape = (grid.nx, grid.ny, len(bins), grid.nt)
            panels = Gathers(bins.axis, self.panels.reshape(shape), self.panel_fold.reshape(shape), tuple(members))
        stack, fold = self.stack.reshape(grid.shape), self.fold.reshape(grid.shape)
        return Image(grid, stack, fold, panels, timing, job, attributes)
