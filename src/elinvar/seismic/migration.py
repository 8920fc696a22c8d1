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

from .checkpoint import Checkpoint, identity
from .choosing import choose
from .finishing import describe_weighed, lanes_of, run_of
from .job import Job
from .lane import Lane
from .options import KERNEL, Options, check_kinds, check_options, resolve
from .run import Progress
from .shards import Staff, workers_of
from .statics import warn_of_elevations

if TYPE_CHECKING:
    from .aperture import Aperture
    from .binning import Binning
    from .grid import Grid
    from .image import Image
    from .mute import Mute
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
    shards: int | None = None,
    normalize: Literal["fold", "illumination"] | None = None,
    mute: Mute | None = None,
    dimension: Literal["3d", "2.5d", "2d"] = "3d",
    datum: ArrayLike | str | None = None,
    replacement: float | None = None,
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
        Which midpoints contribute; by default ``Aperture()``, dips up to 45 degrees. It may also limit inline and
        crossline distances, the angles of the legs and the stretch.
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
        when it is known, else the grid's ``dx * dy``. Of lines, the interval in m: the side of that cell along the
        longer side of the grid.
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
        With `cluster`: into about how many parts the traces are cut. Each sends a whole image; by default two parts
        per worker, up to 32 as long as the images take less than a tenth of the time. The image's bits depend on it.
    normalize
        Divide the stack, and each gather, by its ``"fold"`` or by its ``"illumination"``, the sum of the weights of
        what was added: irregular coverage no longer shows as amplitude. The result is a mean of filtered traces, not a
        reflectivity. Samples of fold 0, or of less than 1 % of the largest illumination at their time, are 0. The
        illumination costs a second migration, in the same pass.
    mute
        What to leave out of the traces, neither summed nor counted: :class:`~elinvar.seismic.Mute`.
    dimension
        ``"3d"``; or ``"2d"`` and ``"2.5d"`` for midpoints along a line: the phase filter is then the half derivative,
        and the weight ``t0 / V sqrt(2 / (pi T^3)) * interval``. Both take traces that are corrected for spreading, 2-D
        ones (line sources, as 2-D modelling has them) for that of a cylinder, 2.5-D ones (points in the field) for that
        of a sphere; after that they are the same, and a flat reflector of reflectivity R comes out as R. With `datum`
        that is off by the ratio of the RMS velocities below it and of the whole leg.
    datum
        Elevation in metres that the image's times and velocities are counted from, one for all bins or (nx, ny), a
        floating datum; ``"floating"`` is :func:`~elinvar.seismic.floating_datum`. Legs then begin at each source's and
        receiver's elevation; the traces must not have been shifted by statics. Without it all is on one level, and
        heights that differ are warned of.
    replacement
        With `datum`: velocity in m/s between it and the surface. Curved rays take none; their medium goes on.

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
    check_kinds(survey, velocity, grid)
    check_options(physics, eta, antialias, amplitude, interpolation, oversample, normalize, mute, dimension)
    if datum is None:
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
        normalize,
        mute,
        dimension,
        datum,
        replacement,
    )
    begin = time.perf_counter()
    with contextlib.ExitStack() as held:
        staff = None if cluster is None else staff_of(cluster, held, devices, device, kernel, options)
        kernels = _kernels(devices_of(device, devices), kernel if staff is None else staff.workers.version, options)
        compiled = time.perf_counter() - begin
        session = None
        if checkpoint is not None:
            kept = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
            cut = {"memory": memory, "shards": None if staff is None else shards}
            session = held.enter_context(
                kept.open(identity(options, kernels, cut, None if staff is None else staff.workers))
            )
        job, steps = describe_weighed(
            options,
            kernels[0],
            lanes=len(kernels),
            layout=None if session is None else session.layout,
            in_flight=in_flight,
            budget_bytes=memory,
        )
        lanes: list[Lane] = lanes_of(options, kernels, job, steps)
        if staff is not None:
            job, lanes = staff.lane([options], job, steps, shards, session)
        if session is not None:
            session.begin(job.layout)
        return run_of(options, job, steps, lanes, session, progress).execute(compiled)


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
    normalize: Literal["fold", "illumination"] | None = None,
    mute: Mute | None = None,
    dimension: Literal["3d", "2.5d", "2d"] = "3d",
    datum: ArrayLike | str | None = None,
    replacement: float | None = None,
) -> Job:
    """Return what :func:`migrate` would do with these arguments, in numbers, without reading a sample.

    `rate` is contributions per second of one device, when they are known better than ``elinvar tune`` knows them.
    """
    check_options(physics, eta, antialias, "true", interpolation, oversample, normalize, mute, dimension)
    ways: dict[str, Any] = {"interpolation": interpolation, "oversample": oversample}
    ways |= {"antialias": antialias, "spacing": spacing, "normalize": normalize, "mute": mute}
    ways |= {"dimension": dimension, "datum": datum, "replacement": replacement}
    options = resolve(survey, velocity, grid, aperture, "true", True, gathers, None, physics, eta, **ways)
    kernels = _kernels(devices_of(device, devices), kernel, options)
    limits: dict[str, Any] = {"in_flight": in_flight, "budget_bytes": memory, "rate": rate}
    job, _ = describe_weighed(options, kernels[0], lanes=len(kernels), **limits)
    return job


def staff_of(
    where: Any,
    held: contextlib.ExitStack,
    devices: Sequence[Any] | str | None,
    device: Any,
    kernel: str | None,
    options: Options,
) -> Staff:
    """Return the workers that the argument `cluster` names; what is started for it ends with `held`."""
    from elinvar.runtime.cluster import ClusterExecutor, cluster

    if devices is not None:
        raise InputError("migrate: devices are of this process and cluster's are not; leave one out.")
    executor = where if isinstance(where, ClusterExecutor) else held.enter_context(cluster(where))
    workers = workers_of(executor, str(device), kernel, tuple(options.needs()))
    return Staff(executor, workers, str(device))


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


def _kernels(found: Sequence[Device], version: str | None, options: Options) -> list[Kernel]:
    """Return the kernel for each device: the same version on all of them, one that does what is asked."""
    needs = options.needs()
    first = choose(KERNEL, found[0], version, needs)
    return [first, *(choose(KERNEL, one, first.version, needs) for one in found[1:])]
