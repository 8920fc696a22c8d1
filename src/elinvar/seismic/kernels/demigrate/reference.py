"""The adjoint of a migration in float64: the transpose of the reference of ``seismic.migrate``, by construction."""

from __future__ import annotations

from typing import Any

import torch

from elinvar.seismic.kernels.migrate import reference as migration

__all__ = ["demigrate"]

_CHUNK = 1 << 19  # contributions differentiated at a time: some twenty float64 temporaries each


def demigrate(
    traces: torch.Tensor,
    image: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    device: Any = None,
    **options: Any,
) -> None:
    """Add the demigrated image to ``traces``; arguments as ``demigrate.run``.

    A migration is linear in its traces, so the vector-Jacobian product of its float64 reference is the adjoint:
    whatever travel times, weights, apertures and interpolations that reference knows, this knows too. Runs wherever the
    tensors are, in float64 whatever their dtype; ``traces`` receives one rounded sum per call.
    """
    del device  # torch already knows where the tensors are
    n, nt = image.shape
    wide = image.to(torch.float64)
    step = max(1, _CHUNK // max(nt, 1))
    for k in range(0, len(traces), step):
        part = slice(k, min(k + step, len(traces)))
        total = torch.zeros(traces[part].shape, dtype=torch.float64, device=traces.device)
        for p in range(n):
            row = _of_pillar({"vrms": vrms, **options}, p, part)
            data = torch.zeros_like(total, requires_grad=True)
            out = torch.zeros(1, nt, dtype=torch.float64, device=traces.device)
            migration.migrate(out, None, data, source[part], receiver[part], pillars[p : p + 1], **row)
            (gradient,) = torch.autograd.grad(out, data, wide[p : p + 1])
            total += gradient
        traces[part] += total.to(traces.dtype)


def _of_pillar(options: dict[str, Any], p: int, part: slice) -> dict[str, Any]:
    """Options for one pillar and some traces: of tables with a row for each, its own."""
    own = {
        name: value[p : p + 1] if isinstance(value, torch.Tensor) and value.dim() == 2 and len(value) > 1 else value
        for name, value in options.items()
    }
    if options.get("mute") is not None:
        own["mute"] = options["mute"][part]
    relief = options.get("relief")
    if relief is not None:
        level = relief.level[p : p + 1] if len(relief.level) > 1 else relief.level
        own["relief"] = relief._replace(heights=relief.heights[part], level=level)
    return own
