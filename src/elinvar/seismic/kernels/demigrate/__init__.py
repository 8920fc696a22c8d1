r"""Kernel ``seismic.demigrate``: the adjoint of ``seismic.migrate``, from pillars to traces.

Where a migration adds, for each pillar and output time, :math:`g\,w\,[(1-f)\,d_i + f\,d_{i+1}]` with the interpolated
sample between :math:`d_i` and :math:`d_{i+1}`, its adjoint adds :math:`(1-f)\,g\,w\,m` to sample :math:`i` and
:math:`f\,g\,w\,m` to sample :math:`i+1` of the trace, for the image value :math:`m`: same travel times, same weights,
same aperture, same rule at the ends of traces. So :math:`\langle Ld, m\rangle = \langle d, L^T m\rangle`, which tests
hold every version to. Traces are independent: they, not pillars, are what threads and lanes divide among themselves,
and nothing needs an atomic addition.
"""

from __future__ import annotations

from typing import Any

import torch

from elinvar.errors import InputError
from elinvar.runtime.kernels import kernel, register
from elinvar.seismic.kernels import migrate
from elinvar.seismic.kernels.migrate import (
    INTERPOLATIONS,
    Bank,
    Limits,
    RadiusAperture,
    Relief,
    _check_axes,
    _check_tensors,
    asked,
    bounds,
)
from elinvar.seismic.kernels.migrate.physics import check

__all__ = ["NAME", "example", "features_of", "require", "run"]

NAME = "seismic.demigrate"
_HERE = "elinvar.seismic.kernels.demigrate"


def run(
    traces: torch.Tensor,
    image: torch.Tensor,
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
    """Demigrate ``image`` into ``traces``, adding in place.

    Parameters
    ----------
    traces : Tensor[ntr, ns] or, with a bank, Tensor[ntr, copies * ns] float32
        Output samples, ns >= 2; added to, so that parts of an image can follow one another. The adjoint of the phase
        filter is not part of this.
    image : Tensor[np, nt] float32
        Pillars by times, finite everywhere.
    source, receiver, pillars, vrms
        As in :func:`elinvar.seismic.kernels.migrate.run`.
    dt, start, dt_out, t0_out, amplitude, aperture, area, physics, medium, eta, interpolation, bank
        As there: ``dt`` and ``start`` are of the traces, ``dt_out`` and ``t0_out`` of the image.
    limits, mute, relief
        As there.
    version : str or None
        Kernel version; None takes the default for the device.
    device
        Where all tensors are, as :func:`elinvar.device` accepts it.

    Returns
    -------
    Tensor
        ``traces``.

    Raises
    ------
    InputError
        A shape, dtype, device, sampling or option is not one of the above.
    """
    axes = {"dt": dt, "start": start, "dt_out": dt_out, "t0_out": t0_out}
    try:
        _check_tensors(image, None, traces, source, receiver, pillars, vrms)
        _check_axes(**axes, amplitude=amplitude, area=area, vrms=vrms)
        values = check(physics, medium, eta, image)
        if interpolation not in INTERPOLATIONS:
            raise InputError(f"{NAME}: interpolation is {interpolation!r}; choose one of {', '.join(INTERPOLATIONS)}")
        if bank is not None:
            bank.check(traces.shape[1])
        bounded = bounds(limits, mute, relief, physics, len(traces), len(pillars))
    except InputError as error:
        raise InputError(str(error).replace(migrate.NAME, NAME, 1)) from None
    if traces.numel() == 0 or image.numel() == 0:
        return traces
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    rays: dict[str, Any] = {"physics": physics, "medium": medium, "eta": values}
    rays |= {"interpolation": interpolation, "bank": bank}
    chosen = kernel(NAME, device, version)
    require(chosen.version, backend=chosen.backend, **asked(**bounded))
    chosen(traces, image, source, receiver, pillars, vrms, **options, **rays, **bounded)
    return traces


def require(version: str, *, backend: str = "cpu", **features: Any) -> None:
    """Refuse, by name, what a version of the kernel cannot do."""
    for name in features:
        if name not in features_of(version, backend):
            able = "reference" if backend == "metal" else "baseline"
            raise NotImplementedError(f"{NAME}: version {version} does not do {migrate.WORDS[name]}; choose {able}.")


def features_of(version: str, backend: str = "cpu") -> set[str]:
    """Return what a version does on the processor of a backend beside what all do."""
    return migrate.features_of({"v1": "v2"}.get(version, version), backend)  # v1 is the transpose of that v2


def example(seed: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The tiles of ``seismic.migrate``, the other way round: a random image, and traces of zeros.

    Some read between samples with eight neighbours, some from a bank of copies.
    """
    (image, _, traces, *rest), options = migrate.example(seed)
    make = torch.Generator().manual_seed(seed + 1000)
    if seed % 4 == 1:
        options["interpolation"] = "sinc8"
    elif seed % 4 == 3:
        options["bank"] = Bank(4, 25.0, 40.0)
        traces = traces.repeat(1, 4)
    return (torch.zeros_like(traces), torch.randn(image.shape, generator=make), *rest), options


register(
    NAME,
    "baseline",
    reference=f"{_HERE}.reference:demigrate",
    cpu="elinvar.seismic.kernels.migrate.general:demigrate",
    example=example,
    tolerance=2e-4,
    summary="the transpose of seismic.migrate's baseline, with everything that bounds it; on a CPU",
)
register(
    NAME,
    "v1",
    reference=f"{_HERE}.reference:demigrate",
    cpu=f"{_HERE}.cpu:demigrate",
    metal=f"{_HERE}.metal:demigrate",
    source="elinvar/seismic/kernels/demigrate/v1.metal",
    example=example,
    tolerance=2e-4,
    summary="the transpose of seismic.migrate v2 on the CPU; a lane per trace on the GPU, without atomics",
    default=True,
    group_size=128,
    defines={"SIMDGROUPS": 4, "PHYSICS": 0},
)
