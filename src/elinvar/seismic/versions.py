"""Versions of the migration kernel beside each other, as whole jobs: how fast, how alike, and where the seconds go.

``elinvar bench seismic`` on the command line. Every version migrates the same survey into the same part of the same
grid, round by round. A part is enough: the work of a pillar does not depend on the others, and the plain loop of
``baseline`` would take days for the large data set. What part it is stands in the result.
"""

from __future__ import annotations

import inspect
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from elinvar.bench import Result, Work, interleave
from elinvar.bench.samples import Samples
from elinvar.errors import ElinvarError, InputError
from elinvar.runtime import kernels as registry
from elinvar.runtime.device import Device
from elinvar.runtime.device import device as resolve_device
from elinvar.runtime.tuning import save_tuned

from . import synthetic
from ._check import choice, count
from .migration import migrate, plan
from .options import KERNEL
from .targets import lines
from .traces import ArrayTraces

if TYPE_CHECKING:
    from .grid import Grid
    from .image import Image
    from .survey import Survey
    from .velocity import Velocity

__all__ = ["BARS", "DATASETS", "MOST", "Setup", "compare_versions", "setup", "sweep", "tuned_rate"]

DATASETS = ("tiny", "small", "medium", "large")
#: Wanted speed-up over baseline.
BARS: Mapping[str, float] = {"v1": 1.5, "v2": 3.0, "v3": 5.0}
#: Contributions of one run, by kind of device.
MOST: Mapping[str, float] = {"cpu": 1e9, "cuda": 1e12, "mps": 1e11}
AGREE = 2e-4  # relative L2 between versions
_HELD = 1 << 30  # bytes of samples that are made and kept; a larger data set gets noise
_CLOCKS = ("compile", "prepare", "transfer", "kernel", "store", "total")


@dataclass(frozen=True)
class Setup:
    """A data set, ready to be migrated into a part of its grid."""

    name: str
    survey: Survey
    velocity: Velocity
    grid: Grid
    whole: Grid

    @property
    def share(self) -> float:
        """Part of the data set's grid that is migrated."""
        return self.grid.size / self.whole.size


