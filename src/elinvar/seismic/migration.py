"""Prestack Kirchhoff time migration of a survey into a grid."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import ArrayLike

from elinvar.errors import InputError
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as resolve_device
from elinvar.runtime.device import devices as present_devices
from elinvar.runtime.kernels import Kernel
from elinvar.runtime.kernels import kernel as choose_kernel

from .checkpoint import Checkpoint, identity
from .job import Job, describe
from .kernels.migrate import require
from .lane import DeviceLane, Lane
from .options import KERNEL, check_options, resolve
from .run import Progress, Run
from .shards import SHARDS, ShardLane, shard_traces, workers_of
from .statics import warn_of_elevations

if TYPE_CHECKING:
    from elinvar.runtime.cluster import ClusterExecutor

    from .aperture import Aperture
    from .binning import Binning
    from .grid import Grid
    from .image import Image
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["KERNEL", "devices_of", "migrate", "plan"]


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
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
    cluster: Any = None,
    progress: Progress | None = None,
    area: float | None = None,
    oversample: int = 1,
    spacing: tuple[float, float] | None = None,
    devices: Sequence[Any] | str | None = None,
    in_flight: int | None = None,
    memory: int | None = None,
    shards: int = SHARDS,
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
        ``"straight"``: the double square root with the RMS velocity at the image point. ``"curved"``: exact rays in
        ``v0 + k z``; needs ``Velocity.linear`` or ``Velocity.constant``. ``"vti"``: each leg with the anellipticity
        `eta` (Alkhalifah and Tsvankin 1995); the velocity is then the NMO velocity.
        :func:`~elinvar.seismic.travel_time` computes all three in float64.
    eta
        Anellipticity for ``"vti"``, and only for it, in [-0.5, 0.5]: a number, one value per output time (nt,), or one
        per point of the grid (nx, ny, nt).
    aperture
        Which midpoints contribute; by default ``Aperture()``, dips up to 45 degrees.
    antialias
        What keeps steep operators from aliasing: ``"bank"`` reads traces from copies low-passed in half octaves, chosen
        by the operator's slope between neighbouring midpoints (Gray 1992; Abma, Sun and Bernitsas 1999), ``"triangle"``
        does so with triangles as filters (Claerbout 1992), which leave more noise. None filters nothing.
    amplitude
        ``"true"``: weight ``2 t0 / (pi V^2 T^2) * area``; with the phase filter on and spreading-corrected traces, a
        reflector of reflectivity R in one common-offset volume is imaged with amplitude R at any offset and azimuth
        (stationary phase; Schneider 1978, Bleistein 1987). The stack adds the volumes: divide by their number for their
        mean. Curved rays and VTI take the same weight with their own T and the RMS (NMO) velocity. That is exact for
        a flat reflector at zero offset, where their travel times bend as the straight one does, and an approximation
        elsewhere. ``"none"``: no weight.
    phase_filter
        Apply ``-d/dt`` first, and undo the mean loss of the linear interpolation that follows (see
        :func:`~elinvar.seismic.filters.phase_filter`). Turn it off only for traces that are filtered already.
    interpolation
        How traces are read between their samples: ``"linear"``, ``"cubic"`` (Keys 1981) or ``"sinc8"`` (eight
        neighbours under a Hann window); each costs about twice the time of the one before.
    gathers
        What gathers to make: offset bin edges in metres (``edge <= offset < next``, the last bin closed), or an
        :class:`~elinvar.seismic.OffsetBins`, :class:`~elinvar.seismic.AzimuthSectors` or
        :class:`~elinvar.seismic.OffsetVectorTiles`. The stack is their sum plus the traces in no bin. Every trace is
        still read and migrated once.
    kernel
        Version of the kernel ``seismic.migrate``; by default the best for the device.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"`` ...
    checkpoint
        A folder, or a :class:`~elinvar.seismic.Checkpoint`: what is done is kept there, and the same call later goes on
        from it and makes the same image to the bit, however the first one ended. It is yours to ``clear()`` once the
        image is stored.
    cluster
        ``"local"``, the address of a Dask scheduler (``"tcp://host:8786"``), a ``distributed.Client``, or what
        :func:`elinvar.runtime.cluster.cluster` returned: the traces are cut into shards, each worker migrates whole
        shards on its own `device`, and the images are added in the order of the shards.
    progress
        Called with (traces done, traces in all) after every block.
    area
        Midpoint cell in m^2 that a trace of one common-offset volume stands for. By default the survey's ``bin_size``
        when it is known, else the grid's ``dx * dy``.
    oversample
        2 puts a sample between any two of the traces first, from their spectrum: the interpolation then errs far less
        at high frequencies, at a third of the speed or better and with traces twice as long in memory.
    spacing
        For `antialias`, distances of neighbouring midpoints along the grid's inline and crossline axes in metres; 0
        where there are none, on a single line. By default the survey's ``bin_size`` when it is known, else the grid's
        ``dx`` and ``dy``.
    devices
        Several devices of this process in place of `device`: ``("cuda:0", "cuda:1")``, or ``"all"`` GPUs. Each
        migrates its share of the blocks, always the same ones; their images are added in this order.
    in_flight
        Blocks that exist at a time; by default what the plan says.
    memory
        Bytes of each device that may be used; the image is made in tiles when it does not fit. By default the
        device's recommended budget.
    shards
        With `cluster`: into how many parts the traces are cut. More keep more workers busy; each sends a whole image.

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
    Cancelled
        The run was paused; what is done is in the checkpoint.
    """
    check_options(physics, eta, antialias, amplitude, interpolation, oversample)
    warn_of_elevations(survey)
    options = resolve(
        survey,
        velocity,
        grid,
        aperture,
        amplitude,
        phase_filter,
        gathers,
        area,
        physics,
        eta,
        interpolation,
        oversample,
        antialias,
        spacing,
    )
    begin = time.perf_counter()
    with contextlib.ExitStack() as held:
        workers = None
        if cluster is not None:
            if devices is not None:
                raise InputError("migrate: devices are of this process and cluster's are not; leave one out.")
            executor = _executor(cluster, held)
            workers = workers_of(executor, str(device), kernel)
            kernel = workers.version
        kernels = _kernels(devices_of(device, devices), kernel)
        require(kernels[0].version, **options.features())
        compiled = time.perf_counter() - begin
        session = None
        if checkpoint is not None:
            kept = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
            cut = {"memory": memory, "shards": None if workers is None else shards}
            session = held.enter_context(kept.open(identity(options, kernels, cut, workers)))
        job, steps = describe(
            options,
            kernels[0],
            lanes=len(kernels),
            layout=None if session is None else session.layout,
            in_flight=in_flight,
            budget_bytes=memory,
        )
        if session is not None:
            session.begin(job.layout)
        lanes: list[Lane] = [DeviceLane(options, chosen, job, steps, i) for i, chosen in enumerate(kernels)]
        if workers is not None:
            size = shard_traces(job, shards)
            lanes = [ShardLane(options, job, steps, executor, workers, str(device), size)]
        return Run(options, job, steps, lanes, session, progress).execute(compiled)


