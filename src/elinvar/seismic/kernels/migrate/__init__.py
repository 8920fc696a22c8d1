r"""Kernel ``seismic.migrate``: prestack Kirchhoff time migration of a list of traces into pillars.

Every version computes, for each pillar and output time :math:`t_0`, the sum over traces of

.. math:: W\, a\, d\big((T - start)/dt\big), \qquad
   T = \sqrt{(t_0/2)^2 + d_s^2/V^2} + \sqrt{(t_0/2)^2 + d_r^2/V^2}

(Yilmaz and Claerbout, 1980) with the horizontal distances :math:`d_s, d_r` of source and receiver from the pillar,
the trace :math:`d` read between its samples as `interpolation` says, the aperture's rim weight :math:`a`, and the
stationary-phase weight
:math:`W = 2 t_0 / (\pi V^2 T^2) \cdot area` (Schneider, 1978) for traces that went through :math:`-d/dt`.

That is ``physics="straight"``. With ``"curved"`` and ``"vti"`` each leg is that of `physics`; the sum, the aperture and
the weight are the same, with the :math:`T` of that physics and :math:`V` the RMS (for VTI: NMO) velocity. For these two
the weight is kinematic: exact for a flat reflector at zero offset, where :math:`T` bends as that of straight rays does,
and an approximation elsewhere.

A *contribution* is one (pillar, output sample, trace) for which the midpoint lies inside the aperture
(``distance <= radius(t0)``) and the travel time on the trace (``0 <= x <= ns - 1`` with ``x = (T - start) / dt``, both
ends included). The fold counts exactly these, whatever their weight.

Three more things bound or lift contributions, in the versions that know them (`FEATURES`): `limits`, mutes of traces,
and ends that are above or below the datum (`relief`).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register
from elinvar.seismic.kernels.migrate.antialias import Bank
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture, rim_weight
from elinvar.seismic.kernels.migrate.interpolation import INTERPOLATIONS
from elinvar.seismic.kernels.migrate.limits import Limits
from elinvar.seismic.kernels.migrate.physics import PHYSICS, check
from elinvar.seismic.kernels.migrate.relief import Relief

__all__ = [
    "AMPLITUDES",
    "FEATURES",
    "INTERPOLATIONS",
    "NAME",
    "PHYSICS",
    "Bank",
    "Limits",
    "RadiusAperture",
    "Relief",
    "asked",
    "example",
    "features_of",
    "require",
    "rim_weight",
    "run",
]

NAME = "seismic.migrate"
AMPLITUDES = ("true", "none")
PLAIN = {"interpolation", "bank"}
_BOUNDS = {"limits", "angles", "mute", "zones", "relief", "curved_relief"}
FEATURES = {
    "v3": {"interpolation", "bank", "limits", "mute", "relief"},
    "v2": {"interpolation", "bank", "limits", "mute", "relief"},
    "baseline": {"interpolation", "bank", *_BOUNDS},
    "reference": {"interpolation", "bank", *_BOUNDS},
}
"""What versions do beside what all of them do: straight, curved and VTI rays, linear interpolation. Fastest first.