@dataclass(frozen=True)
class _Noise:
    """Traces that are windows into a pool of noise: a survey of any size in a little memory."""

    pool: NDArray[np.float32]
    shape: tuple[int, int]

    def read(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the traces at `index`."""
        first = index * 7919 % (len(self.pool) - self.shape[1])
        return np.stack([self.pool[at : at + self.shape[1]] for at in first])


def setup(name: str, most: float, device: Any = "cpu") -> Setup:
    """Return a data set of :func:`elinvar.seismic.synthetic.dataset` and as many lines of its grid as `most` allows.

    Parameters
    ----------
    name
        One of `DATASETS`. Samples are those of the data set up to 1 GiB, noise beyond.
    most
        Contributions of one migration, about.
    device
        Where it will run.
    """
    choice("bench seismic", "dataset", name, DATASETS)
    made = synthetic.dataset(name)
    if 4 * made.n_traces * made.n_samples <= _HELD:
        survey = made.with_traces(ArrayTraces(made.read()))
    else:
        pool = np.random.default_rng(3).standard_normal(1 << 23, dtype=np.float32)
        survey = made.with_traces(_Noise(pool, (made.n_traces, made.n_samples)))
    whole = made.grid
    work = plan(survey, made.velocity, whole, device=device).contributions
    rows, columns = whole.nx, whole.ny
    if work > most:
        rows = max(1, int(whole.nx * most / work))
        columns = max(1, min(whole.ny, int(whole.size * most / work / rows)))
    part = lines(whole, _spread(whole.inlines, rows), _spread(whole.crosslines, columns))
    return Setup(name, survey, made.velocity, part, whole)


def _spread(numbers: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return `n` of the numbers, the same distance from each other and from the ends."""
    return numbers[((np.arange(n) + 0.5) * len(numbers) / n).astype(np.int64)]


def compare_versions(
    versions: Sequence[str] | None = None,
    datasets: Sequence[str] = ("tiny", "small"),
    *,
    runs: int = 7,
    warmup: int = 1,
    device: Any = "auto",
    most: float | None = None,
    clock: str = "wall",
    **options: Any,
) -> Result:
    """Migrate data sets with several versions of the kernel, round by round.

    Parameters
    ----------
    versions
        Of the kernel ``seismic.migrate``; all that run on the device by default.
    datasets
        Of `DATASETS`.
    runs, warmup
        Migrations of each version, and how many before are not timed.
    device
        Where.
    most
        Contributions of one migration, about, so that the slowest version ends; `MOST` by default.
    clock
        ``"wall"``, or ``"process_cpu"`` on a CPU that others use too.
    **options
        More options of :func:`~elinvar.seismic.migrate`: physics, antialias, ...

    Returns
    -------
    Result
        One row per data set and version, seconds of whole migrations. ``extras["datasets"]`` has traces, image samples,
        contributions, the seconds of each stage, speed-ups over baseline, how far apart the images are, and whether
        every run made the same bits.

    Raises
    ------
    InputError
        No such data set or version.
    """
    for name in datasets:
        choice("bench seismic", "dataset", name, DATASETS)
    place = resolve_device(device)
    wanted = list(versions or _available(place))
    for version in wanted:
        registry.kernel(KERNEL, place, version)  # compiles, or says that there is no such version here
    samples: dict[str, Samples] = {}
    told: dict[str, Any] = {}
    for name in datasets:
        case = setup(name, MOST[place.kind] if most is None else most, place)
        rows = {version: _Row(case, version, place, options) for version in wanted}
        work = Work(items=float(rows[wanted[0]].image.contributions), unit="contributions")
        named = {f"{name} {version}": row for version, row in rows.items()}
        samples |= interleave(named, runs=runs, warmup=warmup, work=work, device=str(place), clock=clock)
        told[name] = _told(case, rows, {v: samples[f"{name} {v}"] for v in rows}, runs)
    extras = {"device": str(place), "kernel": KERNEL, "bars": {"speedup": dict(BARS), "agree": AGREE}, "datasets": told}
    return Result("seismic", samples, extras={**extras, "options": {k: str(v) for k, v in options.items()}})


def _available(place: Device) -> list[str]:
    """Return the versions that run on a device, oldest first."""
    family = "metal" if place.kind != "cpu" else "cpu"
    return [each.version for each in reversed(registry.versions(KERNEL)) if getattr(each, family) is not None]


class _Row:
    """One version on one data set; a call is one migration."""

    def __init__(self, case: Setup, version: str, place: Device, options: Mapping[str, Any]) -> None:
        self._call: Callable[[], Image] = lambda: migrate(
            case.survey, case.velocity, case.grid, kernel=version, device=place, **options
        )
        self.image = self._call()
        self.same = True
        self.timings: list[dict[str, float]] = []

    def __call__(self) -> None:
        made = self._call()
        self.timings.append(made.timing.to_dict())
        self.same = self.same and made.values.tobytes() == self.image.values.tobytes()


def _told(case: Setup, rows: Mapping[str, _Row], samples: Mapping[str, Samples], runs: int) -> dict[str, Any]:
    """Return what is worth knowing about one data set."""
    first = rows.get("baseline") or next(iter(rows.values()))
    found: dict[str, dict[str, Any]] = {}
    for version, row in rows.items():
        spent = {clock: statistics.median(each[clock] for each in row.timings[-runs:]) for clock in _CLOCKS}
        found[version] = {
            "seconds": spent,
            "contributions_per_second": row.image.contributions / max(spent["kernel"], 1e-9),
            "relative_l2": _relative(row.image.values, first.image.values),
            "same_fold": bool(np.array_equal(row.image.counts, first.image.counts)),
            "same_bits_every_run": row.same,
        }
    if "baseline" in rows:
        for version, row_told in found.items():
            kernel = found["baseline"]["seconds"]["kernel"] / max(row_told["seconds"]["kernel"], 1e-9)
            whole = samples["baseline"].median / samples[version].median
            row_told["speedup"] = {"kernel": kernel, "whole": whole}
            row_told["bar"] = BARS.get(version)
    image = first.image
    return {
        "traces": case.survey.n_traces,
        "traces_near": image.job.traces,
        "samples": case.survey.n_samples,
        "image_samples": image.values.size,
        "share_of_image": case.share,
        "contributions": image.contributions,
        "data": "noise" if isinstance(case.survey.traces, _Noise) else "synthetic",
        "versions": found,
    }


def _relative(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-300)


def tuned_rate(place: Device) -> float:
    """Return contributions per second of the kernel that runs by default; on a GPU, with the settings that sweep best.

    For ``elinvar tune``: a fifth of a second of straight rays on a CPU, and some sixteen compilations on a GPU.
    """
    if place.kind != "cpu":
        swept = registry.kernel(KERNEL, place)
        if swept.backend == "metal" and _launch(swept.version) is not None:
            sweep(version=swept.version, device=place, runs=3, keep=True)
    case = setup("tiny", 0.3 * MOST[place.kind], place)
    rates = []
    for _ in range(4):  # the first compiles
        image = migrate(case.survey, case.velocity, case.grid, device=place)
        rates.append(image.contributions / max(image.timing.kernel, 1e-9))
    return statistics.median(rates[1:])


# -------------------------------------------------------------------- settings of the GPU kernels


def sweep(
    group_sizes: Sequence[int] = (64, 128, 256, 512),
    unrolls: Sequence[int] = (1, 2, 4, 8),
    *,
    version: str = "v2",
    dataset: str = "small",
    runs: int = 7,
    warmup: int = 1,
    device: Any = "auto",
    most: float | None = None,
    keep: bool = False,
) -> Result:
    """Time a kernel of the GPU with every group size and number of output samples per lane.

    Parameters
    ----------
    group_sizes
        Threads per threadgroup: multiples of 32, one pillar per 32.
    unrolls
        Output samples per lane.
    version, dataset, runs, warmup, device, most
        As for :func:`compare_versions`. Times are of the kernel alone.
    keep
        Store the fastest as ``option.seismic.migrate.VERSION`` of this device, where `elinvar tune` keeps things.

    Raises
    ------
    InputError
        On the CPU, whose kernels have no such settings: their widths are those of its vectors and caches. Sizes that
        are no multiple of 32.
    """
    place = resolve_device(device)
    if place.kind == "cpu":
        raise InputError(
            "bench seismic: group sizes and unrolls are settings of the GPU kernels, which the emulator cannot time; "
            "the CPU's kernels take their widths from its vectors and caches: sweep on a GPU, --device cuda."
        )
    case = setup(dataset, MOST[place.kind] if most is None else most, place)
    return _sweep(case, group_sizes, unrolls, version, place, runs, warmup, keep=keep)


def _sweep(
    case: Setup,
    group_sizes: Sequence[int],
    unrolls: Sequence[int],
    version: str,
    place: Device,
    runs: int,
    warmup: int,
    *,
    keep: bool,
) -> Result:
    launch = _launch(version)
    if launch is None:
        raise InputError(f"bench seismic: version {version!r} has no group size and unroll to sweep; v2 has.")
    tunings = _tunings(group_sizes, unrolls)
    args, axes = _arguments(case, place)
    rows: dict[str, Callable[[], object]] = {}
    images: dict[str, torch.Tensor] = {}
    refused: dict[str, str] = {}
    contributions = 0
    for name, tuning in tunings.items():
        for tensor in args[:2]:
            tensor.zero_()
        try:
            launch(*args, **axes, device=place, tuning=tuning)
        except ElinvarError as error:  # too many registers or threads for this device
            refused[name] = str(error)
            continue
        images[name], contributions = args[0].cpu(), int(args[1].sum(dtype=torch.int64))
        rows[name] = partial(launch, *args, **axes, device=place, tuning=tuning)
    if not rows:
        raise InputError(f"bench seismic: no setting runs on {place}: {next(iter(refused.values()))}")
    work = Work(items=float(contributions), unit="contributions")
    clock = "cuda_events" if place.kind == "cuda" else "wall"
    samples = interleave(rows, runs=runs, warmup=warmup, work=work, device=str(place), clock=clock)
    best = min(samples, key=lambda name: samples[name].median)
    first = next(iter(images.values())).numpy()
    facts = {
        name: {
            "contributions_per_second": samples[name].rate,
            "relative_l2": _relative(images[name].numpy(), first),
            "simdgroups": tunings[name].simdgroups,
            "samples": tunings[name].samples,
        }
        for name in rows
    }
    if keep:
        value = {"simdgroups": tunings[best].simdgroups, "samples": tunings[best].samples}
        save_tuned(place.profile, f"option.{KERNEL}.{version}", value)
    told: dict[str, Any] = {
        "dataset": case.name,
        "version": version,
        "contributions": work.items,
        "best": best,
        "settings": facts,
    }
    told["refused"] = refused
    return Result("seismic_sweep", samples, extras={**told, "device": str(place), "kept": keep})


def _launch(version: str) -> Callable[..., object] | None:
    """Return what launches a version on a GPU, None when it has no settings."""
    found = registry.default_registry.version(KERNEL, version)
    if found.metal is None:
        return None
    launch = found.implementation("metal")
    return launch if "tuning" in inspect.signature(launch).parameters else None


def _tunings(group_sizes: Sequence[int], unrolls: Sequence[int]) -> dict[str, Any]:
    """Return every pair of settings by its name."""
    from .kernels.migrate.metal import Tuning

    found = {}
    for size in group_sizes:
        if count("bench seismic", "group size", size, minimum=32) % 32:
            raise InputError(f"bench seismic: group size {size} is no multiple of 32.")
        for unroll in unrolls:
            tuning = Tuning(simdgroups=size // 32, samples=count("bench seismic", "unroll", unroll))
            found[f"group {size}, unroll {unroll}"] = tuning
    return found


def _arguments(case: Setup, place: Device) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Return what a launch of the kernel takes for one block of traces near the part of the grid."""
    from .aperture import Aperture
    from .job import block_size

    survey, grid = case.survey, case.grid
    away = np.square(grid.local(survey.midpoint)).sum(axis=1)
    near = np.sort(np.argsort(away, kind="stable")[: block_size(survey.n_samples, survey.n_traces, place.profile)])
    block = survey.block(near)
    ends = [torch.from_numpy(grid.local(end).astype(np.float32)) for end in (block.source, block.receiver)]
    v = torch.from_numpy(case.velocity.on_pillars(grid.t, grid.pillars[:1]).astype(np.float32))
    shape = (grid.size, grid.nt)
    tensors = (
        torch.zeros(shape),
        torch.zeros(shape, dtype=torch.int32),
        torch.from_numpy(block.traces),
        *ends,
        torch.from_numpy(grid.local_pillars.astype(np.float32)),
        v,
    )
    axes = {
        "dt": survey.dt, "start": float(block.delay[0]), "dt_out": grid.dt, "t0_out": grid.t0, "amplitude": "true",
        "aperture": Aperture().for_kernel(), "area": 625.0,
    }  # fmt: skip
    return tuple(tensor.to(place.torch) for tensor in tensors), axes
