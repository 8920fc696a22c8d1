"""Launches of v2.metal, and the settings that it shares with v3.metal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from elinvar.runtime.device import device as resolve
from elinvar.runtime.tuning import tuned
from elinvar.seismic.kernels.migrate.antialias import Bank
from elinvar.seismic.kernels.migrate.aperture import RadiusAperture
from elinvar.seismic.kernels.migrate.interpolation import TAPS
from elinvar.seismic.kernels.migrate.kept import kept_tables
from elinvar.seismic.kernels.migrate.launching import bend_rows, library, padded_rows, physics_words, table_rows, tiles
from elinvar.seismic.kernels.migrate.physics import stretched
from elinvar.seismic.kernels.migrate.tables import Tables, chebyshev_nodes

__all__ = ["Tuning", "hard_edged", "migrate_v2", "tuned_for"]

# Warps that share a multiprocessor of an NVIDIA GPU: they leave each thread the 48 or 56 registers that its loops want.
_WARPS, _WARPS_WITH_BANK = 40, 36


# Samples behind the first of 32 traces that float32 counts beside half samples; what a block reaches beyond a trace.
_NEAR, _BEHIND = 1 << 22, 1 << 12


@dataclass(frozen=True)
class Tuning:
    """How v2 is specialised; beyond rounding and ``tolerance`` the answer does not depend on it.

    Attributes
    ----------
    simdgroups : int
        Simdgroups per threadgroup, each with a pillar of its own.
    samples : int
        Output samples per lane; a polynomial spans 32 times as many.
    pairs : bool
        Keep the line through neighbouring samples in memory: twice the bytes, one load for two. Linear interpolation
        only.
    tolerance : float
        Largest error of a block's travel-time cubic in input samples; traces beyond it are evaluated exactly.
    window : int
        Input samples, a multiple of 64, over which the lines of ``pairs`` are measured from one place.
    """

    simdgroups: int = 4
    samples: int = 2
    pairs: bool = True
    tolerance: float = 4e-4
    window: int = 2048

    def defines(
        self,
        amplitude: str,
        physics: str = "straight",
        interpolation: str = "linear",
        bank: Bank | None = None,
        *,
        hard: bool = False,
    ) -> dict[str, int | str]:
        """Return the preprocessor words of this specialisation."""
        return {
            **physics_words(physics, interpolation, bank),
            **({"HARD": 1} if hard else {}),
            "SIMDGROUPS": self.simdgroups,
            "SAMPLES": self.samples,
            "PAIRS": int(self.pairs and interpolation == "linear"),
            "WEIGHTED": int(amplitude == "true"),
            "WINDOW": self.window,
            "ELINVAR_CUDA_GROUPS": max(1, (_WARPS if bank is None else _WARPS_WITH_BANK) // self.simdgroups),
        }

    def spread(self, traces: torch.Tensor, interpolation: str, bank: Bank | None) -> dict[str, int | str]:
        """Return the words for rows so long that 32 of them are beyond the digits of a float."""
        copies = 1 if bank is None else bank.copies
        row = traces.shape[1] + copies * (TAPS[interpolation] - 1)
        return {"FAR_ROWS": 1} if 32 * row + 4 * self.window + _BEHIND > _NEAR else {}

    def rows(self, traces: torch.Tensor, interpolation: str, bank: Bank | None) -> torch.Tensor:
        """Return the traces as the kernel of these settings reads them."""
        copies = bank or Bank(1, 0.0, 0.0)
        if self.pairs and interpolation == "linear":
            return _lines(traces.view(len(traces) * copies.copies, -1), self.window)
        return padded_rows(traces, TAPS[interpolation], copies)


@lru_cache(maxsize=16)
def tuned_for(version: str, device: Any) -> Tuning:
    """Return the settings that ``elinvar tune`` found fastest on a device; the defaults where it has not run."""
    place = resolve(device)
    if place.kind == "cpu":
        return Tuning()
    try:
        known = tuned(place.profile).options[f"seismic.migrate.{version}"]
        return Tuning(simdgroups=int(known["simdgroups"]), samples=int(known["samples"]))
    except (KeyError, TypeError, ValueError):
        return Tuning()


def migrate_v2(
    image: torch.Tensor,
    fold: torch.Tensor | None,
    traces: torch.Tensor,
    source: torch.Tensor,
    receiver: torch.Tensor,
    pillars: torch.Tensor,
    vrms: torch.Tensor,
    *,
    amplitude: str = "true",
    aperture: RadiusAperture | None = None,
    area: float = 1.0,
    physics: str = "straight",
    medium: tuple[float, float] | None = None,
    eta: torch.Tensor | None = None,
    interpolation: str = "linear",
    bank: Bank | None = None,
    device: Any,
    tuning: Tuning | None = None,
    **axes: float,
) -> None:
    """Run v2.metal; arguments as ``migrate.run``, and ``tuning``."""
    tuning = tuning or tuned_for("v2", device)
    options: dict[str, Any] = {"amplitude": amplitude, "aperture": aperture, "area": area, **axes}
    nt, width = image.shape[1], 32 * tuning.simdgroups
    counted = torch.zeros(1, dtype=torch.int32, device=image.device) if fold is None else fold
    block = 32 * tuning.samples
    given: dict[str, Any] = {"block": block, "nodes": chebyshev_nodes(block), "medium": medium, "eta": eta}
    tables = kept_tables(vrms, hard_edged, **options, **given)
    words = tuning.defines(amplitude, physics, interpolation, bank, hard=tables.left is not None)
    kernel = library("v2.metal", device, words | tuning.spread(traces, interpolation, bank)).migrate_v2
    copies = bank or Bank(1, 0.0, 0.0)
    horizon = stretched(max(traces.shape[1] // copies.copies - 1 + tables.shift, 0.0) + 0.1, tables.kappa)
    n_blocks = tables.blocks.shape[1]
    for p, k in tiles(image, traces, n_blocks * block, copies.copies):
        n = p.stop - p.start
        kernel(
            tuning.rows(traces[k], interpolation, bank),
            torch.cat([source[k], receiver[k]], 1),
            pillars[p],
            *table_rows(tables, p),
            tables.centres,
            image[p],
            counted if fold is None else counted[p],
            n,
            k.stop - k.start,
            traces.shape[1] // copies.copies,
            nt,
            n_blocks,
            int(len(tables.legs) > 1),
            tables.shift,
            tables.rim,
            tables.stretch,
            tuning.tolerance,
            int(fold is not None),
            bend_rows(tables, p),
            tables.kappa,
            horizon,
            copies.dx**2,
            copies.dy**2,
            threads=(-(-n // tuning.simdgroups) * width, n_blocks),
            group_size=(width, 1),
        )


def hard_edged(tables: Tables) -> Tables:
    """Put what float32 leaves of the radius where v2 and v3 look for it: in the place of a slope that is zero."""
    if tables.left is None:
        return tables
    return replace(tables, legs=torch.cat([tables.legs[..., :3], tables.left[..., None]], -1))


def _lines(traces: torch.Tensor, window: int) -> torch.Tensor:
    """Return [ntr, ns, 2]: the line through each sample and the next, twice its value in terms of ``y``.

    ``y`` counts half samples from the middle of the ``window`` samples that a sample is one of; it is odd at samples.
    """
    n = traces.shape[1] - 1
    middle = 2.0 * (torch.arange(n, device=traces.device) % window - window // 2).float()
    lines = torch.empty(*traces.shape, 2, dtype=torch.float32, device=traces.device)
    lines[:, n] = 0.0
    value, slope = lines[:, :n, 0], lines[:, :n, 1]
    torch.sub(traces[:, 1:], traces[:, :n], out=slope)
    torch.add(traces[:, 1:], traces[:, :n], out=value)
    value.addcmul_(slope, middle, value=-1)
    return lines