``limits`` are those along the axes, ``angles`` those of legs and stretch; ``mute`` ends somewhere on the trace, and
``zones`` begin there too.
"""
CPU_ONLY = {"v3": FEATURES["v3"] - PLAIN, "v2": FEATURES["v2"] - PLAIN, "baseline": {"curved_relief"}}
"""What the .metal of a version does not do."""
WORDS = {
    "bank": "antialias",
    "limits": "limits along the axes (inline, crossline)",
    "angles": "limits of angles (leg_dip, stretch)",
    "mute": "mute",
    "zones": "mutes that begin behind the first sample",
    "relief": "legs from elevations (datum)",
    "curved_relief": "curved legs from elevations (datum)",
}
_HERE = "elinvar.seismic.kernels.migrate"


def run(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    dt: float,
    start: float,
    dt_out: float,
    t0_out: float,
    amplitude: str = "true",
    aperture: RadiusAperture | None = None,
    area: float = 1.0,
    physics: str = "straight",
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | float | None = None,
    interpolation: str = "linear",
    bank: Bank | None = None,
    limits: Limits | None = None,
    mute: torch.Tensor | None = None,
    relief: Relief | None = None,
    version: str | None = None,
    device: Any = "auto",
) -> torch.Tensor:
    """Migrate ``traces`` into ``image``, adding in place.

    Parameters
    ----------
    image : Tensor[np, nt] float32
        Pillars by output samples; added to, so that blocks of traces can follow one another.
    fold : Tensor[np, nt] int32 or None
        Number of contributions per sample; added to.
    traces : Tensor[ntr, ns] float32
        Input samples, ns >= 2, phase filter already applied, finite everywhere.
    source, receiver : Tensor[ntr, 2] float32
        Horizontal positions in metres from a local origin near the survey.
    pillars : Tensor[np, 2] float32
        Positions of the image's columns in the same frame.
    vrms : Tensor[1 or np, nt] float32
        RMS velocity in m/s at every output time, one row for all pillars or one for each.
    dt, start : float
        Sampling interval of the traces and time of their sample 0, seconds.
    dt_out, t0_out : float
        Output sampling interval and time of output sample 0 (two-way, >= 0), seconds.
    amplitude : "true" or "none"
        ``"true"`` multiplies by W above, ``"none"`` by 1.
    aperture : RadiusAperture or None
        None lets every trace contribute to every pillar.
    area : float
        Surface represented by one trace in m^2; part of W, unused with ``amplitude="none"``.
    physics : "straight", "curved" or "vti"
        Travel time of a leg.
    medium : (v0, k) or None
        For ``"curved"``: velocity at the surface in m/s and its gradient in 1/s. ``vrms`` should be what it makes of
        them; only the aperture and the weight use it then.
    eta : float, Tensor[1 or np, nt] float32, or None
        For ``"vti"``: anellipticity at every output time, in [-0.5, 0.5].
    interpolation : "linear", "cubic" or "sinc8"
        How a trace is read between its samples: `interpolation` has the weights. Beyond its ends there are zeros.
    bank : Bank or None
        The traces come with copies filtered against aliasing, each as long as the trace, side by side in their rows:
        `antialias` says which of them are read.
    limits : Limits or None
        More of what bounds the aperture.
    mute : Tensor[ntr, 2] or None
        From when to when each trace is muted, seconds: travel times in ``[from, until)`` are no contributions.
    relief : Relief or None
        Elevations of the ends of traces and of the datum; None has all on one level.
    version : str or None
        Kernel version; None takes the default for the device.
    device
        Where all tensors are, as :func:`elinvar.device` accepts it.

    Returns
    -------
    Tensor
        ``image``.

    Raises
    ------
    InputError
        A shape, dtype, device, sampling or option is not one of the above.
    """
    _check_tensors(image, fold, traces, source, receiver, pillars, vrms)
    _check_axes(dt, start, dt_out, t0_out, amplitude, area, vrms)
    values = check(physics, medium, eta, image)
    if image.numel() == 0 or len(traces) == 0:
        return image
    if interpolation not in INTERPOLATIONS:
        raise InputError(f"{NAME}: interpolation is {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}")
    migrate = kernel(NAME, device, version)
    if bank is not None:
        bank.check(traces.shape[1])
    features: dict[str, Any] = {} if interpolation == "linear" else {"interpolation": interpolation}
    features |= {} if bank is None else {"bank": bank}
    features |= bounds(limits, mute, relief, physics, len(traces), len(pillars))
    require(migrate.version, backend=migrate.backend, **asked(**features))
    migrate(
        image,
        fold,
        traces,
        source,
        receiver,
        pillars,
        vrms,
        dt=dt,
        start=start,
        dt_out=dt_out,
        t0_out=t0_out,
        amplitude=amplitude,
        aperture=aperture,
        area=area,
        physics=physics,
        medium=medium,
        eta=values,
        **features,
    )
    return image


def bounds(
    limits: Limits | None, mute: torch.Tensor | None, relief: Relief | None, physics: str, traces: int, pillars: int
) -> dict[str, Any]:
    """Check what bounds or lifts contributions, and return what there is of it."""
    if mute is not None and tuple(mute.shape) != (traces, 2):
        raise InputError(f"{NAME}: mute has shape {tuple(mute.shape)}; give ({traces}, 2): from and until, seconds")
    if relief is not None:
        relief.check(physics, traces, pillars)
    given = {"limits": limits, "mute": mute, "relief": relief}
    return {name: value for name, value in given.items() if value is not None}


def asked(
    limits: Limits | None = None, mute: torch.Tensor | None = None, relief: Relief | None = None, **features: Any
) -> dict[str, Any]:
    """Return the names, as `FEATURES` has them, of what a call asks for."""
    if limits is not None:
        bent = not math.isinf(limits.tan_leg) or not math.isinf(limits.stretch)
        if not bent or not math.isinf(limits.x) or not math.isinf(limits.y):
            features["limits"] = limits
        if bent:
            features["angles"] = limits
    if mute is not None:
        features["mute"] = mute
        if bool(torch.isfinite(mute[:, 0]).any()):
            features["zones"] = mute
    if relief is not None:
        features["relief" if relief.replacement is not None else "curved_relief"] = relief
    return features


def features_of(version: str, backend: str = "cpu") -> set[str]:
    """Return what a version does on the processor of a backend beside what all do."""
    known = FEATURES.get(version, set())
    return known - CPU_ONLY.get(version, set()) if backend == "metal" else known


def require(version: str, *, backend: str = "cpu", **features: Any) -> None:
    """Refuse, by name, what a version of the kernel cannot do."""
    lacking = [name for name in features if name not in features_of(version, backend)]
    if not lacking:
        return
    able = [other for other in FEATURES if other != "reference" and {*lacking} <= features_of(other, backend)]
    values = ((name, features[name]) for name in lacking)
    what = " or ".join(f"{n}={v!r}" if isinstance(v, str) else WORDS.get(n, n) for n, v in values)
    choices = " or ".join(sorted(able) or ["reference"])
    raise NotImplementedError(f"{NAME}: version {version} does not do {what}; choose {choices}.")


def _check_tensors(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
) -> None:
    floats = {
        "image": image, "traces": traces, "source": source, "receiver": receiver, "pillars": pillars, "vrms": vrms
    }  # fmt: skip
    given = floats if fold is None else {**floats, "fold": fold}
    for name, x in given.items():
        dtype = torch.int32 if name == "fold" else torch.float32
        if not isinstance(x, torch.Tensor) or x.dtype != dtype or x.dim() != 2:
            got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise InputError(f"{NAME}: {name} is {got}; give a 2-D {dtype} tensor")
        if x.device != image.device:
            raise InputError(f"{NAME}: {name} is on {x.device}, image on {image.device}; move them to one device")
        if not x.is_contiguous():
            raise InputError(f"{NAME}: {name} of shape {tuple(x.shape)} is not contiguous; call .contiguous() first")
    (n, nt), (ntr, ns) = image.shape, traces.shape
    expected = {"fold": (n, nt), "source": (ntr, 2), "receiver": (ntr, 2), "pillars": (n, 2)}
    for name, shape in expected.items():
        if name in given and tuple(given[name].shape) != shape:
            raise InputError(f"{NAME}: {name} has shape {tuple(given[name].shape)}; image and traces ask for {shape}")
    if vrms.shape[1] != nt or vrms.shape[0] not in (1, n):
        raise InputError(f"{NAME}: vrms has shape {tuple(vrms.shape)}; give (1, {nt}) or ({n}, {nt})")
    if ns < 2 and ntr:
        raise InputError(f"{NAME}: traces have {ns} sample(s); linear interpolation needs at least 2")


def _check_axes(
    dt: float, start: float, dt_out: float, t0_out: float, amplitude: str, area: float, vrms: torch.Tensor
) -> None:
    for name, value in {"dt": dt, "dt_out": dt_out, "area": area}.items():
        if not 0 < value < float("inf"):
            raise InputError(f"{NAME}: {name} is {value}; give a finite number > 0")
    if not abs(start) < float("inf"):
        raise InputError(f"{NAME}: start is {start} s; give the finite time of each trace's first sample")
    if not 0 <= t0_out < float("inf"):
        raise InputError(f"{NAME}: t0_out is {t0_out} s; two-way output times start at 0 or later")
    if amplitude not in AMPLITUDES:
        raise InputError(f"{NAME}: amplitude is {amplitude!r}; choose one of {', '.join(AMPLITUDES)}")
    if vrms.numel() and not bool(((vrms > 0) & torch.isfinite(vrms)).all()):
        raise InputError(f"{NAME}: vrms contains values that are not finite and > 0; give velocities in m/s")


# What the tiles of `example` vary: pillars, output samples, traces, input samples, dt_out / dt, start and t0_out in
# input samples, whether each pillar has its own velocities, the aperture, the amplitude; and, below, the physics.
_TILES: tuple[tuple[int, int, int, int, float, float, float, bool, RadiusAperture | None, str], ...] = (
    (3, 390, 37, 381, 1.0, 7.5, 5.0, False, RadiusAperture(0.3, 700.0, 40.0, 0.3), "true"),
    (5, 333, 70, 400, 1.0, 0.0, 0.0, True, RadiusAperture(0.2, 330.0, 0.0, 0.0), "true"),
    (2, 150, 33, 310, 2.0, -12.5, 0.0, False, None, "none"),
    (9, 161, 40, 111, 1.25, 180.0, 95.0, True, RadiusAperture(1.5, 300.0, 100.0, 1.0), "none"),
    (3, 290, 37, 260, 1.0, 7.3, 0.0, False, RadiusAperture(1.0, 700.0, 40.0, 0.3), "true"),
    (5, 203, 50, 300, 1.0, 0.0, 0.0, False, RadiusAperture(1.0, 900.0, 0.0, 0.2), "true"),
)
_CURVED, _VTI = 4, 5
# Late enough for 1 / T^2 to be smooth over a block; the radius grows, and stops growing.
_LATE = (3, 390, 70, 381, 1.0, 707.5, 705.0, False, RadiusAperture(0.1, 700.0, 40.0, 0.3), "true")


def example(seed: int, *, late: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """One tile that meets every rule: shallow and deep samples, a rising velocity, a rim, both ends of the traces.

    No size is a multiple of a block, group or vector; what else varies with the seed is in `_TILES`. Some traces meet
    pillar 0 exactly where a rule decides: trace 0 starts and ends there, so that output samples fall on the ends of the
    trace; trace 1 lies on the largest radius and trace 5 just beyond, trace 2 on the radius of some output sample and
    trace 3 just beyond, trace 4 just beyond the radius of the first sample of a block of 64.
    """
    make = torch.Generator().manual_seed(seed)
    tile = _LATE if late else _TILES[seed % len(_TILES)]
    pillars, nt, ntr, ns, ratio, start, t0_out, own, aperture, amplitude = tile
    dt = 1 / 256  # times that meet must be exact in float32
    middle = torch.rand(ntr, 2, generator=make) * 1200 - 600
    half = torch.rand(ntr, 2, generator=make) * 500 - 250
    places = torch.rand(pillars, 2, generator=make) * 200 - 100
    t0 = dt * (t0_out + ratio * torch.arange(nt))
    scale = 1 + 0.05 * torch.rand(pillars if own else 1, 1, generator=make)
    vrms = ((1800 + 700 * t0)[None] * scale).float()
    middle[:6], half[:6], places[0] = 0, 0, 0
    if aperture is not None:
        wide, end = aperture.radius(vrms[0], t0), nt - 60
        below = wide[end:][wide[end:].float() <= wide[end:]][0].item()  # float32 rounds down: inside for everybody
        first, most = wide[end // 64 * 64].item(), aperture.maximum
        middle[1:6, 0] = torch.tensor([most, below, below + 0.5, first + 0.5, most + 0.5])
    args = (
        torch.zeros(pillars, nt),
        torch.zeros(pillars, nt, dtype=torch.int32),
        torch.randn(ntr, ns, generator=make),
        middle - half,
        middle + half,
        places,
        vrms.contiguous(),
    )
    axes = {"dt": dt, "start": start * dt, "dt_out": dt * ratio, "t0_out": t0_out * dt}
    options: dict[str, Any] = {**axes, "amplitude": amplitude, "aperture": aperture, "area": 625.0}
    if late:
        return args, options
    if seed % len(_TILES) == _CURVED:
        options |= {"physics": "curved", "medium": (1800.0, 0.6)}
    elif seed % len(_TILES) == _VTI:
        options |= {"physics": "vti", "eta": (0.2 * torch.rand(pillars, 1, generator=make) * t0).float().contiguous()}
    return args, options


def full_example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`example` for versions that do everything: three of four seeds read more neighbours, filtered copies, or both."""
    args, options = example(seed)
    kind = seed % 4
    if kind == 1:
        options |= {"physics": "curved", "medium": (1800.0, 0.6), "eta": None}
    if kind in (1, 2):
        options["interpolation"] = "sinc8" if kind == 1 else "cubic"
    if kind >= 2:
        options["bank"] = Bank(5, 70.0, 50.0)
        ntr, ns = args[2].shape
        copies = torch.randn(ntr, 5 * ns, generator=torch.Generator().manual_seed(seed + 1))
        args = (*args[:2], copies, *args[3:])
    return args, options