def plan(
    survey: Survey,
    velocity: Velocity,
    grid: Grid,
    *,
    physics: str = "straight",
    eta: ArrayLike | None = None,
    aperture: Aperture | None = None,
    antialias: Literal["bank", "triangle"] | None = None,
    interpolation: str = "linear",
    gathers: ArrayLike | Binning | None = None,
    kernel: str | None = None,
    device: Any = "auto",
    oversample: int = 1,
    spacing: tuple[float, float] | None = None,
    devices: Sequence[Any] | str | None = None,
    in_flight: int | None = None,
    memory: int | None = None,
    rate: float | None = None,
) -> Job:
    """Return what :func:`migrate` would do with these arguments, in numbers, without reading a sample.

    `rate` is contributions per second of one device, when they are known better than ``elinvar tune`` knows them.
    """
    check_options(physics, eta, antialias, "true", interpolation, oversample)
    ways: dict[str, Any] = {"interpolation": interpolation, "oversample": oversample}
    ways |= {"antialias": antialias, "spacing": spacing}
    options = resolve(survey, velocity, grid, aperture, "true", True, gathers, None, physics, eta, **ways)
    kernels = _kernels(devices_of(device, devices), kernel)
    require(kernels[0].version, **options.features())
    job, _ = describe(options, kernels[0], lanes=len(kernels), in_flight=in_flight, budget_bytes=memory, rate=rate)
    return job


def _executor(where: Any, held: contextlib.ExitStack) -> ClusterExecutor:
    from elinvar.runtime.cluster import ClusterExecutor, cluster

    return where if isinstance(where, ClusterExecutor) else held.enter_context(cluster(where))


def devices_of(device: Any, devices: Sequence[Any] | str | None) -> list[Device]:
    """Return the devices that the arguments `device` and `devices` name."""
    if devices is None:
        return [resolve_device(device)]
    if isinstance(devices, str):
        if devices != "all":
            raise InputError(f"migrate: devices is {devices!r}; give a list such as ('cuda:0', 'cuda:1'), or 'all'.")
        return [one for one in present_devices() if one.kind != "cpu"] or [resolve_device("cpu")]
    found = [resolve_device(one) for one in devices]
    if not found or len(set(found)) < len(found):
        named = ", ".join(map(str, found)) or "none"
        raise InputError(f"migrate: devices are {named}; name each once, and one at least.")
    return found


def _kernels(found: Sequence[Device], version: str | None) -> list[Kernel]:
    """Return the kernel for each device: the same version on all of them."""
    first = choose_kernel(KERNEL, found[0], version)
    return [first, *(choose_kernel(KERNEL, one, first.version) for one in found[1:])]
