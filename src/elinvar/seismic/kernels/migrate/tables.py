"""What depends on the output time alone, prepared once per call for every trace: shared by all compiled versions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from elinvar.seismic.kernels.migrate.antialias import SPAN, middles
from elinvar.seismic.kernels.migrate.aperture import NARROWEST, RadiusAperture
from elinvar.seismic.kernels.migrate.physics import stretching

__all__ = ["BOUNDLESS", "EARLIEST", "Tables", "chebyshev_nodes", "continued", "prepare"]

BOUNDLESS = 1e30
"""Radius in metres standing for no limit: finite, so that no compiler's idea of infinity matters."""

EARLIEST = 1e-9
"""Output times in seconds below this are 0, which carries no energy."""


@dataclass(frozen=True)
class Tables:
    """Per velocity row and output sample, times in input samples; the time axis is padded to whole blocks.

    Attributes
    ----------
    legs : Tensor[rows, blocks * block, 4] float32
        ``t0 / 2 / dt``, ``1 / (V dt)^2``, aperture radius in metres, ``1 / (taper * radius)`` (0 without a rim). For
        curved rays ``V^2`` in the second is ``V0 Vz``; everywhere else ``V`` stays the RMS velocity.
    gain : Tensor[rows, blocks * block] float32
        What is left of the weight once ``(t0 / T)^2`` is applied: ``2 area / (pi V^2 t0)``, or 1 for amplitude "none".
    blocks : Tensor[rows, blocks, 4] float32
        Largest radius of the block, smallest inner radius of its rim, largest relative distance of ``1 / V^2`` from the
        polynomial through the block's nodes, smallest ``1 / (V dt)^2``. For VTI the third adds that of ``1 + 2 eta``,
        and the fourth is divided by ``max(1, 1 + 2 eta)``: no ray is faster.
    centres : Tensor[blocks, 2] float32
        Zero-offset time of each block's centre on the input axis: whole samples, and the fraction that remains.
    stretch : float
        Input samples from a block's centre to its last sample at zero offset.
    shift : float
        Time of input sample 0, in samples.
    rim : float
        ``(1 - taper) / taper``, 0 without a rim: the rim's argument is ``distance * legs.w - rim``, clamped to 0..1.
    bends : Tensor[rows, blocks * block, 2] float32 or None
        What else the physics needs (see `physics`): ``s`` in samples and ``cosh(kappa tau)`` for curved rays,
        ``1 + 2 eta`` and 0 for VTI, None for straight rays.
    kappa : float
        Half the gradient of curved rays, per sample; 0 for others.
    middles : Tensor[rows, ceil(nt / SPAN), 2] float32 or None
        The first two of ``legs`` where `antialias` looks at slopes, if ``filtered``.
    left : Tensor[rows, blocks * block] float32 or None
        What float32 leaves of the aperture radius in ``legs``, where it ends without a rim: which midpoints a hard edge
        includes is the answer.
    """

    legs: torch.Tensor
    gain: torch.Tensor
    blocks: torch.Tensor
    centres: torch.Tensor
    stretch: float
    shift: float
    rim: float
    bends: torch.Tensor | None = None
    kappa: float = 0.0
    middles: torch.Tensor | None = None
    left: torch.Tensor | None = None


def chebyshev_nodes(block: int) -> tuple[int, int, int, int]:
    """Return the samples of a block nearest to its four Chebyshev nodes, symmetric about the centre."""
    outer, inner = (int(f * (block - 1) + 0.5) for f in (0.0381, 0.3087))
    return outer, inner, block - 1 - inner, block - 1 - outer


