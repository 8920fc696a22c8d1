from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest


@pytest.fixture(scope="session")
def make_htdemucs() -> Callable[..., Any]:
    """``make_htdemucs(seed=3, **sizes)``: a small HTDemucs with gains and norms far from their initial values.

    With the initial ones a broken part would hardly change the result.
    """
    import torch

    from elinvar.audio.htdemucs import HTDemucs, HTDemucsConfig

    sizes: dict[str, Any] = {
        "sources": ("voice", "rest"), "sample_rate": 800, "channels": 8, "depth": 2, "n_fft": 128,
        "bottom_channels": 32, "layers": 3, "heads": 4, "segment": Fraction(3, 2),
    }  # fmt: skip

    def make(seed: int = 3, **changes: Any) -> HTDemucs:
        model = HTDemucs(config=HTDemucsConfig(**{**sizes, **changes}))
        generator = torch.Generator().manual_seed(seed)
        for name, p in model.named_parameters():
            z = torch.randn(p.shape, generator=generator)
            if p.dim() == 1:
                p.data = (0.3 if name.endswith("scale") else 1.0 if name.endswith("weight") else 0.0) + 0.1 * z
            else:
                p.data = z / p[0].numel() ** 0.5
        return model.to_precision()

    return make


@pytest.fixture(scope="session")
def tiny_htdemucs(make_htdemucs: Callable[..., Any]) -> Any:
    """One such model for everybody; do not change it."""
    return make_htdemucs()


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> Iterator[None]:
    """Small tensors gain nothing from more, and threads that wait for each other cost seconds on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
