"""Times near zero, where a leg's hyperbola bends inside one block of output samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import elinvar
from elinvar.seismic.kernels.migrate import metal, reference, v3_metal

VERSIONS = {"v2": metal.migrate_v2, "v3": v3_metal.migrate}


@pytest.mark.gxx
@pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))
def test_a_bend_inside_the_first_block(emulator: Callable[..., Any], version: Callable[..., Any]) -> None:
    """A cubic that fits at its nodes and at the top may be 0.04 samples off between: such traces are read exactly."""
    del emulator  # skips without g++
    make = torch.Generator().manual_seed(2)
    traces, dt, v = 64, 0.004, 2000.0
    away = dt * v * torch.linspace(14.0, 28.0, traces)  # a leg's bend is about as far from time zero, in samples
    source = torch.stack([away, torch.zeros(traces)], 1)
    receiver = torch.stack([1.2 * away, torch.zeros(traces)], 1)
    tensors = [
        torch.zeros(1, 64),
        torch.zeros(1, 64, dtype=torch.int32),
        torch.randn(traces, 200, generator=make),
        source,
        receiver,
        torch.zeros(1, 2),
        torch.full((1, 64), v),
    ]
    options: dict[str, Any] = {"dt": dt, "start": 0.0, "dt_out": dt, "t0_out": 0.0, "area": 100.0, "aperture": None}
    image, fold = tensors[0].double(), tensors[1].clone()
    reference.migrate(image, fold, *tensors[2:], **options)
    version(*tensors, **options, device=elinvar.device("cpu"))
    assert torch.equal(tensors[1], fold)
    assert float((tensors[0].double() - image).norm() / image.norm()) < 2e-4


BENT: dict[str, dict[str, Any]] = {
    "vti": {"physics": "vti", "eta": torch.full((1, 64), -0.45)},
    "curved": {"physics": "curved", "medium": (2000.0, 2.0)},
}


@pytest.mark.gxx
@pytest.mark.parametrize("rays", BENT.values(), ids=list(BENT))
@pytest.mark.parametrize("version", VERSIONS.values(), ids=list(VERSIONS))
def test_a_bend_inside_a_later_block(emulator: Callable[..., Any], version: Callable[..., Any], rays: Any) -> None:
    """The same from 100 samples on, which rays that bend more are still early for."""
    del emulator  # skips without g++
    make = torch.Generator().manual_seed(2)
    traces, dt, v = 64, 0.004, 2000.0
    samples = torch.linspace(107.0, 114.0, traces) if rays["physics"] == "vti" else torch.linspace(83.0, 87.0, traces)
    place = torch.stack([dt * v * samples, torch.zeros(traces)], 1)
    tensors = [
        torch.zeros(1, 64),
        torch.zeros(1, 64, dtype=torch.int32),
        torch.randn(traces, 500, generator=make),
        place,
        -place,
        torch.zeros(1, 2),
        torch.full((1, 64), v),
    ]
    options: dict[str, Any] = {"dt": dt, "start": 0.0, "dt_out": dt, "t0_out": 100 * dt, "area": 100.0, **rays}
    image, fold = tensors[0].double(), tensors[1].clone()
    reference.migrate(image, fold, *tensors[2:], **options)
    version(*tensors, **options, device=elinvar.device("cpu"))
    assert torch.equal(tensors[1], fold)
    assert float((tensors[0].double() - image).norm() / image.norm()) < 2e-4