def prepare(
    vrms: torch.Tensor,
    *,
    dt: float,
    start: float,
    dt_out: float,
    t0_out: float,
    amplitude: str,
    aperture: RadiusAperture | None,
    area: float,
    block: int,
    nodes: tuple[int, ...],
    tail: int = 0,
    origin: float | None = None,
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | None = None,
    filtered: bool = False,
) -> Tables:
    """Build the tables on the device of ``vrms`` ([rows, nt], m/s).

    ``block`` is the number of output samples that share one polynomial through the samples ``nodes`` of the block, the
    last of which may be the first of the next block. ``tail`` samples follow the last block.
    ``origin`` is the sample of a block that ``centres`` refers to, its middle when None. There are as many rows as
    ``vrms`` has, or ``eta`` ([rows, nt], for VTI) if that has more. With ``filtered``, `Tables.middles` are made.
    """
    wide = torch.float32 if vrms.device.type == "mps" else torch.float64  # Apple GPUs have no float64
    nt = vrms.shape[1]
    n = -(-nt // block)
    v = vrms.to(wide)
    if eta is not None:
        v = v.expand(max(len(v), len(eta)), nt)
    length = n * block + max(tail, SPAN if filtered else 0)
    v = torch.cat([v, continued(v, length - nt)], 1)
    t0 = t0_out + dt_out * torch.arange(length, dtype=wide, device=v.device)
    slowness = 1 / (v * dt).square()
    half = (t0 / (2 * dt)).expand_as(v)
    bends, kappa = None, stretching(medium, dt, float(t0_out + dt_out * nt))
    if medium is not None:
        slowness = (torch.exp(-medium[1] * t0 / 2) / (medium[0] * dt) ** 2).expand_as(v)
        bends = torch.stack([torch.sinh(kappa * half) / kappa, torch.cosh(kappa * half)], -1)
    elif eta is not None:
        horizontal = 1 + 2 * eta.to(wide).expand_as(vrms if len(vrms) >= len(eta) else eta)
        horizontal = torch.cat([horizontal, continued(horizontal, length - nt)], 1)
        bends = torch.stack([horizontal, torch.zeros_like(horizontal)], -1)
    if aperture is None:
        aperture = RadiusAperture()
    radius = aperture.radius(v, t0).to(wide).clamp(max=BOUNDLESS)
    taper = aperture.taper if aperture.taper >= NARROWEST else 0.0
    hard = taper == 0.0 and not (math.isinf(aperture.tan_dip) and math.isinf(aperture.maximum))
    bounded = (radius > NARROWEST) & (radius < BOUNDLESS) & (taper > 0)
    slope = torch.where(bounded, 1 / (taper * radius + (~bounded).to(wide)), torch.zeros_like(radius))
    legs = torch.stack([half, slowness, radius, slope], -1).float().contiguous()
    if amplitude == "true":
        gain = torch.where(t0 >= EARLIEST, 2 * area / (math.pi * v.square() * t0.clamp(min=EARLIEST)), 0.0)
    else:
        gain = torch.ones_like(v)
    outside = legs[:, : n * block, 2].reshape(-1, n, block)
    top, bottom = outside.amax(-1), outside.amin(-1)
    least, span = legs[:, : n * block, 1].reshape(-1, n, block), max(block, nodes[-1] + 1)
    roughness = _roughness(slowness.unfold(1, span, block)[:, :n], nodes)
    if medium is None and bends is not None:
        least = least / bends[:, : n * block, 0].float().clamp(min=1.0).reshape(-1, n, block)
        roughness = roughness + _roughness(bends[..., 0].clamp(min=1e-6).unfold(1, span, block)[:, :n], nodes)
    least = least.amin(-1)
    blocks = torch.stack([top, bottom * (1 - taper), roughness.float(), least], -1).contiguous()
    half_block = (block - 1) / 2
    middle = (
        t0_out
        + dt_out * (block * torch.arange(n, dtype=torch.float64) + (half_block if origin is None else origin))
        - start
    ) / dt
    centres = torch.stack([middle.floor(), middle - middle.floor()], -1).float().to(v.device)
    return Tables(
        legs=legs,
        gain=gain.float().contiguous(),
        blocks=blocks,
        centres=centres,
        stretch=half_block * dt_out / dt,
        shift=start / dt,
        rim=(1 - taper) / taper if taper > 0 else 0.0,
        bends=None if bends is None else bends.float().contiguous(),
        kappa=kappa,
        middles=middles(legs[..., :2], nt).contiguous() if filtered else None,
        left=(radius - legs[..., 2].to(wide)).float() if hard else None,
    )


def continued(v: torch.Tensor, n: int) -> torch.Tensor:
    """Next ``n`` velocities on the line through the last two, so that padding puts no kink into the last block."""
    last = v[:, -1:]
    step = last - v[:, -2:-1] if v.shape[1] > 1 else torch.zeros_like(last)
    ahead = last + step * torch.arange(1, n + 1, dtype=v.dtype, device=v.device)
    return torch.minimum(torch.maximum(ahead, 0.5 * last), 2 * last)


def _roughness(values: torch.Tensor, nodes: tuple[int, ...]) -> torch.Tensor:
    """Largest relative distance, over the last axis, of values from the polynomial through ``nodes``."""
    q = torch.arange(values.shape[-1], dtype=values.dtype, device=values.device)
    through = torch.zeros_like(values)
    for node in nodes:
        basis = torch.ones_like(q)
        for other in nodes:
            if other != node:
                basis = basis * (q - other) / (node - other)
        through = through + values[..., node : node + 1] * basis
    worst = ((through - values).abs() / values).amax(-1)
    # What float32 cannot resolve is no roughness: it would send every sample of a constant velocity to the exact path.
    return torch.where(worst < 5e-7, torch.zeros_like(worst), worst)
