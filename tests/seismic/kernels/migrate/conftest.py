"""Surveys of white noise, and the two ways in which a result may differ from the float64 reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from elinvar.seismic.kernels.migrate import RadiusAperture, reference

Case = tuple[list[torch.Tensor], dict[str, Any]]
DIPPING = RadiusAperture(tan_dip=1.0, maximum=1500.0, taper=0.2)


def build(
    *, traces: int = 50, ns: int = 500, nt: int = 400, pillars: int = 5, dt: float = 0.004, start: float = 0.0,
    ratio: float = 1.0, t0_out: float = 0.0, gradient: float = 600.0, aperture: RadiusAperture | None = DIPPING,
    amplitude: str = "true", spread: float = 1000.0, offset: float = 400.0, rows: int = 1, seed: int = 0,
    area: float = 100.0,
) -> Case:  # fmt: skip
    make = torch.Generator().manual_seed(seed)
    middle = torch.rand(traces, 2, generator=make) * 2 * spread - spread
    half = torch.rand(traces, 2, generator=make) * 2 * offset - offset
    t0 = t0_out + dt * ratio * torch.arange(nt)
    vrms = (1800 + gradient * t0)[None] * (1 + 0.05 * torch.rand(rows, 1, generator=make))
    tensors = [
        torch.zeros(pillars, nt),
        torch.zeros(pillars, nt, dtype=torch.int32),
        torch.randn(traces, ns, generator=make),
        middle - half,
        middle + half,
        torch.rand(pillars, 2, generator=make) * 200 - 100,
        vrms.float().contiguous(),
    ]
    options = {"dt": dt, "start": start, "dt_out": dt * ratio, "t0_out": t0_out, "amplitude": amplitude}
    return tensors, {**options, "aperture": aperture, "area": area}


@pytest.fixture
def survey() -> Callable[..., Case]:
    """Build the arguments of ``migrate.run``; every keyword has a default."""
    return build


@pytest.fixture
def expected() -> Callable[[Case], tuple[torch.Tensor, torch.Tensor]]:
    """Image and fold in float64."""

    def compute(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
        tensors, options = case
        image, fold = tensors[0].double().clone(), tensors[1].clone()
        reference.migrate(image, fold, *tensors[2:], **options)
        return image, fold

    return compute


@pytest.fixture
def agrees(expected: Callable[[Case], tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., None]:
    """Run a version on a case and hold it to the reference: 2e-4 in the image, the same fold."""

    def check(version: Callable[..., None], case: Case, *, tolerance: float = 2e-4) -> None:
        tensors, options = case
        image, fold = tensors[0].clone(), tensors[1].clone()
        want, count = expected(case)
        version(image, fold, *tensors[2:], **options)
        assert torch.isfinite(image).all()
        # Only a sample within rounding of the end of a trace, or of the radius, may be counted differently.
        assert (fold - count).abs().sum() <= count.sum() * 1e-4 + 0.5
        assert (image.double() - want).norm() <= tolerance * want.norm() + 1e-12

    return check
