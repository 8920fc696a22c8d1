"""Images and surveys of white noise, as the tests of ``seismic.migrate`` make them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elinvar.seismic.kernels.demigrate import reference

_spec = importlib.util.spec_from_file_location("migrate_cases", Path(__file__).parents[1] / "migrate" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_cases)

Case = tuple[list[torch.Tensor], dict[str, Any]]


def build(**changes: Any) -> Case:
    """Arguments of ``demigrate.run``; keywords as for a migration, and ``eta`` as (rows, about)."""
    rays = {
        name: changes.pop(name) for name in ("physics", "medium", "eta", "interpolation", "bank") if name in changes
    }
    (image, _, traces, *rest), options = _cases.build(**{"traces": 40, "pillars": 4, **changes})
    if "eta" in rays:
        rows, eta = rays["eta"]
        each = torch.linspace(0.5, 1.0, rows)[:, None] * torch.linspace(0.8, 1.2, image.shape[1])
        rays["eta"] = (eta * each).contiguous()
    if "bank" in rays:
        traces = torch.zeros(len(traces), rays["bank"].copies * traces.shape[1])
    options.update(rays)
    make = torch.Generator().manual_seed(99)
    return [torch.zeros_like(traces), torch.randn(image.shape, generator=make), *rest], options


@pytest.fixture
def case() -> Callable[..., Case]:
    return build


@pytest.fixture
def agrees() -> Callable[..., None]:
    """Run a version on a case and hold it to the float64 reference."""

    def check(version: Callable[..., None], given: Case, *, tolerance: float = 2e-4) -> None:
        tensors, options = given
        traces, want = tensors[0].clone(), tensors[0].double().clone()
        reference.demigrate(want, *tensors[1:], **options)
        version(traces, *tensors[1:], **options)
        assert torch.isfinite(traces).all()
        assert want.norm() > 0
        assert (traces.double() - want).norm() <= tolerance * want.norm()

    return check