def whole_example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`full_example` for the version that also does limits, mutes and legs from elevations: two of four seeds do."""
    args, options = full_example(seed)
    make, traces = torch.Generator().manual_seed(seed + 2), len(args[3])
    if seed % 4 == 1:
        options["limits"] = Limits(x=420.0, y=380.0, tan_leg=1.1, minimum=40.0, stretch=1.25, taper=0.3)
        until = torch.rand(traces, generator=make, dtype=torch.float64) * 0.5
        options["mute"] = torch.stack([until - 0.2, until], 1)
    if seed % 4 == 2:
        heights = torch.rand(traces, 2, generator=make) * 60 - 20
        heights[6:9, 0] = 0.0  # legs that begin at the datum
        options["relief"] = Relief(heights, torch.zeros(1), 1500.0)
    return args, options


def late_example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`full_example` for versions that take the weight from a parabola: the fourth seed is late enough for it."""
    return example(seed, late=True) if seed % 4 == 0 else full_example(seed)


register(
    NAME,
    "baseline",
    reference=f"{_HERE}.reference:migrate",
    cpu=f"{_HERE}.cpu:migrate",
    metal=f"{_HERE}.baseline_metal:migrate",
    source="elinvar/seismic/kernels/migrate/baseline.metal",
    example=whole_example,
    tolerance=2e-4,
    summary="one thread per output sample, exact travel time for every contribution",
)
register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:migrate",
    cpu=f"{_HERE}.v1:migrate",
    metal=f"{_HERE}.v1_metal:migrate",
    source="elinvar/seismic/kernels/migrate/v1.metal",
    example=example,
    tolerance=2e-4,
    summary="the baseline with buffers and invariants hoisted: per block, per pair, and only then per sample",
    group_size=128,
    defines={"SIMDGROUPS": 4, "PHYSICS": 0, "WEIGHTED": 1},
)
register(
    NAME,
    "v2",
    reference=f"{_HERE}.reference:migrate",
    cpu=f"{_HERE}.cpu_v2:migrate",
    metal=f"{_HERE}.metal:migrate_v2",
    source="elinvar/seismic/kernels/migrate/v2.metal",
    example=late_example,
    tolerance=2e-4,
    summary="travel time at knots, window permutes on the CPU, simdgroups along time on the GPU",
    occupancy_reason=(
        "bound by reads and instruction issue, not by latency: on an H200, 40 warps per multiprocessor are 4 % "
        "faster than 48 with fewer registers and 8 % faster than 36 with more"
    ),
    default=True,
    group_size=128,
    defines={
        "SIMDGROUPS": 4,
        "SAMPLES": 2,
        "PAIRS": 1,
        "WEIGHTED": 1,
        "WINDOW": 2048,
        "ELINVAR_CUDA_GROUPS": 10,
    },  # metal.Tuning(), which needs no import here
)
register(
    NAME,
    "v3",
    reference=f"{_HERE}.reference:migrate",
    cpu=f"{_HERE}.v3:migrate",
    metal=f"{_HERE}.v3_metal:migrate",
    source="elinvar/seismic/kernels/migrate/v3.metal",
    example=late_example,
    tolerance=2e-4,
    summary="v2 over a list of tiles, traces and pillars in Morton order, batches out of reach never looked at",
    occupancy_reason="as v2, whose loops it runs",
    group_size=128,
    defines={"SIMDGROUPS": 4, "SAMPLES": 2, "PAIRS": 1, "WEIGHTED": 1, "WINDOW": 2048, "ELINVAR_CUDA_GROUPS": 10},
)
