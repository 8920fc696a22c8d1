"""What the tests of the tensor engine share: units in the last place, and bounds for contractions."""

from collections.abc import Callable

import pytest
import torch

from elinvar import Pool, devices


@pytest.fixture(params=[str(found) for found in devices()])
def present(request: pytest.FixtureRequest) -> str:
    """Every device of this machine, by name."""
    return str(request.param)


def _ulps(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Largest distance from float64 truth in units of the last place of the storage dtype."""
    info = torch.finfo(got.dtype)
    size = exact.abs().clamp(min=info.tiny)
    unit = torch.exp2(torch.floor(torch.log2(size))) * info.eps
    return float(((got.double() - exact).abs() / unit).max()) if got.numel() else 0.0


def _within(got: torch.Tensor, exact: torch.Tensor, size: torch.Tensor, k: int) -> bool:
    """Whether a contraction is within one storage unit plus 4 sqrt(k) 2^-24 (abs A @ abs B) of float64 truth."""
    info = torch.finfo(got.dtype)
    unit = exact.abs() * info.eps + info.tiny * info.eps
    return bool(((got.double() - exact).abs() <= unit + 4 * max(k, 1) ** 0.5 * 2.0**-24 * size).all())


@pytest.fixture
def ulps() -> Callable[[torch.Tensor, torch.Tensor], float]:
    return _ulps


@pytest.fixture
def within() -> Callable[..., bool]:
    return _within


@pytest.fixture
def pool() -> Pool:
    return Pool("cpu")


@pytest.fixture
def randn() -> Callable[..., torch.Tensor]:
    source = torch.Generator().manual_seed(7)

    def make(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)

    return make
